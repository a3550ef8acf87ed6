"""Models of the Hugging Face hub: found in the local cache without any library, fetched once with `pull`.

The cache is huggingface_hub's, shared with every other tool that uses it:

    $HF_HUB_CACHE, or $HF_HOME/hub, or $XDG_CACHE_HOME/huggingface/hub, or ~/.cache/huggingface/hub
      models--org--name/
        refs/main                  the commit that `main` was when it was fetched
        snapshots/<commit>/...     the files of that commit, links into blobs/
        blobs/<hash>

A name is `org/name`, `org/name@revision` (branch, tag or commit) or either with `/file.safetensors` after the
name. Opening looks into the cache and never at the network; only `pull` (hub_pull.py) does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tinydiff_weights.errors import ModelFileError

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?:/(?P<file>{_WORD}\.safetensors))?(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE_SUFFIXES = (".safetensors", ".ckpt", ".bin", ".pt", ".pth", ".gguf", ".json")


@dataclass(frozen=True)
class HubName:
    """`org/name`, a file of it if one is named, and a revision."""

    repo: str
    file: str | None = None
    revision: str = "main"

    @property
    def folder(self) -> Path:
        """Its place in the cache."""
        return cache_folder() / f"models--{self.repo.replace('/', '--')}"

    def __str__(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"{self.repo}/{self.file}{at}" if self.file else f"{self.repo}{at}"


def parse_hub_name(text: str) -> HubName | None:
    """The hub name that `text` is, or None if it cannot be one."""
    match = _NAME.fullmatch(text)
    if match is None or len(match["repo"]) > 96 or "--" in match["repo"] or ".." in text:
        return None
    if match["repo"].lower().endswith(_FILE_SUFFIXES) or "." in match["repo"].split("/")[0]:
        return None
    revision = match["revision"] or "main"
    if any(part in ("", ".") for part in revision.split("/")):
        return None
    return HubName(match["repo"], match["file"], revision)


def cache_folder() -> Path:
    """Where huggingface_hub keeps its models, by the same variables and in the same order."""
    home = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
    hub = os.path.join(os.environ.get("HF_HOME") or home, "hub")
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or hub
    return Path(os.path.expandvars(os.path.expanduser(chosen)))


def cached_path(name: HubName) -> Path:
    """The snapshot folder of `name` in the local cache, or its file. Raises ModelFileError that says how to get it."""
    fetch = f"Download it once: tinydiff pull {name}"
    if not name.folder.is_dir():
        reason = f"is neither a file or folder here nor a model in the local cache ({cache_folder()})"
        raise ModelFileError(str(name), reason, hint=fetch)
    snapshot = name.folder / "snapshots" / _commit(name, fetch)
    if not snapshot.is_dir():
        raise ModelFileError(str(name), "is in the local cache by name, but none of its files are", hint=fetch)
    if name.file is None:
        return snapshot
    if not (snapshot / name.file).is_file():
        raise ModelFileError(str(name), "is not in the local cache, though other files of this model are", hint=fetch)
    return snapshot / name.file


def _commit(name: HubName, fetch: str) -> str:
    ref = name.folder / "refs" / name.revision
    try:
        commit = ref.read_bytes()[:64].decode("ascii").strip()
    except UnicodeDecodeError:
        raise ModelFileError(ref, "does not hold a commit", hint=fetch) from None
    except OSError:
        if _COMMIT.fullmatch(name.revision):
            return name.revision
        reason = f"is in the local cache, but not its revision {name.revision!r}{_known_commits(name.folder)}"
        raise ModelFileError(str(name), reason, hint=fetch) from None
    if not _COMMIT.fullmatch(commit):
        raise ModelFileError(ref, "does not hold a commit", hint=fetch)
    return commit


def _known_commits(folder: Path) -> str:
    try:
        commits = sorted(c for c in os.listdir(folder / "snapshots") if _COMMIT.fullmatch(c))
    except OSError:
        return ""
    return f" (it has {', '.join('@' + c for c in commits[:3])})" if commits else ""
