"""Comparisons of a file with its network: equal ones, damaged ones, and inputs that do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mobileseg.errors import CheckpointError, PictureError, UsageError
from mobileseg.pictures import find_pictures, iter_labels, iter_pictures, pair_labels
from mobileseg.registry import PREPROCESSINGS
from mobileseg.types import Artifact, NotRun, TensorSpec
from mobileseg.validation.metrics import softmax
from mobileseg.validation.parity import compare, network_input, reference_of, reference_precision
from mobileseg.validation.runners import Runner, open_artifact

SIZE = (6, 10)


def runner_of(function, head="logits", size=SIZE, runtime="NumPy") -> Runner:
    """A runner whose file is a function of (N, H, W, 3) float32 pictures."""
    artifact = Artifact(
        Path("function.onnx"),
        "onnx",
        "fp32",
        (TensorSpec("image", (1, *size, 3), "float32", "NHWC"),),
        (TensorSpec("y", (1, *size) if head == "argmax" else (1, 4, *size), "float32", "NCHW"),),
        {"head": head},
    )
    return Runner(artifact, runtime, (), function)


def test_a_file_that_is_right_is_found_so(make_onnx, tiny, pictures):
    reference, description = tiny
    result = compare(reference, open_artifact(make_onnx(description())), pictures)
    assert result.images == 3
    assert result.agreement.pixels == 1.0
    assert result.agreement.confident_flips == 0.0
    assert result.errors.sqnr_db > 100
    assert isinstance(result.scores, NotRun)
    assert result.runner.startswith("onnxruntime ")


def test_a_softmax_file_is_held_against_probabilities(make_onnx, tiny, pictures):
    reference, description = tiny
    labels = np.stack([reference(p[None])[0].argmax(0) for p in pictures]).astype(np.uint8)
    labels = labels.repeat(2, 1).repeat(2, 2)
    runner = open_artifact(make_onnx(description(head="softmax"), head="softmax"))
    result = compare(reference, runner, pictures, labels)
    assert result.errors.max_abs_err < 1e-5
    assert result.agreement.pixels == 1.0
    # Resized probabilities would move class borders; their logarithms do not.
    np.testing.assert_array_equal(result.scores.confusion_artifact, result.scores.confusion_reference)


def test_an_argmax_file_is_measured_by_its_classes_alone(make_onnx, tiny, pictures):
    reference, description = tiny
    runner = open_artifact(make_onnx(description(head="argmax", output={"layout": "NHW"}), head="argmax"))
    labels = [np.zeros((12, 20), np.uint8)] * 3
    result = compare(reference, runner, pictures, labels, void=3)
    assert result.agreement.pixels == 1.0
    assert isinstance(result.errors, NotRun)
    assert "SQNR" in result.errors.why
    assert result.scores.miou_artifact == result.scores.miou_reference


def test_raw_input_gets_what_the_authors_fed(make_onnx, tiny, pictures):
    reference, description = tiny
    unit = PREPROCESSINGS["unit"]
    runner = open_artifact(make_onnx(description(raw_input=True)))
    result = compare(lambda p: reference(p / np.float32(255)), runner, pictures, preprocessing=unit)
    assert result.errors.sqnr_db > 100
    with pytest.raises(UsageError, match="--preprocessing"):
        compare(reference, runner, pictures)


def test_swapped_channels_are_seen(make_onnx, tiny, pictures):
    reference, description = tiny
    result = compare(lambda p: reference(p[..., ::-1]), open_artifact(make_onnx(description())), pictures)
    assert result.errors.sqnr_db < 20
    assert result.agreement.pixels < 0.99


def test_errors_and_scores_of_a_known_damage(pictures):
    reference_logits = np.zeros((1, 4, *SIZE), np.float32)
    reference_logits[:, 1] = 10.0
    damaged = reference_logits.copy()
    damaged[0, 2, 0, :5] = 30.0  # 5 of 60 pixels flip from class 1 to 2
    labels = [np.ones(SIZE, np.uint8)] * 2
    result = compare(lambda _: reference_logits, runner_of(lambda _: damaged), pictures[:2], labels)
    assert result.errors.max_abs_err == 30.0
    assert result.errors.sqnr_db == pytest.approx(10 * math.log10(60 * 100 / (5 * 900)))
    assert result.agreement.pixels == pytest.approx(55 / 60)
    assert result.agreement.confident_flips == pytest.approx(5 / 60)
    assert isinstance(result.agreement.boundary, NotRun)
    assert result.scores.miou_reference == 1.0
    assert result.scores.miou_artifact == pytest.approx(55 / 60)


def test_nan_in_the_file_counts_as_disagreement_and_leaves_no_sqnr(pictures):
    reference_logits = np.zeros((1, 4, *SIZE), np.float32)
    broken = reference_logits.copy()
    broken[0, :, :3] = np.nan
    result = compare(lambda _: reference_logits, runner_of(lambda _: broken), pictures[:1])
    assert result.agreement.pixels == 0.5
    assert isinstance(result.errors.sqnr_db, NotRun)


def test_nan_in_the_reference_is_refused(pictures):
    logits = np.full((1, 4, *SIZE), np.nan, np.float32)
    with pytest.raises(CheckpointError, match="NaN"):
        compare(lambda _: logits, runner_of(lambda _: logits), pictures)


def test_a_file_of_another_network_is_refused(pictures):
    logits = np.zeros((1, 5, *SIZE), np.float32)
    with pytest.raises(UsageError, match="--against"):
        compare(lambda _: logits, runner_of(lambda _: logits[:, :4]), pictures)


def test_pictures_and_labels_must_be_there_and_as_many(pictures):
    logits = np.zeros((1, 4, *SIZE), np.float32)
    runner = runner_of(lambda _: logits)
    label = np.zeros(SIZE, np.uint8)
    for count, word in ((2, "fewer"), (4, "more")):
        with pytest.raises(PictureError, match=word):
            compare(lambda _: logits, runner, pictures, [label] * count)
    with pytest.raises(PictureError, match="at least one"):
        compare(lambda _: logits, runner, [])


def test_pictures_are_taken_one_at_a_time(pictures):
    logits = np.zeros((1, 4, *SIZE), np.float32)
    events = []

    def source():
        for index, picture in enumerate(pictures):
            events.append(("read", index))
            yield picture

    def reference(_):
        events.append(("run", len(events) // 2))
        return logits

    compare(reference, runner_of(lambda _: logits), source())
    assert events == [(kind, index) for index in range(3) for kind in ("read", "run")]


@pytest.mark.parametrize("name", sorted(PREPROCESSINGS))
def test_network_input_follows_the_formula(name, pictures):
    chosen = PREPROCESSINGS[name]
    channels = [2, 1, 0] if chosen.channel_order == "BGR" else [0, 1, 2]
    tensor = network_input(pictures, chosen)
    assert tensor.shape == (3, 3, *SIZE)
    assert tensor.dtype == np.float32
    for position, channel in enumerate(channels):
        pixel = pictures[..., channel].astype(np.float64)
        expected = (pixel / chosen.scale - chosen.mean[position]) / chosen.std[position] / chosen.post_scale
        np.testing.assert_allclose(tensor[:, position], expected, rtol=1e-6, atol=1e-7)


def test_softmax_of_the_reference_is_what_a_softmax_file_returns(pictures):
    logits = np.random.default_rng(2).normal(0, 3, (1, 4, *SIZE)).astype(np.float32)
    runner = runner_of(lambda _: softmax(logits[0])[None], head="softmax")
    assert compare(lambda _: logits, runner, pictures[:1]).errors.sqnr_db == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["enet-camvid-davidtvs2018", "espnet-camvid-p2q8", "espnet-c-cityscapes-p2q8"])
def test_miou_equals_the_authors_figure(shared, name):
    """The reference is also played as the file, so that both columns of the scores must give the figure."""
    checkpoint_module = pytest.importorskip("mobileseg.checkpoint")
    row = next(r for r in json.loads((shared / "checkpoints/manifest.json").read_text()) if r["name"] == name)
    checkpoint = checkpoint_module.load_checkpoint(shared / "checkpoints" / row["file"])
    folder, size = shared / "images" / row["dataset"], (row["size"][0], row["size"][1])
    paths = find_pictures(folder / "test")
    reference = reference_of(checkpoint)
    artifact = Artifact(
        checkpoint.path,
        "torch",
        "fp32",
        (TensorSpec("image", (1, *size, 3), "uint8", "NHWC"),),
        (TensorSpec("logits", (1, row["num_classes"], -1, -1), "float32", "NCHW"),),
    )
    result = compare(
        reference,
        Runner(artifact, "torch", (), reference),
        iter_pictures(paths, size),
        iter_labels(pair_labels(paths, folder / "test", folder / "test_labels")),
        void=row["num_classes"] - 1,
    )
    assert result.images == row["fp32_reference"]["pictures"]
    assert result.errors.sqnr_db == math.inf
    expected = row["fp32_reference"]
    assert result.scores.miou_reference == pytest.approx(expected["miou"], abs=1e-3)
    assert result.scores.miou_artifact == result.scores.miou_reference
    assert result.scores.pixel_accuracy_reference == pytest.approx(expected["pixel_accuracy"], abs=1e-3)
    assert sum(iou is not None for iou in result.scores.iou_reference) == expected["classes_present"]


def test_float32_of_a_plain_network_is_well_determined_and_of_an_undecided_one_is_not(pictures):
    import torch
    from torch import nn

    class Undecided(nn.Module):
        """Hangs on the last bits of float32: they are whole turns of the sine."""

        def forward(self, x):
            return torch.sin(x * 1e9)

    def checkpoint(network):
        return SimpleNamespace(network=network.eval(), preprocessing=PREPROCESSINGS["unit"])

    torch.manual_seed(0)
    assert reference_precision(checkpoint(nn.Conv2d(3, 4, 3)), pictures) > 120
    assert reference_precision(checkpoint(Undecided()), pictures) < 60
