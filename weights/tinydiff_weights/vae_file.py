"""Opening the autoencoder of a file: AutoencoderKL in Stability's or diffusers' names, or TAESD."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tinydiff_weights import kinds
from tinydiff_weights.detect_vae import (
    SCALING_FACTOR,
    from_tiny_half,
    is_tiny_half,
    tiny_vae_config,
    vae_config,
)
from tinydiff_weights.errors import ModelFileError, UnsupportedModelError
from tinydiff_weights.names import map_vae
from tinydiff_weights.rename_old import modern_vae_names
from tinydiff_weights.safetensors import StoredTensor, open_safetensors
from tinydiff_weights.source import Component


def open_vae_file(path: Path) -> Component:
    """The VAE of a file that holds nothing else, or of a whole checkpoint.

    An AutoencoderKL's config comes without `scaling_factor`, which depends on the model it serves: see
    `fitted`. Raises ModelFileError, UnsupportedModelError.
    """
    return read_vae_file(path)[0]


def read_vae_file(path: Path) -> tuple[Component, tuple[str, ...]]:
    """As `open_vae_file`, and the names of the tensors that no rule knows."""
    tensors = open_safetensors(path).tensors
    for prefix in (*kinds.VAE, ""):
        inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        if any(name.startswith(("encoder.", "decoder.")) for name in inside):
            component, unmatched = vae_component(inside, path, family=None, prefix=prefix)
            return component, tuple(prefix + name for name in unmatched if kinds.leftover(name) is None)
    half = is_tiny_half(tensors)
    if half is not None:
        return _from_halves(tensors, half, path), ()
    kind = kinds.other({name: t.shape for name, t in tensors.items()})
    what = f"this is {kind.what}, not a VAE" if kind else "no VAE that tinydiff knows"
    raise UnsupportedModelError(
        f"{str(path)!r}: {what}. --vae takes an AutoencoderKL or a TAESD, as a .safetensors file or a folder"
    )


def vae_component(
    tensors: Mapping[str, StoredTensor], path: Path, *, family: str | None, prefix: str = ""
) -> tuple[Component, tuple[str, ...]]:
    """The VAE among `tensors` (names from `encoder.` and `decoder.` on), and what no rule knows.

    `prefix` is what the file has before these names, for errors.
    """
    if any(name.startswith(("encoder.layers.", "decoder.layers.")) for name in tensors):
        known = {n: t for n, t in tensors.items() if n.startswith(("encoder.layers.", "decoder.layers."))}
        return Component("vae", tiny_vae_config(known, path), known, path), tuple(n for n in tensors if n not in known)
    if any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in tensors):
        mapped, unmatched = modern_vae_names(tensors), tuple[str, ...]()
    else:
        result = map_vae(tensors)
        if result.missing:
            raise incomplete(path, "VAE", tuple(prefix + name for name in result.missing))
        mapped, unmatched = result.tensors, result.unmatched
    return Component("vae", vae_config(mapped, path, family=family), mapped, path), unmatched


def fitted(vae: Component, family: str) -> Component:
    """A VAE from a file of its own, with the scaling factor of the family it is to serve, unless it has one."""
    if vae.config.get("_class_name") != "AutoencoderKL" or "scaling_factor" in vae.config:
        return vae
    config = {**vae.config, "scaling_factor": SCALING_FACTOR[family], "force_upcast": family == "sdxl"}
    return Component(vae.name, config, vae.tensors, vae.path)


def incomplete(path: Path, part: str, missing: tuple[str, ...]) -> ModelFileError:
    """The error for a network that lacks tensors: how many, and the first by name."""
    first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    count = "1 tensor" if len(missing) == 1 else f"{len(missing)} tensors"
    return ModelFileError(
        path, f"its {part} lacks {count}: {first}", hint="The file is damaged or was cut; take another"
    )


def _from_halves(tensors: Mapping[str, StoredTensor], half: str, path: Path) -> Component:
    """TAESD as its author distributes it: `taesd_encoder.safetensors` beside `taesd_decoder.safetensors`."""
    wanted = "decoder" if half == "encoder" else "encoder"
    other = path.with_name(path.name.replace(half, wanted))
    hint = f"Put taesd_{wanted}.safetensors beside it, or take TAESD as one file with diffusers' names"
    if other == path or not other.is_file():
        raise ModelFileError(path, f"is the {half} of a TAESD without its {wanted}", hint=hint)
    rest = open_safetensors(other).tensors
    if is_tiny_half(rest) != wanted:
        raise ModelFileError(other, f"is not the {wanted} of a TAESD", hint=hint)
    both = {**from_tiny_half(tensors, half), **from_tiny_half(rest, wanted)}
    return Component("vae", tiny_vae_config(both, path), both, path)
