"""Making call number N fail: of a function of `os`, of the mapping of a file, of NumPy's memory.

    fault = Fault(("write",), at=3, action=failing(errno.EIO))
    with fault.installed(): ...
    fault.count                     how many such calls there were

Names are functions of `os`, or "mmap" (a model file is mapped) and "allocation" (an array's numbers: the allocator is
NumPy's own hook, NEP 49, so that arrays made in C count too).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from numpy._core import _multiarray_umath

from tinydiff_weights import mapping


class Fault:
    """Counts calls; number `at` does `action` first."""

    def __init__(self, names: tuple[str, ...], at: int, action: Callable[[], None]) -> None:
        self.names, self.at, self.action, self.count = names, at, action, 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in self.names:
                if name == "allocation":
                    stack.enter_context(allocator(self._called))
                elif name == "mmap":
                    stack.callback(setattr, mapping, "FileMapping", mapping.FileMapping)
                    mapping.FileMapping = self._watched_class(mapping.FileMapping)  # type: ignore[misc]
                else:
                    stack.callback(setattr, os, name, getattr(os, name))
                    setattr(os, name, self._watched(getattr(os, name)))
            yield

    def _called(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.action()

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._called()
            return function(*args, **kwargs)

        return call

    def _watched_class(self, real: type) -> Any:
        """Counts what is made of it; all that is of the real class is of it, too."""
        called = self._called

        class Meta(type):
            def __call__(cls, *args: Any, **kwargs: Any) -> Any:
                called()
                return real(*args, **kwargs)

            def __instancecheck__(cls, value: object) -> bool:
                return isinstance(value, real)

        return Meta("Watched", (), {})


def failing(code: int) -> Callable[[], None]:
    def action() -> None:
        raise OSError(code, os.strerror(code))

    return action


def no_memory() -> None:
    raise MemoryError


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------- NEP 49

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_MALLOC = ctypes.CFUNCTYPE(_POINTER, _POINTER, _SIZE)
_CALLOC = ctypes.CFUNCTYPE(_POINTER, _POINTER, _SIZE, _SIZE)
# Places in NumPy's table of C functions, as in numpy/__multiarray_api.h
_SET_HANDLER, _GET_HANDLER = 304, 305


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of numpy/ndarraytypes.h."""

    _fields_ = [
        ("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("ctx", _POINTER), ("malloc", _POINTER),
        ("calloc", _POINTER), ("realloc", _POINTER), ("free", _POINTER),
    ]  # fmt: skip


def _capsule_pointer(capsule: object, name: bytes | None) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = _POINTER, [ctypes.py_object, ctypes.c_char_p]
    return int(get(capsule, name))


@contextmanager
def allocator(called: Callable[[], None]) -> Iterator[None]:
    """Of arrays: `called` before each allocation, which fails where that raises MemoryError.

    Memory comes from NumPy's own allocator and goes back to it in C: arrays may outlive this block.
    """
    table = ctypes.cast(_capsule_pointer(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(_POINTER))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER])
    own = ctypes.PYFUNCTYPE(ctypes.py_object)(table[_GET_HANDLER])()
    default = _Handler.from_address(_capsule_pointer(own, b"mem_handler"))
    # With the interpreter's lock, as NumPy calls them: they give it up themselves where they take long.
    malloc = ctypes.PYFUNCTYPE(_POINTER, _POINTER, _SIZE)(default.malloc)
    calloc = ctypes.PYFUNCTYPE(_POINTER, _POINTER, _SIZE, _SIZE)(default.calloc)

    def allowed() -> bool:
        try:
            called()
        except MemoryError:
            return False
        return True

    callbacks = (
        _MALLOC(lambda ctx, size: malloc(ctx, size) if allowed() else None),
        _CALLOC(lambda ctx, count, size: calloc(ctx, count, size) if allowed() else None),
    )
    place = ctypes.create_string_buffer(ctypes.sizeof(_Handler))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(place))  # arrays keep its address for good
    counting = _Handler.from_buffer(place)
    ctypes.memmove(place, ctypes.byref(default), ctypes.sizeof(_Handler))
    counting.malloc, counting.calloc = (ctypes.cast(callback, _POINTER).value for callback in callbacks)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [_POINTER, ctypes.c_char_p, _POINTER]
    set_handler(new(ctypes.addressof(place), b"mem_handler", None))
    try:
        yield
    finally:
        set_handler(own)
