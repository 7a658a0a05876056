"""The hierarchy of errors, its exit codes, and the suggestions."""

from __future__ import annotations

import re

import pytest

from mobileseg import errors
from mobileseg.errors import MobilesegError, suggest, unknown_option

EXIT_CODES = {"MobilesegError": 1, "UsageError": 2, "GateError": 3, "UnavailableError": 4}


def kinds(root: type[MobilesegError]) -> set[type[MobilesegError]]:
    return {root}.union(*(kinds(kind) for kind in root.__subclasses__()))


def test_the_drawing_is_the_hierarchy() -> None:
    drawn = set(re.findall(r"(\w+Error)\b", (errors.__doc__ or "").partition("A message says")[0]))
    assert drawn == {kind.__name__ for kind in kinds(MobilesegError) if kind.__module__ == errors.__name__}


@pytest.mark.parametrize(("name", "code"), EXIT_CODES.items())
def test_exit_codes_are_inherited(name: str, code: int) -> None:
    branches = {getattr(errors, other) for other in EXIT_CODES if other != "MobilesegError"}
    below = kinds(getattr(errors, name)) if name != "MobilesegError" else {MobilesegError}
    assert below
    assert {kind.exit_code for kind in below} == {code}
    assert MobilesegError not in branches


def test_an_extra_names_the_command() -> None:
    assert "pip install 'mobileseg[onnx]'" in str(errors.MissingExtraError("onnx", "onnxsim"))


@pytest.mark.parametrize(
    ("word", "said"), [("tflight", " Did you mean 'tflite'?"), ("ONXX", " Did you mean 'onnx'?"), ("zzz", "")]
)
def test_suggestions(word: str, said: str) -> None:
    assert suggest(word, ["onnx", "tflite"]) == said
    assert str(unknown_option("target", word, ["tflite", "onnx"])) == (
        f"There is no target '{word}'.{said} Known: onnx, tflite."
    )
