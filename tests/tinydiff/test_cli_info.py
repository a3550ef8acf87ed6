"""`tinydiff info`, `doctor` and `pull`."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import Cli
from miniatures import components, write_folder

from tinydiff import __version__
from tinydiff.commands import doctor, machine
from tinydiff.commands.picture_text import model_name
from tinydiff_kernels import dispatch, native
from tinydiff_weights import safetensors
from tinydiff_weights.write import save_safetensors

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "sdxl", "sdxl", dtype="F16")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def info(cli: Cli, *args: str | Path) -> dict[str, Any]:
    result = cli("info", *args, "--json")
    assert (result.code, result.err) == (0, "")
    found: dict[str, Any] = json.loads(result.out)
    return found


# ------------------------------------------------------------------------------------------------ info


def test_what_a_folder_is(cli: Cli, model: Path) -> None:
    found = info(cli, model)
    assert (found["family"], found["kind"], found["scheduler"]) == ("sdxl", "folder", "EulerDiscreteScheduler")
    assert "text_time" in found["why"]
    assert (found["prediction_type"], found["problem"]) == ("epsilon", None)
    assert found["components"].keys() == components("sdxl").keys()
    assert found["defaults"] == {"steps": 50, "guidance_scale": 5.0, "width": 64, "height": 64}
    unet = found["components"]["unet"]
    stored = safetensors.open_safetensors(model / UNET).tensors
    assert unet["parameters"] == sum(t.raw.size for t in stored.values())
    assert unet["dtypes"] == {"F16": unet["parameters"]}
    assert unet["bytes"] == 2 * unet["parameters"]
    assert unet["files"] == [str(model / UNET)]
    assert found["parameters"] == sum(c["parameters"] for c in found["components"].values())


def test_the_text_has_every_fact(cli: Cli, model: Path) -> None:
    found, shown = info(cli, model), cli("info", model).out
    for words in (
        "sdxl: ",
        "EulerDiscreteScheduler",
        "epsilon",
        "F16",
        f"{found['parameters']:,}",
        "64x64",
        "50 steps",
    ):
        assert words in shown
    assert "not known yet (--hash computes it)" in shown


def test_weights_are_not_read(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*args: object) -> None:
        raise AssertionError("a tensor was converted")

    monkeypatch.setattr(safetensors, "to_float32", read)
    monkeypatch.setattr(safetensors.StoredTensor, "float32", read)
    assert info(cli, model)["problem"] is None


def test_hash_is_computed_on_demand_and_remembered(cli: Cli, model: Path) -> None:
    assert info(cli, model)["sha256"] is None
    expected = hashlib.sha256((model / UNET).read_bytes()).hexdigest()
    assert info(cli, model, "--hash")["sha256"] == expected
    assert info(cli, model)["sha256"] == expected
    assert expected in cli("info", model).out


def test_hash_of_shards(cli: Cli) -> None:
    sharded = write_folder(cli.folder / "sharded", "bk_tiny", shards=True)
    files = sorted((sharded / "unet").glob("*.safetensors"))
    assert len(files) == 2
    digests = b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)
    assert info(cli, sharded, "--hash")["sha256"] == hashlib.sha256(digests).hexdigest()


def test_prediction_type_by_trial(cli: Cli, model: Path) -> None:
    copy = cli.folder / "unsaid"
    shutil.copytree(model, copy)
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": None}))
    assert info(cli, copy)["prediction_type"] == "by trial at load"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    assert info(cli, copy)["prediction_type"] == "v_prediction"


def test_a_model_that_cannot_run_is_described_with_the_reason(cli: Cli, model: Path) -> None:
    copy = cli.folder / "broken"
    shutil.copytree(model, copy)
    tensors = {n: t.raw.copy() for n, t in safetensors.open_safetensors(copy / UNET).tensors.items()}
    tensors["conv_in.weight"] = np.zeros((1, 1, 3, 3), np.float16)
    (copy / UNET).unlink()
    save_safetensors(copy / UNET, tensors)
    found = info(cli, copy)
    assert found["family"] == "sdxl"
    assert "conv_in.weight" in found["problem"]
    assert "runs            no: " in cli("info", copy).out


def test_names_of_models_in_pictures(model: Path) -> None:
    assert model_name(str(model), model) == "sdxl"
    assert model_name("a/dream.v2.safetensors", Path("a/dream.v2.safetensors")) == "dream.v2"
    snapshot = Path("/c/models--org--name/snapshots/0123456789abcdef0123456789abcdef01234567")
    assert model_name("org/name", snapshot) == "org/name"


# ------------------------------------------------------------------------------------------------ doctor


def test_doctor_knows_this_machine(cli: Cli) -> None:
    result = cli("doctor", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["tinydiff"] == __version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["memory"]["total"] > found["memory"]["available"] > 0
    assert found["cpu"]["usable_cores"] >= 1
    backend = found["backend"]
    assert (backend["chosen"], backend["problem"]) == ("numba", None)
    assert backend["path"]["name"] in dispatch.BY_NAME
    assert "best of " in backend["path"]["why"]
    assert [kernel["operation"] for kernel in backend["kernels"]] == list(dispatch.KERNELS)
    assert found["folders"]["cache"]["path"] == str(cli.folder / "cache" / "tinydiff")
    assert found["folders"]["hub_cache"]["path"] == str(cli.folder / "huggingface" / "hub")
    text = cli("doctor").out
    for words in (np.__version__, found["cpu"]["models"][0], "GB", "config.toml (none)", backend["why"]):
        assert words in text
    for kernel in backend["kernels"]:
        line = next(line for line in text.splitlines() if line.split()[:1] == [kernel["operation"]])
        made = "{function} for {path}, {made_by}; {why}".format(**kernel)
        assert line.split(maxsplit=1)[1] == made


def test_doctor_tells_of_a_forced_path_and_of_one_that_cannot_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDIFF_PATH", "generic")
    backend = json.loads(cli("doctor", "--json").out)["backend"]
    assert (backend["path"]["name"], backend["path"]["why"]) == ("generic", "TINYDIFF_PATH asks for it")
    assert {kernel["path"] for kernel in backend["kernels"]} == {"generic"}
    monkeypatch.setenv("TINYDIFF_PATH", "i8mm" if platform.machine() == "x86_64" else "avx2")
    found = json.loads(cli("doctor", "--json").out)
    assert "this path is for" in found["backend"]["problem"]
    assert found["backend"]["problem"] in found["problems"]
    assert "this path is for" in cli("doctor").out


@pytest.mark.parametrize("as_json", [True, False])
def test_doctor_tells_of_a_library_that_cannot_be_used(
    cli: Cli, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.library.cache_clear()
    monkeypatch.setenv("TINYDIFF_NATIVE", str(cli.folder / "none.so"))
    words = f"TINYDIFF_NATIVE={cli.folder / 'none.so'}: there is no such file"
    assert words in cli("doctor", *(["--json"] if as_json else [])).out
    native.library.cache_clear()


def test_doctor_finds_problems(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.config("stpes = 1\n")
    monkeypatch.setenv("TINYDIFF_MODLE", "x")
    shared = cli.folder / "cache" / "tinydiff"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "tokenizers" else "1.0")
    monkeypatch.setattr(machine, "_address_space_limit", lambda: 100 * 2**20)
    problems = "\n".join(json.loads(cli("doctor", "--json").out)["problems"])
    for words in ("'stpes'", "TINYDIFF_MODEL?", "chmod 700", "pip install tokenizers", "only 100.0 MB of memory"):
        assert words in problems
    assert "problem  " in cli("doctor").out


FEATURES = "fp asimd evtstrm aes asimdhp asimddp i8mm"
PHONE_CPUINFO = "".join(
    f"processor\t: {n}\nFeatures\t: {FEATURES}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
    for n, part in enumerate(["0xd05"] * 4 + ["0xd41"] * 3 + ["0xd44"])
)


def phone(root: Path) -> None:
    """The files of a phone with three kinds of cores, in a control group with limits on its parent."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(PHONE_CPUINFO)
    (root / "proc/meminfo").write_text("MemTotal:  5800000 kB\nMemAvailable:  2000000 kB\nSwapFree:  0 kB\n")
    (root / "proc/self/cgroup").write_text("5:memory,cpu:/apps/mine\n0::/top/app\n")
    for n, khz in enumerate([1800000] * 4 + [2400000] * 3 + [2900000]):
        folder = root / f"sys/devices/system/cpu/cpu{n}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{khz}\n")
    two, one = root / "sys/fs/cgroup/top/app", root / "sys/fs/cgroup/memory/apps/mine"
    for folder in (two, one):
        folder.mkdir(parents=True)
    (two / "memory.max").write_text("max\n")
    (two.parent / "memory.max").write_text(f"{800 * 2**20}\n")
    (two.parent / "cpu.max").write_text("150000 100000\n")
    (one / "memory.limit_in_bytes").write_text("9223372036854771712\n")


def test_a_phone_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone(tmp_path)
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    cpu, memory = machine.cpu(tmp_path), machine.memory(tmp_path)
    assert cpu["models"] == ["4 x Cortex-A55", "3 x Cortex-A78", "1 x Cortex-X1"]
    assert cpu["features"] == ["asimd", "asimdhp", "asimddp", "i8mm"]
    assert [(c["cores"], c["max_khz_or_capacity"]) for c in cpu["clusters"]] == [
        (1, 2900000),
        (3, 2400000),
        (4, 1800000),
    ]
    assert cpu["quota_cores"] == 1.5
    assert memory["total"] == 5800000 * 1024
    assert memory["cgroup_limit"] == 800 * 2**20


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert machine.memory(tmp_path)["total"] is None
    assert machine.cpu(tmp_path)["clusters"] == []
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    assert machine.memory(tmp_path)["address_space_limit"] == (None if soft == resource.RLIM_INFINITY else soft)


# ------------------------------------------------------------------------------------------------ pull


def test_pull_passes_on_and_prints_the_path(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def pull(name: str, revision: str | None, progress: Callable[[int, int], None], *, variant: str | None) -> Path:
        seen.extend([name, revision, variant])
        progress(0, 100)
        progress(100, 100)
        return Path("/cache/snapshots/0")

    monkeypatch.setattr("tinydiff_weights.hub_pull.pull", pull)
    result = cli("pull", "org/name", "--revision", "v1", "--variant", "fp16")
    assert (result.code, result.out, result.err) == (0, "/cache/snapshots/0\n", "")
    assert seen == ["org/name", "v1", "fp16"]


def test_pull_offline_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = cli("pull", "org/name")
    assert result.code == 1
    assert "HF_HUB_OFFLINE" in result.err
