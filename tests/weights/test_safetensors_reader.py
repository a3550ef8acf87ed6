"""The safetensors reader on healthy files: every format, views instead of copies, one mapping for all users."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tinydiff_weights.dtypes import STORAGE
from tinydiff_weights.errors import ModelFileError
from tinydiff_weights.mapping import live_mappings
from tinydiff_weights.safetensors import StoredTensor, check_unchanged, open_safetensors
from tinydiff_weights.write import save_safetensors

NUMPY_FORMATS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "BOOL": np.bool_,
}


def write_raw(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], pad: int = 0) -> None:
    """A file by hand: name -> (dtype, shape, bytes), with `pad` spaces after the header."""
    header, position = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t[2] for t in tensors.values()))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.safetensors"
    arrays = {"weight": np.arange(24, dtype=np.float32).reshape(4, 6), "half": np.arange(5, dtype=np.float16)}
    save_file(arrays, path, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("dtype", NUMPY_FORMATS)
def test_reads_what_the_library_writes(tmp_path: Path, dtype: str) -> None:
    values = (np.arange(-12, 12).reshape(2, 3, 4) % 120).astype(NUMPY_FORMATS[dtype])
    save_file({"x": values, "scalar": np.array(values[0, 0, 0]), "empty": values[:, :0]}, tmp_path / "a.safetensors")
    tensors = open_safetensors(tmp_path / "a.safetensors").tensors
    assert tensors["x"].dtype == dtype
    assert tensors["x"].shape == (2, 3, 4)
    assert tensors["x"].raw.tobytes() == values.tobytes()
    np.testing.assert_array_equal(tensors["x"].float32(), values.astype(np.float32))
    assert tensors["scalar"].shape == ()
    assert tensors["scalar"].float32() == np.float32(values[0, 0, 0])
    assert tensors["empty"].float32().shape == (2, 0, 4)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2"])
def test_formats_that_numpy_lacks(tmp_path: Path, dtype: str) -> None:
    one = {"BF16": b"\x80\x3f", "F8_E4M3": b"\x38", "F8_E5M2": b"\x3c"}[dtype]
    write_raw(tmp_path / "a.safetensors", {"x": (dtype, [3, 2], one * 6)})
    tensor = open_safetensors(tmp_path / "a.safetensors").tensors["x"]
    assert tensor.raw.dtype == STORAGE[dtype]
    np.testing.assert_array_equal(tensor.float32(), np.ones((3, 2), np.float32))


def test_metadata_order_and_size(sample: Path) -> None:
    file = open_safetensors(sample)
    assert dict(file.metadata) == {"format": "pt"}
    assert list(file.tensors) == ["weight", "half"]  # the order of the data
    assert file.size == sample.stat().st_size
    assert file.path == sample


def test_float32_is_the_mapping_itself(sample: Path) -> None:
    tensor = open_safetensors(sample).tensors["weight"]
    assert tensor.float32() is tensor.raw or np.shares_memory(tensor.float32(), tensor.raw)
    assert not tensor.raw.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        tensor.float32()[0, 0] = 1


def test_views(sample: Path) -> None:
    tensor = open_safetensors(sample).tensors["weight"]
    expected = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view, values in [
        (tensor.sliced(1, 3), expected[1:3]),
        (tensor.sliced(4, 4), expected[4:4]),
        (tensor.transposed(), expected.T),
        (tensor.reshaped(2, 12), expected.reshape(2, 12)),
        (tensor.sliced(2, 4).transposed(), expected[2:4].T),
        (tensor.sliced(2, 4).reshaped(12, 1), expected[2:4].reshape(12, 1)),
    ]:
        assert isinstance(view, StoredTensor)
        assert view.raw.size == 0 or np.shares_memory(view.raw, tensor.raw)
        assert view.shape == values.shape
        assert view.nbytes == values.nbytes
        assert view.parameters == values.size
        result = view.float32()
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, values)
    assert tensor.renamed("other").name == "other"
    assert tensor.renamed("other").raw is tensor.raw


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 5), (3, 2)])
def test_slices_outside_are_refused_by_name(sample: Path, start: int, stop: int) -> None:
    with pytest.raises(ModelFileError, match="weight"):
        open_safetensors(sample).tensors["weight"].sliced(start, stop)


@pytest.mark.parametrize("shape", [(5, 5), (24, -1), (-4, -6), ()])
def test_shapes_that_do_not_fit_are_refused_by_name(sample: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelFileError, match="weight"):
        open_safetensors(sample).tensors["weight"].reshaped(*shape)


def test_reshaping_a_strided_view_is_a_mistake_of_the_caller(sample: Path) -> None:
    with pytest.raises(ValueError, match="strided"):
        open_safetensors(sample).tensors["weight"].transposed().reshaped(24)


@pytest.mark.parametrize("pad", range(8))
def test_misaligned_data_is_copied_when_used(tmp_path: Path, pad: int) -> None:
    values = {"F64": np.arange(3.0), "F32": np.arange(6, dtype=np.float32), "I64": np.arange(4)}
    path = tmp_path / "a.safetensors"
    write_raw(path, {d: (d, list(v.shape), v.tobytes()) for d, v in values.items()}, pad=pad)
    for dtype, tensor in open_safetensors(path).tensors.items():
        result = tensor.float32()
        assert result.flags.aligned
        np.testing.assert_array_equal(result, values[dtype].astype(np.float32))
        assert tensor.aligned().flags.aligned
        np.testing.assert_array_equal(tensor.aligned(), values[dtype])
        assert np.shares_memory(tensor.aligned(), tensor.raw) == tensor.raw.flags.aligned


def test_some_padding_above_was_misaligned(tmp_path: Path) -> None:
    """The test before this one would say nothing if every header happened to end on 8 bytes."""
    seen = set()
    for pad in range(4):
        write_raw(tmp_path / "a.safetensors", {"x": ("F32", [1], b"\0\0\0\0")}, pad=pad)
        seen.add(open_safetensors(tmp_path / "a.safetensors").tensors["x"].raw.flags.aligned)
    assert seen == {True, False}


def maps_of(path: Path) -> int:
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_two_opens_share_one_mapping_until_the_last_tensor_goes(sample: Path) -> None:
    first, second = open_safetensors(sample), open_safetensors(sample)
    assert first.mapping is second.mapping
    assert maps_of(sample) == 1
    kept = first.tensors["half"].sliced(1, 3)
    del first, second
    gc.collect()
    assert maps_of(sample) == 1
    np.testing.assert_array_equal(kept.float32(), [1, 2])
    del kept
    gc.collect()
    assert maps_of(sample) == 0
    assert all(m.path != sample for m in live_mappings())


def test_a_link_to_the_file_shares_its_mapping_and_a_copy_does_not(sample: Path, tmp_path: Path) -> None:
    link, copy = tmp_path / "link.safetensors", tmp_path / "copy.safetensors"
    link.symlink_to(sample)
    shutil.copy(sample, copy)
    first = open_safetensors(sample)
    assert open_safetensors(link).mapping is first.mapping
    assert open_safetensors(copy).mapping is not first.mapping


def test_replacing_the_file_is_safe_and_writing_into_it_is_noticed(sample: Path) -> None:
    old = open_safetensors(sample)
    save_safetensors(sample, {"weight": np.zeros((4, 6), np.float32)})
    old.check_unchanged()
    assert old.tensors["weight"].float32()[3, 5] == 23
    new = open_safetensors(sample)
    assert new.mapping is not old.mapping
    assert new.tensors["weight"].float32().max() == 0

    with open(sample, "r+b") as stream:  # in place, same size
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    os.utime(sample, ns=(1, 1))
    with pytest.raises(ModelFileError, match="changed after it was opened"):
        new.check_unchanged()
    with pytest.raises(ModelFileError, match="changed after it was opened"):
        check_unchanged([new.tensors["weight"].transposed()])
    check_unchanged([StoredTensor.from_array("x", np.zeros(3, np.float32))])  # no file, nothing to check


def test_a_file_cut_short_is_noticed_even_when_its_name_is_gone(sample: Path) -> None:
    file = open_safetensors(sample)
    with open(sample, "r+b") as stream:
        sample.unlink()
        file.check_unchanged()
        stream.truncate(16)
    with pytest.raises(ModelFileError, match="changed"):
        file.check_unchanged()


def test_from_array_refuses_formats_that_do_not_exist() -> None:
    with pytest.raises(TypeError, match="complex64"):
        StoredTensor.from_array("x", np.zeros(2, np.complex64))


def test_writer_round_trip_and_determinism(tmp_path: Path) -> None:
    arrays = {
        "b": np.arange(3, dtype=np.int8),
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "flag": np.array([True, False]),
        "wide": np.arange(2, dtype=np.float64),
        "empty": np.zeros((0, 2), np.float16),
        "scalar": np.array(5, np.int64),
    }
    bf16 = StoredTensor("bf", "BF16", np.array([0x3F80, 0xC000], np.uint16), "memory")
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_safetensors(one, {**arrays, "bf": bf16}, {"k": "v", "a": "ü\n"})
    save_safetensors(two, {"bf": bf16, **dict(reversed(arrays.items()))}, {"a": "ü\n", "k": "v"})
    assert one.read_bytes() == two.read_bytes()
    file = open_safetensors(one)
    assert dict(file.metadata) == {"a": "ü\n", "k": "v"}
    for name, array in arrays.items():
        assert file.tensors[name].raw.flags.aligned
        np.testing.assert_array_equal(file.tensors[name].raw, array)
    np.testing.assert_array_equal(file.tensors["bf"].float32(), [1, -2])
