"""Hub names in the local cache: found by huggingface_hub's layout and variables, without it and without a socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinydiff_weights
from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.hub import HubName, cache_folder, parse_hub_name
from tinydiff_weights.hub_files import choose_files
from tinydiff_weights.open import open_model, open_vae
from tinydiff_weights.write import save_safetensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hf/hub"


def model_files() -> dict[str, bytes]:
    """The files of a small model, shards and all, by their names in the repository."""
    folder = Path(os.environ["HF_HOME"]).parent / "made"

    def weights(name: str, *tensors: str) -> bytes:
        folder.mkdir(exist_ok=True)
        save_safetensors(folder / "x", {t: np.ones((2, 2), np.float32) for t in tensors})
        return (folder / "x").read_bytes()

    def text(value: object) -> bytes:
        return json.dumps(value).encode()

    stem = "diffusion_pytorch_model"
    return {
        "model_index.json": text(
            {
                "_class_name": "StableDiffusionPipeline",
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "scheduler": ["diffusers", "PNDMScheduler"],
            }
        ),
        "unet/config.json": text({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}),
        f"unet/{stem}.safetensors.index.json": text(
            {"weight_map": {"a": f"{stem}-00001-of-00002.safetensors", "b": f"{stem}-00002-of-00002.safetensors"}}
        ),
        f"unet/{stem}-00001-of-00002.safetensors": weights("1", "a"),
        f"unet/{stem}-00002-of-00002.safetensors": weights("2", "b"),
        "vae/config.json": text({"_class_name": "AutoencoderKL"}),
        f"vae/{stem}.safetensors": weights("v", "decoder.conv_in.weight"),
        "text_encoder/config.json": text({"architectures": ["CLIPTextModel"]}),
        "text_encoder/model.safetensors": weights("t", "text_model.final_layer_norm.weight"),
        "tokenizer/vocab.json": text({"a": 0}),
        "tokenizer/merges.txt": b"#version: 0.2\n",
        "scheduler/scheduler_config.json": text({"_class_name": "PNDMScheduler"}),
    }


def put_snapshot(cache: Path, files: dict[str, bytes], commit: str = COMMIT, ref: str | None = "main") -> Path:
    """What huggingface_hub leaves behind: blobs, a snapshot of links to them, a ref."""
    repo = cache / "models--org--name"
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot = repo / "snapshots" / commit
    for i, (name, content) in enumerate(files.items()):
        blob = repo / "blobs" / f"{commit[:8]}{i}"
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    if ref is not None:
        (repo / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return snapshot


def test_a_cached_model_opens_through_its_links_shards_included(cache: Path) -> None:
    snapshot = put_snapshot(cache, model_files())
    source = open_model("org/name")
    assert source.path == snapshot
    assert set(source.components["unet"].tensors) == {"a", "b"}
    assert open_vae("org/name").tensors.keys() == {"decoder.conv_in.weight"}
    assert open_model("org/name", vae="org/name").components["vae"].path == snapshot / "vae"


def test_revisions(cache: Path) -> None:
    put_snapshot(cache, model_files())
    other = put_snapshot(cache, model_files(), OTHER, "refs/pr/1")
    assert open_model(f"org/name@{OTHER}").path == other
    assert open_model("org/name@refs/pr/1").path == other
    assert open_model("org/name").path != other


def test_a_link_out_of_the_blobs_is_refused(cache: Path, tmp_path: Path) -> None:
    snapshot = put_snapshot(cache, model_files())
    shard = snapshot / "unet/diffusion_pytorch_model-00001-of-00002.safetensors"
    (tmp_path / "outside.safetensors").write_bytes(shard.read_bytes())
    shard.unlink()
    shard.symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(ModelFileError, match="leaves the model's folder"):
        open_model("org/name")


def test_an_existing_folder_wins_over_a_hub_name(cache: Path, tmp_path: Path) -> None:
    put_snapshot(cache, model_files())
    (tmp_path / "org/name").mkdir(parents=True)
    with pytest.raises(ModelFileError, match="is an empty folder"):
        open_model("org/name")


def test_offline_needs_neither_library_nor_socket(cache: Path) -> None:
    put_snapshot(cache, model_files())
    probe = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
from tinydiff_weights.open import open_model
assert len(open_model("org/name").components) == 3
assert not {"huggingface_hub", "requests", "httpx", "torch"} & set(sys.modules), sys.modules
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(tinydiff_weights.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", probe], env=env, check=True)


# ------------------------------------------------------------------------------------------------ not there


@pytest.mark.parametrize("name", ["org/name", "org/name@v2", f"org/name@{OTHER}", "org/name/file.safetensors"])
def test_what_is_not_cached_names_the_pull_command(cache: Path, name: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        open_model(name)
    assert f"tinydiff pull {name}" in str(caught.value)
    assert str(cache) in str(caught.value)


def test_a_missing_revision_says_which_there_are(cache: Path) -> None:
    put_snapshot(cache, model_files())
    with pytest.raises(ModelFileError, match=rf"not its revision 'v2' .it has @{COMMIT}.*tinydiff pull org/name@v2"):
        open_model("org/name@v2")
    with pytest.raises(ModelFileError, match=r"none of its files are.*tinydiff pull"):
        open_model(f"org/name@{OTHER}")
    with pytest.raises(ModelFileError, match=r"though other files.*tinydiff pull org/name/x\.safetensors"):
        open_model("org/name/x.safetensors")


@pytest.mark.parametrize("content", [b"", b"../../../etc", b"\xff" * 40, b"0" * 39, b"g" * 40, b"0" * 50])
def test_a_hostile_ref(cache: Path, content: bytes) -> None:
    put_snapshot(cache, model_files())
    (cache / "models--org--name/refs/main").write_bytes(content)
    with pytest.raises(ModelFileError, match="does not hold a commit"):
        open_model("org/name")


def test_half_a_download_names_the_pull_command(cache: Path) -> None:
    files = model_files()
    del files["unet/diffusion_pytorch_model-00002-of-00002.safetensors"]
    put_snapshot(cache, files)
    with pytest.raises(ModelFileError, match=r"00002-of-00002.*no such file.*interrupted: tinydiff pull org/name"):
        open_model("org/name")


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "a/b/c",
        "/org/name",
        "org/name/",
        "../name",
        "org/..",
        "org/na..me",
        "org/na--me",
        ".org/name",
        "org/name.",
        "org/na me",
        "org/name@",
        "org/name@../x",
        "org/name@a//b",
        "org/name@/etc",
        "org/name@a/./b",
        "org/" + "n" * 100,
        "./models/x",
        "models/x.safetensors",
        "models/x.ckpt",
        "models/x.json",
        "https://host/org/name",
        "org\\name",
        "org/näme",
        "",
    ],
)
def test_what_is_no_hub_name(text: str) -> None:
    assert parse_hub_name(text) is None


def test_hub_names() -> None:
    assert parse_hub_name("org/name") == HubName("org/name")
    assert parse_hub_name("Org-1/na_me.v1-5") == HubName("Org-1/na_me.v1-5")
    assert parse_hub_name("org/name@refs/pr/3") == HubName("org/name", None, "refs/pr/3")
    assert parse_hub_name("org/name/a.safetensors@v1") == HubName("org/name", "a.safetensors", "v1")
    assert str(parse_hub_name("org/name/a.safetensors@v1")) == "org/name/a.safetensors@v1"


VARIABLES: list[tuple[dict[str, str], str]] = [
    ({}, "/home/u/.cache/huggingface/hub"),
    ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
    ({"HF_HOME": "/hf", "XDG_CACHE_HOME": "/xdg"}, "/hf/hub"),
    ({"HF_HUB_CACHE": "/cache", "HF_HOME": "/hf"}, "/cache"),
    ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"}, "/old"),
    ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"}, "/new"),
    ({"HF_HOME": "~/hf"}, "/home/u/hf/hub"),
    ({"HF_HOME": "$BASE/hf", "BASE": "/data"}, "/data/hf/hub"),
]


@pytest.mark.parametrize(("variables", "expected"), VARIABLES)
def test_cache_folder(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == expected


# ------------------------------------------------------------------------------------------------ what is fetched

STEM = "diffusion_pytorch_model"
CROWDED = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer/special_tokens_map.json",
    "unet/config.json",
    f"unet/{STEM}.bin",
    f"unet/{STEM}.safetensors",
    f"unet/{STEM}.fp16.safetensors",
    f"unet/{STEM}.non_ema.safetensors",
    "vae/config.json",
    f"vae/{STEM}.fp16.safetensors",
    f"vae/{STEM}.bin",
    "unet/onnx/model.safetensors",
    "../evil.json",
    "unet/../../evil.safetensors",
]
PLAIN = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    f"unet/{STEM}.safetensors",
    "vae/config.json",
    f"vae/{STEM}.fp16.safetensors",
]


def test_one_set_of_weights_is_chosen() -> None:
    assert choose_files("r", CROWDED) == PLAIN
    half = [n.replace("model.safetensors", "model.fp16.safetensors") for n in PLAIN]
    assert choose_files("r", CROWDED, variant="fp16") == sorted(half)
    assert choose_files("r", CROWDED, file="v1-5-pruned-emaonly.safetensors") == ["v1-5-pruned-emaonly.safetensors"]


def test_shards_come_with_their_index() -> None:
    shards = [f"unet/{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    fp16 = [f"unet/{STEM}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    names = ["model_index.json", "unet/config.json", f"unet/{STEM}.safetensors.index.json", *shards]
    more = [f"unet/{STEM}.safetensors.index.fp16.json", *fp16]
    assert choose_files("r", [*names, *more]) == sorted(names)
    assert choose_files("r", [*names, *more], variant="fp16") == sorted([*names[:2], *more])


def test_other_repositories() -> None:
    assert choose_files("r", ["README.md", "a.safetensors"]) == ["a.safetensors"]
    assert choose_files("r", ["config.json", f"{STEM}.safetensors", f"{STEM}.bin"]) == [
        "config.json",
        f"{STEM}.safetensors",
    ]
    for names, expected in [
        ([], "neither a model_index"),
        (["a.ckpt"], "neither a model_index"),
        (["a.safetensors", "b.safetensors"], r"several models: a\.safetensors, b.*tinydiff pull r/a\.safetensors"),
        (
            ["model_index.json", "unet/config.json", f"unet/{STEM}.bin"],
            "r/unet.*no safetensors weights.*save_pretrained",
        ),
    ]:
        with pytest.raises(ModelFileError, match=expected):
            choose_files("r", names)
    with pytest.raises(ModelFileError, match=r"has no file 'x\.safetensors'"):
        choose_files("r", ["a.safetensors"], file="x.safetensors")
