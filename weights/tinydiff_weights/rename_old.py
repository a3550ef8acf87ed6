"""Names that diffusers and transformers used at other times, brought to the one form used inside.

- The VAE's attention was `query`, `key`, `value`, `proj_attn` before diffusers 0.15; now `to_q`, `to_k`, `to_v`,
  `to_out.0`.
- CLIP text models carry `text_model.` before their names on the hub; transformers 5 writes them without. Inside they
  have it. `position_ids` (0, 1, 2 ...) was saved along for years and says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.safetensors import StoredTensor

_OLD_ATTENTION = re.compile(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_CLIP_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")


def modern_vae_names(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors of an AutoencoderKL under today's names; old 1x1 convolutions [C, C, 1, 1] seen as [C, C]."""
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if match := _OLD_ATTENTION.fullmatch(name):
            name = f"{match[1]}{_NEW_ATTENTION[match[2]]}.{match[3]}"
            if len(tensor.shape) == 4 and tensor.shape[2:] == (1, 1):
                tensor = tensor.reshaped(*tensor.shape[:2])
        _put(renamed, name, tensor)
    return renamed


def hub_clip_names(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], int]:
    """Tensors of a CLIP text model with `text_model.` before their names, and how many position_ids were left out."""
    renamed: dict[str, StoredTensor] = {}
    position_ids = 0
    for name, tensor in tensors.items():
        if name.endswith("embeddings.position_ids"):
            position_ids += 1
            continue
        _put(renamed, f"text_model.{name}" if name.startswith(_CLIP_PARTS) else name, tensor)
    return renamed, position_ids


def _put(table: dict[str, StoredTensor], name: str, tensor: StoredTensor) -> None:
    if name in table:
        raise ModelFileError(tensor.file, f"is there twice, also as {tensor.name!r}", tensor=name)
    table[name] = tensor if name == tensor.name else tensor.renamed(name)
