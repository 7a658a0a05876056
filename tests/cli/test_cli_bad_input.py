"""Bad input: each its exit code, one paragraph that names the remedy, and no file or folder left behind."""

from __future__ import annotations

import errno
import importlib.util
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

SIZE = ("--size", "64x64")
State = dict[str, torch.Tensor]
Maker = Callable[[Path, State], object]


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def residual_network() -> State:
    """The first keys of torchvision's ResNet-18."""
    return {
        "conv1.weight": torch.zeros(64, 3, 7, 7),
        "bn1.weight": torch.ones(64),
        "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3),
        "fc.weight": torch.zeros(1000, 512),
    }


def truncated(path: Path, state: State) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_a_number(path: Path, state: State) -> None:
    key = next(iter(state))
    torch.save({**state, key: torch.full_like(state[key], float("nan"))}, path)


BAD_CHECKPOINTS: dict[str, tuple[Maker, str]] = {
    "missing": (lambda path, state: None, "Check the path"),
    "a directory": (lambda path, state: path.mkdir(), "Name the checkpoint file"),
    "empty": (lambda path, state: path.write_bytes(b""), "Copy or download the checkpoint again"),
    "text": (lambda path, state: path.write_text("These are my weights.\n" * 9), "torch.save"),
    "truncated": (truncated, "Copy or download it again"),
    "hostile": (lambda path, state: path.write_bytes(pickle.dumps({"state_dict": Hostile()})), "torch.save"),
    "another network": (lambda path, state: torch.save(residual_network(), path), "list architectures"),
    "not a number": (not_a_number, "Take an earlier checkpoint"),
}


@pytest.mark.parametrize("what", BAD_CHECKPOINTS)
def test_bad_checkpoint(run: Any, tmp_path: Path, small_state: State, what: str) -> None:
    make, remedy = BAD_CHECKPOINTS[what]
    make(tmp_path / "bad.pth", small_state)
    refused(run("convert", tmp_path / "bad.pth", "--to", "onnx", "--json"), 2, remedy, "bad.pth")
    assert not Path("ran").exists()


BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "another number of classes": (("--num-classes", "4"), "--num-classes 3"),
    "a size the network cannot take": (("--size", "60x64"), "--size 56x64 or 64x64"),
    "no size": (("--size", "big"), "--size 512x1024"),
    "unknown target": (("--to", "tflight"), "Did you mean 'tflite'?"),
    "no target": (("--to", ","), "--to"),
    "unknown precision": (("--precision", "int9"), "Did you mean 'int8'?"),
    "a precision the target has not": (("--to", "onnx", "--precision", "palette4"), "fp32, fp16"),
    "two precisions": (("--int8", "--fp16"), "--precision P"),
    "unknown architecture": (("--arch", "e-net"), "Did you mean 'enet'?"),
    "unknown variant": (("--variant", "eromero"), "Did you mean 'eromera'?"),
    "unknown head": (("--head", "argmx"), "Did you mean 'argmax'?"),
    "unknown preprocessing": (("--preprocessing", "imagnet"), "Did you mean 'imagenet'?"),
    "two means": (("--mean", "0.5,0.5"), "three numbers"),
    "a deviation of zero": (("--std", "1,1,0"), "std must be positive"),
    "unknown classes": (("--classes", "camvit"), "Did you mean 'camvid'?"),
    "int8 without pictures": (("--to", "tflite", "--int8"), "--calibration DIR"),
    "a share beyond 1": (("--min-agreement", "97"), "--min-agreement': Input should be less"),
    "labels without pictures": (("--labels", "somewhere"), "--images"),
    "mistyped option": (("--sise", "64x64"), "--size"),
    "unknown opset": (("--opset", "3"), "whole number from"),
}


@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_bad_option(run: Any, checkpoint: Path, what: str) -> None:
    options, remedy = BAD_OPTIONS[what]
    to = () if "--to" in options else ("--to", "onnx")
    refused(run("convert", checkpoint, *to, *options, "--json"), 2, remedy)


def test_mistyped_command(run: Any) -> None:
    refused(run("convrt", "--json"), 2, "Did you mean 'convert'?")


def test_an_extra_that_is_not_installed(run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxsim" else real(name, *a))
    refused(run("convert", checkpoint, "--to", "onnx", "--json"), 4, "pip install 'mobileseg[onnx]'", "onnxsim")


def test_output_below_a_file(run: Any, checkpoint: Path) -> None:
    Path("file").write_text("")
    ended = run("convert", checkpoint, "--to", "onnx", *SIZE, "--output", "file/folder", "--json")
    refused(ended, 2, "--output DIR", "file/folder", left=["file"])


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_output_that_not_even_root_can_write(run: Any, checkpoint: Path) -> None:
    refused(
        run("convert", checkpoint, "--to", "onnx", *SIZE, "--output", "/proc/self/out", "--json"), 2, "--output DIR"
    )


def broken_picture(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")


BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: None, "does not exist"),
    "empty": (lambda folder: folder.mkdir(), "expected at least one"),
    "unreadable": (broken_picture, "Replace or remove"),
}


@pytest.mark.parametrize("option", ["--calibration", "--images"])
@pytest.mark.parametrize("what", BAD_PICTURES)
def test_bad_pictures(run: Any, checkpoint: Path, tmp_path: Path, what: str, option: str) -> None:
    make, remedy = BAD_PICTURES[what]
    make(tmp_path / "pictures")
    calibration = () if option == "--calibration" else ("--calibration", "synthetic")
    arguments = ("--int8", *SIZE, option, tmp_path / "pictures", *calibration)
    refused(run("convert", checkpoint, *arguments, "--json"), 2, remedy, "pictures")


def test_a_picture_without_labels(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    for name, picture in (("images", "a.png"), ("labels", "b.png")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((64, 64, 3) if name == "images" else (64, 64), np.uint8)).save(
            tmp_path / name / picture
        )
    arguments = ("--to", "onnx", *SIZE, "--images", tmp_path / "images", "--labels", tmp_path / "labels")
    refused(run("convert", checkpoint, *arguments, "--json"), 2, "label map", "a.png")


@pytest.mark.usefixtures("quick_onnx")
def test_disk_full_when_the_report_is_written(run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *arguments: Any, **options: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    refused(run("convert", checkpoint, "--to", "onnx", *SIZE, "--json"), 2, "No space left on device", "report")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit of the operating system's, under which a write ends as on a full disk: part of it is there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("quick_onnx")
def test_no_room_for_the_file(run: Any, checkpoint: Path) -> None:
    with files_of_at_most(4096):
        ended = run("convert", checkpoint, "--to", "onnx", *SIZE, "--json")
    refused(ended, 2, "--output DIR", "small.fp32.onnx")


@pytest.mark.usefixtures("quick_onnx")
def test_the_folder_and_what_was_in_it_stay(run: Any, checkpoint: Path) -> None:
    Path("out").mkdir()
    Path("out/small.fp32.onnx").write_text("of yesterday")
    with files_of_at_most(4096):
        ended = run("convert", checkpoint, "--to", "onnx", *SIZE, "--output", "out", "--json")
    refused(ended, 2, "--output DIR", left=["out"])
    assert [p.name for p in Path("out").iterdir()] == ["small.fp32.onnx"]
    assert Path("out/small.fp32.onnx").read_text() == "of yesterday"


def refused(ended: Any, code: int, *words: str, left: list[str] | None = None) -> None:
    assert ended.code == code, ended
    assert set(ended.json) == {"error"}
    assert ended.error["exit_code"] == code
    message = ended.error["message"]
    for word in words:
        assert word in message
    assert "\n" not in message
    assert ended.err.splitlines()[-1] == f"Error: {message}"
    assert "Traceback" not in ended.err
    assert [p.name for p in Path().iterdir()] == (left or [])
