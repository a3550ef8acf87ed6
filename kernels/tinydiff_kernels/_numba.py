"""Every part of Numba and llvmlite that this package touches, in one place, so that a new version is checked here.

Public and documented: `types`, `extending`, `errors`, `config`, `njit`. Internal: `cgutils`, `compiler`, `codegen`,
`sigutils`, `cpu_target`, `compiler_lock` (the last four by `aot.py` only). All are typed Any: Numba's own
annotations are partial and change from version to version. Importing this imports Numba.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import llvmlite.ir
import numba
import numba.core.compiler_lock
import numba.core.registry
import numba.extending
from numba.core import cgutils as _cgutils
from numba.core import codegen as _codegen
from numba.core import compiler as _compiler
from numba.core import errors as _errors
from numba.core import sigutils as _sigutils

ir: Any = llvmlite.ir
llvm: Any = llvmlite.binding
types: Any = numba.types
extending: Any = numba.extending
config: Any = numba.config
njit: Any = numba.njit
version: str = str(numba.__version__)
llvmlite_version: str = str(llvmlite.__version__)
errors: Any = _errors
cgutils: Any = _cgutils
compiler: Any = _compiler
codegen: Any = _codegen
sigutils: Any = _sigutils
cpu_target: Any = numba.core.registry.cpu_target
compiler_lock: Any = numba.core.compiler_lock.global_compiler_lock

__all__ = [
    "cgutils",
    "codegen",
    "compiler",
    "compiler_lock",
    "config",
    "cpu_target",
    "errors",
    "extending",
    "ir",
    "llvm",
    "llvmlite_version",
    "njit",
    "sigutils",
    "types",
    "version",
]
