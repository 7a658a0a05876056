"""What is told of the progress of many pictures."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from mobileseg import console
from mobileseg.console import Screen
from mobileseg.texts import duration_text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one number is what the time is."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    return now


def told(clock: list[float], steps: list[int], total: int | None, seconds: float) -> list[str]:
    """With so many seconds for a picture."""
    stream, before = io.StringIO(), steps[0]
    screen = Screen(stream)
    for done in steps:
        clock[0] += seconds * (done - before)
        before = done
        screen.predicting(Path("a/x.onnx"), done, total)
    return stream.getvalue().splitlines()


def test_each_tenth_then_each_hundredth_with_the_time_that_is_left(clock: list[float]) -> None:
    lines = told(clock, list(range(1, 1001)), 1000, 0.5)
    assert lines[0] == "x.onnx: 1 of 1000"
    assert lines[1] == "x.onnx: 10 of 1000, about 8 min left"
    assert len(lines) == 1 + 10 + 9
    assert lines[-2] == "x.onnx: 900 of 1000, about 50 s left"
    assert lines[-1] == "x.onnx: 1000 of 1000"


def test_counts_that_come_in_steps(clock: list[float]) -> None:
    """Of a cluster: a task's pictures at once."""
    lines = told(clock, [8, 16, 24, 32, 40], 40, 1.0)
    assert lines == [
        "x.onnx: 8 of 40",
        "x.onnx: 16 of 40, about 24 s left",
        "x.onnx: 24 of 40, about 16 s left",
        "x.onnx: 32 of 40",
        "x.onnx: 40 of 40",
    ]


def test_frames_of_unknown_number(clock: list[float]) -> None:
    assert told(clock, [1, 10], None, 5.0) == [
        "x.onnx: 1 of an unknown number",
        "x.onnx: 10 of an unknown number",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(40.4, "40 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(screen: Screen) -> list[str]:
    """The lines that move."""
    return [] if screen.running is None else [task.description for task in screen.running.tasks]


def test_a_stage_on_a_terminal_shows_what_it_counts_and_the_time_left(clock: list[float]) -> None:
    screen = Screen(Terminal())
    with screen.stage("Calibrate int8") as count:
        assert count is not None
        assert shown(screen) == ["Calibrate int8"]
        for done in (1, 2, 3):
            count("pictures", done, 100)
            clock[0] += 0.5
        clock[0] -= 0.5
        count("pictures", 3, 100)
        assert shown(screen) == ["Calibrate int8: 3 of 100 pictures, 48 s left"]
        count("operators", 1, 90)  # counted anew
        assert shown(screen) == ["Calibrate int8: 1 of 90 operators"]
        count("plans", 2, 0)
        assert shown(screen) == ["Calibrate int8: 2 plans"]
    assert shown(screen) == []


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True), (io.StringIO(), True)])
def test_elsewhere_nothing_is_counted(stream: io.StringIO, quiet: bool) -> None:
    screen = Screen(stream, quiet=quiet)
    with screen.stage("Calibrate int8") as count:
        assert count is None
        assert shown(screen) == []
    lines = stream.getvalue().splitlines()
    assert len(lines) == (0 if quiet else 2)
