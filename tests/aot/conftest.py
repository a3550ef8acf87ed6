"""A library for this machine, its best path only: all paths of ARM are built and run in tests/neon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinydiff_kernels import build_aot, dispatch, native


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("native") / native.file_name(native.target())
    build_aot.build(native.target(), output, paths=dispatch.available()[:1])
    return output
