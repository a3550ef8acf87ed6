"""The peer table: ratios within a piece, what is marked, which pieces are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import peer_table


def program(name: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    about = {"program": name.upper(), "version": "1.0-abc", "load_seconds": 2.0, "disk": 1 << 20}
    given = {"failed": "", "judge": False, "about": about, "peak_bytes": 1 << 30, "decibels": None}
    return {"name": name, "seconds": seconds, **given, **more}


def save(folder: Path, piece: peer_table.Piece, *programs: dict[str, Any]) -> None:
    run = {"part": piece.part, "size": piece.size, "threads": 2, "rounds": piece.rounds, "avx2": piece.avx2}
    record = {"date": "2026-01-01", "cpu": "a CPU", "runs": [{**run, "programs": list(programs)}]}
    (folder / f"{piece.name}.json").write_text(json.dumps(record))


def test_rows_of_two_pieces(tmp_path: Path) -> None:
    """Each peer's ratio is to ours in its own piece, though the first row shows another piece's time."""
    first, second = peer_table.pieces()[:2]
    ours = program("ours:int8", [1.0] * 5, decibels=31.0)
    save(tmp_path, first, ours, program("torch", [3.0] * 5, judge=True))
    other = program("openvino:f32", [4.0] * 5, decibels=3.0)
    broken = program("openvino:int8", [], failed="ended with code 1: no", about={})
    save(tmp_path, second, program("ours:int8", [2.0] * 5), other, broken)
    lines = peer_table.table(peer_table.measured(tmp_path), avx2=False)
    rows = {line.split(" | ")[0].strip("| "): line for line in lines}
    assert " 1.000 | not measured | not measured | 2.0 | " in rows["OURS:INT8 1.0"]
    assert " 3.000 (3.00x, 3.00 to 3.00) " in rows["TORCH 1.0"]
    assert "the others' measure" in rows["TORCH 1.0"]
    assert " 4.000 (2.00x, 2.00 to 2.00) " in rows["OPENVINO:F32 1.0"]
    assert "3.0 dB: computes something else" in rows["OPENVINO:F32 1.0"]
    assert "ended with code 1: no" in rows["openvino:int8"]
    assert "OnnxStream" in rows
    assert peer_table.table(peer_table.measured(tmp_path), avx2=True) == []


def test_few_rounds_give_a_ratio_without_an_interval(tmp_path: Path) -> None:
    piece = next(piece for piece in peer_table.pieces() if piece.programs.startswith("sdcpp"))
    save(tmp_path, piece, program("ours:int8", [1.0, 1.0]), program("sdcpp:q8_0", [30.0, 40.0]))
    (line,) = [row for row in peer_table.table(peer_table.measured(tmp_path), avx2=False) if "SDCPP" in row]
    assert " 35.000 (35.00x, 2 rounds) " in line


def test_pieces_have_names_of_their_own() -> None:
    names = [piece.name for piece in peer_table.pieces()]
    assert len(set(names)) == len(names)


def test_what_is_there_or_does_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[peer_table.Piece] = []
    monkeypatch.setattr(peer_table, "measure", lambda piece, options, environment: begun.append(piece))
    monkeypatch.setattr(peer_table, "write", lambda results: None)
    there = peer_table.pieces()[0]
    save(tmp_path, there, program("ours:int8", [1.0] * 5))
    monkeypatch.setattr("sys.argv", ["peer_table", "model", "--results", str(tmp_path), "--minutes", "1"])
    assert peer_table.main() == 0
    assert begun == [p for p in peer_table.pieces() if p.seconds <= 60 and "sdcpp" not in p.programs]


def test_pieces_of_a_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[peer_table.Piece] = []
    monkeypatch.setattr(peer_table, "measure", lambda piece, options, environment: begun.append(piece))
    monkeypatch.setattr(peer_table, "write", lambda results: None)
    flags = ["--results", str(tmp_path), "--minutes", "60", "--file", "file", "--sizes", "256", "--rounds", "3"]
    monkeypatch.setattr("sys.argv", ["peer_table", "model", *flags])
    assert peer_table.main() == 0
    assert {piece.size for piece in begun} == {256}
    assert {piece.rounds for piece in begun} == {3}
    assert [piece.name for piece in begun] == [piece.name for piece in peer_table.pieces() if piece.size == 256]


def test_each_model_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str, int]] = []

    def convert(name: str, options: Any, environment: Any) -> bool:
        made.append((options.part, name, options.size))
        return name != "openvino:int8"

    monkeypatch.setattr(peer_table.commands, "convert", convert)
    monkeypatch.setattr("sys.argv", ["peer_table", "model", "--convert"])
    assert peer_table.main() == 1  # one failed, the others were still made
    assert len(set(made)) == len(made)
    assert {("unet", "openvino:int8", 512), ("vae", "onnxruntime:int8", 512)} < set(made)
    assert [size for _, _, size in made] == sorted(size for _, _, size in made)
