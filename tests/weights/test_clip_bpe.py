"""The CLIP vocabulary in the package: CLIP's published one, and our error where the file is damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinydiff_weights import clip_bpe
from tinydiff_weights.errors import ModelFileError


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    clip_bpe._merges.cache_clear()
    monkeypatch.setattr(clip_bpe, "MERGES_FILE", tmp_path / "merges.txt.gz")
    yield tmp_path / "merges.txt.gz"
    clip_bpe._merges.cache_clear()


def test_the_published_numbers() -> None:
    vocab, merges = clip_bpe.clip_vocabulary()
    assert len(vocab) == 49_408
    assert sorted(vocab.values()) == list(range(49_408))
    assert len(merges) == 48_894
    assert vocab["!"] == 0
    assert vocab["!</w>"] == 256
    assert merges[0] == ("i", "n")
    assert vocab["in"] == 512
    assert vocab["<|startoftext|>"] == 49_406
    assert vocab["<|endoftext|>"] == 49_407
    assert [vocab[f"{word}</w>"] for word in ("a", "photo", "of", "a", "cat")] == [320, 1125, 539, 320, 2368]


def test_every_merge_makes_a_token() -> None:
    vocab, merges = clip_bpe.clip_vocabulary()
    assert all(left in vocab and right in vocab and left + right in vocab for left, right in merges)


def test_byte_symbols_are_printable_and_distinct() -> None:
    symbols = clip_bpe.byte_symbols()
    assert len(set(symbols)) == 256
    assert all(s.isprintable() and not s.isspace() for s in symbols)


def test_callers_may_change_what_they_get() -> None:
    vocab, merges = clip_bpe.clip_vocabulary()
    vocab.clear()
    merges.clear()
    again, merges_again = clip_bpe.clip_vocabulary()
    assert len(again) == 49_408
    assert len(merges_again) == 48_894


def test_the_file_is_the_one_that_source_names() -> None:
    digest = hashlib.sha256(clip_bpe.MERGES_FILE.read_bytes()).hexdigest()
    assert digest in (clip_bpe.MERGES_FILE.parent / "SOURCE.md").read_text()
    assert "Permission is hereby granted" in (clip_bpe.MERGES_FILE.parent / "LICENSE").read_text()


@pytest.mark.parametrize("cut", [0, 1, 10, 1000, 100_000])
def test_a_damaged_file_is_our_error(damaged: Path, cut: int) -> None:
    whole = (Path(clip_bpe.__file__).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    damaged.write_bytes(whole[:cut])
    with pytest.raises(ModelFileError, match=r"merges.*Reinstall"):
        clip_bpe.clip_vocabulary()


def test_a_missing_file_is_our_error(damaged: Path) -> None:
    with pytest.raises(ModelFileError, match=r"merges\.txt\.gz"):
        clip_bpe.clip_vocabulary()
