"""The arithmetic of operators' costs, on lists of operators made up for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Peak
from mobileseg.validation.graphs.costs import Call, Key, Listing, Operands, Rule, Tensor, bytes_of, constant
from mobileseg.validation.graphs.costs import counted_costs as counted
from mobileseg.validation.graphs.rules import (
    convolution,
    either,
    free,
    linear,
    product,
    transposed_convolution,
    unknown,
)

SUM = free("elementwise")


def call(rule: Rule, inputs: Sequence[Key], *outputs: Key) -> Call:
    return Call("op", "name", rule, dict(enumerate(inputs)), outputs, delegated=None)


def listing(calls: Sequence[Call], tensors: Mapping[Key, Tensor], last: Key, **aliases: Key) -> Listing:
    return Listing(tuple(calls), tensors, ("x",), (last,), aliases)


def plane(channels: int | None, dtype: str = "float32") -> Tensor:
    return Tensor((1, channels, 2, 5), dtype)


@pytest.mark.parametrize(
    ("elements", "dtype", "size"),
    [
        *((10, "float32", 40), (10, "float16", 20), (10, "bfloat16", 20), (10, "int8", 10), (10, "uint16", 20)),
        *((10, "bool", 10), (10, "int4", 5), (11, "uint4", 6), (3, "uint6", 3), (10, "float8_e4m3fn", 10)),
        *((None, "float32", None), (10, "string", None), (10, "", None), (10, "complex64", 80)),
    ],
)
def test_bytes_of_each_type(elements, dtype, size):
    assert bytes_of(elements, dtype) == size


def operands(*shapes: tuple[int | None, ...], result: tuple[int | None, ...] = (), **options: bool) -> Operands:
    inputs = {place: Tensor(shape, "float32") for place, shape in enumerate(shapes)}
    return Operands(inputs, [Tensor(result, "float32")], options)


@pytest.mark.parametrize(
    ("rule", "given", "kind", "macs"),
    [
        (convolution(per_group=1), operands((1, 3, 8, 9), (4, 3, 3, 2), result=(1, 4, 6, 8)), "convolution", 48 * 72),
        (convolution(per_group=1), operands((2, 6, 4, 4), (4, 3, 1, 1), result=(2, 4, 4, 4)), "grouped", 2 * 16 * 12),
        (convolution(per_group=1), operands((1, 6, 4, 4), (12, 1, 3, 3), result=(1, 12, 4, 4)), "depthwise", 16 * 108),
        (convolution(per_group=1), operands((1, 6, 9), (4, 6, 3), result=(1, 4, 7)), "convolution", 7 * 72),
        (
            convolution(channels=-1, per_group=3),
            operands((1, 4, 4, 6), (8, 3, 3, 2), result=(1, 4, 4, 8)),
            "gr",
            16 * 144,
        ),
        (convolution(per_group=1), operands((1, 1, 4, 4), (8, 1, 3, 3), result=(1, 8, 4, 4)), "convolution", 16 * 72),
        (transposed_convolution(), operands((1, 3, 4, 5), (3, 7, 2, 2), result=(1, 7, 8, 10)), "transposed", 20 * 84),
        (linear(), operands((2, 5, 6), (7, 6), result=(2, 5, 7)), "matrix product", 10 * 42),
        (product(), operands((4, 5), (5, 6), result=(4, 6)), "matrix product", 4 * 5 * 6),
        (product(), operands((5, 4), (5, 6), result=(4, 6)), "matrix product", 4 * 5 * 6),
        (product(), operands((7, 4, 5), (5, 6), result=(7, 4, 6)), "matrix product", 7 * 4 * 5 * 6),
        (product(), operands((4, 5), (7, 5, 6), result=(7, 4, 6)), "matrix product", 7 * 4 * 5 * 6),
        (product(), operands((5,), (5, 6), result=(6,)), "matrix product", 30),
        (product(), operands((4, 5), (5,), result=(4,)), "matrix product", 20),
        (product(data=1), operands((6,), (4, 5), (5, 6), result=(4, 6)), "matrix product", 120),
        (free("pooling"), operands((1, 3, 4, 4), result=(1, 3, 2, 2)), "pooling", 0),
        (unknown, operands((1, 3), result=(1, 3)), "unknown", None),
        # Lengths that are not known, operands that are missing, and values of no element.
        (convolution(), operands((1, 3, None, 9), (4, 3, 3, 3), result=(1, 4, None, 9)), "convolution", None),
        (convolution(), operands((1, 3, 8, 9), result=(1, 4, 8, 9)), "convolution", None),
        (
            convolution(per_group=1),
            operands((1, None, 8, 9), (4, 3, 1, 1), result=(1, 4, 8, 9)),
            "convolution",
            72 * 12,
        ),
        (product(), operands((None, 5), (5, 6), result=(None, 6)), "matrix product", None),
        (product(), operands((0, 5), (5, 6), result=(0, 6)), "matrix product", 0),
        (product(), operands(result=(0, 6)), "matrix product", None),
        (convolution(), Operands({}, [], {}), "convolution", None),
    ],
)
def test_multiply_accumulates_by_hand(rule, given, kind, macs):
    work = rule(given)
    assert work.kind.startswith(kind)
    assert work.macs == macs


def test_an_option_decides_between_rules():
    rule = either("turned", transposed_convolution(), convolution())
    given = (1, 3, 4, 5), (3, 7, 2, 2)
    assert rule(operands(*given, result=(1, 7, 8, 10), turned=True)).kind == "transposed convolution"
    assert rule(operands(*given, result=(1, 7, 8, 10), turned=False)).kind == "convolution"
    assert rule(operands(*given, result=(1, 7, 8, 10))).kind == "convolution"


def test_an_operator_reads_each_input_once_and_writes_its_results():
    tensors = {"x": plane(3), "w": constant((7, 3, 1, 1), "float16"), "y": plane(7)}
    (operation,), _ = counted(listing([call(convolution(per_group=1), ["x", "w", "x"], "y")], tensors, "y"))
    assert (operation.bytes_read, operation.bytes_written) == (3 * 10 * 4 + 21 * 2, 7 * 10 * 4)
    assert (operation.macs, operation.shape, operation.dtype) == (10 * 21, (1, 7, 2, 5), "float32")
    assert operation.bytes_moved == operation.bytes_read + operation.bytes_written


def test_a_selection_reads_the_part_that_it_gives():
    tensors = {"x": plane(8), "y": plane(2)}
    (operation,), _ = counted(listing([call(free("selection"), ["x"], "y")], tensors, "y"))
    assert (operation.bytes_read, operation.bytes_written) == (80, 80)


def test_a_choice_computes_with_what_it_chooses_from():
    tensors = {"mask": plane(3, "bool"), "x": plane(3), "y": plane(3)}
    (operation,), _ = counted(listing([call(SUM, ["mask", "x"], "y")], tensors, "y"))
    assert operation.dtype == "float32"


def test_what_is_made_of_constants_is_made_once_and_counts_as_it_is_stored():
    """A weight in half precision that the file widens first."""
    tensors = {"x": plane(3), "half": constant((7, 3, 1, 1), "float16"), "y": plane(7)}
    tensors |= {"w": Tensor((7, 3, 1, 1), "float32"), "turned": Tensor((7, 3, 1, 1), "float32")}
    calls = [call(free("conversion"), ["half"], "w"), call(free("movement"), ["w"], "turned")]
    operations, peak = counted(listing([*calls, call(convolution(), ["x", "turned"], "y")], tensors, "y"))
    assert [(o.macs, o.bytes_moved) for o in operations[:2]] == [(0, 0), (0, 0)]
    assert operations[2].bytes_read == 3 * 10 * 4 + 21 * 2
    assert operations[2].macs == 10 * 21
    assert peak == Peak((3 + 7) * 40, 2)


def test_bytes_that_are_not_known_are_not_made_up():
    tensors = {
        "x": plane(3),
        "y": Tensor(None, "float32"),
        "z": Tensor((1, None), "float32"),
        "t": Tensor((4,), "string"),
    }
    calls = [call(unknown, ["x"], "y"), call(SUM, ["y"], "z"), call(SUM, ["z"], "t")]
    operations, peak = counted(listing(calls, tensors, "t"))
    assert [(o.bytes_read, o.bytes_written) for o in operations] == [(120, None), (None, None), (None, None)]
    assert [o.bytes_moved for o in operations] == [None, None, None]
    assert peak == NotRun("the sizes of 3 values are known at run time only")


def test_a_value_lives_from_its_operator_to_the_last_that_reads_it():
    """x 120 -> a 40 -> b 200 -> c 80; a is read by the last one again."""
    tensors = {"x": plane(3), "a": plane(1), "b": plane(5), "c": plane(2), "w": constant((100,), "float32")}
    calls = [call(SUM, ["x", "w"], "a"), call(SUM, ["a"], "b"), call(SUM, ["b", "a"], "c")]
    assert counted(listing(calls, tensors, "c"))[1] == Peak(40 + 200 + 80, 2)
    # Without that, it is gone by then.
    calls[2] = call(SUM, ["b"], "c")
    assert counted(listing(calls, tensors, "c"))[1] == Peak(200 + 80, 2)
    # What nothing reads lives as long as its operator runs; what the file gives, to the end.
    calls[1] = call(SUM, ["a"], "b", "unused")
    more = {**tensors, "unused": plane(9)}
    assert counted(listing(calls, more, "c"))[1] == Peak(40 + 200 + 360, 1)
    assert counted(listing(calls, more, "b"))[1] == Peak(40 + 200 + 360, 1)


def test_a_reshaping_is_what_it_reshapes():
    tensors = {"x": plane(3), "flat": Tensor((1, 30), "float32"), "size": constant((2,), "int32"), "y": plane(3)}
    calls = [call(free("view"), ["x", "size"], "flat"), call(SUM, ["flat"], "y")]
    operations, peak = counted(listing(calls, tensors, "y"))
    assert peak == Peak(240, 1)
    assert operations[0].bytes_moved == 120 + 8 + 120
    copied = [call(free("movement"), ["x", "size"], "flat"), call(SUM, ["flat", "x"], "y")]
    assert counted(listing(copied, tensors, "y"))[1] == Peak(360, 1)


def test_an_alias_is_the_value_that_it_stands_for():
    """Inside a delegate's call a value bears another key."""
    tensors = {"x": plane(3), "inner": Tensor((1, 2, 5, 3), "float32"), "y": plane(3), "given": plane(3)}
    calls = [call(SUM, ["inner"], "y"), call(SUM, ["y"], "given")]
    assert counted(listing(calls, tensors, "given"))[1] == Peak(360, 0)
    assert counted(listing(calls, tensors, "given", inner="x"))[1] == Peak(240, 0)


def test_a_file_without_operators():
    assert counted(listing([], {"x": plane(3)}, "x")) == ((), Peak(120, 0))
