"""Measuring: `tinydiff bench`, its comparisons, and the cost model of machines that are not here."""
