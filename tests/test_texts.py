"""How the screen words what an artifact's operators cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobileseg import texts
from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Delegation, Operation, Peak
from mobileseg.validation.graphs.estimate import Cost, Costs, Coverage, OperatorCosts
from mobileseg.validation.measured import Measured, MeasuredCost
from mobileseg.validation.timings import OperatorTime, Timed

NONE = NotRun("on the device")
TAKEN = Coverage(operators=0.5, macs=None, bytes=0.25, time=0.75)
COSTS = Costs(
    machine="a core",
    macs=1_500_000,
    bytes_read=3 << 20,
    bytes_written=2048,
    unknown_macs={"Einsum": 2, "Odd": 1},
    unknown_bytes={},
    delegated=TAKEN,
    operators=(
        OperatorCosts("Conv", "convolution", 3, 2, 1_500_000, 2048, 0.876),
        OperatorCosts("Einsum", "unknown", 2, 0, None, None, 0.0),
    ),
    costliest=(Cost(1, 0.6), Cost(0, 0.276)),
)
CONV = Operation("a/rather/long/name/of/a/convolution/in/the/network", "Conv", "convolution", (1, 2), "", 5, 6, 7, True)
OPERATIONS = (replace(CONV, delegated=False, shape=None, macs=None), CONV)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1 k"), (44_659_200, "44.7 M"), (1_846_000_000, "1.85 G")]
)
def test_counts(count: int, text: str) -> None:
    assert texts.count_text(count) == text


@pytest.mark.parametrize(("shape", "text"), [(None, "?"), ((1, None, 3), "1x?x3"), ((), "1")])
def test_shapes(shape: tuple[int | None, ...] | None, text: str) -> None:
    assert texts.shape_text(shape) == text


def test_what_a_delegate_takes() -> None:
    one, two = Delegation("XNNPACK", {}, 1), Delegation("XNNPACK", {}, 2)
    shares = "50.0 % of operators, 25.0 % of bytes"
    assert texts.delegate_text(one, COSTS) == f"XNNPACK, 1 partition: {shares}"
    assert texts.delegate_text(two, COSTS) == f"XNNPACK, 2 partitions: {shares}"
    assert texts.delegate_text(NONE, COSTS) == "not run: on the device"
    empty = replace(COSTS, delegated=Coverage(None, None, None, None))
    assert texts.delegate_text(one, empty) == "XNNPACK, 1 partition"
    assert texts.delegate_text(one, replace(COSTS, delegated=NONE)) == "XNNPACK, 1 partition"


def test_work_and_memory() -> None:
    assert texts.work_text(COSTS) == "1.5 M MACs; 3.00 MiB read, 2 KiB written"
    assert texts.peak_text(Peak(4096, 1), OPERATIONS) == "4 KiB alive at once, at operator 1 (Conv)"
    assert texts.peak_text(Peak(4096, 0), ()) == "4 KiB alive at once"
    assert texts.peak_text(NONE, OPERATIONS) == "on the device"
    assert texts.held_text(3 << 20) == "3.00 MiB held after a run, weights included (measured)"
    assert texts.held_text(NONE) == "not measured: on the device"


def test_what_is_not_counted() -> None:
    assert texts.unknown_texts(COSTS) == ["Not known, and not counted: the MACs of 2 Einsum, 1 Odd."]
    assert texts.unknown_texts(replace(COSTS, unknown_macs={})) == []


def test_operators_with_and_without_a_delegate() -> None:
    columns, rows = texts.operator_rows(COSTS)
    assert columns == ("Operator", "Count", "Delegated", "MACs", "Moved", "Time")
    assert rows == [("Conv", "3", "2", "1.5 M", "2 KiB", "87.6 %"), ("Einsum", "2", "0", "?", "?", "0.0 %")]
    columns, rows = texts.operator_rows(replace(COSTS, delegated=NONE))
    assert columns == ("Operator", "Count", "MACs", "Moved", "Time")
    assert rows[0] == ("Conv", "3", "1.5 M", "2 KiB", "87.6 %")


def test_the_costliest() -> None:
    name = "...ame/of/a/convolution/in/the/network"
    assert len(name) == 38
    assert texts.costliest_rows(COSTS, OPERATIONS) == [
        ("1", f"Conv\n{name}", "1x2", "5", "0 KiB", "60.0 %"),
        ("0", f"Conv (not delegated)\n{name}", "?", "?", "0 KiB", "27.6 %"),
    ]
    # Where there is no delegate, nothing is left by one.
    alone = texts.costliest_rows(replace(COSTS, delegated=NONE), OPERATIONS)
    assert alone[1][1] == f"Conv\n{name}"


TIMED = Timed(
    runtime="a runtime",
    threads=1,
    runs=5,
    whole_ms=12.3456,
    operators=(OperatorTime("x", "Conv", 3.0, 1, True, ("kernel",)), OperatorTime("new", "Reorder", 1.0, 1, False)),
    partitions=1,
    waited=0.0,
)
MEASURED = Measured(TIMED, TIMED.kinds, (MeasuredCost(0, 1, 3.0, 0.75, 0.6), MeasuredCost(1, None, 1.0, 0.25, None)))


def test_measured_times() -> None:
    assert texts.time_text(MEASURED) == "12.35 ms here, on 1 thread, the median of 5 runs; a runtime"
    busy = replace(MEASURED, timed=replace(TIMED, waited=0.34, runs=1, threads=2))
    assert texts.time_text(busy) == (
        "12.35 ms here, on 2 threads, 1 run; the machine was busy, with other processes for 34% of it; a runtime"
    )
    assert texts.time_text(NONE) == "not measured: on the device"
    assert [texts.kind_row(kind) for kind in MEASURED.kinds] == [
        ("Conv", "1", "3.000", "75.0 %"),
        ("Reorder", "1", "1.000", "25.0 %"),
    ]


def test_measured_operators_beside_their_estimates() -> None:
    first, second = texts.measured_rows(MEASURED, OPERATIONS)
    assert first == ("1", f"Conv\n{texts.shortened(CONV.name, 34)}", "5", "0 KiB", "60.0 %", "75.0 %", "3.000")
    assert second == ("", "Reorder (not delegated)\nnew", "?", "?", "?", "25.0 %", "1.000")
