"""weights/FORMAT.md is enough to read a packed file: an independent reader finds the source's numbers in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import packed_reader
import pytest
from miniatures import write_folder
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_weights.open import open_model
from tinydiff_weights.safetensors import open_safetensors
from tinydiff_weights.write import save_safetensors

RECIPES = {
    "int8": Recipe("int8"),
    "int4": Recipe("int4", wide="float16", keep=("unet.mid_block.*.conv1", "unet.*.ff.net.0.proj")),
    "mixed": Recipe("mixed"),
}


def classes(w: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The four 2x2 kernels of a 3x3 kernel after nearest-2x upsampling, straight from their definition."""
    pairs = (((0,), (1, 2)), ((0, 1), (2,)))
    made = {}
    for a in (0, 1):
        for b in (0, 1):
            sums = [[sum(w[:, :, y, x] for y in ys for x in xs) for xs in pairs[b]] for ys in pairs[a]]
            made[f".{a}{b}"] = np.array(sums, np.float32).transpose(2, 3, 0, 1)
    return made


def snr(wanted: list[NDArray[np.float32]], got: list[NDArray[np.float32]]) -> float:
    noise = sum(float(np.square(w - g, dtype=np.float64).sum()) for w, g in zip(wanted, got, strict=True))
    signal = sum(float(np.square(w, dtype=np.float64).sum()) for w in wanted)
    return np.inf if noise == 0 else float(10 * np.log10(signal / noise))


@pytest.mark.parametrize("name", RECIPES)
def test_a_reader_made_from_the_document(tmp_path: Path, name: str) -> None:
    """All parameters are there; vectors are exact; weights have just the errors that the metadata states."""
    model = write_folder(tmp_path / "model", "sdxl")
    file = model / "text_encoder_2" / "model.safetensors"  # its tables are halves, those of the first are not
    save_safetensors(file, {n: t.float32().astype(np.float16) for n, t in open_safetensors(file).tensors.items()})
    source = open_model(model)
    path = tmp_path / "packed.safetensors"
    quantize(source, path, RECIPES[name])
    networks, meta = packed_reader.read(path)
    assert set(networks) == set(source.components)
    kinds = set()
    for component, found in networks.items():
        tensors = {n: t.float32() for n, t in source.components[component].tensors.items()}
        layers = {row["name"]: row for row in meta["components"][component]["layers"]}
        for row in layers.values():
            kinds.add((row["kind"], row["use"]))
            weight = tensors.pop(f"{row['name']}.weight")
            parts = classes(weight) if row["use"] == "upsampled" else {"": weight}
            got = [found.pop(f"{row['name']}.weight{suffix}") for suffix in parts]
            error = snr(list(parts.values()), got)
            # Sums of taps may be rounded in another order than here: then they are not equal to the last bit.
            assert error > 130 if row["snr"] is None else abs(error - row["snr"]) < 0.02, row
            assert error > {"i8": 30, "i4": 14, "f16": 60, "f32": 130}[row["kind"]], row
        assert found.keys() == tensors.keys()
        for n, values in tensors.items():
            rounded = name == "int4" and n.endswith("_embedding.weight")  # this recipe makes tables halves
            np.testing.assert_array_equal(found[n], values.astype(np.float16) if rounded else values)
    assert {use for _, use in kinds} == {"plain", "gated", "upsampled"}
    expected = {"int8": {"i8", "f16", "f32"}, "int4": {"i4", "i8", "f16", "f32"}}
    assert {kind for kind, _ in kinds} == expected.get(name, expected["int4"])
    assert meta["provenance"]["recipe"]["weights"] == name


def test_the_library_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    quantize(open_model(write_folder(tmp_path / "model", "bk_tiny")), path, Recipe("int8"))
    tensors = load_file(path)
    layer = "unet/down_blocks.0.resnets.0.conv1"
    found = {part: str(tensors[f"{layer}.{part}"].dtype) for part in ("data", "scales", "sums", "bias")}
    assert found == {"data": "int8", "scales": "float32", "sums": "int32", "bias": "float32"}
