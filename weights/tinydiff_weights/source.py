"""What opening a model yields, whatever it was stored as: configs and named tensors, nothing computed.

    diffusers folder ──┐
    single file ───────┼── open_model() ── ModelSource ── tinydiff.loading builds the networks
    packed file ───────┘

All configs are the diffusers JSON of the component, all tensor names the diffusers names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.packed_tensors import AnyTensor
from tinydiff_weights.safetensors import StoredTensor


@dataclass(frozen=True)
class Component:
    """One network of a model: its config as diffusers (or transformers) writes it, and its tensors."""

    name: str  # "unet", "vae", "text_encoder", "text_encoder_2"
    config: Mapping[str, Any]
    tensors: Mapping[str, AnyTensor]
    path: Path  # the file or folder named in errors


@dataclass(frozen=True)
class TokenizerSource:
    """Where a CLIP tokenizer's vocabulary lies. All places None: the CLIP vocabulary of the package."""

    vocab: Path | None = None
    merges: Path | None = None
    tokenizer_json: Path | None = None
    pad_token: str = "<|endoftext|>"
    model_max_length: int = 77
    stored: StoredTensor | None = None  # in a packed file: the whole vocabulary as JSON (tinydiff.stored_vocabulary)


@dataclass(frozen=True)
class FewStepsSource:
    """Low-rank additions to the UNet with which it draws in few steps without guidance."""

    path: Path
    tensors: Mapping[str, StoredTensor]  # "unet.LAYER.lora_A.weight" and "...lora_B.weight", as diffusers names them
    steps: int
    default: bool  # whether a caller who says nothing gets them


@dataclass(frozen=True)
class ModelSource:
    """A model before it is built."""

    path: Path
    kind: str  # "folder", "single_file" or "packed"
    family: str  # "sd1", "sd2", "sdxl": what was recognised
    why: str  # the evidence, in one sentence, for `tinydiff info`
    pipeline_class: str  # diffusers' name, e.g. "StableDiffusionPipeline"
    components: Mapping[str, Component]
    scheduler: Mapping[str, Any]  # scheduler_config.json; prediction_type None: a trial forward must tell
    tokenizers: Mapping[str, TokenizerSource]  # "tokenizer", "tokenizer_2"
    index: Mapping[str, Any] = field(default_factory=dict)  # model_index.json
    defaults: Mapping[str, Any] = field(default_factory=dict)  # steps, guidance, width, height (tinydiff.json)
    few_steps: FewStepsSource | None = None  # tinydiff.json
    taesd: Component | None = None  # a small autoencoder on the same latents that the model brings beside its own
    provenance: Mapping[str, Any] = field(default_factory=dict)  # of a packed file: source hash, version, recipe
    origin: ModelSource | None = None  # of a packed file in the cache: the model that the caller named
    hints: tuple[str, ...] = ()  # what the user should be told once, a line each
    leftovers: Mapping[str, int] = field(default_factory=dict)  # ignored training leftovers, kind -> count
    unused: tuple[str, ...] = ()  # tensors of the file that no component claims

    def with_taesd(self) -> ModelSource:
        """This model with the small autoencoder that it brings in place of the other. ModelFileError: it has none."""
        if self.taesd is None:
            raise ModelFileError(self.path, "brings no TAESD", hint="Name a folder or file of one")
        vae = replace(self.taesd, name="vae")
        return replace(self, components={**self.components, "vae": vae}, taesd=None)

    def parts(self) -> Iterator[Component]:
        """All networks, those that a picture may leave aside too."""
        yield from self.components.values()
        if self.taesd is not None:
            yield self.taesd

    def stored(self) -> Iterator[AnyTensor]:
        """Every tensor that a picture may need."""
        for component in self.components.values():
            yield from component.tensors.values()
        if self.few_steps is not None:
            yield from self.few_steps.tensors.values()
