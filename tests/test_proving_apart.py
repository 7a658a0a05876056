"""`mobileseg.validate` with the pictures shared out: the same report to the last bit, and what becomes of the lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobileseg import convert, validate
from mobileseg.architectures.erfnet import ERFNet
from mobileseg.errors import OptionError, PictureError, UnavailableError
from mobileseg.mobile_assets.demo import scene
from mobileseg.validation.metrics import ExactSum

pytest.importorskip("onnx", reason="install the extra: pip install 'mobileseg[onnx]'")

SIZE = (64, 96)
PICTURES = 9


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An fp16 file, which is not quite equal, and its checkpoint."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sides")
    network = ERFNet(5, channels=(6, 8, 12), blocks=(1, 1), decoder_channels=(6, 6), decoder_blocks=(1, 1))
    torch.save(network.state_dict(), folder / "small.pth")
    made = convert(folder / "small.pth", to="onnx", precision="fp16", size=SIZE, image_count=1, output=folder)
    return made.artifacts[0].artifact.path, folder / "small.pth"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pictures, labels = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("labels")
    for seed in range(PICTURES):
        Image.fromarray(scene(10_000 + seed, SIZE).picture).save(pictures / f"{seed}.png")
        classes = np.random.default_rng(seed).integers(0, 5, SIZE).astype(np.uint8)
        Image.fromarray(classes).save(labels / f"{seed}.png")
    return {"images": pictures, "labels": labels}


@pytest.fixture(scope="module")
def alone(sides: tuple[Path, Path], folders: dict[str, Path]) -> dict[str, Any]:
    return measured(sides, jobs=1, **folders)


def measured(sides: tuple[Path, Path], **options: Any) -> dict[str, Any]:
    found = validate(sides[0], against=sides[1], **options)
    worst = [(share, number) for share, number, _ in found.worst.kept]
    return {**found.report["parity"], "worst": worst}


def test_two_processes(sides: tuple[Path, Path], folders: dict[str, Path], alone: dict[str, Any]) -> None:
    told: list[tuple[int, int | None]] = []
    both = measured(sides, jobs=2, progress=lambda path, done, total: told.append((done, total)), **folders)
    assert sorted(told) == [(n, PICTURES) for n in range(1, PICTURES + 1)]
    assert both == alone
    assert len(alone["worst"]) == 4


def test_noise_and_scenes_in_two_processes(sides: tuple[Path, Path]) -> None:
    for options in ({"random": 4}, {"image_count": 4}):
        assert measured(sides, jobs=2, **options) == measured(sides, jobs=1, **options)


def test_an_error_in_a_process_is_the_user_s(
    sides: tuple[Path, Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders["images"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"3\.png"):
        validate(sides[0], against=sides[1], images=tmp_path, jobs=2)


def test_no_jobs(sides: tuple[Path, Path]) -> None:
    with pytest.raises(OptionError, match="--jobs must be at least 1"):
        validate(sides[0], against=sides[1], jobs=0)


def test_sums_are_the_same_in_any_order() -> None:
    generator = np.random.default_rng(0)
    numbers = (generator.standard_normal(500) * 10.0 ** generator.integers(-12, 12, 500)).tolist()
    totals = set()
    for _ in range(5):
        generator.shuffle(numbers)
        first, second = ExactSum(), ExactSum()
        for number in numbers[:200]:
            first.add(number)
        for number in numbers[200:]:
            second.add(number)
        first.merge(second)
        totals.add(first.value)
    assert len(totals) == 1


# A cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of one thread each, on this machine."""
    distributed = pytest.importorskip("distributed", reason="install the extra: pip install 'mobileseg[cluster]'")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as running:
        yield running


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same(
    sides: tuple[Path, Path],
    folders: dict[str, Path],
    alone: dict[str, Any],
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One worker is killed while it works: its pictures are done again."""
    from mobileseg import proving

    monkeypatch.setattr(proving, "PICTURES_A_TASK", 1)
    victim = next(iter(cluster.workers.values())).pid
    killed = threading.Event()

    def kill(path: Path, done: int, total: int | None) -> None:
        if not killed.is_set():
            killed.set()
            os.kill(victim, signal.SIGKILL)

    found = measured(sides, cluster=cluster.scheduler_address, progress=kill, **folders)
    assert killed.is_set()
    assert found == alone


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="install the extra: pip install 'mobileseg[cluster]'")
    from mobileseg import proof_cluster

    monkeypatch.setattr(proof_cluster, "_PATIENCE", "1s")
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"does not answer.*--cluster HOST:PORT"):
        validate(sides[0], against=sides[1], random=1, cluster="tcp://127.0.0.1:9")
    assert time.monotonic() - start < 30
