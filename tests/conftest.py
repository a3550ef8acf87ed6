"""Collect `tests/oracle` (torch, diffusers), `tests/aot` (a linker) and `tests/neon` (emulated ARM) only when the
command line names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tinydiff_kernels import checked

ON_REQUEST = ("oracle", "aot", "neon")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    here = Path(__file__).parent
    for name in ON_REQUEST:
        folder = here / name
        if collection_path == folder or folder in collection_path.parents:
            asked = [(config.invocation_params.dir / str(a).split("::")[0]).resolve() for a in config.args]
            return None if any(a == folder or folder in a.parents for a in asked) else True
    return None


@pytest.fixture(autouse=True)
def checked_libraries_are_of_one_test() -> Iterator[None]:
    """A checked library makes every kernel call of the process register its buffers: long for all later tests."""
    yield
    checked.detach_libraries()


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels that a module of tests compiles go into a folder of their own."""
    from tinydiff_kernels import _jit  # imports Numba, which most tests do without

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        _jit.settings.cache_clear()
        yield
    _jit.settings.cache_clear()
