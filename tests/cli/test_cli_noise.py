"""What libraries print: away from stdout and the terminal, in a log that stays only after a fault."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobileseg import pipeline
from mobileseg.noise import Log

NOISY = """
import ctypes, logging, os, subprocess, sys, warnings
from mobileseg.noise import Log, sent_to

def noise():
    print("python out")
    print("python err", file=sys.stderr)
    os.write(1, b"descriptor out\\n")
    os.write(2, b"descriptor err\\n")
    ctypes.CDLL(None).printf(b"C out, buffered\\n")
    subprocess.run(["sh", "-c", "echo child out; echo child err >&2"])
    warnings.warn("a warning")
    logging.getLogger("x").error("logged")
    logging.basicConfig()

log = Log()
with sent_to(log if sys.argv[1] == "log" else None) as stderr:
    noise()
    print("ours", file=stderr)
print("after")
logging.getLogger("x").error("logged after")
print(log.path and log.path.read_text(), file=sys.stderr)
log.close()
"""
LINES = ("python out", "python err", "descriptor out", "descriptor err", "C out, buffered", "child out", "child err")


def printed(mode: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", NOISY, mode]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)


def test_everything_goes_to_the_log() -> None:
    done = printed("log")
    assert done.stdout == "after\n"
    assert done.stderr.startswith("ours\nERROR:x:logged after\n")
    logged = done.stderr.partition("logged after\n")[2]
    for line in (*LINES, "a warning", "logged"):
        assert line in logged


def test_verbose_keeps_stdout_clean_too() -> None:
    done = printed("verbose")
    assert done.stdout == "after\n"
    for line in (*LINES, "ours", "a warning"):
        assert line in done.stderr


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*arguments: Any, **options: Any) -> None:
        print("the library's last words")
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(pipeline, "convert", convert)


@pytest.mark.usefixtures("broken")
def test_a_fault_names_the_log_which_has_all(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = run("convert", "--json")
    assert ended.code == 1
    assert ended.error["type"] == "ZeroDivisionError"
    message = ended.error["message"]
    assert "report" in message
    assert "--verbose" in message
    assert ended.err == f"Error: {message}\n"
    named = re.search("'([^']*\\.log)'", message)
    assert named is not None
    log = Path(named[1]).read_text()
    assert "the library's last words" in log
    assert "Traceback" in log


@pytest.mark.usefixtures("broken")
def test_verbose_shows_the_traceback(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = run("convert", "--verbose")
    assert ended.code == 1
    assert "Traceback (most recent call last)" in ended.err
    assert "ZeroDivisionError: division by zero" in ended.err


def test_a_log_goes_unless_it_is_kept() -> None:
    left, kept = Log(), Log()
    os.close(left.open())
    kept.keep("one ")
    kept.keep("two")
    for log in (left, kept):
        log.close()
    assert left.path is not None
    assert not left.path.exists()
    assert kept.path is not None
    assert kept.path.read_text() == "one two"
    kept.path.unlink()
