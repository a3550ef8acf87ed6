"""The regression gate: counts that do not depend on how busy a machine is, compared with those in `figures.json`.

What is counted are the sources beside this folder, whatever else is installed.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "weights")]
