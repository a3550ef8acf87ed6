"""The progress bar, and who gets to see it."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest

from tinydiff.commands import console as module
from tinydiff.commands.console import Console, printable
from tinydiff.commands.progress import Rate, StepProgress, byte_count, duration


class Screen(io.StringIO):
    """A terminal, or not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    screen = Screen(terminal=True)
    streams = SimpleNamespace(stderr=screen, stdout=io.StringIO())  # pytest exchanges sys.stderr between phases
    monkeypatch.setattr(module, "sys", streams)
    return screen


def three_steps(console: Console) -> StepProgress:
    times = iter([0.0, 2.0, 4.0, 6.0])
    progress = StepProgress(console, 3, clock=lambda: next(times))
    for done in (1, 2, 3):
        progress.step(done)
    return progress


def test_steps_pace_and_time_left(screen: Screen) -> None:
    three_steps(Console())
    plain = re.sub(r"\x1b\[\d+m", "", screen.getvalue())
    frames = [frame.rstrip() for frame in plain.split("\r")[1:]]
    assert frames == [
        f"[{'-' * 24}] 0/3  reading the prompt",
        f"[{'#' * 8}{'-' * 16}] 1/3  2.00 s/step  0:04 left",
        f"[{'#' * 16}{'-' * 8}] 2/3  2.00 s/step  0:02 left",
        f"[{'#' * 24}] 3/3  2.00 s/step  decoding",
    ]
    assert "\x1b[32m" in screen.getvalue()


def test_each_frame_covers_the_one_before(screen: Screen) -> None:
    console = Console()
    console.bar(0.5, "a long text behind the bar")
    console.bar(0.5, "short")
    last = re.sub(r"\x1b\[\d+m", "", screen.getvalue()).split("\r")[-1]
    assert len(last) == 27 + len("a long text behind the bar")


def test_no_color(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    three_steps(Console())
    assert "3/3" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


def test_no_bar_for_pipes_dumb_terminals_quiet_and_closed_streams(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Console()
    quiet.quiet = True
    three_steps(quiet)
    monkeypatch.setenv("TERM", "dumb")
    three_steps(Console())
    monkeypatch.delenv("TERM")
    screen.terminal = False
    three_steps(Console())
    assert screen.getvalue() == ""
    monkeypatch.setattr(module.sys, "stderr", None)
    three_steps(Console())
    Console().error("nobody hears")


def test_a_message_takes_the_bar_away_first(screen: Screen) -> None:
    console = Console()
    console.bar(0.5, "half")
    console.warning("mind the gap")
    assert screen.getvalue().endswith(f"\r{' ' * 31}\rtinydiff: warning: mind the gap\n")
    console.bar(0.5, "half")
    console.result("x.png")
    assert screen.getvalue().endswith(f"\r{' ' * 31}\r")
    assert module.sys.stdout.getvalue() == "x.png\n"


def test_a_narrow_terminal_cuts_the_text(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    Console().bar(0.5, "x" * 200)
    assert len(screen.getvalue().lstrip("\r")) < 40


def test_printable() -> None:
    assert printable("a\x1b[31mb\nc\td\x9be") == "a\\x1b[31mb c d\\x9be"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (-1, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (2**20, "1.0 MB"), (1.5 * 2**30, "1.5 GB")]
)
def test_byte_count(count: float, text: str) -> None:
    assert byte_count(count) == text


def test_rate_counts_from_the_first_look() -> None:
    times = iter([10.0, 12.0])
    rate = Rate(clock=lambda: next(times))
    assert rate.per_second(1000) == 0
    assert rate.per_second(1400) == 200
