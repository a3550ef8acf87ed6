"""Writes networks.safetensors: what diffusers and transformers compute with four very small networks.

    python tests/golden/make_golden.py        (in an environment with the `oracle` extra)

The file holds configs (metadata), float16 weights, float32 inputs and outputs, so that test_golden.py needs
none of the libraries it was made with. Theirs compute in float32 on the same rounded weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / folder) for folder in (".", "kernels", "weights", "tests")]

from miniatures import TEXT_ENCODERS, UNETS, VAES, class_name, random_tensors, stored, write_component  # noqa: E402

from tinydiff_weights.safetensors import StoredTensor  # noqa: E402
from tinydiff_weights.write import save_safetensors  # noqa: E402

END = 49
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {
        **UNETS["sdxl"],
        "attention_head_dim": [2, 4],
        "block_out_channels": [4, 8],
        "cross_attention_dim": 12,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "time_embedding_dim": 16,
        "transformer_layers_per_block": [1, 2],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae": {
        **VAES["kl"],
        "block_out_channels": [4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "norm_num_groups": 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "taesd": {
        **VAES["taesd_three"],
        "decoder_block_out_channels": [6] * 3,
        "num_decoder_blocks": [1, 1, 1],
        "num_encoder_blocks": [1, 1, 1],
    },
    "text": {
        **TEXT_ENCODERS["open_clip_g"],
        "eos_token_id": END,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "projection_dim": 12,
        "vocab_size": END + 1,
    },
}


def inputs(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    ids = rng.integers(0, END, (2, 77))
    ids[0, 5:], ids[1, 76] = END, END
    return {
        "unet": {
            "sample": normal(2, 4, 5, 7),
            "timestep": np.array([999.0, 20.5], np.float32),
            "context": normal(2, 9, 12),
            "text_embeds": normal(2, 20),
            "time_ids": np.array([[64, 64, 0, 0, 64, 64], [512, 768, 8, 0, 512, 768]], np.float32),
        },
        "vae": {"latents": normal(1, 4, 3, 5), "image": rng.uniform(-1, 1, (1, 3, 8, 6)).astype(np.float32)},
        "taesd": {"latents": normal(1, 4, 3, 2), "image": rng.uniform(-1, 1, (1, 3, 8, 12)).astype(np.float32)},
        "text": {"ids": ids},
    }


def outputs(name: str, model: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if name == "unet":
        added = {k: given[k] for k in ("text_embeds", "time_ids")}
        return {"sample": model(given["sample"], given["timestep"], given["context"], added_cond_kwargs=added).sample}
    if name == "text":
        result = model(given["ids"], output_hidden_states=True)
        return {"hidden": result.hidden_states[-2], "pooled": result.text_embeds}
    encoded = model.encode(given["image"])
    latents = encoded.latents if name == "taesd" else encoded.latent_dist.mean
    return {"decoded": model.decode(given["latents"]).sample, "encoded": latents}


def main() -> None:
    tensors: dict[str, StoredTensor | np.ndarray[Any, Any]] = {}
    for seed, (name, given) in enumerate(inputs(np.random.default_rng(1)).items()):
        config = CONFIGS[name]
        half = stored(random_tensors(class_name(config), config, seed), "F16")
        library = transformers if name == "text" else diffusers
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            write_component(Path(folder), config, half)
            cls = getattr(library, class_name(config))
            model = cls.from_pretrained(folder, torch_dtype=torch.float32).eval()
            results = outputs(name, model, {k: torch.from_numpy(v) for k, v in given.items()})
        tensors |= {f"{name}.weights.{k}": v for k, v in half.items()}
        tensors |= {f"{name}.inputs.{k}": v for k, v in given.items()}
        tensors |= {f"{name}.outputs.{k}": v.numpy() for k, v in results.items()}
    made_by = f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    metadata = {name: json.dumps(config) for name, config in CONFIGS.items()}
    path = HERE / "networks.safetensors"
    save_safetensors(path, tensors, {**metadata, "made_by": made_by})
    print(f"{path}: {path.stat().st_size:,} bytes, {made_by}")


if __name__ == "__main__":
    main()
