"""What a file is by its first bytes, whatever its name says: pickles are renamed, downloads turn out HTML."""

from __future__ import annotations

from pathlib import Path

CONVERT_HINT = (
    "Reading such a file can run any code, so tinydiff does not. Convert it once, where torch is installed: "
    'python -c "import sys, torch, safetensors.torch as st; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
    "st.save_file({k: v.contiguous().clone() for k, v in d.items() if hasattr(v, 'shape')}, sys.argv[2])\" "
    "IN.ckpt OUT.safetensors"
)
_PAGE = ("this is an HTML or XML page, not a model", "The download went wrong; fetch the file again")
_MAGICS = (
    (b"pk\x03\x04", "this is a zip archive, as PyTorch's pickle checkpoints are", CONVERT_HINT),
    *((b"\x80" + bytes([protocol]), "this is a Python pickle", CONVERT_HINT) for protocol in (2, 3, 4, 5)),
    (b"gguf", "this is a GGUF file, which tinydiff does not read", "Take the safetensors file of the model"),
    (
        b"version https",
        "this is a git-lfs pointer, not the file",
        "Fetch the file itself with `git lfs pull`",
    ),
    *((start, "this is a picture, not a model", None) for start in (b"\x89png\r\n", b"\xff\xd8\xff")),
    *((start, *_PAGE) for start in (b"<!doctype", b"<html", b"<?xml")),
)
PICKLE_SUFFIXES = frozenset([".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"])


def foreign_kind(head: bytes) -> tuple[str, str | None] | None:
    """The format that begins with `head` (16 bytes suffice), and what to do, if anything; None if none of these."""
    if head[8:9] == b"{":  # a safetensors file, perhaps damaged, whose header length happens to look like a magic
        return None
    for magic, what, hint in _MAGICS:
        if head[: len(magic)].lower() == magic:
            return what, hint
    return None


def refuse_pickle_name(path: Path) -> tuple[str, str] | None:
    """The refusal for a file named like a pickle checkpoint, or None."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return f"{path.suffix} files are Python pickles", CONVERT_HINT
    return None
