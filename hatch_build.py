"""Wheels with kernels compiled ahead of time. Without TINYDIFF_WHEEL a wheel is pure Python, and this does nothing.

    python -m tinydiff_kernels.build_aot --target aarch64-linux
    TINYDIFF_WHEEL=aarch64-linux pip wheel --no-deps .

Such a wheel carries the library, is tagged for the platform, and does not ask for Numba.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Nothing in the library asks for a C library, so the oldest names fit. Before Python 3.13 pip on Android (Termux) knows
# linux_aarch64 only, and pip on Linux knows it too: Android's library runs on both.
PLATFORMS = {
    "x86_64-linux": "manylinux2014_x86_64",
    "aarch64-linux": "manylinux2014_aarch64",
    "aarch64-android": "android_21_arm64_v8a.linux_aarch64",
}
PACKAGE = "kernels/tinydiff_kernels"


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        target = os.environ.get("TINYDIFF_WHEEL", "")
        if not target:
            return
        if target not in PLATFORMS:
            raise SystemExit(f"TINYDIFF_WHEEL={target}: unknown target; known: {', '.join(PLATFORMS)}")
        file = self._library(target)
        build_data["force_include"][str(file)] = f"tinydiff_kernels/native/{file.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{PLATFORMS[target]}"
        needed = self.metadata.core.dependencies  # the list that METADATA is written from
        needed[:] = [requirement for requirement in needed if not requirement.startswith("numba")]

    def _library(self, target: str) -> Path:
        """The library whose name has the hash of these sources."""
        sys.path.insert(0, str(Path(self.root) / "kernels"))
        try:
            from tinydiff_kernels import native
        finally:
            del sys.path[0]
        file = Path(self.root) / PACKAGE / "native" / native.file_name(target)
        if not file.is_file():
            raise SystemExit(f"{file} is missing: python -m tinydiff_kernels.build_aot --target {target} makes it")
        return file
