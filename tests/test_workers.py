"""Several targets at once: the same bytes as one by one, and what becomes of one that fails."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobileseg import convert, making_apart, resources, workers
from mobileseg.architectures.erfnet import ERFNet
from mobileseg.converters import tflite
from mobileseg.errors import MissingExtraError, UnavailableError
from mobileseg.making import Failure, Made, Task
from mobileseg.sources import PictureSource
from mobileseg.types import ConvertResult, GateLimits, Preprocessing
from mobileseg.validation.parity import record

SIZE = (64, 96)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = ERFNet(3, channels=(6, 8, 12), blocks=(1, 1), decoder_channels=(6, 6), decoder_blocks=(1, 1))
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def together(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ConvertResult, Path]:
    """Two targets, each in a process of its own."""
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "how_many", lambda tasks, memory: tasks)
        return convert(weights, to="tflite,onnx", size=SIZE, image_count=2, output=folder), folder


def test_each_is_made_run_and_compared(together: tuple[ConvertResult, Path]) -> None:
    result, folder = together
    assert result.passed is True
    assert result.exit_code == 0
    assert [a.artifact.target for a in result.artifacts] == ["tflite", "onnx"]
    assert all(a.report["parity"]["images"] == 2 for a in result.artifacts)
    assert {p.name for p in folder.iterdir()} == {
        f"small.fp32.{name}{suffix}" for name in ("tflite", "onnx") for suffix in ("", ".report.json")
    }


def test_the_files_are_those_of_single_runs(
    together: tuple[ConvertResult, Path], weights: Path, tmp_path: Path
) -> None:
    for name in ("tflite", "onnx"):
        alone = convert(weights, to=name, size=SIZE, image_count=2, output=tmp_path)
        made = next(a for a in together[0].artifacts if a.artifact.target == name)
        assert (tmp_path / f"small.fp32.{name}").read_bytes() == made.artifact.path.read_bytes()
        # What is summed over all pixels differs in its last bits with the number of threads.
        one, other = (r["parity"] for r in (alone.artifacts[0].report, made.report))
        assert one["gates"] == [{**g, "value": pytest.approx(g["value"], rel=1e-6)} for g in other["gates"]]


def failing(rewritten: object, lowering: object, path: Path) -> None:
    path.write_bytes(b"half")
    raise ValueError("a converter's own fault")


def test_one_that_fails_loses_nothing_of_the_others(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite, "TARGET", replace(tflite.TARGET, lower=failing))
    result = convert(weights, to="tflite,onnx", size=SIZE, image_count=1, output=tmp_path, jobs=1)
    (failure,) = result.failures
    assert (failure.target, failure.error, failure.exit_code) == ("tflite", "ValueError", 1)
    assert "report this as a bug" in failure.message
    assert "failing" in failure.traceback
    assert result.passed is False
    assert result.exit_code == 1
    assert {p.name for p in tmp_path.iterdir()} == {"small.fp32.onnx", "small.fp32.onnx.report.json"}


def test_a_target_that_is_not_installed_stands_beside_the_others(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite, "TARGET", replace(tflite.TARGET, modules=("no_such_module",)))
    result = convert(weights, to="tflite,onnx", size=SIZE, image_count=1, output=tmp_path)
    (failure,) = result.failures
    assert "pip install 'mobileseg[tflite]'" in failure.message
    assert result.exit_code == UnavailableError.exit_code
    assert (tmp_path / "small.fp32.onnx").is_file()
    with pytest.raises(MissingExtraError, match="no_such_module"):
        convert(weights, to="tflite", size=SIZE, output=tmp_path)


def ended(
    how: Any,
    folder: Path,
    names: tuple[str, ...] = ("broken.fp32.onnx",),
    precision: str = "fp32",
    progress: Any = None,
) -> tuple[list[Made | Failure], list[str]]:
    """What becomes of a task whose pictures end its process, or raise; and the stages that were seen."""
    from mobileseg.converters.export import Deployed, export

    network = torch.nn.Conv2d(3, 2, 3)
    exported = export(Deployed(network, Preprocessing("unit"), "logits"), (16, 16))
    whole = PictureSource("grey", 1, partial(iter, (np.full((16, 16, 3), 128, np.uint8),)))
    tasks = [
        Task(
            target="onnx",
            precision=precision,
            head="logits",
            options={},
            metadata={},
            path=folder / f".{name}",
            final=folder / name,
            parity=replace(whole, pictures=how) if name.startswith("broken") else whole,
            calibration=whole,
            void=None,
            preprocessing=Preprocessing("unit"),
            gates=GateLimits(),
        )
        for name in names
    ]
    place = folder / "shared"
    place.mkdir()
    shared = making_apart.share(exported, place)

    def reference(pictures: Any) -> Any:
        with torch.no_grad():
            return network(torch.from_numpy(pictures / np.float32(255)).permute(0, 3, 1, 2)).numpy()

    record(reference, whole.pictures(), shared.reference)
    stages: list[str] = []

    def noted(stage: str) -> Any:
        stages.append(stage)
        return nullcontext()

    return making_apart.make_all(tasks, shared, len(tasks), progress or noted), stages


def test_a_process_that_dies_is_named_and_the_other_goes_on(tmp_path: Path) -> None:
    results, stages = ended(partial(os._exit, 7), tmp_path, ("broken.fp32.onnx", "whole.fp32.onnx"))
    died, whole = results
    assert isinstance(died, Failure)
    assert died.message == "The process that made broken.fp32.onnx ended with status 7."
    assert isinstance(whole, Made)
    assert stages.count("Run and compare onnx") == 2


def test_a_process_that_the_system_kills(tmp_path: Path) -> None:
    (died,), _ = ended(partial(signal.raise_signal, signal.SIGKILL), tmp_path)
    assert isinstance(died, Failure)
    assert "SIGKILL" in died.message
    assert "--jobs 1" in died.message


def test_an_exception_in_a_process(tmp_path: Path) -> None:
    (failed,), _ = ended(partial(int, "no number"), tmp_path)
    assert isinstance(failed, Failure)
    assert failed.kind == "ValueError"
    assert "no number" in failed.message
    assert "Traceback" in failed.traceback


def test_the_number_of_workers_keeps_to_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def room(cores: int, memory: int | None) -> int:
        monkeypatch.setattr(resources, "cores", lambda: cores)
        monkeypatch.setattr(resources, "available_memory", lambda: memory)
        return workers.how_many(4, 3 * resources.GIB)

    assert room(2, 100 * resources.GIB) == 2
    assert room(8, 100 * resources.GIB) == 4
    assert room(8, 6 * resources.GIB) == 2
    assert room(8, resources.GIB) == 1
    assert room(8, None) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' own limits")
def test_limits_of_a_container_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{4 * resources.GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * resources.GIB}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    assert resources.cores() == 2
    assert resources.available_memory() == resources.GIB
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert resources.cores() == 8
    assert (resources.available_memory() or 0) > 0


def test_what_a_process_counts_reaches_the_stage_that_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra: pip install 'mobileseg[onnx]'")
    seen: list[tuple[str, Any]] = []

    def here(orders: Any, count: int, heard: Any) -> list[Any]:
        return [order.work(partial(heard, number)) for number, order in enumerate(orders)]

    @contextmanager
    def progress(stage: str) -> Iterator[Any]:
        yield lambda *counted: seen.append((stage, counted))

    monkeypatch.setattr(making_apart.workers, "run", here)
    results, _ = ended(None, tmp_path, ("whole.int8.onnx",), precision="int8", progress=progress)
    assert isinstance(results[0], Made), results[0]
    assert ("Calibrate int8", ("pictures", 1, 1)) in seen
    assert ("Calibrate int8", ("range methods", 5, 5)) in seen
