"""Which files of a hub repository a model needs: one set of weights per part, safetensors, json and txt only.

Repositories of Stable Diffusion carry the same weights many times: as .bin and .safetensors, in fp32 and
fp16, with and without EMA, and once more as a single file at the root. What is fetched is exactly what
`open_model` then opens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.weight_files import FOLDER_HINT, WeightFile, weight_candidates

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
OTHERS = ("tokenizer", "tokenizer_2", "scheduler")


def choose_files(repo: str, names: Iterable[str], *, file: str | None = None, variant: str | None = None) -> list[str]:
    """The files to fetch among all `names` of repository `repo`, sorted.

    `file`: this one alone. `variant`: prefer these weights ("fp16") where a part has them.
    Raises ModelFileError where there is nothing to open.
    """
    folders = _by_folder(names)
    root = folders.get("", [])
    if file is not None:
        if file not in root:
            raise ModelFileError(repo, f"has no file {file!r}. It has: {', '.join(_single_files(root)) or 'none'}")
        return [file]
    if "model_index.json" in root:
        chosen: list[str] = [n for n in ("model_index.json", "tinydiff.json") if n in root]
        for part in NETWORKS:
            if part in folders:
                chosen += [f"{part}/{n}" for n in _network(f"{repo}/{part}", folders[part], variant)]
        for part in OTHERS:
            chosen += [f"{part}/{n}" for n in folders.get(part, []) if n.endswith((".json", ".txt"))]
        return sorted(chosen)
    if "config.json" in root and weight_candidates(root):
        return _network(repo, root, variant)
    single = _single_files(root)
    if len(single) == 1:
        return single
    if not single:
        raise ModelFileError(repo, "has neither a model_index.json nor a safetensors file at its root")
    hint = f"Name one: tinydiff pull {repo}/{single[0]}"
    raise ModelFileError(repo, f"has several models: {', '.join(single[:20])}", hint=hint)


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """File names by the folder they lie in directly, at most one level deep."""
    folders: dict[str, list[str]] = {}
    for name in sorted(names):
        folder, _, base = name.rpartition("/")
        if "/" not in folder and base and "\\" not in name and folder not in (".", "..") and base not in (".", ".."):
            folders.setdefault(folder, []).append(base)
    return folders


def _single_files(root: list[str]) -> list[str]:
    return [n for n in root if n.endswith(".safetensors")]


def _network(where: str, names: list[str], variant: str | None) -> list[str]:
    candidates = weight_candidates(names)
    if not candidates:
        raise ModelFileError(where, "has no safetensors weights", hint=FOLDER_HINT)
    best = min(candidates, key=lambda c: (c.variant != variant, c)) if variant else candidates[0]
    return sorted(["config.json", best.name, *_shards(best, names)])


def _shards(weights: WeightFile, names: list[str]) -> list[str]:
    return [n for n in names if weights.shard_pattern().fullmatch(n)] if weights.sharded else []
