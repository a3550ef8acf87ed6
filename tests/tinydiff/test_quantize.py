"""Packed files run: with the bits of weights quantised in memory, on the reference too, and without a copy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff.errors import InvalidArgumentError, ModelFileError
from tinydiff.packed import mapped
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_kernels.handles import LowRank, MatmulWeight
from tinydiff_weights.mapping import mapping_of
from tinydiff_weights.open import open_model
from tinydiff_weights.packed_verify import verify
from tinydiff_weights.safetensors import StoredTensor
from tinydiff_weights.write import save_safetensors

CALL: dict[str, Any] = {"seed": 1, "num_inference_steps": 2, "output_type": "np"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("quantize") / "sd1", "sd1")


@pytest.fixture(scope="module")
def packed(folder: Path) -> Path:
    path = folder.parent / "sd1.safetensors"
    quantize(open_model(folder), path, Recipe("int8"))
    return path


def picture(path: Path, **options: Any) -> NDArray[np.float32]:
    images = tinydiff.Pipeline.from_pretrained(path, **options)("a cat", **CALL).images
    assert isinstance(images, np.ndarray)
    assert images.std() > 0.01
    return images


# ------------------------------------------------------------------------------------------------ the same bits


@pytest.mark.parametrize(
    ("family", "dtype", "weights"), [("sd1", "F16", "int8"), ("sdxl", "F32", "int4"), ("sd2", "BF16", "int8")]
)
def test_pictures_are_those_of_weights_quantised_in_memory(
    tmp_path: Path, family: str, dtype: str, weights: str
) -> None:
    model, path = write_folder(tmp_path / "model", family, dtype=dtype), tmp_path / "packed.safetensors"
    quantize(open_model(model), path, Recipe(weights))
    verify(open_model(path))
    np.testing.assert_array_equal(picture(path), picture(model, weights=weights))


def test_halves_in_a_float32_file_are_stored_as_halves(tmp_path: Path) -> None:
    """bfloat16 between 2^-14 and 2^15 with few digits is float16 too; the picture keeps its bits."""
    model = write_folder(tmp_path / "model", "bk_tiny")
    for file in model.rglob("*.safetensors"):
        rounded = {n: t.float32().astype(np.float16).astype(np.float32) for n, t in stored(file).items()}
        save_safetensors(file, rounded)
    path = tmp_path / "packed.safetensors"
    quantize(open_model(model), path, Recipe("int8"))
    assert open_model(path).components["unet"].tensors["conv_in.weight"].dtype == "F16"
    np.testing.assert_array_equal(picture(path), picture(model, weights="int8"))


def stored(file: Path) -> dict[str, StoredTensor]:
    from tinydiff_weights.safetensors import open_safetensors

    return dict(open_safetensors(file).tensors)


def test_the_reference_runs_a_packed_file(packed: Path) -> None:
    """Its weights are the integers' meaning; its activations are not quantised, hence a tolerance (33 dB seen)."""
    error = picture(packed, backend="reference") - picture(packed)
    assert 10 * np.log10(1 / np.mean(np.square(error))) > 28


def test_adapters_work_beside_packed_weights(packed: Path, folder: Path) -> None:
    """On a plain, a gated and an upsampled layer: the same bits as from weights packed in memory."""
    pipes = [tinydiff.Pipeline.from_pretrained(packed), tinydiff.Pipeline.from_pretrained(folder, weights="int8")]
    rng = np.random.default_rng(3)
    gated, upsampled = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", "up_blocks.0.upsamplers.0.conv"
    for name in ("mid_block.resnets.0.conv1", gated, upsampled):
        weight = pipes[0].unet.weights[name]
        assert isinstance(weight, MatmulWeight)
        down = rng.standard_normal((2, *weight.weight.shape[1:])).astype(np.float32) / 20
        adapter = LowRank(down, rng.standard_normal((weight.outputs, 2)).astype(np.float32))
        before = [pipe("a cat", **CALL).images for pipe in pipes]
        for pipe in pipes:
            pipe.unet.weights[name].adapters.append(adapter)  # type: ignore[union-attr]
        after = [pipe("a cat", **CALL).images for pipe in pipes]
        assert np.abs(after[1] - before[1]).max() > 1e-3  # type: ignore[operator]
        np.testing.assert_array_equal(after[0], after[1])


# ------------------------------------------------------------------------------------------------ nothing is copied


def test_kernels_read_the_mapping(packed: Path) -> None:
    """Every array that a picture's kernels get of the weights is a view of the file."""
    pipe = tinydiff.Pipeline.from_pretrained(packed)
    pipe("a cat", **CALL)
    seen = 0
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        kept = network.backend._weights  # type: ignore[attr-defined]
        for (owner, *_), made in kept._made.items():
            if isinstance(made, str):
                continue  # a layer's kind
            arrays = [made] if isinstance(made, np.ndarray) else [made.data, made.scales, made.sums, made.group_scales]
            weight = next((w for w in network.weights.values() if id(w) == owner), None)
            if isinstance(weight, MatmulWeight) and isinstance(made, np.ndarray) and weight.bias is None:
                assert not made.any()  # the zeros of a layer without bias
                continue
            for array in arrays:
                assert array is None or mapping_of(array) is not None
                assert array is None or array.ctypes.data % 64 == 0
                seen += array is not None
    assert seen > 300


# ------------------------------------------------------------------------------------------------ choices


def test_keep_and_wide(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    recipe = Recipe("int4", keep=("unet.mid_block.*", "text_encoder.*.fc?"), wide="float16")
    report = quantize(open_model(folder), path, recipe)
    kinds = {name: layer.kind for name, layer in report.formats.items()}
    assert {k for n, k in kinds.items() if n.startswith("unet/mid_block") or n.endswith(("fc1", "fc2"))} == {"f16"}
    assert kinds["unet/conv_in"] == "f16"
    assert kinds["unet/down_blocks.0.resnets.0.conv1"] == "i4"
    with pytest.raises(InvalidArgumentError, match=r"no layer matches 'unet\.nothing'.*text_encoder\.text_model"):
        quantize(open_model(folder), tmp_path / "y.safetensors", Recipe("int8", keep=("unet.nothing",)))


def test_mixed_keeps_to_its_size_and_spends_it(folder: Path, tmp_path: Path) -> None:
    sizes = {w: quantize(open_model(folder), tmp_path / f"{w}.safetensors", Recipe(w)).size for w in ("int8", "int4")}
    for share in (0.25, 0.75):
        target = round(sizes["int4"] + share * (sizes["int8"] - sizes["int4"]))
        path = tmp_path / f"{share}.safetensors"
        report = quantize(open_model(folder), path, Recipe("mixed", target_size=target))
        assert target - 80_000 < report.size <= target
        assert path.stat().st_size == report.size
        lossy = {name: snr for name, snr in report.snr.items() if report.formats[name].integer}
        assert {report.formats[name].kind for name in lossy} == {"i4", "i8"}
    with pytest.raises(InvalidArgumentError, match=r"0\.10 MB: the smallest file of this model is of 1\.9"):
        quantize(open_model(folder), tmp_path / "z.safetensors", Recipe("mixed", target_size=100_000))


def test_same_source_same_bytes(folder: Path, packed: Path, tmp_path: Path) -> None:
    """Wherever it lies, and however it was interrupted (test_quantize_interrupted)."""
    moved = tmp_path / "moved"
    folder.rename(moved)
    try:
        quantize(open_model(moved), tmp_path / "x.safetensors", Recipe("int8"))
    finally:
        moved.rename(folder)
    assert (tmp_path / "x.safetensors").read_bytes() == packed.read_bytes()


def test_a_vae_in_place_of_the_models(folder: Path, packed: Path, tmp_path: Path) -> None:
    """Beside a packed file, and packed in its place."""
    tiny = write_folder(tmp_path / "tiny", "sd1", taesd=True) / "vae"
    wanted = picture(folder, weights="int8", vae=tiny)
    np.testing.assert_array_equal(picture(packed, vae=tiny), wanted)
    quantize(open_model(folder, vae=tiny), tmp_path / "x.safetensors", Recipe("int8"))
    np.testing.assert_array_equal(picture(tmp_path / "x.safetensors"), wanted)
    np.testing.assert_array_equal(picture(folder, weights="int8", vae=tmp_path / "x.safetensors"), wanted)


# ------------------------------------------------------------------------------------------------ refusals


def test_what_quantize_refuses(folder: Path, packed: Path, tmp_path: Path) -> None:
    source = open_model(folder)
    for words, given, target, recipe in (
        ("packed already", open_model(packed), tmp_path / "a.safetensors", Recipe("int8")),
        ("NAME.safetensors", source, tmp_path / "a.bin", Recipe("int8")),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            quantize(given, target, recipe)
    for words, target in (
        ("no such folder", tmp_path / "nowhere" / "a.safetensors"),
        ("exists", packed),
        ("is a folder", make_dir(tmp_path / "d.safetensors")),
    ):
        with pytest.raises(ModelFileError, match=words):
            quantize(source, target, Recipe("int8"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(InvalidArgumentError, match="is the model itself"):
        quantize(source, file, Recipe("int8"), force=True)
    with pytest.raises(InvalidArgumentError, match="unknown weights 'int5'"):
        Recipe("int5")
    with pytest.raises(InvalidArgumentError, match="target_size belongs to"):
        Recipe("int8", target_size=1)
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def make_dir(path: Path) -> Path:
    path.mkdir()
    return path


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "model", "bk_tiny")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    name = "down_blocks.0.resnets.0.conv1.weight"
    values = {n: t.float32().copy() for n, t in stored(file).items()}
    values[name][3, 1] = np.nan
    save_safetensors(file, values)
    with pytest.raises(ModelFileError, match=f"tensor '{name}': holds NaN or infinity"):
        quantize(open_model(model), tmp_path / "x.safetensors", Recipe("int8"))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_other_weights_than_its_own(folder: Path, packed: Path, tmp_path: Path) -> None:
    """They are made of what the integers mean: the bits of a folder that holds just these numbers."""
    np.testing.assert_array_equal(picture(packed, weights="int8"), picture(packed))
    meant = tmp_path / "meant"
    shutil.copytree(folder, meant)
    for component in open_model(packed).components.values():
        (file,) = (meant / component.name).glob("*.safetensors")
        save_safetensors(file, {name: t.float32() for name, t in mapped(component.tensors).items()})
    for weights in ("int4", "float16", "float32"):
        np.testing.assert_array_equal(picture(packed, weights=weights), picture(meant, weights=weights))
