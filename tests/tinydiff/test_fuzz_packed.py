"""A little of what `fuzz_packed.py` does a million times, what it has found, and that it would notice."""

from __future__ import annotations

import gzip
import os
import signal
from pathlib import Path

import fuzz_packed
import pytest
from fuzz_mutations import Seed
from fuzz_seeds import packed

from tinydiff.errors import TinyDiffError
from tinydiff.loading import build
from tinydiff_weights.open import open_model

CORPUS = Path(__file__).parents[1] / "packed_corpus"
# Files that once ended in something else, and what is said of them now.
FOUND = {
    "channels-no-list": r"config key 'block_out_channels' is 5, not a list",
    "more-tokens-than-positions": r"the tokenizer makes texts of 78 tokens, its text encoder takes 77 at most",
    "id-beyond-embedding": r"token_embedding\.weight': the tokenizer's ids go to 586, .* for 0 to 523\. Take tokenizer",
}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    return [Seed(content) for content in packed(tmp_path_factory.mktemp("seeds")).values()]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers that overflow are not what is looked for
def test_damaged_files_are_refused_or_whole(seeds: list[Seed], tmp_path: Path) -> None:
    stages = set()
    for number in range(300):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(fuzz_packed.content_of(seeds, number)[0])
        stages.add(fuzz_packed.judged(path, number))
        path.unlink()
    assert stages >= {"container", "metadata", "networks", "verify", "a model"}  # damage of every depth


@pytest.mark.parametrize("name", sorted(file.name.split(".")[0] for file in CORPUS.iterdir()))
def test_what_was_found_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(gzip.decompress((CORPUS / f"{name}.safetensors.gz").read_bytes()))
    if name == "healthy":
        assert fuzz_packed.judged(path, 0) == "a model"  # also verified, and drawn with
        return
    with pytest.raises(TinyDiffError, match=FOUND[name]):
        build(open_model(path), weights="auto", backend="auto", prediction_type=None)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_crash_and_a_strange_error_are_noticed(
    seeds: list[Seed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def judged(path: Path, number: int) -> str:
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 5:
            raise IndexError("planted")
        return "a model"

    monkeypatch.setattr(fuzz_packed, "judged", judged)
    rows = fuzz_packed.in_child(seeds, tmp_path / "x.safetensors", range(8), tmp_path)
    assert sorted(text for row in rows for text in row["bad"]) == [
        "3: killed by signal 9",
        "5: IndexError: planted",
    ]
    assert sum(row["count"] for row in rows) == 8
    assert "2 bad" in fuzz_packed.summary(rows)
    assert (tmp_path / "fuzz-3.safetensors").read_bytes() == fuzz_packed.content_of(seeds, 3)[0]
