"""mIoU over whole labelled lists, against scikit-learn's: pictures read, both sides run and their classes taken without
this package's reading, runners and counting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score
from torch import nn
from torch.nn import functional

from mobileseg import convert, load_checkpoint, validate
from mobileseg.mobile_assets.demo import scene
from mobileseg.types import Size

onnxruntime = pytest.importorskip("onnxruntime", reason="install the extra: pip install 'mobileseg[onnx]'")

EXACT = 1e-9
IGNORED = 255


@dataclass(frozen=True)
class Scores:
    """scikit-learn's, over the classes that the labels hold."""

    iou: dict[int, float]
    accuracy: float
    confusion: NDArray[np.int64]

    @property
    def miou(self) -> float:
        return float(np.mean(list(self.iou.values())))


@contextmanager
def one_thread() -> Iterator[None]:
    """What `validate` runs torch with: other threads, other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def session_of(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def independent(network: nn.Module, file: Path, images: Path, labels: Path, size: Size, void: int) -> list[Scores]:
    """Of a network that takes RGB / 255, and of the ONNX file made from it."""
    session, truth, sides = session_of(file), [], ([], [])
    with one_thread(), torch.inference_mode():
        for picture in sorted(images.iterdir()):
            image = Image.open(picture).convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
            fed = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
            label = np.asarray(Image.open(labels / f"{picture.stem}.png"))
            counted = (label != IGNORED) & (label != void)
            truth.append(label[counted])
            (of_file,) = session.run(None, {session.get_inputs()[0].name: fed.numpy()})
            for side, logits in zip(sides, (network(fed / 255), torch.from_numpy(of_file)), strict=True):
                classes = functional.interpolate(logits, label.shape, mode="bilinear").argmax(1)[0].numpy()
                side.append(classes[counted])
    return [scored(np.concatenate(truth), np.concatenate(side), logits.shape[1]) for side in sides]


def scored(truth: NDArray[Any], found: NDArray[Any], classes: int) -> Scores:
    present = np.unique(truth)
    iou = jaccard_score(truth, found, labels=present, average=None)
    confusion = confusion_matrix(truth, found, labels=range(classes))
    return Scores(dict(zip(present.tolist(), iou.tolist(), strict=True)), accuracy_score(truth, found), confusion)


def check(parity: dict[str, Any], reference: Scores, artifact: Scores) -> None:
    assert abs(parity["miou_reference"] - reference.miou) <= EXACT
    assert abs(parity["miou_artifact"] - artifact.miou) <= EXACT
    assert abs(parity["pixel_accuracy_reference"] - reference.accuracy) <= EXACT
    assert abs(parity["pixel_accuracy_artifact"] - artifact.accuracy) <= EXACT
    for number, change in enumerate(parity["per_class_iou_change"].values()):
        if number in reference.iou:
            assert abs(change - (artifact.iou[number] - reference.iou[number])) <= EXACT
        else:
            assert "does not occur" in change["not_run"]
    *classes, no_class = np.array(parity["confusion_against_labels"]).T
    assert np.array_equal(np.array(classes).T, artifact.confusion)
    assert not no_class.any()


class Generated(nn.Module):
    """A network of CamVid's 12 classes whose file in fp16 is not quite equal; it takes RGB / 255."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.classify = nn.Conv2d(16, 12, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(self.layers(x))
        return logits


def test_generated_pictures_with_void_pixels_and_absent_classes(tmp_path: Path) -> None:
    """Classes 9 and 10 are in no label, and the network gives one of them to pixels: it has no IoU, and its pixels
    count against the classes that they belong to."""
    size, void = (32, 48), 11
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    generator = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(scene(10_000 + number, (40, 64)).picture).save(images / f"{number}.png")
        classes = generator.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, void, IGNORED], (56, 72)).astype(np.uint8)
        Image.fromarray(classes).save(labels / f"{number}.png")
    network = Generated().eval().requires_grad_(False)
    made = convert(model=network, to="onnx", precision="fp16", size=size, image_count=1, output=tmp_path / "made")
    file = made.artifacts[0].artifact.path
    found = validate(file, model=network, images=images, labels=labels, classes="camvid")
    reference, artifact = independent(network, file, images, labels, size, void)
    assert sorted(reference.iou) == list(range(9))
    assert reference.confusion[:, [9, 10, void]].any()
    assert reference.iou != artifact.iou
    check(found.report["parity"], reference, artifact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pictures", "void", "published"),
    [("enet-camvid-davidtvs2018", "camvid", 11, 0.5347), ("erfnet-cityscapes", "cityscapes", 19, 0.7181)],
)
def test_real_labelled_lists(
    shared: Path, tmp_path: Path, name: str, pictures: str, void: int, published: float
) -> None:
    """``published``: what the authors' own code reaches on the same list."""
    checkpoint = shared / "checkpoints" / f"{name}.pth"
    images, labels = (shared / "images" / pictures / part for part in ("test", "test_labels"))
    size = (360, 480) if pictures == "camvid" else (512, 1024)
    made = convert(checkpoint, to="onnx", size=size, image_count=1, output=tmp_path)
    file = made.artifacts[0].artifact.path
    found = validate(file, against=checkpoint, images=images, labels=labels)
    reference, artifact = independent(load_checkpoint(checkpoint).network, file, images, labels, size, void)
    assert abs(reference.miou - published) < 1e-3
    check(found.report["parity"], reference, artifact)
