"""`python -m tinydiff` is `tinydiff`."""

import sys

from tinydiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
