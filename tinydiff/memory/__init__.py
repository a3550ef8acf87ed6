"""Memory as a contract: what a picture will take is known before it starts, and kept while it runs.

limits.py    what the machine and its control groups allow; sizes as people write them
process.py   what this process has in memory, and its peaks while something runs
stages.py    each network's programs from shapes alone: arena, tables, weights
plan.py      what is resident, what streams, what the VAE recomputes; the refusal where nothing fits
stream.py    weights brought in ahead of the kernels and let go behind them
report.py    a plan in words and as JSON
"""
