"""Which sources compiled code was made from. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from pathlib import Path


def source_hash(folder: Path | None = None) -> str:
    """Hash of every source file of this package: a compiled function contains code of many files."""
    folder = folder or Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
