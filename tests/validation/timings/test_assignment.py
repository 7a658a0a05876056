"""Which operator a kernel is for: small sequences whose answer is plain, and random ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mobileseg.validation.graphs.xnnpack import KERNELS
from mobileseg.validation.timings.assignment import assigned

CONVOLUTION, CLAMP = "Convolution (NHWC, F32) IGEMM", "Clamp (NC)"
JOINED = ("PAD", "DEQUANTIZE", "RELU")


def shared_out(operators: list[str], kernels: list[str]) -> list[list[str]] | None:
    parts = assigned(operators, kernels, KERNELS)
    return None if parts is None else [[kernels[n] for n in part] for part in parts]


def test_an_operator_has_the_kernel_in_its_place() -> None:
    kernels = [CONVOLUTION, "Add (ND)", "Fully Connected (NC, F32) GEMM"]
    assert shared_out(["CONV_2D", "ADD", "CONV_2D"], kernels) == [[kernel] for kernel in kernels]


def test_a_padding_that_is_joined_to_a_convolution_has_no_kernel() -> None:
    kernels = [CONVOLUTION, "Constant Pad (ND, X32)", CONVOLUTION]
    expected = [[], [CONVOLUTION], ["Constant Pad (ND, X32)"], [CONVOLUTION]]
    assert shared_out(["PAD", "CONV_2D", "PAD", "CONV_2D"], kernels) == expected


def test_a_clamp_after_an_addition_is_the_additions_where_no_operator_asks_for_it() -> None:
    assert shared_out(["ADD", "MUL"], ["Add (ND)", CLAMP, "Multiply (ND)"]) == [["Add (ND)", CLAMP], ["Multiply (ND)"]]
    assert shared_out(["ADD", "RELU"], ["Add (ND)", CLAMP]) == [["Add (ND)"], [CLAMP]]


def test_an_operator_that_is_not_known_takes_what_the_others_leave() -> None:
    kernels = ["Add (ND)", "Novel (NC)", "Multiply (ND)"]
    assert shared_out(["ADD", "NOVEL", "MUL"], kernels) == [[kernel] for kernel in kernels]


def test_kernels_that_no_operator_makes_are_not_shared_out() -> None:
    assert shared_out(["ADD"], ["Multiply (ND)"]) is None
    assert shared_out(["ADD"], ["Add (ND)", "Add (ND)"]) is None


@given(st.data())
def test_all_kernels_are_shared_out_in_order_to_operators_that_make_them(data: st.DataObject) -> None:
    operators = data.draw(st.lists(st.sampled_from(sorted(KERNELS)), max_size=30))
    kernels = [
        f"{data.draw(st.sampled_from(sorted(KERNELS[operator])))} (NC)"
        for operator in operators
        if operator not in JOINED or data.draw(st.booleans())
    ]
    parts = assigned(operators, kernels, KERNELS)
    assert parts is not None
    assert [n for part in parts for n in part] == list(range(len(kernels)))
    for operator, part in zip(operators, parts, strict=True):
        words = [kernels[n].partition(" (")[0] for n in part]
        assert not words or words[0] in KERNELS[operator]
        assert words[1:] in ([], ["Clamp"])
