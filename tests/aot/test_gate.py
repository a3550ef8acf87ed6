"""The regression gate sees a kernel that executes 6 % more instructions. Needs TINYDIFF_ARM, as tests/neon
does, with bench/gate/setup.sh run on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.gate import compare

ROOT = Path(__file__).parents[2]
KERNEL = "kernels/tinydiff_kernels/norm/rows_kernel.py"
ASKS, ASKS_AGAIN = "        prefetch(x, 4 * c + ahead)\n", "        prefetch(x, 4 * c + ahead + 4)\n"
COUNT = """
import json, sys
from pathlib import Path
from bench.gate.builds import Build, compiled, linked
from bench.gate.counting import instructions
build = Build("x86_64", "avx2", ("rows_norm",))
print(json.dumps(instructions([build], linked([compiled(build)], Path("counted.so").absolute()))))
"""


def test_a_kernel_made_slower_is_caught(tmp_path: Path) -> None:
    """Two needless prefetches for 16 elements, 6 % of the instructions of a row."""
    for name in ("bench", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "native"))
    source = (tmp_path / KERNEL).read_text()
    assert source.count(ASKS) == 2
    (tmp_path / KERNEL).write_text(source.replace(ASKS, ASKS + 2 * ASKS_AGAIN))
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = {n: v for n, v in compare.read()[0]["instructions"].items() if n.startswith("avx2 rows_norm")}
    lines = compare.changes({"instructions": kept}, {"instructions": json.loads(done.stdout)})
    print("\n".join(lines))
    assert len(lines) == 2
    assert "avx2 rows_norm layer norm, quantised" in lines[1]
    share = float(lines[1].split("(+")[1].split("%")[0])
    assert 3 < share < 8
