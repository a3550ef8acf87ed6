"""`tinydiff pull`: fetch a model from the Hugging Face hub into the local cache, with huggingface_hub.

The revision is resolved to a commit first, and everything is fetched from that commit; `refs/` remembers it.
Files that are complete are not fetched again, so an interrupted pull goes on where it stopped
(huggingface_hub continues broken transfers of one file while it runs, and begins an unfinished file anew in
the next run). HF_ENDPOINT, HF_TOKEN and the cache variables work as everywhere. Weights are checked against
the SHA-256 that the hub states.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydiff_weights.errors import ModelFileError, TinyDiffError
from tinydiff_weights.hashes import sha256_of
from tinydiff_weights.hub import HubName, cache_folder, parse_hub_name
from tinydiff_weights.hub_files import choose_files
from tinydiff_weights.write import atomic_write_bytes

Progress = Callable[[int, int], None]  # bytes here, bytes in all
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class _RemoteFile:
    name: str
    size: int
    blob: str  # its name in blobs/
    sha256: str | None  # stated for large files only


def pull(
    repo_id: str,
    revision: str | None = None,
    progress: Progress | None = None,
    *,
    variant: str | None = None,
) -> Path:
    """Fetch `org/name[/file.safetensors][@revision]` and give its path in the cache, ready for `open_model(repo_id)`.

    `variant`: weights to prefer, such as "fp16". Raises ModelFileError with what the hub or the disk said.
    """
    name = parse_hub_name(repo_id)
    if name is None:
        raise ModelFileError(repo_id, "is no hub id", hint="It has the form org/name or org/name@revision")
    if revision is not None:
        name = HubName(name.repo, name.file, revision)
    if _is_true(os.environ.get("HF_HUB_OFFLINE")) or _is_true(os.environ.get("TRANSFORMERS_OFFLINE")):
        raise ModelFileError(str(name), "cannot be fetched: HF_HUB_OFFLINE is set", hint="Unset it and try again")
    with _hub_errors(name):
        commit, files = _list_files(name)
        chosen = choose_files(name.repo, files, file=name.file, variant=variant)
        wanted = [files[f] for f in chosen if f in files]
        with _watched(name, commit, wanted, progress):
            snapshot = _download(name, commit, chosen)
        _verify(snapshot, wanted)
        if name.revision != commit:
            _write_ref(name, commit)
    return snapshot if name.file is None else snapshot / name.file


def _list_files(name: HubName) -> tuple[str, dict[str, _RemoteFile]]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
    if not info.sha:
        raise ModelFileError(str(name), "has no commit on the hub")
    files = {}
    for s in info.siblings or ():
        sha256 = s.lfs.sha256 if s.lfs is not None else None
        files[s.rfilename] = _RemoteFile(s.rfilename, s.size or 0, sha256 or s.blob_id or "", sha256)
    return info.sha, files


def _download(name: HubName, commit: str, chosen: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    # The names go in as patterns; brackets, the only special characters a name could have, stand for themselves so.
    patterns = [f.replace("[", "[[]") for f in chosen]
    with _no_bars():
        folder = snapshot_download(
            name.repo, revision=commit, cache_dir=cache_folder(), allow_patterns=patterns, max_workers=4
        )
    return Path(folder)


def _verify(snapshot: Path, files: list[_RemoteFile]) -> None:
    for file in files:
        path = snapshot / file.name
        if not path.is_file():
            raise ModelFileError(path, "was not fetched", hint="Try again")
        if file.sha256 is not None and sha256_of(path) != file.sha256:
            with contextlib.suppress(OSError):
                os.unlink(os.path.realpath(path))
                os.unlink(path)
            raise ModelFileError(path, "arrived damaged (SHA-256 differs from the hub's); removed", hint="Try again")


def _write_ref(name: HubName, commit: str) -> None:
    ref = name.folder / "refs" / name.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(ref, commit.encode())


# ------------------------------------------------------------------------------------------------ progress


@contextlib.contextmanager
def _watched(name: HubName, commit: str, files: list[_RemoteFile], progress: Progress | None) -> Iterator[None]:
    """Report progress by looking at the cache: independent of huggingface_hub's versions, and right after a resume."""
    if progress is None:
        yield
        return
    total, done = sum(f.size for f in files), threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            progress(min(_present(name, commit, files), total), total)

    watcher = threading.Thread(target=watch, name="tinydiff-pull-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress(total, total)


def _present(name: HubName, commit: str, files: list[_RemoteFile]) -> int:
    """Bytes of `files` in the cache: whole ones, and the unfinished `<blob>*.incomplete`."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError), os.scandir(name.folder / "blobs") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                blob = entry.name.split(".", 1)[0]
                sizes[blob] = max(sizes.get(blob, 0), entry.stat().st_size)
    return sum(min(f.size, sizes.get(f.blob, 0) or _size(name, commit, f)) for f in files)


def _size(name: HubName, commit: str, file: _RemoteFile) -> int:
    try:
        return os.stat(name.folder / "snapshots" / commit / file.name).st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """huggingface_hub draws its own bars; ours is the caller's."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that an environment variable wants them
        disable_progress_bars()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            enable_progress_bars()


# -------------------------------------------------------------------------------------------------- errors

_REASONS = {  # class names, because where these classes live depends on the version of huggingface_hub
    "GatedRepoError": ("wants its terms accepted on its web page first", "Accept them, then set HF_TOKEN"),
    "RepositoryNotFoundError": ("is not on the hub, or is private", "Check the name; a private one needs HF_TOKEN"),
    "RevisionNotFoundError": ("has no such revision on the hub", None),
    "EntryNotFoundError": ("lacks a file on the hub that its listing names", None),
    "OfflineModeIsEnabled": ("cannot be fetched: huggingface_hub is offline", "Unset HF_HUB_OFFLINE"),
}


@contextlib.contextmanager
def _hub_errors(name: HubName) -> Iterator[None]:
    """Whatever huggingface_hub, its HTTP client or the disk raises, as one error with the reason in a line."""
    try:
        yield
    except TinyDiffError:
        raise
    except Exception as error:
        for kind in type(error).__mro__:
            if kind.__name__ in _REASONS:
                reason, hint = _REASONS[kind.__name__]
                raise ModelFileError(str(name), reason, hint=hint) from error
        line = " ".join(str(error).split())[:300]
        hint = "Check the connection and the free space, then pull again: complete files are kept"
        raise ModelFileError(str(name), f"cannot be fetched: {type(error).__name__}: {line}", hint=hint) from error


def _is_true(value: Any) -> bool:
    return str(value or "").upper() in ("1", "ON", "YES", "TRUE")
