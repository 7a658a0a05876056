"""Reductions, matrix products, normalizations and quantization of the Core ML executor against torch and NumPy."""

from __future__ import annotations

from collections.abc import Callable
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
from mobileseg.validation.coreml.operators import linear, normalization, quantization, reduction


def wide(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).double()


def reduced(name: str, expected: Callable[..., Any], low: float = -2, whole: tuple[int, int] = (-9, 9)) -> Any:
    """Of fractions; of integers, what is declared an integer loses its fraction."""

    def case(draw: Any) -> Any:
        integers = draw.flag()
        x = draw.whole(draw.shape(longest=4), *whole) if integers else draw.array(draw.shape(longest=4), low, 2)
        axes, keep = None if draw.flag() else draw.some(x.ndim), draw.flag()
        told = None if axes is None else draw.either(axes, x.ndim)
        over = tuple(range(x.ndim)) if axes is None else tuple(axes)
        wanted = np.asarray(expected(x.astype(np.float64), axis=over, keepdims=keep))
        if integers:
            wanted = np.trunc(wanted + np.sign(wanted) * 1e-9)  # a root or a logarithm that is whole but for rounding
        return [x], lambda mb, x: getattr(mb, name)(x=x, axes=told, keep_dims=keep), [wanted]

    return case


def extreme(name: str, expected: Callable[..., Any]) -> Any:
    """The first of equals, where MIL leaves it open."""

    def case(draw: Any) -> Any:
        x = draw.array(draw.shape()) if draw.flag() else draw.whole(draw.shape(), -2, 2)
        axis, how = draw.axis(x), {"keep_dims": draw.flag()}
        if draw.ios > 16:
            how["output_dtype"] = draw.one("int32", "uint16")
        wanted = expected(x, axis, keepdims=how["keep_dims"])
        return [x], lambda mb, x: getattr(mb, name)(x=x, axis=axis, **how), [wanted]

    return case


def log_sum_exp(x: np.ndarray, **how: Any) -> np.ndarray:
    return np.log(np.sum(np.exp(x), **how))


def otherwise(values: np.ndarray) -> np.ndarray:
    """The same whole numbers as integers or as fractions, whichever they are not."""
    return values.astype(np.int32 if values.dtype == np.float32 else np.float32)


def mixed(draw: Any) -> bool:
    """From iOS 17 on, a constant may be of another type."""
    return draw.ios > 16 and draw.number(0, 3) == 0


def products(draw: Any) -> Any:
    """Batches broadcast; a vector on the left is a row. Of a vector and batches, coremltools declares another shape."""
    if mixed(draw):
        x, y = (np.round(draw.array(s, -9, 9)) for s in ((2, 3), (3, 4)))
        x, y = (otherwise(x), y) if draw.flag() else (x, otherwise(y))
        why = "of two constants it wants one type"
        return [x], lambda mb, x: mb.matmul(x=x, y=y), [x.astype(np.float64) @ y], why
    n, k, m = (draw.number(1, 4) for _ in range(3))
    batch = [draw.number(1, 3) for _ in range(draw.number(0, 2))]
    other = [draw.one(1, b) for b in batch][draw.number(0, 2) :]
    make = draw.array if draw.flag() else (lambda shape: draw.whole(shape, -9, 9))
    left, right = make((*batch, n, k)), make((*other, k, m))
    flips = [draw.flag(), draw.flag()]
    if draw.number(0, 4) == 0 and right.ndim == 2:
        left, flips[0] = left[(0,) * (left.ndim - 1)], False
    x, y = left.swapaxes(-1, -2) if flips[0] else left, right.swapaxes(-1, -2) if flips[1] else right
    return (
        [np.ascontiguousarray(x), np.ascontiguousarray(y)],
        lambda mb, x, y: mb.matmul(x=x, y=y, transpose_x=flips[0], transpose_y=flips[1]),
        [left.astype(np.float64) @ right],
    )


def layers(draw: Any) -> Any:
    make = draw.array if draw.flag() else (lambda shape: draw.whole(shape, -9, 9))
    x = make(draw.shape(1, 3))
    weight = make((draw.number(1, 4), x.shape[-1]))
    bias = make((len(weight),)) if draw.flag() else None
    wanted = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
    if x.dtype == np.int32 and mixed(draw):
        weight, bias = otherwise(weight), None if bias is None else otherwise(bias)
    return [x], lambda mb, x: mb.linear(x=x, weight=weight, bias=bias), [wanted]


def einsums(draw: Any) -> Any:
    """Both forms that MIL has, whatever their letters; a batch and the last axis but one broadcast."""
    b, c, h, w, u = (draw.number(1, 4) for _ in range(5))
    x, y = draw.array((draw.one(1, b), c, draw.one(1, h), w)), draw.array((b, w, h, u))
    equation = draw.one("nchw,nwhu->nchu", "abcd,adce->abce")
    if draw.flag():
        x, y, equation = x[0], y[0], draw.one("chw,whr->chr", "abc,cbd->abd")
    wanted = np.einsum(equation, np.broadcast_to(x, (*y.shape[:-3], c, h, w)), y)
    return [x, y], lambda mb, x, y: mb.einsum(values=(x, y), equation=equation), [wanted]


def attention(draw: Any) -> Any:
    """The mask of true and false, or added; of the last axes alone or of all."""
    batch = [draw.number(1, 2) for _ in range(draw.number(1, 3))]
    length, source, e, v = (draw.number(1, 4) for _ in range(4))
    q, k, values = draw.array((*batch, length, e)), draw.array((*batch, source, e)), draw.array((*batch, source, v))
    shape = draw.one((source,), (length, source), (*[1] * len(batch), length, source), (*batch, length, source))
    mask = draw.one(None, draw.array(shape), np.arange(int(np.prod(shape))).reshape(shape) % source == 0)
    masks = None if mask is None else torch.from_numpy(mask) if mask.dtype == bool else wide(mask)
    if masks is not None:
        masks = masks.expand(*batch, length, source)
    wanted = functional.scaled_dot_product_attention(wide(q), wide(k), wide(values), masks)
    return (
        [q, k, values],
        lambda mb, q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask),
        [wanted],
    )


def affine(draw: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    return (draw.array(shape), draw.array(shape)) if draw.flag() else (None, None)


def widened(*parameters: Any) -> list[Any]:
    return [None if p is None else wide(p) for p in parameters]


def epsilon(draw: Any) -> np.float32:
    return np.float32(draw.one(2.0**-6, 2.0**-10, 0.25))


def batch_norms(draw: Any) -> Any:
    x = draw.array(draw.shape(3, 5, 4))
    mean, variance = draw.array(x.shape[1:2]), draw.array(x.shape[1:2], 0.125)
    (gamma, beta), eps = affine(draw, x.shape[1:2]), epsilon(draw)
    wanted = functional.batch_norm(wide(x), *widened(mean, variance, gamma, beta), eps=float(eps))
    return (
        [x],
        lambda mb, x: mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=eps),
        [wanted],
    )


def instance_norms(draw: Any) -> Any:
    """Where a channel has one element alone, nothing but the shift is left of it; torch has no name for that."""
    x = draw.array((*draw.shape(2, 2, 3), *draw.shape(1, 2, 4)))
    (gamma, beta), eps = affine(draw, x.shape[1:2]), epsilon(draw)
    values, axes = x.astype(np.float64), tuple(range(2, x.ndim))
    wanted = (values - values.mean(axes, keepdims=True)) / np.sqrt(values.var(axes, keepdims=True) + eps)
    if gamma is not None:
        shape = (-1, *[1] * (x.ndim - 2))
        wanted = wanted * gamma.reshape(shape) + beta.reshape(shape)
    return [x], lambda mb, x: mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=eps), [wanted]


def layer_norms(draw: Any) -> Any:
    """Over any axes, in any order; scale and shift are in x's order."""
    x = draw.array(draw.shape(2, 4, 4))
    axes, eps = draw.some(x.ndim), epsilon(draw)
    gamma, beta = affine(draw, tuple(x.shape[a] for a in axes))
    told = draw.either([axes[k] for k in draw.order(len(axes))], x.ndim)
    end = list(range(-len(axes), 0))
    wanted = functional.layer_norm(
        wide(x).movedim(axes, end), [x.shape[a] for a in axes], *widened(gamma, beta), eps=float(eps)
    ).movedim(end, axes)
    return [x], lambda mb, x: mb.layer_norm(x=x, axes=told, gamma=gamma, beta=beta, epsilon=eps), [wanted]


def l2_norms(draw: Any) -> Any:
    x, eps = draw.array(draw.shape(3, 5, 4)), epsilon(draw)
    wanted = wide(x) / ((wide(x) ** 2).sum((-3, -2, -1), keepdim=True) + float(eps)).sqrt()
    return [x], lambda mb, x: mb.l2_norm(x=x, epsilon=eps), [wanted]


def local_norms(draw: Any) -> Any:
    x, size = draw.array((draw.number(1, 2), draw.number(1, 6), *draw.shape(2, 2, 3))), draw.one(1, 3, 5)
    alpha, beta, k = draw.one(0.25, 0.5), draw.one(0.5, 0.75), draw.one(1.0, 1.5)
    squares = np.pad(x.astype(np.float64) ** 2, [(0, 0), (size // 2, size // 2), (0, 0), (0, 0)])
    around = np.lib.stride_tricks.sliding_window_view(squares, size, 1).sum(-1)
    wanted = x / (k + alpha / size * around) ** beta
    how = {"alpha": np.float32(alpha), "beta": np.float32(beta), "k": np.float32(k)}
    return [x], lambda mb, x: mb.local_response_norm(x=x, size=size, **how), [wanted]


def steps(draw: Any, x: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray, type]:
    """Scale and zero point, for all or along an axis, as given and as they broadcast. Powers of two: halves are met."""
    dtype, axis = draw.one(np.int8, np.uint8), draw.one(None, draw.number(0, x.ndim - 1))
    count = () if axis is None else (x.shape[axis],)
    scale = np.float32(2.0) ** draw.whole(count, -6, -2)
    zero = draw.whole(count, np.iinfo(dtype).min, np.iinfo(dtype).max) * draw.one(0, 1)
    how: dict[str, Any] = {"scale": np.float32(scale) if axis is None else scale.astype(np.float32)}
    if zero.any() or draw.flag():
        how["zero_point"] = dtype(zero) if axis is None else zero.astype(dtype)
    if axis is None:
        return how, scale, zero, dtype
    shape = [-1 if k == axis else 1 for k in range(x.ndim)]
    return {**how, "axis": axis - draw.one(0, x.ndim)}, scale.reshape(shape), zero.reshape(shape), dtype


def quantizations(draw: Any) -> Any:
    """Halves to even, before the zero point is added; what does not fit is the nearest that does."""
    x = np.round(draw.array(draw.shape(), -8, 8) * 64) / np.float32(64)
    how, scale, zero, dtype = steps(draw, x)
    bounds = np.iinfo(dtype)
    wanted = np.clip(np.round(x / scale) + zero, bounds.min, bounds.max)
    return [x], lambda mb, x: mb.quantize(input=x, output_dtype=np.dtype(dtype).name, **how), [wanted]


def dequantizations(draw: Any) -> Any:
    x = draw.whole(draw.shape(), 0, 127)
    how, scale, zero, dtype = steps(draw, x)
    name = np.dtype(dtype).name
    return (
        [x],
        lambda mb, x: mb.dequantize(input=mb.cast(x=x, dtype=name), **how),
        [scale * (x - zero.astype(np.float64))],
    )


CASES = {
    "batch_norm": batch_norms,
    "dequantize": dequantizations,
    "einsum": einsums,
    "instance_norm": instance_norms,
    "l2_norm": l2_norms,
    "layer_norm": layer_norms,
    "linear": layers,
    "local_response_norm": local_norms,
    "matmul": products,
    "quantize": quantizations,
    "reduce_argmax": extreme("reduce_argmax", np.argmax),
    "reduce_argmin": extreme("reduce_argmin", np.argmin),
    "reduce_l1_norm": reduced("reduce_l1_norm", lambda x, **how: np.sum(np.abs(x), **how)),
    "reduce_l2_norm": reduced("reduce_l2_norm", lambda x, **how: np.sqrt(np.sum(x * x, **how))),
    "reduce_log_sum": reduced("reduce_log_sum", lambda x, **how: np.log(np.sum(x, **how)), 0.125, (1, 9)),
    "reduce_log_sum_exp": reduced("reduce_log_sum_exp", log_sum_exp),
    "reduce_max": reduced("reduce_max", np.max),
    "reduce_mean": reduced("reduce_mean", np.mean),
    "reduce_min": reduced("reduce_min", np.min),
    "reduce_prod": reduced("reduce_prod", np.prod, whole=(-1, 1)),
    "reduce_sum": reduced("reduce_sum", np.sum),
    "reduce_sum_square": reduced("reduce_sum_square", lambda x, **how: np.sum(x * x, **how)),
    "scaled_dot_product_attention": attention,
}


def test_every_operator_of_these_families_is_tested() -> None:
    families = (linear, normalization, quantization, reduction)
    assert set(CASES) == {kind for family in families for kind in family.OPERATORS}


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(settings.get_profile("operators"))
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    check(kind, CASES[kind], data, rtol=1e-4)


def test_every_parameter_of_these_operators_is_varied(check: Any) -> None:
    check.has_varied(set(CASES), fixed=set())


def test_the_first_of_equals_is_the_greatest(check: Any) -> None:
    x = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    check.hold("reduce_argmax", [([x], lambda mb, x: mb.reduce_argmax(x=x, axis=1), [[1, 0]])])


def test_which_of_three_axes_are_channels_is_not_defined(make_package: Any) -> None:
    """MIL's documentation says the second; what coremltools' test expects of Core ML is true of the first."""
    x = np.array([[[1.0, -7.0], [5.0, -6.0], [-3.0, -5.0]]], np.float32)
    with pytest.raises(UnavailableError, match=r"op \d+ 'local_response_norm'.*which of 3 axes are the channels"):
        load(make_package([x], lambda mb, x: mb.local_response_norm(x=x, size=3))).run({"in_0": x})


def test_a_mean_of_integers_loses_its_fraction(check: Any) -> None:
    x = np.array([1, 2, 4], np.int32)
    check.hold("reduce_mean", [([x], lambda mb, x: mb.reduce_mean(x=x), [2])])


def test_norms_of_large_integers_are_exact(check: Any) -> None:
    """A float32 holds no more than 24 bits of them."""
    x = np.array([30000, 20001], np.int32)
    wanted = int(np.sqrt(30000.0**2 + 20001.0**2))
    check.hold("reduce_l2_norm", [([x], lambda mb, x: mb.reduce_l2_norm(x=x), [wanted])])
    y = np.array([16777217, 16777217], np.int32)
    check.hold("reduce_mean", [([y], lambda mb, x: mb.reduce_mean(x=x), [16777217])])


@pytest.mark.parametrize("kind", ["reduce_sum", "reduce_max", "layer_norm"])
def test_reductions_over_no_axes_are_refused(kind: str, make_package: Any) -> None:
    """torch would reduce all of them."""
    x = np.ones((1, 1), np.float32)
    axes = np.zeros(0, np.int32)
    path = make_package([x], lambda mb, x: getattr(mb, kind)(x=x, axes=axes))
    with pytest.raises(UsageError, match=f"'{kind}'.*over no axes"):
        load(path).run({"in_0": x})
