"""Convolution and pooling of the Core ML executor against torch and NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.errors import UnavailableError, UsageError
from mobileseg.validation.coreml import load
from mobileseg.validation.coreml.operators import convolution, pooling


def wide(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).double()


def padded(x: torch.Tensor, padding: list[tuple[int, int]], value: float = 0.0) -> torch.Tensor:
    """By NumPy, so that nothing of torch's or the executor's order of axes is taken on trust."""
    return torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *padding], constant_values=value))


def padding_of(draw: Any, sizes: list[int], spans: list[int], strides: list[int], most: int) -> tuple[dict, list]:
    """A way of padding, and what it comes to: TensorFlow's rule for ``same``, ONNX's for ``same_lower``."""
    kind = draw.one("valid", "custom", "same", *(["same_lower"] if draw.ios > 15 else []))
    pairs = [(0, 0)] * len(sizes)
    if kind == "custom":
        pairs = [(draw.number(0, k - 1 + most), draw.number(0, k - 1 + most)) for k in spans]
        return {"pad_type": kind, "pad": [n for pair in pairs for n in pair]}, pairs
    if kind != "valid":
        pairs = []
        for n, span, stride in zip(sizes, spans, strides, strict=True):
            total = max((math.ceil(n / stride) - 1) * stride + span - n, 0)
            pairs.append((total // 2, (total + 1) // 2)[:: 1 if kind == "same" else -1])
    return {"pad_type": kind}, pairs


def convolutions(draw: Any) -> Any:
    axes = draw.number(1, 3)
    groups, kernel = draw.number(1, 3), [draw.number(1, 4) for _ in range(axes)]
    strides, dilations = [draw.number(1, 3) for _ in kernel], [draw.number(1, 2) for _ in kernel]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [span + draw.number(0, 4) for span in spans]
    x = draw.array((draw.number(1, 2), groups * draw.number(1, 2), *sizes))
    weight = draw.array((groups * draw.number(1, 2), x.shape[1] // groups, *kernel))
    bias = draw.array((len(weight),)) if draw.flag() else None
    how, padding = padding_of(draw, sizes, spans, strides, most=1)
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    wanted = run(
        padded(wide(x), padding), wide(weight), None if bias is None else wide(bias), strides, 0, dilations, groups
    )
    more = {"strides": strides, "dilations": dilations, "groups": groups, **how}
    if max(dilations) == 1 and draw.flag():
        return [x, weight], lambda mb, x, weight: mb.conv(x=x, weight=weight, bias=bias, **more), [wanted]
    return [x], lambda mb, x: mb.conv(x=x, weight=weight, bias=bias, **more), [wanted]


def transposed(draw: Any) -> Any:
    """Of torch's result without padding, a part: from where ``pad`` (or ``same``) cuts, as long as ``output_shape`` or
    the rule says; beyond its end there is nothing but the bias."""
    axes = draw.number(1, 3)
    groups, kernel = draw.number(1, 3), [draw.number(1, 4) for _ in range(axes)]
    strides, dilations = [draw.number(1, 3) for _ in kernel], [draw.number(1, 2) for _ in kernel]
    x = draw.array((draw.number(1, 2), draw.number(1, 2) * groups, *[draw.number(2, 4) for _ in kernel]))
    weight = draw.array((x.shape[1], draw.number(1, 2), *kernel))
    bias = draw.array((weight.shape[1] * groups,)) if draw.flag() else None
    run = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[axes - 1]
    whole = run(wide(x), wide(weight), None, strides, 0, 0, groups, dilations)
    kind = draw.one("valid", "custom", "same")
    how: dict[str, Any] = {"pad_type": kind}
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if kind == "custom":
        pairs = [(draw.number(0, k // 2), draw.number(0, k // 2)) for k in spans]
        how["pad"] = [n for pair in pairs for n in pair]
        cut, sizes = [p for p, _ in pairs], [n - sum(p) for n, p in zip(whole.shape[2:], pairs, strict=True)]
    elif kind == "same":
        sizes = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    else:
        cut, sizes = [0] * axes, list(whole.shape[2:])
    if draw.flag():
        sizes = [
            n + draw.number(0, s - 1) - (s - 1 if kind == "same" else 0) for n, s in zip(sizes, strides, strict=True)
        ]
        how["output_shape"] = [*whole.shape[:2], *sizes]
    if kind == "same":
        cut = [max(n - size, 0) // 2 for n, size in zip(whole.shape[2:], sizes, strict=True)]
    wanted = padded(whole, [(0, 9)] * axes)
    for axis, (first, size) in enumerate(zip(cut, sizes, strict=True)):
        wanted = wanted.narrow(axis + 2, first, size)
    if bias is not None:
        wanted = wanted + wide(bias).reshape(-1, *[1] * axes)
    more = {"strides": strides, "dilations": dilations, "groups": groups, **how}
    return [x], lambda mb, x: mb.conv_transpose(x=x, weight=weight, bias=bias, **more), [wanted]


def windows(draw: Any, axes: int) -> tuple[np.ndarray, list[int], list[int], dict, list]:
    kernel = [draw.number(1, 4) for _ in range(axes)]
    x = draw.array((draw.number(1, 2), 2, *[k + draw.number(0, 4) for k in kernel]))
    strides = [draw.number(1, 3) for _ in kernel]
    how, padding = padding_of(draw, list(x.shape[2:]), kernel, strides, most=0)
    return x, kernel, strides, how | {"kernel_sizes": kernel, "strides": strides}, padding


def pooled(x: torch.Tensor, kernel: list[int], strides: list[int]) -> torch.Tensor:
    """(N, C, *windows, elements of a window)."""
    for axis, (k, s) in enumerate(zip(kernel, strides, strict=True)):
        x = x.unfold(axis + 2, k, s)
    return x.flatten(-len(kernel))


def maxima(draw: Any) -> Any:
    if draw.number(0, 3) == 0:
        return upwards(draw, "max")
    x, kernel, strides, how, padding = windows(draw, draw.number(1, 3))
    wanted = pooled(padded(wide(x), padding, -np.inf), kernel, strides).amax(-1)
    return [x], lambda mb, x: mb.max_pool(x=x, **how), [wanted]


def means(draw: Any) -> Any:
    if draw.number(0, 3) == 0:
        return upwards(draw, "avg")
    x, kernel, strides, how, padding = windows(draw, draw.number(1, 3))
    without = draw.flag()
    sums = pooled(padded(wide(x), padding), kernel, strides).sum(-1)
    inside = pooled(padded(torch.ones(x.shape).double(), padding), kernel, strides).sum(-1)
    return (
        [x],
        lambda mb, x: mb.avg_pool(x=x, exclude_padding_from_average=without, **how),
        [sums / (inside if without else math.prod(kernel))],
    )


def roots(draw: Any) -> Any:
    if draw.number(0, 3) == 0:
        return upwards(draw, "l2")
    x, kernel, strides, how, padding = windows(draw, draw.number(1, 2))
    wanted = pooled(padded(wide(x), padding) ** 2, kernel, strides).sum(-1).sqrt()
    return [x], lambda mb, x: mb.l2_pool(x=x, **how), [wanted]


def upwards(draw: Any, kind: str) -> Any:
    """``ceil_mode``, as torch has it."""
    axes = draw.number(1, 2)
    kernel = [draw.number(2, 4) for _ in range(axes)]
    strides, pads = [draw.number(1, k) for k in kernel], [draw.number(0, k // 2) for k in kernel]
    x, without = draw.array((1, 2, *[k + draw.number(0, 5) for k in kernel])), draw.flag()
    how: dict[str, Any] = {
        "kernel_sizes": kernel,
        "strides": strides,
        "pad_type": "custom",
        "pad": [n for p in pads for n in (p, p)],
        "ceil_mode": True,
    }
    mean = (functional.avg_pool1d, functional.avg_pool2d)[axes - 1]
    if kind == "avg":
        wanted = mean(torch.from_numpy(x), kernel, strides, pads, True, not without)  # of float64, torch has none
        return [x], lambda mb, x: mb.avg_pool(x=x, exclude_padding_from_average=without, **how), [wanted]
    if kind == "l2":
        squares = torch.from_numpy(x.reshape(*x.shape[:3], -1)) ** 2
        flat = [[*values, fill][:2] for values, fill in ((kernel, 1), (strides, 1), (pads, 0))]
        sums = functional.avg_pool2d(squares, *flat, ceil_mode=True, divisor_override=1)
        return [x], lambda mb, x: mb.l2_pool(x=x, **how), [sums.reshape(*sums.shape[: axes + 2]).sqrt()]
    pool = (functional.max_pool1d, functional.max_pool2d)[axes - 1]
    return [x], lambda mb, x: mb.max_pool(x=x, **how), [pool(wide(x), kernel, strides, pads, 1, True)]


CASES = {
    "avg_pool": means,
    "conv": convolutions,
    "conv_transpose": transposed,
    "l2_pool": roots,
    "max_pool": maxima,
}


def test_every_operator_of_these_families_is_tested() -> None:
    assert set(CASES) == {*convolution.OPERATORS, *pooling.OPERATORS}


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(settings.get_profile("operators"), max_examples=10)
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    check(kind, CASES[kind], data, rtol=1e-4)


def test_every_parameter_of_these_operators_is_varied(check: Any) -> None:
    check.has_varied(set(CASES), fixed=set())


@pytest.mark.parametrize(("size", "kernel", "stride"), [(5, 3, 2), (4, 4, 2), (6, 2, 3), (3, 5, 1)])
def test_a_same_transposed_convolution_is_the_gradient_of_a_same_convolution(
    size: int, kernel: int, stride: int, check: Any
) -> None:
    """Whose input is as long as the result: the definition, in TensorFlow."""
    rng = np.random.default_rng(size)
    y, weight = rng.normal(size=(1, 2, size)).astype(np.float32), rng.normal(size=(2, 3, kernel)).astype(np.float32)
    total = max((size - 1) * stride + kernel - size * stride, 0)
    x = torch.zeros(1, 3, size * stride, dtype=torch.float64, requires_grad=True)
    forward = functional.conv1d(
        functional.pad(x, [total // 2, total - total // 2]), torch.from_numpy(weight).double(), stride=stride
    )
    (wanted,) = torch.autograd.grad(forward, x, torch.from_numpy(y).double())
    check.hold(
        "conv_transpose",
        [([y], lambda mb, y: mb.conv_transpose(x=y, weight=weight, strides=[stride], pad_type="same"), [wanted])],
        rtol=1e-4,
    )


def pools(kind: str, **how: Any) -> Any:
    return lambda mb, x: getattr(mb, kind)(x=x, pad_type="custom", **how)


@pytest.mark.parametrize("kind", ["avg_pool", "max_pool"])
def test_windows_of_padding_alone_are_refused(kind: str, make_package: Any) -> None:
    x = np.ones((1, 1, 5), np.float32)
    path = make_package([x], pools(kind, kernel_sizes=[2], pad=[3, 0]))
    with pytest.raises(UsageError, match=f"'{kind}'.*a padding of 3 for windows of 2"):
        load(path).run({"in_0": x})


@pytest.mark.parametrize("kind", ["avg_pool", "max_pool"])
def test_windows_behind_the_picture_are_refused(kind: str, make_package: Any) -> None:
    """MIL's rule has them where a stride is longer than a window and there is no padding; torch's has not."""
    x = np.ones((1, 1, 3), np.float32)
    path = make_package([x], pools(kind, kernel_sizes=[1], strides=[3], pad=[0, 0], ceil_mode=True))
    with pytest.raises(UnavailableError, match=f"'{kind}'.*a window that lies behind the picture"):
        load(path).run({"in_0": x})
