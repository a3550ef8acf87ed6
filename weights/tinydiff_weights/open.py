"""One door for every model: the embedded one, a folder, a single or packed file, a name of the hub's local cache.

    open_model(None)                       the model in the package
    open_model("folder")                   diffusers folder (folder.py)
    open_model("model.safetensors")        packed file (packed.py, told by its metadata) or single file (singlefile.py)
    open_model("org/name[@revision]")      what `tinydiff pull` or any other tool put into the hub's cache (hub.py)

A path that exists wins over a hub name and over TAESD. Nothing here touches the network, and nothing reads the weights.
"""

from __future__ import annotations

import os
from pathlib import Path

from tinydiff_weights.errors import ModelFileError, worded
from tinydiff_weights.folder import open_folder, open_vae_folder
from tinydiff_weights.hub import HubName, cached_path, parse_hub_name
from tinydiff_weights.mapping import open_regular
from tinydiff_weights.safetensors import open_safetensors
from tinydiff_weights.sniff import foreign_kind, refuse_pickle_name
from tinydiff_weights.source import Component, ModelSource

DEFAULT_MODEL = Path(__file__).parent / "default.safetensors"
TAESD = "taesd"  # as `vae`: the small autoencoder that the model itself brings


def open_model(path: str | Path | None = None, *, vae: str | Path | None = None) -> ModelSource:
    """Open a model, with the autoencoder at `vae` (folder, file, hub name, or TAESD) in place of its own if given.

    Raises ModelFileError for what is missing or damaged, UnsupportedModelError for healthy files of other
    kinds.
    """
    if vae == TAESD and not os.path.lexists(TAESD):
        return open_model(path).with_taesd()
    if path is None:
        if not DEFAULT_MODEL.is_file():
            raise ModelFileError(DEFAULT_MODEL, "the embedded model is not part of this installation")
        path = DEFAULT_MODEL
    found, name = _find(path)
    try:
        with worded(found, "read"):
            return _open(found, vae)
    except ModelFileError as error:
        if name is None or error.hint is not None or not os.path.isdir(found):
            raise
        hint = f"If its download was interrupted: tinydiff pull {name}"
        raise ModelFileError(error.path, error.reason, tensor=error.tensor, hint=hint) from error


def _open(found: Path, vae: str | Path | None) -> ModelSource:
    if found.is_dir():
        return open_folder(found, vae=None if vae is None else open_vae(vae))
    from tinydiff_weights.packed import is_packed, open_packed
    from tinydiff_weights.singlefile import open_single_file

    refuse_foreign(found)
    if is_packed(file := open_safetensors(found)):
        return open_packed(file, vae=None if vae is None else open_vae(vae))
    return open_single_file(found, vae=None if vae is None else _find(vae)[0])


def open_vae(path: str | Path) -> Component:
    """An autoencoder alone: a folder of diffusers (AutoencoderKL, AutoencoderTiny) or a safetensors file."""
    found, _ = _find(path)
    if found.is_dir():
        return open_vae_folder(found)
    from tinydiff_weights.packed import is_packed, packed_vae
    from tinydiff_weights.singlefile import open_vae_file

    refuse_foreign(found)
    if is_packed(file := open_safetensors(found)):
        return packed_vae(file)
    return open_vae_file(found)


def refuse_foreign(path: Path) -> None:
    """Raise ModelFileError for pickles, GGUF files and other files that are not safetensors, by content and by name."""
    with open_regular(path) as descriptor:
        head = os.pread(descriptor, 16, 0)
    refusal = foreign_kind(head)
    if refusal is None and head[8:9] != b"{":
        refusal = refuse_pickle_name(path)
    if refusal is not None:
        raise ModelFileError(path, refusal[0], hint=refusal[1])


def _find(path: str | Path) -> tuple[Path, HubName | None]:
    """An existing path, or what the hub's cache has under that name."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ModelFileError(str(path), "is no path of a model")
    found = Path(text).expanduser()
    if os.path.lexists(found):
        return found, None
    name = parse_hub_name(text)
    if name is None:
        raise ModelFileError(found, "no such file or folder")
    found = cached_path(name)
    return _only_file(found) or found, name


def _only_file(snapshot: Path) -> Path | None:
    """The model of a repository that is one safetensors file and no folder model."""
    if not snapshot.is_dir() or any((snapshot / f).exists() for f in ("model_index.json", "config.json")):
        return None
    files = [n for n in os.listdir(snapshot) if n.endswith(".safetensors")]
    return snapshot / files[0] if len(files) == 1 else None
