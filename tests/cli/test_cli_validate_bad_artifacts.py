"""`mobileseg validate` on files that are cut off, damaged, of another network or size, or that yield NaN: in each
format an exit code of 2 or 3 and a sentence, never a traceback, never a pass."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileseg import convert

SIZE = (40, 48)
SUFFIXES = ("tflite", "onnx", "pte", "mlpackage")
NETWORKS = """
import torch
from torch import nn

BIAS = [0.12345678, 0.23456789, 0.34567891, 0.45678912, 0.56789123]


def build(seed=0, num_classes=5):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 3, padding=1))
    nn.init.kaiming_normal_(network[0].weight)
    nn.init.kaiming_normal_(network[2].weight)
    network[2].bias.data = torch.tensor(BIAS[:num_classes])
    return network


def other():
    return build(seed=1)


def of_four_classes():
    return build(num_classes=4)


def in_steps_of_16():
    network = build()
    network.mobileseg = {"size_multiple": 16}
    return network
"""
BIAS = np.array([0.12345678, 0.23456789, 0.34567891, 0.45678912, 0.56789123], np.float32).tobytes()


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "networks.py"
    path.write_text(NETWORKS)
    return path


@pytest.fixture(scope="module")
def files(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network in the four formats."""
    for package in ("litert_torch", "onnx", "executorch.exir", "coremltools"):
        pytest.importorskip(package, reason="install the extras: pip install 'mobileseg[all]'")
    made = convert(
        model=f"{networks}:build", to="all", size=SIZE, image_count=1, jobs=1, output=tmp_path_factory.mktemp("made")
    )
    return {file.artifact.path.suffix[1:]: file.artifact.path for file in made.artifacts}


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial in a process of its own left out: what the runtimes refuse by themselves."""
    from mobileseg.validation.runners import trial

    monkeypatch.setattr(trial, "tried", lambda path: None)


def validated(run: Any, file: Path, networks: Path, network: str = "build", *more: str) -> Any:
    return run("validate", file, "--model", f"{networks}:{network}", "--random", "1", "--json", *more)


def refused(ended: Any, *words: str) -> None:
    assert ended.code == 2, ended
    message = ended.error["message"]
    for word in words:
        assert word in message
    assert "\n" not in message
    assert "Traceback" not in ended.err


def below_the_gates(ended: Any) -> None:
    assert ended.code == 3, ended
    assert ended.json["parity"]["passed"] is False
    assert "Traceback" not in ended.err


def lengths(size: int) -> Iterator[int]:
    """Each sixteenth, and near both ends."""
    yield from range(0, size, -(-size // 16))
    yield from (n for n in (1, 3, 4, 7, 8, 32, 100, size - 100, size - 8, size - 2, size - 1) if 0 < n < size)


def copied(file: Path, folder: Path) -> Path:
    """A copy to damage."""
    copy = folder / f"bad{file.suffix}"
    if file.is_dir():
        shutil.copytree(file, copy)
    else:
        shutil.copy(file, copy)
    return copy


def parts(file: Path) -> list[Path]:
    return sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_sound_file(run: Any, files: dict[str, Path], networks: Path, suffix: str) -> None:
    ended = validated(run, files[suffix], networks)
    assert ended.code == 0, ended


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_off(run: Any, files: dict[str, Path], networks: Path, tmp_path: Path, suffix: str) -> None:
    bad = copied(files[suffix], tmp_path)
    for part in parts(bad):
        content = part.read_bytes()
        for length in lengths(len(content)):
            part.write_bytes(content[:length])
            refused(validated(run, bad, networks), bad.name)
        part.write_bytes(content)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged(run: Any, files: dict[str, Path], networks: Path, tmp_path: Path, suffix: str) -> None:
    """One byte is another. Most bytes are weights, whose last bits hardly matter: then the file passes, truly. In the
    name of a Core ML operator it makes one that the reference executor does not have."""
    codes = {0, 2, 3, 4} if suffix == "mlpackage" else {0, 2, 3}
    generator = np.random.default_rng(1)
    bad = copied(files[suffix], tmp_path)
    for part in parts(bad):
        content = part.read_bytes()
        for position in generator.integers(0, len(content), 10):
            damaged = bytearray(content)
            damaged[position] ^= int(generator.integers(1, 256))
            part.write_bytes(damaged)
            ended = validated(run, bad, networks)
            assert ended.code in codes, ended
            assert "Traceback" not in ended.err
        part.write_bytes(content)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_another_network(run: Any, files: dict[str, Path], networks: Path, suffix: str) -> None:
    below_the_gates(validated(run, files[suffix], networks, "other"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_other_classes(run: Any, files: dict[str, Path], networks: Path, suffix: str) -> None:
    refused(validated(run, files[suffix], networks, "of_four_classes"), "(5, 40, 48)", "(4, 40, 48)", "--against")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_a_size_that_the_checkpoint_does_not_take(
    run: Any, files: dict[str, Path], networks: Path, suffix: str
) -> None:
    ended = validated(run, files[suffix], networks, "in_steps_of_16")
    refused(ended, files[suffix].name, "cannot take pictures of 40x48", "multiples of 16")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_another_size_than_is_asked_for(run: Any, files: dict[str, Path], networks: Path, suffix: str) -> None:
    refused(validated(run, files[suffix], networks, "build", "--size", "48x48"), "40x48 alone", "--size")


def test_held_against_a_file_of_another_size(run: Any, files: dict[str, Path], networks: Path, tmp_path: Path) -> None:
    made = convert(model=f"{networks}:build", to="onnx", size=(32, 32), image_count=1, output=tmp_path)
    other = made.artifacts[0].artifact.path
    for suffix in SUFFIXES:
        refused(run("validate", files[suffix], "--against", other, "--random", "1", "--json"), other.name, "32x32")


def signed(content: bytes, damaged: bytes) -> bytes:
    """An ExecuTorch file with the digest of what it holds now."""
    from mobileseg.validation.runners.executorch import _UNSIGNED

    for found in re.findall(rb"[0-9a-f]{64}", content):
        unsigned = content.replace(found, _UNSIGNED.encode(), 1)
        if hashlib.sha256(unsigned).hexdigest().encode() == found:
            again = damaged.replace(found, _UNSIGNED.encode(), 1)
            return again.replace(_UNSIGNED.encode(), hashlib.sha256(again).hexdigest().encode(), 1)
    raise AssertionError("the file is not signed")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_that_yields_nan(run: Any, files: dict[str, Path], networks: Path, tmp_path: Path, suffix: str) -> None:
    """The last layer's bias is NaN."""
    bad, found = copied(files[suffix], tmp_path), 0
    for part in parts(bad):
        content = part.read_bytes()
        found += content.count(BIAS)
        damaged = content.replace(BIAS, np.full(5, np.nan, np.float32).tobytes())
        part.write_bytes(signed(content, damaged) if suffix == "pte" else damaged)
    assert found
    ended = validated(run, bad, networks)
    below_the_gates(ended)
    assert "NaN or infinite" in ended.json["parity"]["sqnr_db"]["not_run"]


def test_that_ends_the_process_that_runs_it(run: Any, files: dict[str, Path], networks: Path, tmp_path: Path) -> None:
    """ExecuTorch's runtime does not survive a name in a delegate's payload that is no text. A file of ours, which says
    its digest, never gets so far: this one does not say it."""
    bad = copied(files["pte"], tmp_path)
    content = bad.read_bytes().replace(b"sha256\0", b"sha2--\0")
    payload = content.index(b"XN01")
    name = re.compile(rb"[0-9a-f]{64}").search(content, payload)
    assert name is not None
    bad.write_bytes(content)
    assert validated(run, bad, networks).code == 0
    bad.write_bytes(content[: name.start()] + b"\xff" + content[name.start() + 1 :])
    refused(validated(run, bad, networks), "bad.pte", "ends the process that runs it (SIGABRT)")
