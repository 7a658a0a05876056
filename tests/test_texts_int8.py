"""What is said on the screen of an int8 file, at 80 columns."""

from __future__ import annotations

from typing import Any

from mobileseg.texts_int8 import class_texts, kept_texts, remedy_text, warning_texts

NAME = "enet-camvid-davidtvs2018.int8.tflite"


def plan(**changes: Any) -> dict[str, Any]:
    unit = {"operator": "conv2d", "error_share": 0.1, "cost_share": 0.01}
    kept = [{**unit, "name": f"encoder.stage{n}.block.convolution"} for n in (1, 1, 2, 3, 4)]
    found = {
        "kept": kept,
        "units": 245,
        "cost_share": 0.034,
        "held": False,
        "agreement": 0.9712,
        "probes": 4,
        "equalized": True,
        "evaluations": 5,
        "budget": {"max_evaluations": 16},
    }
    return found | changes


def test_what_is_kept_is_counted_and_the_first_layers_are_named() -> None:
    (line,) = kept_texts({"quantization": {"plan": plan()}}, NAME)
    assert "5 of 245 units in float, 3 % of the work" in line
    assert line.count("convolution") == 3
    assert line.endswith("and 1 more.")
    assert len(line) <= 3 * 80


def test_nothing_is_said_where_nothing_is_kept_or_no_plan_was_made() -> None:
    for quantization in ({"not_run": "fp32"}, {"plan": plan(kept=[])}, {"plan": {"not_run": "no plan"}}):
        assert list(kept_texts({"quantization": quantization}, NAME)) == []


def test_few_warnings_are_shown_each_on_two_lines_at_most() -> None:
    found = list(warning_texts({"quantization": {"warnings": ["x" * 300, "b.", "c.", "d.", "e."]}}, NAME))
    assert len(found) == 4
    assert len(found[0]) <= 158
    assert found[1] == f"Note, {NAME}: b."
    assert "2 more in the report" in found[-1]


def test_classes_that_lost_or_are_gone_are_named() -> None:
    lost = [{"class": "pole", "iou_reference": 0.31, "iou_artifact": 0.2}]
    gone = [{"class": "sign", "pixels": 1234}]
    first, second = class_texts({"classes_lost": lost, "classes_vanished": gone}, "a.onnx")
    assert "class 'pole' falls from 31.0 to 20.0 points of IoU" in first
    assert "class 'sign' is given to no pixel; the reference gives it to 1,234" in second
    assert list(class_texts({"classes_lost": {"not_run": "no labels"}, "classes_vanished": []}, "a.onnx")) == []
    assert list(class_texts({"not_run": "cannot run here"}, "a.onnx")) == []


def test_what_to_try_depends_on_what_was_done() -> None:
    assert "--no-equalize" not in remedy_text(plan())
    assert "did not hold" in remedy_text(plan())
    assert "without --no-equalize" in remedy_text(plan(equalized=False))
    assert "--max-evaluations" in remedy_text(plan(evaluations=16))
    assert "a greater --min-agreement" in remedy_text(plan(held=True))
    assert remedy_text(plan()).endswith("or --fp16.")
