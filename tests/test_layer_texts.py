"""How layers and their errors are worded, and shown in 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest

from mobileseg.console import Screen
from mobileseg.layer_tables import show_sensitivity, show_sqnr
from mobileseg.layer_texts import budget_text, decibel_text, sensitivity_rows, sqnr_rows, worst_values


def value(node: str, file_value: str, own: float | str, accumulated: float | str) -> dict[str, Any]:
    return {
        "node": node,
        "operator": "_native_batch_norm_legit_no_training",
        "module": "a.very.long.path.of.a.module.in.a.network",
        "file_operator": "DEPTHWISE_CONV_2D",
        "file_value": file_value,
        "with_saturation": {"sqnr_db": own, "accumulated_sqnr_db": accumulated},
    }


VALUES = [value("conv", "1", 30.0, 25.0), value("relu", "1", 31.0, 24.0), value("pool", "2", "infinite", 10.0)]

LAYER = {
    "module": "a.very.long.path.of.a.module.in.a.network",
    "node": "conv2d",
    "operators": ["conv2d", "relu", "maximum"],
    "error_share": 0.5,
    "cost_share": 0.25,
    "sqnr_db": 30.0,
    "accumulated_sqnr_db": "infinite",
    "kept_float": True,
}


def report(kept: int, met: bool) -> dict[str, Any]:
    steps = [{"units": n, "cost_share": n / 10, "pixel_agreement": 0.9 + n / 100} for n in range(kept + 1)]
    return {
        "target": "onnx",
        "units": 10,
        "ranges": "mse",
        "calibration": {"source": "16 pictures of a folder", "images": 16, "probes": 4},
        "budget": {"min_agreement": 0.95, "sought": 0.96, "kept": steps[-1], "met": met},
        "curve": steps,
        "layers": [LAYER] * 3,
    }


def shown(function: Any, *arguments: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    function(Screen(stream), *arguments)
    lines = stream.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    return lines


def test_each_value_of_the_file_once_worst_first() -> None:
    assert [v["node"] for v in worst_values(VALUES)] == ["pool", "relu"]
    assert worst_values([]) == []


def test_own_noise_beside_what_came_from_the_inputs() -> None:
    (pool, relu) = sqnr_rows(worst_values(VALUES))
    assert pool[3:] == ("10.0", "exact", "0.0 %")
    assert relu[3:] == ("24.0", "31.0", "20.0 %")
    assert decibel_text("no signal") == "none"


def test_a_layer_outside_of_the_network_has_its_nodes_name() -> None:
    ((name, *rest),) = sensitivity_rows([{**LAYER, "module": "", "kept_float": False}])
    assert name == "conv2d"
    assert rest == ["conv2d + rel...", "50.0 %", "25.0 %", "30.0", "exact", ""]


def test_what_to_keep_in_float() -> None:
    assert budget_text(report(0, True)).startswith("Nothing need stay in float: 90.0000 % of the pixels")
    kept = budget_text(report(5, True))
    assert kept.startswith("Keep 5 of the 10 units in float, 50.0 % of the cost: 95.0000 % of the pixels")
    assert "90.0000 % without" in kept
    assert "sought are 96.0000 %, for 95 % of new pictures' (--min-agreement)" in kept
    assert "do not suffice" in budget_text(report(5, False))


def test_tables_fit_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(show_sensitivity, report(2, True), 2, monkeypatch=monkeypatch)
    assert "... and 1 more (--top; --json lists all)." in lines
    assert sum("yes" in line for line in lines) == 2
    many = [value(str(i), str(i), 30.0, 25.0) for i in range(25)]
    assert "... and 5 more (--json lists all)." in shown(show_sqnr, many, monkeypatch=monkeypatch)


def test_nothing_is_shown_of_a_file_that_was_not_looked_into() -> None:
    stream = io.StringIO()
    show_sqnr(Screen(stream), ())
    assert stream.getvalue() == ""
