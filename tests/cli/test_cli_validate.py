"""`mobileseg validate` from the command line: what it says, writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mobileseg.validation.report import schema_faults


def test_a_file_that_equals_its_checkpoint(run: Any, converted: Any, checkpoint: Path) -> None:
    file = converted[1] / "small.fp32.onnx"
    ended = run("validate", file, "--against", checkpoint, "--random", "2", "--json", "--report", "r.json")
    assert ended.code == 0, ended.err
    assert schema_faults(ended.json) == []
    assert ended.json["checkpoint"]["path"] == checkpoint.as_posix()
    assert json.loads(Path("r.json").read_text()) == ended.json


def test_what_it_says_fits_80_columns(run: Any, converted: Any, checkpoint: Path) -> None:
    ended = run("validate", converted[1] / "small.fp32.onnx", "--against", checkpoint, "--random", "2")
    assert ended.out == ""
    table = ended.err[ended.err.index("Class ") : ended.err.index("met ")]
    assert max(map(len, table.splitlines())) <= 80
    assert "SQNR is " in ended.err


def test_a_gate_that_is_not_met(run: Any, converted: Any, checkpoint: Path) -> None:
    file = converted[1] / "small.fp32.onnx"
    ended = run("validate", file, "--against", checkpoint, "--random", "1", "--min-sqnr", "900", "--junit", "r.xml")
    assert ended.code == 3
    assert "NOT MET  SQNR is" in ended.err
    assert ElementTree.parse("r.xml").getroot().get("failures") == "1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Name a checkpoint or a file: --against"),
        (("--against", "nothing.pth"), "There is no file 'nothing.pth'"),
        (("--against", "demo"), "expected a file that was made from this checkpoint"),
        (("--against", "demo", "--input-range", "1"), "--input-range 0,1; got '1'"),
        (("--against", "demo", "--baseline", "none.json"), "The baseline 'none.json' cannot be read"),
        (("--against", "demo", "--images", "nowhere"), "'nowhere' does not exist"),
    ],
)
def test_bad_input(run: Any, converted: Any, arguments: tuple[str, ...], said: str) -> None:
    ended = run("validate", converted[1] / "small.fp32.onnx", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err
