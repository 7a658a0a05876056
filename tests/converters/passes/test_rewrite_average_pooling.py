"""Average pooling as a depthwise convolution: what is rewritten, what stays, and how far it is from the exact mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobileseg.converters.forms import TABLE, Forms
from mobileseg.converters.passes.rewrite_average_pooling import PASS

FORMS = TABLE["executorch", "fp32"]
# What is rewritten, and into what beside the convolution.
REWRITTEN: dict[str, tuple[nn.AvgPool2d, set[str]]] = {
    "padding counts": (nn.AvgPool2d(3, stride=2, padding=1), set()),
    "padding counts in one axis": (nn.AvgPool2d((3, 2), stride=(1, 2), padding=(1, 0)), set()),
    "ceil_mode hangs over": (nn.AvgPool2d(2, ceil_mode=True), {"pad", "mul"}),
    "ceil_mode and padding": (nn.AvgPool2d(4, stride=2, padding=1, ceil_mode=True), {"pad", "mul"}),
    "ceil_mode, padding not counted": (
        nn.AvgPool2d(4, stride=3, padding=1, ceil_mode=True, count_include_pad=False),
        {"pad", "mul"},
    ),
    "another divisor": (nn.AvgPool2d(3, stride=2, divisor_override=5), set()),
    "another divisor and padding": (nn.AvgPool2d(4, stride=2, padding=2, divisor_override=7), set()),
    "a stride beyond the kernel": (nn.AvgPool2d(2, stride=3), set()),
    "one pixel": (nn.AvgPool2d(1, stride=2), set()),
}
NATIVE: dict[str, nn.Module] = {
    "plain": nn.AvgPool2d(2),
    "overlapping": nn.AvgPool2d(3, stride=1),
    "padding does not count": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "its own divisor": nn.AvgPool2d((2, 3), divisor_override=6),
    "maximum": nn.MaxPool2d(3, stride=2, padding=1),
}


def numbers(height: int = 13, width: int = 17) -> Tensor:
    return torch.randn(2, 5, height, width, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize("case", REWRITTEN)
def test_within_the_documented_bound(exported: Any, case: str) -> None:
    pool, beside = REWRITTEN[case]
    x = numbers()
    rewritten = exported(pool, x).rewrite(PASS, FORMS)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (1, ())
    assert set(rewritten.operators) == {"conv2d"} | beside
    result, expected = rewritten(x), pool(x.double())
    kernel = torch.tensor(pool.kernel_size).expand(2).prod()
    bound = (kernel + 3) * 2.0**-24 * pool(x.double().abs())
    assert result.shape == expected.shape
    assert result.dtype == torch.float32
    assert bool(((result.double() - expected).abs() <= bound).all())


def test_ceil_mode_that_hangs_over_nothing_stays(exported: Any) -> None:
    x = numbers(12, 16)
    rewritten = exported(nn.AvgPool2d(2, ceil_mode=True), x).rewrite(PASS, FORMS)
    assert rewritten.outcome.count == 0
    assert torch.equal(rewritten(x), nn.AvgPool2d(2)(x))


@pytest.mark.parametrize("case", NATIVE)
def test_what_xnnpack_pools_itself_stays(exported: Any, case: str) -> None:
    x = numbers()
    rewritten = exported(NATIVE[case], x).rewrite(PASS, FORMS)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    assert not {"conv2d", "mul"} & set(rewritten.operators)
    assert torch.equal(rewritten(x), NATIVE[case](x))


@pytest.mark.parametrize("case", [name for name, module in NATIVE.items() if isinstance(module, nn.AvgPool2d)])
def test_small_windows_are_convolutions_too_in_form_always(exported: Any, case: str) -> None:
    x = numbers()
    rewritten = exported(NATIVE[case], x).rewrite(PASS, replace(FORMS, average_pooling="always"))
    assert (rewritten.outcome.count, rewritten.outcome.left) == (1, ())
    assert rewritten.operators["conv2d"] == 1
    torch.testing.assert_close(rewritten(x), NATIVE[case](x), rtol=1e-6, atol=1e-6)


def test_large_windows_stay_in_form_always(exported: Any) -> None:
    rewritten = exported(nn.AvgPool2d((5, 6)), numbers()).rewrite(PASS, replace(FORMS, average_pooling="always"))
    assert (rewritten.outcome.count, rewritten.operators) == (0, {"avg_pool2d": 1})


def test_other_targets_keep_it(exported: Any, lines: tuple[Forms, ...]) -> None:
    program = exported(nn.AvgPool2d(3, stride=2, padding=1), numbers())
    native = [forms for forms in lines if forms.average_pooling == "native"]
    assert native
    for forms in native:
        assert program.rewrite(PASS, forms).operators == {"avg_pool2d": 1}
    assert program.rewrite(PASS, replace(native[0], average_pooling="convolution")).operators == {"conv2d": 1}


def test_one_image_without_a_batch_is_named(exported: Any) -> None:
    class OneImage(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(x[0], 3, 2, 1)

    rewritten = exported(OneImage(), numbers()).rewrite(PASS, FORMS)
    assert rewritten.outcome.count == 0
    assert "no batch dimension" in rewritten.outcome.left[0]
