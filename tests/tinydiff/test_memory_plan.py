"""Plans and the runs that keep to them, on miniatures: exact arenas, refusals, the same bits as without a limit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_tools import Cli, compiled_kernels
from miniatures import write_folder
from numpy.typing import NDArray

import tinydiff
from tinydiff.arguments import Settings, settle
from tinydiff.errors import InvalidArgumentError, MemoryBudgetError
from tinydiff.loading import Model
from tinydiff.memory import stages
from tinydiff.memory.limits import MB
from tinydiff.memory.plan import plan
from tinydiff.memory.process import Resident
from tinydiff.packed import MappedWeight
from tinydiff.packing import Recipe
from tinydiff.quantize import quantize
from tinydiff_kernels.compiled.program import Program
from tinydiff_kernels.compiled.strip_plan import plan_strips
from tinydiff_kernels.compiled.strips import StripPolicy
from tinydiff_kernels.handles import LowRank, MatmulWeight
from tinydiff_kernels.rows import rows_from_nchw
from tinydiff_weights.open import open_model

CALL: dict[str, Any] = {"num_inference_steps": 2, "width": 192, "height": 128, "output_type": "np", "seed": 3}
AMPLE = "4GB"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiled_kernels()
    return write_folder(tmp_path_factory.mktemp("models") / "sd1", "sd1", dtype="F16")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def picture(folder: Path, **options: Any) -> tuple[tinydiff.Pipeline, NDArray[np.float32], tinydiff.Output]:
    pipe = tinydiff.Pipeline.from_pretrained(folder, threads=1, **options)
    out = pipe("a cat", **CALL)
    assert isinstance(out.images, np.ndarray)
    return pipe, out.images, out


@pytest.fixture(scope="module")
def free(folder: Path) -> NDArray[np.float32]:
    """Without a limit."""
    return picture(folder)[1]


@pytest.mark.parametrize("weights", ["auto", "float16", "float32", "int8"])
def test_a_limit_changes_no_bit_and_its_arena_is_exact(
    folder: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arenas: list[int] = []
    run = Program.run

    def spy(program: Program, *args: Any, **options: Any) -> Any:
        arenas.append(program.arena_bytes)
        return run(program, *args, **options)

    expected = picture(folder, weights=weights)[1]
    monkeypatch.setattr(Program, "run", spy)
    pipe, image, out = picture(folder, weights=weights, memory=AMPLE)
    np.testing.assert_array_equal(image, expected)
    assert pipe.model.keeper is not None
    plan = pipe.model.keeper.plan
    assert plan is not None
    text, unet, vae = (stage.stage.arena for stage in plan.stages)
    assert max(arenas[:2]) == text
    assert max(arenas[2:-1]) == unet
    assert arenas[-1] == vae
    arena = pipe.unet.backend.arena  # type: ignore[attr-defined]
    assert arena.largest == max(text, unet, vae)
    assert arena.nbytes == 0  # given back
    assert out.memory["budget"] == 4096 * MB
    measured = out.memory["stages"]
    assert set(measured) == {stages.TEXT, stages.DENOISING, stages.DECODING}
    assert all(0 < stage["anonymous"] <= stage["planned_anonymous"] * 1.02 for stage in measured.values())


def test_too_little_is_refused_before_any_work_and_the_smallest_works(
    folder: Path, free: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tinydiff.Pipeline.from_pretrained(folder, threads=1, memory="1MB")
    with monkeypatch.context() as patched:
        patched.setattr(Program, "run", lambda *_, **__: pytest.fail("work was done"))
        with pytest.raises(MemoryBudgetError, match=r"memory=1MB is too small: .* memory=\d+MB is the least for") as e:
            pipe("a cat", **CALL)
    assert e.value.needed > 0
    assert "TAESD" in str(e.value) or "--size" in str(e.value)
    enough = tinydiff.Pipeline.from_pretrained(folder, threads=1, memory=e.value.needed + 8 * MB)  # the process grew
    images = enough("a cat", **CALL).images
    assert isinstance(images, np.ndarray)
    assert enough.model.keeper is not None
    assert enough.model.keeper.plan is not None
    assert enough.model.keeper.plan.peak.total <= e.value.needed + 8 * MB
    np.testing.assert_allclose(images, free, atol=2e-4)  # strips may keep 16 bits


def test_used_pages_go_and_kept_ones_stay(folder: Path) -> None:
    """Of every region of the UNet's program: brought in before its first use, let go after its last, in this order."""
    pipe = tinydiff.Pipeline.from_pretrained(folder, threads=1, memory=AMPLE)
    backend: Any = pipe.unet.backend
    seen: list[tuple[int, int]] = []
    stream = backend.stream
    begin = stream.begin

    def spy(program: Program) -> None:
        begin(program)
        schedule = stream._schedule
        come = [r for regions in schedule.comes for r in regions]
        gone = [r for regions in schedule.goes for r in regions]
        seen.append((sum(r.nbytes for r in come), sum(r.nbytes for r in gone)))

    stream.begin = spy
    pipe("a cat", **CALL)
    assert stream.keep > 0  # ample: everything stays from step to step
    assert seen[0][1] == 0
    stream.keep = 0
    pipe.model.keeper = None
    pipe("a cat", **CALL)
    assert seen[-1][0] == seen[-1][1] > 0


def test_strips_of_a_packed_file_have_the_bits_of_the_whole(folder: Path, tmp_path: Path) -> None:
    """Its integer layers are quantised by the range of the whole image, not of a strip."""
    packed = tmp_path / "packed.safetensors"
    quantize(open_model(folder), packed, Recipe("int8"))
    vae: Any = tinydiff.Pipeline.from_pretrained(packed, threads=1, memory=AMPLE).vae
    latents = np.random.default_rng(0).standard_normal((1, 4, 24, 16), np.float32)
    whole = vae.decode(latents)
    plan = plan_strips(
        lambda b: vae.forward_decode(b, rows_from_nchw(latents)), stages.kinds_of(vae.backend), budget=0, threads=1
    )
    assert plan.policy is not None
    vae.backend.strips = StripPolicy(8, plan.policy.modes.replace("h", "."))
    np.testing.assert_array_equal(vae.decode(latents), whole)
    kinds = {stages.kinds_of(vae.backend)(w) for w in vae.weights.values() if isinstance(w, MatmulWeight)}
    assert "i8" in kinds


def test_planned_strips_take_the_bytes_that_were_reckoned(folder: Path) -> None:
    """Arena and tables of a decoder in strips, as the ladder knew them and as its programs have them."""
    model, s = settled(folder)
    planner = stages.strip_planner(model, s)
    whole = stages.vae_stage(model, s, False)
    room = (whole.arena + whole.tables) * 3 // 4
    made = planner.within(room)
    assert made.policy is not None
    stage = stages.vae_stage(model, s, False, made.policy)
    assert stage.arena == made.arena_bytes
    assert stage.arena + stage.tables == pytest.approx(
        made.arena_bytes + made.offset_bytes + made.launches * stages.ACTION_BYTES, rel=0.15
    )


def test_planning_looks_no_further_down_than_it_is_asked(folder: Path) -> None:
    model, s = settled(folder)
    lazy, whole = stages.strip_planner(model, s), stages.vae_stage(model, s, False)
    room = (whole.arena + whole.tables) * 3 // 4
    assert lazy.within(2 * whole.arena + whole.tables).policy is None
    assert len(lazy._states) == 1  # the whole image
    first = lazy.within(room)
    built = len(lazy._states)
    least = lazy.within(0)
    assert len(lazy._states) > built > 1
    assert least.arena_bytes < first.arena_bytes
    fresh = stages.strip_planner(model, s)
    assert (fresh.within(0), fresh.within(room)) == (least, first)  # whatever was asked before


def test_the_smallest_budget_is_found_where_it_is_asked_for(folder: Path) -> None:
    model, s = settled(folder)
    base = Resident(0, 0)
    plain, asked = (plan(model, s, 512 * MB, base=base, smallest=wanted) for wanted in (False, True))
    assert plain.stages == asked.stages
    assert plain.smallest is None
    assert asked.smallest is not None
    with pytest.raises(MemoryBudgetError):
        plan(model, s, asked.smallest - 1, base=base)
    assert plan(model, s, asked.smallest, base=base).peak.total <= asked.smallest


def test_without_a_limit_stages_add_up_and_with_one_they_do_not(folder: Path) -> None:
    model, s = settled(folder)
    base = Resident(0, 0)
    free, kept = plan(model, s, None, base=base), plan(model, s, 4096 * MB, base=base)
    files = [stage.file for stage in free.stages]
    assert files == sorted(files)
    assert files[-1] - free.growth.file == sum(stage.stage.mapped for stage in free.stages)
    held = sum(stage.stage.kept + stage.stage.tables for stage in free.stages)
    assert free.stages[-1].anonymous >= free.growth.anonymous + held + free.stages[-1].stage.arena
    last = kept.stages[-1]
    assert last.file - kept.growth.file <= last.stage.mapped
    assert last.anonymous - kept.growth.anonymous == max(
        last.stage.arena + last.stage.tables + last.stage.kept + 2 * last.stage.results, 6 * last.stage.results
    )


def settled(folder: Path) -> tuple[Model, Settings]:
    """A model under a limit, and the settings of `CALL`."""
    pipe = tinydiff.Pipeline.from_pretrained(folder, threads=1, memory=AMPLE)
    return pipe.model, settle(
        pipe.model, width=CALL["width"], height=CALL["height"], steps=2, guidance_scale=None, guidance_rescale=0.0,
        seed=3, images=1, output_type="np", latents=None, clip_skip=None,
    )  # fmt: skip


def test_an_adapter_on_an_upsampled_layer_leaves_a_packed_weight_where_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its four classes are used as they lie in the file; nothing is unpacked, which no plan would know of."""
    packed = tmp_path / "packed.safetensors"
    quantize(open_model(folder), packed, Recipe("int8"))
    unet = tinydiff.Pipeline.from_pretrained(packed, threads=1).unet
    given = np.zeros((1, 4, 6, 10), np.float32), 1.0, np.ones((1, 77, unet.config.cross_attention_dim[0]), np.float32)
    plain = unet(*given)
    handle = unet.weights["up_blocks.0.upsamplers.0.conv"]
    assert isinstance(handle, MatmulWeight)
    rng = np.random.default_rng(0)
    down = rng.standard_normal((3, handle.inputs, 3, 3), np.float32)
    handle.adapters.append(LowRank(down, rng.standard_normal((handle.outputs, 3), np.float32), 0.5))
    monkeypatch.setattr(MappedWeight, "float32", lambda *_: pytest.fail("a packed weight was unpacked"))
    assert np.abs(unet(*given) - plain).max() > 1e-3


def test_advice_that_fails_stops_nothing(folder: Path, free: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinydiff_weights import residency

    def broken(region: Any) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr(residency, "bring_in", broken)
    np.testing.assert_array_equal(picture(folder, memory=AMPLE)[1], free)


def test_the_reference_keeps_to_no_limit(folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="memory= needs the backend 'numba'"):
        tinydiff.Pipeline.from_pretrained(folder, memory="1GB", backend="reference")


def test_reading_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before an action begins, what was read for later ones is at most `ahead` bytes."""
    from tinydiff.memory import stream
    from tinydiff_weights import residency

    size = residency.STEP
    read: list[int] = []
    monkeypatch.setattr(residency, "bring_in", lambda region: read.append(region.nbytes))
    actions = [[residency.Region(None, 0, 2 * size)] for _ in range(10)]  # type: ignore[arg-type]
    reader = stream._Reader(actions, 3 * size)
    try:
        for index in range(10):
            reader.wait_for(index)
            time.sleep(0.01)  # let it read as far as it may
            needed = 2 * size * (index + 1)
            assert needed <= sum(read) <= needed + 3 * size
    finally:
        reader.stop()
    assert sum(read) == 20 * size


def test_plan_reads_no_weights(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinydiff_weights.safetensors import StoredTensor

    for name in ("float32", "rows", "aligned"):
        monkeypatch.setattr(StoredTensor, name, lambda *_: pytest.fail("a weight was read"))
    found = json.loads(cli("plan", folder, "--size", "192x128", "--memory", AMPLE, "--json").out)
    assert [stage["name"] for stage in found["stages"]] == [stages.TEXT, stages.DENOISING, stages.DECODING]
    assert found["budget"] == 4096 * MB
    assert found["peak"]["total"] <= found["budget"]
    text = cli("plan", folder, "--size", "192x128").out
    assert "VAE: the whole image at once" in text
    assert "resident" in text
    refused = cli("plan", folder, "--memory", "1MB")
    assert refused.code == 1
    assert "is the least for" in refused.err


def test_generate_says_what_it_took_and_writes_its_plan(cli: Cli, folder: Path) -> None:
    from tinydiff.metadata import read_png

    result = cli("generate", "a cat", "--model", folder, "--size", "64x64", "--steps", "1", "--seed", "1",
                 "--memory", AMPLE, "--timings", "--threads", "1", "-o", "cat.png")  # fmt: skip
    assert result.code == 0, result.err
    assert "VAE decode:" in result.err
    assert "planned" in result.err
    assert read_png("cat.png").record["extra"]["memory_plan"] == "4096 MB, VAE whole"
