"""Where the time goes: ranking, shares and coverage of operators made up for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Delegation, Graph, Operation, Peak
from mobileseg.validation.graphs.estimate import PHONE_CORE, Coverage, Machine, OperatorCosts, estimated, seconds


def operation(
    operator: str, macs: int | None, moved: int | None, delegated: bool | None = True, **changes: Any
) -> Operation:
    read = None if moved is None else moved // 4
    written = None if read is None or moved is None else moved - read
    given = {"kind": "convolution" if macs else "elementwise", "dtype": "float32", "portable": False} | changes
    return Operation(
        name="",
        operator=operator,
        shape=(1,),
        macs=macs,
        bytes_read=read,
        bytes_written=written,
        delegated=delegated,
        **given,
    )


TAKEN = Delegation("X", {}, 1)


def graph(operations: Sequence[Operation], delegation: Delegation | NotRun = TAKEN) -> Graph:
    return Graph({}, 0, (), {}, delegation, tuple(operations), Peak(0, 0))


def test_the_longer_of_arithmetic_and_traffic():
    machine = Machine("one", {"float32": 10.0, "int8": 40.0}, 100.0)
    assert seconds(operation("a", 50, 100), machine) == 5.0
    assert seconds(operation("a", 50, 1000), machine) == 10.0
    assert seconds(operation("a", 50, 100, dtype="int8"), machine) == 1.25
    # A type that is not named counts as float32.
    assert seconds(operation("a", 50, 100, dtype="float64"), machine) == 5.0
    assert seconds(operation("a", None, 100), machine) == 1.0
    assert seconds(operation("a", 50, None), machine) == 5.0
    assert seconds(operation("a", None, None), machine) == 0.0


def test_what_is_computed_number_by_number_takes_longer_than_its_traffic():
    moved = [seconds(operation("a", 0, 1000, kind=kind)) for kind in ("movement", "pooling", "padding", "resizing")]
    assert moved == sorted(set(moved))
    # Where arithmetic takes longer than that, nothing changes.
    assert seconds(operation("a", 10**6, 10, kind="depthwise convolution")) == seconds(operation("a", 10**6, 10))


def test_portable_kernels_are_slow_and_poolings_among_them_slower():
    fast = seconds(operation("a", 0, 1000))
    slow = seconds(operation("a", 0, 1000, portable=True))
    pooling = seconds(operation("a", 0, 1000, kind="pooling", portable=True))
    convolution = seconds(operation("a", 10**9, 1000, portable=True))
    assert fast < slow < pooling
    assert convolution > 10 * seconds(operation("a", 10**9, 1000))


def test_what_a_delegate_leaves_is_slower():
    assert seconds(operation("a", 0, 1000, False)) > 5 * seconds(operation("a", 0, 1000, True))
    # Where there is none, or the device decides, nothing is known of that.
    assert seconds(operation("a", 0, 1000, None)) == seconds(operation("a", 0, 1000, True))


def test_the_costliest_come_first():
    # At 10 G/s each: 1, 3, 2, 3, 0 and 1 ns, of 10.
    parts = [operation(name, 0, 10 * cost) for name, cost in zip("abcdef", (1, 3, 2, 3, 0, 1), strict=True)]
    costs = estimated(graph(parts))
    assert PHONE_CORE.bytes_per_second == 10e9
    assert [cost.operation for cost in costs.costliest] == [1, 3, 2, 0, 5]
    assert [cost.share for cost in costs.costliest] == pytest.approx([0.3, 0.3, 0.2, 0.1, 0.1])
    assert sum(row.share for row in costs.operators) == pytest.approx(1)


def test_operators_of_one_name_count_together():
    """What is left takes ten times as long: 3, 4 and 10 ns."""
    costs = estimated(graph([operation("a", 30, 8), operation("b", 0, 4, False), operation("a", 10, 8, False)]))
    assert costs.operators == (
        OperatorCosts("a", "convolution", 2, 1, 40, 16, pytest.approx(13 / 17)),
        OperatorCosts("b", "elementwise", 1, 0, 0, 4, pytest.approx(4 / 17)),
    )
    assert (costs.macs, costs.bytes_read, costs.bytes_written) == (40, 5, 15)
    assert costs.delegated == Coverage(operators=1 / 3, macs=0.75, bytes=0.4, time=pytest.approx(3 / 17))


def test_what_is_not_known_is_said_and_not_counted():
    parts = [operation("a", 30, 8), operation("odd", None, 8), operation("odd", None, None), operation("b", 0, None)]
    costs = estimated(graph(parts))
    assert (costs.macs, costs.bytes_read, costs.bytes_written) == (30, 4, 12)
    assert costs.unknown_macs == {"odd": 2}
    assert costs.unknown_bytes == {"odd": 1, "b": 1}
    rows = {row.operator: (row.macs, row.bytes) for row in costs.operators}
    assert rows == {"a": (30, 8), "odd": (None, 8), "b": (0, None)}


def test_where_the_device_decides_no_operator_is_said_to_be_delegated():
    costs = estimated(graph([operation("a", 30, 8, None)], NotRun("on the device")))
    assert costs.delegated == NotRun("on the device")
    assert costs.operators[0].delegated is None


def test_a_file_without_operators_has_no_shares():
    costs = estimated(graph([]))
    assert (costs.costliest, costs.operators, costs.macs) == ((), (), 0)
    assert costs.delegated == Coverage(None, None, None, None)


def test_a_file_without_products_has_no_share_of_them():
    assert estimated(graph([operation("a", 0, 8)])).delegated == Coverage(1.0, None, 1.0, 1.0)
