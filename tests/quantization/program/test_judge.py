"""Plans held against float: pixels of equal class, and mIoU as the gates count it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mobileseg.quantization.calibration import About
from mobileseg.quantization.program import plan_program
from mobileseg.quantization.program.judge import Judge
from mobileseg.quantization.program.plan import plan_for
from mobileseg.quantization.program.planned import calibrated, tensor_of
from mobileseg.quantization.program.simulate import Simulator, first_result
from mobileseg.types import INT8, NotRun
from mobileseg.validation.metrics import LabelCounts, class_map, resize_bilinear

ALL_INT8 = replace(INT8, min_agreement=0.0, ranges="min-max")
LABEL_SIZE = (40, 50)


def label_maps() -> Any:
    rng = np.random.default_rng(3)
    maps = [rng.integers(0, 4, LABEL_SIZE).astype(np.uint8) for _ in range(4)]
    maps[0][:5] = 255
    return iter(maps)


def coarse(plan: Any) -> Any:
    return plan_for(plan.values, {n: (16 * low, 16 * high) for n, (low, high) in plan.ranges.items()})


def test_the_drop_of_miou_is_what_the_gates_would_count(rewritten: Any, pictures: Any) -> None:
    module = rewritten()
    plan = coarse(plan_program(module, pictures, ALL_INT8).plan)
    shape = next(n for n in module.graph.nodes if n.op == "placeholder").meta["val"].shape
    probes = [tensor_of(picture, shape) for picture in pictures()]
    found = Judge(module, probes, list(label_maps()), void=3).effect(plan)
    counts = LabelCounts(4, 3)
    simulator = Simulator(module, plan)
    with torch.no_grad():
        for probe, labels in zip(probes, label_maps(), strict=True):
            both = [first_result(run(probe))[0].numpy() for run in (module, simulator.run)]
            counts.add(labels, *(class_map(resize_bilinear(logits, LABEL_SIZE)) for logits in both))
    scores = counts.result()
    assert found.miou_drop == pytest.approx(100 * (scores.miou_reference - scores.miou_artifact), abs=1e-9)
    assert 0.0 < found.agreement < 1.0


def test_probes_and_their_labels_are_mirrored_alike(rewritten: Any, pictures: Any) -> None:
    """Labels that are the network's own answers on the mirrored pictures: in float it is right everywhere."""
    module = rewritten()
    judge = calibrated(module, pictures, ALL_INT8).judge
    with torch.no_grad():
        own = [first_result(module(p)).argmax(1)[0].numpy().astype(np.uint8)[:, ::-1] for p in judge.pictures]
    labelled = calibrated(module, pictures, ALL_INT8, about=About(4, labels=lambda: iter(own)))
    nothing = plan_for(labelled.plan.values, labelled.plan.ranges, frozenset(module.graph.nodes))
    assert labelled.judge.effect(nothing).miou_drop == 0.0
    effect = labelled.judge.effect(coarse(labelled.plan))
    assert effect.miou_drop is not None
    assert effect.miou_drop > 1.0


def test_the_harder_the_mirrored_pictures_are_the_more_is_sought_on_them(rewritten: Any, pictures: Any) -> None:
    module = rewritten()
    found = calibrated(module, pictures, ALL_INT8)
    shape = next(n for n in module.graph.nodes if n.op == "placeholder").meta["val"].shape
    as_they_are = Judge(module, [tensor_of(picture, shape) for picture in pictures()]).effect(found.plan).agreement
    changed = 1.0 - found.judge.effect(found.plan).agreement
    assert found.novelty == pytest.approx(min(max(changed / (1.0 - as_they_are), 1.0), 2.0))
    assert found.sought(0.98) == pytest.approx(1.0 - 0.02 / found.novelty)
    assert replace(found, novelty=1.0).sought(0.98) == pytest.approx(0.98)
    assert replace(found, novelty=2.0).sought(0.98) == pytest.approx(0.99)


def test_pictures_that_are_their_own_mirror_images_are_no_news(rewritten: Any, pictures: Any) -> None:
    def symmetric() -> Any:
        return (np.maximum(picture, picture[:, ::-1]) for picture in pictures())

    assert calibrated(rewritten(), symmetric, ALL_INT8).novelty == 1.0


def test_without_labels_the_limit_of_miou_is_a_gate_alone_and_the_words_say_so(rewritten: Any, pictures: Any) -> None:
    planned = plan_program(rewritten(), pictures, replace(ALL_INT8, max_miou_drop=0.5))
    assert "no labels (--calibration-labels), so that the limit of mIoU is a gate alone" in planned.words
    assert isinstance(planned.findings.miou_drop, NotRun)
    assert planned.findings.held


def test_a_limit_of_miou_keeps_units_in_float(rewritten: Any, pictures: Any) -> None:
    module = rewritten()
    judge = calibrated(module, pictures, ALL_INT8).judge
    with torch.no_grad():
        own = [first_result(module(p)).argmax(1)[0].numpy().astype(np.uint8)[:, ::-1] for p in judge.pictures]
    about = About(4, labels=lambda: iter(own))
    free = plan_program(module, pictures, ALL_INT8, about=about)
    assert free.searched.miou_drop is not None
    assert free.searched.kept == ()
    held = plan_program(module, pictures, replace(ALL_INT8, max_miou_drop=free.searched.miou_drop / 2), about=about)
    assert held.kept
    assert held.searched.miou_drop is not None
    assert held.searched.miou_drop < free.searched.miou_drop
    assert f"{held.searched.miou_drop:.2f} points of mIoU lost there" in held.words
