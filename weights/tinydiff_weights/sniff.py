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
PICKLE_SUFFIXES = frozenset([".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"])


def foreign_kind(head: bytes) -> tuple[str, str] | None:
    """The format that begins with `head` (16 bytes suffice) and what to do; None if it is none of these."""
    if head.startswith(b"PK\x03\x04"):
        return (
            "this is a zip archive: a PyTorch checkpoint, which is a pickle, or a packed folder",
            CONVERT_HINT,
        )
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "this is a Python pickle", CONVERT_HINT
    if head.startswith(b"GGUF"):
        return (
            "this is a GGUF file, which tinydiff does not read",
            "Take the safetensors version of the model",
        )
    if head.startswith(b"version https"):
        return (
            "this is a git-lfs pointer, not the file itself",
            "Fetch the file with `git lfs pull` or `tinydiff pull`",
        )
    if head.lstrip()[:1] == b"<":
        return "this is an HTML or XML page, not a model", "The download went wrong; fetch the file again"
    return None


def refuse_pickle_name(path: Path) -> tuple[str, str] | None:
    """The refusal for a file named like a pickle checkpoint, or None."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return f"{path.suffix} files are Python pickles", CONVERT_HINT
    return None
