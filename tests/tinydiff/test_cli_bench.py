"""`tinydiff bench`: runs, sweeps, the file, comparisons, what it reads from the system."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Cli, refused

from tinydiff.bench import run, schema, sensors, text
from tinydiff.commands import bench


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def test_a_run_writes_what_the_schema_says(cli: Cli) -> None:
    """The embedded model in the NumPy backend: no kernels to compile in the child."""
    result = cli(
        "bench", "--backend", "reference", "--size", "16x16", "--steps", "2", "--cfg", "1", "--rounds", "2",
        "--minutes", "0.001", "--cold", "--submit-file", "mine.json", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert schema.problems(data) == []
    assert json.loads((cli.cwd / "mine.json").read_text()) == data
    (one,) = data["runs"]
    assert one["settings"]["model"] == "embedded"
    assert [len(steps) for steps in one["steps"]] == [2, 2]
    assert one["memory"]["peak"] >= one["memory"]["anonymous"] > 0
    assert one["cold"]["first_picture"] > 0
    assert len(one["sustained"]) >= 1
    lines = "\n".join(text.lines(data))
    assert "cold start" in lines
    assert "sustained" in lines
    assert str(cli.cwd) not in result.out
    same = cli("bench", "compare", "mine.json", "mine.json")
    assert same.code == 0
    assert "too few samples" in same.out


def test_settings_that_cannot_run_are_kept_with_the_reason() -> None:
    asked = {
        "model": None, "backend": "reference", "weights": ["int4", "float32"], "size": [(16, 16)], "threads": [],
        "memory": [], "steps": 1, "cfg": 1.0, "rounds": 1, "minutes": None, "cold": False,
    }  # fmt: skip
    seen: list[str] = []
    data = run.report(asked, lambda _share, words: seen.append(words))
    assert schema.problems(data) == []
    first, second = data["runs"]
    assert "needs the backend 'numba'" in first["skipped"]
    assert second["total"]
    assert set(seen) == {"run 2 of 2"}


@pytest.mark.parametrize(
    ("words", "args"),
    [
        ("--rounds must be a whole number", ["--rounds", "0"]),
        ("--size must be WIDTHxHEIGHT", ["--size", "64x64,big"]),
        ("--minutes must be a number", ["--minutes", "-1"]),
        ("--memory must be a size", ["--memory", "lots"]),
        ("'nonsense' is not known", ["nonsense"]),
        ("no file of `tinydiff bench`", ["compare", "a.txt", "a.txt"]),
    ],
)
def test_refusals(cli: Cli, words: str, args: list[str]) -> None:
    (cli.cwd / "a.txt").write_text("[" * 100_000)
    refused(cli, 2, words, "bench", *args)


def test_combinations_of_lists() -> None:
    asked = {"weights": ["int8", "int4"], "size": [], "threads": [1, 2], "memory": [], "steps": 3}
    found = [(c["weights"], c["size"], c["threads"], c["steps"]) for c in run.combinations(asked)]
    assert found == [("int8", None, 1, 3), ("int8", None, 2, 3), ("int4", None, 1, 3), ("int4", None, 2, 3)]


# ------------------------------------------------------------------------------------------------ comparisons


def a_file(steps: list[float], **machine: Any) -> dict[str, Any]:
    settings = dict.fromkeys(schema.SETTINGS) | {"model": "embedded", "weights": "int8", "rounds": len(steps)}
    one = {
        "settings": settings,
        "start": {"import": 1, "load": 1, "first_picture": 1},
        "cold": None,
        "text": steps,
        "steps": [[s] for s in steps],
        "decode": steps,
        "total": steps,
        "memory": {"anonymous": 1, "file": 1, "peak": 100},
        "joules": {"rapl package-0": 5.0},
        "sensors": [{"mhz": [1000.0], "celsius": {"cpu": 40.0}}] * 2,
    }
    about = dict.fromkeys(schema.MACHINE) | {"models": ["1 x Core"], "path": "avx2"} | machine
    return {
        "schema": schema.NAME,
        "version": 1,
        "created": "2026-01-01",
        "tinydiff": "1",
        "machine": about,
        "runs": [one],
    }


def test_comparisons() -> None:
    first, slower = a_file([1.0, 1.1] * 5), a_file([1.3, 1.4] * 5, path="generic")
    assert schema.problems(first) == []
    lines = list(text.compared(first, slower))
    assert lines[0] == "the machines differ in path: this compares machines, too"
    assert any(line.startswith("  step     slower: 1.286") for line in lines)
    assert all("no difference seen" in line for line in list(text.compared(first, first))[1:5])
    slower["runs"][0]["settings"]["weights"] = "int4"
    assert "nothing to compare" in list(text.compared(first, slower))[-1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": "other"}, "no file of"),
        ({"version": 2}, "version 2"),
        ({"runs": []}, "at least one"),
        ({"machine": {}}, "machine.architecture is missing"),
        ({"runs": [{"settings": {}}]}, "settings.model is missing"),
    ],
)
def test_files_that_are_none(change: dict[str, Any], problem: str) -> None:
    assert problem in "; ".join(schema.problems(a_file([1.0]) | change))


@pytest.mark.parametrize("key", ["start", "text", "steps", "decode", "total", "memory", "joules", "sensors"])
def test_a_run_that_lacks_something(key: str) -> None:
    data = a_file([1.0, 2.0])
    del data["runs"][0][key]
    assert key in "; ".join(schema.problems(data))


def test_submitted_results_keep_the_schema() -> None:
    folder = Path(__file__).parents[2] / "bench" / "results"
    for file in folder.glob("*.json"):
        data = json.loads(file.read_text())
        if data.get("schema") == schema.NAME:
            assert schema.problems(data) == [], file.name
        else:
            assert {"date", "cpu", "versions", "runs"} <= set(data), file.name


def test_a_plot_without_matplotlib_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (cli.cwd / "a.json").write_text(json.dumps(a_file([1.0])))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(cli, 2, "pip install 'tinydiff[bench]'", "bench", "plot", "a.json", "a.png")


def test_predictions(cli: Cli) -> None:
    result = cli("bench", "predict", "--device", "raspberry-pi-5", "--model", "bk-tiny", "--size", "64x64")
    assert result.code == 0
    assert result.out.startswith("PREDICTION for Raspberry Pi 5, not a measurement")
    found = json.loads(
        cli("bench", "predict", "--device", "pixel-8", "--model", "bk-tiny", "--size", "64x64", "--json").out
    )
    assert set(found["stages"]) == {"text", "step", "decode"}
    refused(cli, 2, "needs --device", "bench", "predict")
    refused(cli, 2, "square pictures", "bench", "predict", "--device", "pixel-8", "--size", "64x128")


def test_reading_refuses_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(a_file([1.0])))
    assert bench.read(str(file))["version"] == 1
    monkeypatch.setattr(bench, "MOST_BYTES", 10)
    with pytest.raises(bench.InvalidArgumentError):
        bench.read(str(file))


# ------------------------------------------------------------------------------------------------ sensors


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_sensors(tmp_path: Path) -> None:
    assert sensors.memory(tmp_path) is None
    assert sensors.clock_mhz(tmp_path) is None
    assert sensors.temperatures(tmp_path) is None
    assert sensors.Energy.read(tmp_path).since(sensors.Energy.read(tmp_path)) is None
    supply, zone = "sys/class/power_supply/battery/", "sys/class/powercap/intel-rapl:0/"
    put(
        tmp_path,
        {
            "proc/self/status": "VmHWM:\t 30 kB\nRssAnon:\t 10 kB\nRssFile:\t 20 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
            "sys/class/thermal/thermal_zone0/temp": "41500\n",
            "sys/class/thermal/thermal_zone0/type": "soc\n",
            "sys/class/thermal/thermal_zone1/temp": "39000\n",
            "sys/class/thermal/thermal_zone1/type": "soc\n",
            f"{zone}name": "package-0\n",
            f"{zone}energy_uj": "900\n",
            f"{zone}max_energy_range_uj": "1000\n",
            f"{supply}type": "Battery\n",
            f"{supply}status": "Discharging\n",
            f"{supply}charge_now": "1000000\n",
            f"{supply}voltage_now": "4000000\n",
        },
    )
    assert sensors.memory(tmp_path) == {"anonymous": 10240, "file": 20480, "peak": 30720}
    assert sensors.clock_mhz(tmp_path) == [1800.0]
    assert sensors.temperatures(tmp_path) == {"soc": 41.5}
    before = sensors.Energy.read(tmp_path)
    put(tmp_path, {f"{zone}energy_uj": "100\n", f"{supply}charge_now": "999000\n"})  # RAPL has wrapped
    spent = sensors.Energy.read(tmp_path).since(before)
    assert spent is not None
    assert spent["rapl package-0"] == pytest.approx(200e-6)
    assert spent["battery"] == pytest.approx(14.4)
