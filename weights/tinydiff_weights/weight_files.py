"""Which weight files of a component are meant: plain or fp16, one file or shards.

Names are `diffusion_pytorch_model` (diffusers) or `model` (transformers), then a variant, then the format:
`diffusion_pytorch_model.fp16.safetensors`, `diffusion_pytorch_model.non_ema.safetensors`; split weights come
as `model-00001-of-00002.safetensors` ... with `model.safetensors.index.json` beside them (a variant before or
after `.index`). Where several exist the plain one wins (it is what diffusers opens), then fp16, then the
others by name. Where a whole file and shards of the same variant exist, the whole file wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.jsonfile import read_json
from tinydiff_weights.safetensors import StoredTensor, open_safetensors

STEMS = ("diffusion_pytorch_model", "model")
MAX_SHARDS = 1000
_PART = re.compile(r"[A-Za-z0-9_]+")
_FOREIGN = re.compile(r"(diffusion_pytorch_model|pytorch_model|model|flax_model|tf_model)\b.*\.(bin|msgpack|h5|onnx)")
FOLDER_HINT = (
    'Convert it once, where torch and diffusers are installed: python -c "import sys, diffusers; '
    'diffusers.DiffusionPipeline.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])" FOLDER NEW_FOLDER'
)


@dataclass(frozen=True, order=True)
class WeightFile:
    """One candidate; the smallest is the one to open."""

    rank: int  # 0 plain, 1 fp16, 2 other
    variant: str
    sharded: bool
    name: str
    stem: str

    def shard_pattern(self) -> re.Pattern[str]:
        """Names of the shards that this index speaks of (what `tinydiff pull` fetches before it can read the index)."""
        variant = re.escape(f".{self.variant}") if self.variant else ""
        count = r"-\d{1,6}-of-\d{1,6}"
        return re.compile(rf"{self.stem}({variant}{count}|{count}{variant})\.safetensors")


def weight_candidates(names: Iterable[str]) -> list[WeightFile]:
    """The safetensors weights among the file names of a component folder, best first."""
    found = [file for name in names if (file := _parse(name)) is not None]
    return sorted(found)


def _parse(name: str) -> WeightFile | None:
    stem, *parts = name.split(".")
    if stem not in STEMS or "safetensors" not in parts:
        return None
    sharded = parts[-1] == "json" and "index" in parts
    if not sharded and parts[-1] != "safetensors":
        return None
    variant = [p for p in parts if p not in (("safetensors", "index", "json") if sharded else ("safetensors",))]
    if not all(_PART.fullmatch(p) for p in variant):
        return None
    text = ".".join(variant)
    return WeightFile({"": 0, "fp16": 1}.get(text, 2), text, sharded, name, stem)


def open_weights(folder: Path, root: Path) -> dict[str, StoredTensor]:
    """All tensors of the component in `folder`, views on the mapped files. `root` is the model's folder."""
    names = list_folder(folder)
    candidates = weight_candidates(names)
    if candidates:
        best = candidates[0]
        path = folder / best.name
        return _open_shards(path, root) if best.sharded else dict(open_safetensors(path).tensors)
    if any(_FOREIGN.fullmatch(n) for n in names):
        what = sorted(n for n in names if _FOREIGN.fullmatch(n))[0]
        raise ModelFileError(folder, f"has its weights as {what!r} only, and not as safetensors", hint=FOLDER_HINT)
    if any("-of-" in n and n.endswith(".safetensors") for n in names):
        raise ModelFileError(folder, "has shards but no *.safetensors.index.json that lists them")
    hint = "The download may be incomplete; fetch it again"
    raise ModelFileError(folder, "has no weights: no diffusion_pytorch_model or model .safetensors", hint=hint)


def list_folder(folder: Path) -> list[str]:
    """File names in a folder, sorted. Raises ModelFileError."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        raise ModelFileError(folder, "no such folder") from None
    except NotADirectoryError:
        raise ModelFileError(folder, "is a file, expected a folder") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(folder, f"cannot be listed: {error}") from None


# ------------------------------------------------------------------------------------------------- shards


def _open_shards(index: Path, root: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise ModelFileError(index, "has no weight_map of tensor names to file names")
    shards = sorted(set(weight_map.values()))
    if not shards or len(shards) > MAX_SHARDS:
        raise ModelFileError(index, f"names {len(shards)} shards (1 to {MAX_SHARDS} can be)")
    paths = {shard: _shard_path(index, shard, root) for shard in shards}  # all are checked before one is opened
    tensors: dict[str, StoredTensor] = {}
    for shard, path in paths.items():
        for name, tensor in open_safetensors(path).tensors.items():
            if name in tensors:
                raise ModelFileError(tensor.file, "is in two shards", tensor=name)
            if weight_map.get(name, shard) != shard:
                raise ModelFileError(tensor.file, f"should be in {weight_map[name]!r} by the index", tensor=name)
            tensors[name] = tensor
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        raise ModelFileError(index, f"names {len(missing)} tensors that its shards lack", tensor=missing[0])
    return tensors


def _shard_path(index: Path, shard: str, root: Path) -> Path:
    """The file of a shard. The index is a stranger's: it may name files of the model and nothing else."""
    plain = shard == os.path.basename(shard) and "\\" not in shard and shard.isprintable()
    if not plain or not shard.endswith(".safetensors"):
        raise ModelFileError(index, f"names the shard {shard!r}, which is no safetensors file beside it")
    path = index.parent / shard
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(allowed) for allowed in _allowed_roots(root)):
        raise ModelFileError(path, "is a link that leaves the model's folder")
    return path


def _allowed_roots(root: Path) -> list[Path]:
    """The model's folder, and where the hub's cache keeps what `models--x/snapshots/<commit>` links to."""
    real = Path(os.path.realpath(root))
    allowed = [real]
    if real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--"):
        allowed.append(real.parent.parent / "blobs")
    return allowed
