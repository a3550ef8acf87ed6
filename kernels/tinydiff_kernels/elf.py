"""What is written in an ELF file: object files of the compiler, and the shared library made of them. 64 bits, little
endian. Layout: System V ABI, chapters 4 and 5 ("gabi"); see also `man 5 elf`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tinydiff_kernels.errors import KernelError

MAGIC = b"\x7fELF\x02\x01"  # class 64, least significant byte first
SYMTAB, DYNSYM, LOAD, NEEDED = 2, 11, 1, 1
DYNAMIC = 6
UNDEFINED = 0  # section index of a symbol that somebody else must define
LOCAL = 0  # binding


class Elf(NamedTuple):
    """`defined` and `undefined` are the global symbols; `needed` the libraries; `alignments` of the loaded segments."""

    defined: frozenset[str]
    undefined: frozenset[str]
    needed: tuple[str, ...]
    alignments: tuple[int, ...]


def read(data: bytes) -> Elf:
    """Raises KernelError where `data` is no ELF file of this kind."""
    if not data.startswith(MAGIC):
        raise KernelError("this is not a 64-bit ELF file")
    defined, undefined, needed = set[str](), set[str](), []
    sections = list(_table(data, "<IIQQQQIIQQ", 40, 58, 60))
    for _, kind, _, _, offset, size, link, _, _, entry in sections:
        if kind in (SYMTAB, DYNSYM):
            for at in range(offset + entry, offset + size, entry):  # the first symbol is empty
                name, info, _, section = struct.unpack_from("<IBBH", data, at)
                if info >> 4 != LOCAL:
                    (undefined if section == UNDEFINED else defined).add(_string(data, sections[link][4] + name))
        elif kind == DYNAMIC:
            words = struct.iter_unpack("<QQ", data[offset : offset + size])
            needed += [_string(data, sections[link][4] + value) for tag, value in words if tag == NEEDED]
    segments = _table(data, "<IIQQQQQQ", 32, 54, 56)
    alignments = tuple(segment[7] for segment in segments if segment[0] == LOAD)
    return Elf(frozenset(defined), frozenset(undefined), tuple(needed), alignments)


def _table(data: bytes, layout: str, start: int, size: int, count: int) -> Iterator[tuple[int, ...]]:
    """Rows of the table whose offset, row size and row count stand at these places of the file's header."""
    (at,) = struct.unpack_from("<Q", data, start)
    (step,), (rows,) = struct.unpack_from("<H", data, size), struct.unpack_from("<H", data, count)
    for i in range(rows):
        yield struct.unpack_from(layout, data, at + i * step)


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
