"""Reductions, matrix products, normalizations and quantization of the Core ML executor against torch and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.validation.coreml.operators import linear, normalization, quantization, reduction

NEWER = {"scaled_dot_product_attention": "iOS18", "quantize": "iOS17", "dequantize": "iOS18"}
FEW = st.integers(1, 4)
SHAPES = st.lists(FEW, min_size=1, max_size=4).map(tuple)


def array(data: Any, *shape: int, low: float = -2, high: float = 2) -> np.ndarray:
    return np.random.default_rng(data.draw(st.integers(0, 1 << 16))).uniform(low, high, shape).astype(np.float32)


def wide(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).double()


def reduced(name: str, expected: Callable[..., Any], low: float = -2) -> Callable[[Any], Any]:
    def case(data: Any) -> Any:
        x = array(data, *data.draw(SHAPES), low=low)
        axes = data.draw(st.none() | st.sets(st.integers(0, x.ndim - 1), min_size=1).map(sorted))
        told = None if axes is None else [a - data.draw(st.sampled_from((0, x.ndim))) for a in axes]
        keep = data.draw(st.booleans())
        over = tuple(range(x.ndim)) if axes is None else tuple(axes)
        wanted = expected(x.astype(np.float64), axis=over, keepdims=keep)
        return [x], lambda mb, x: getattr(mb, name)(x=x, axes=told, keep_dims=keep), [wanted]

    return case


def extreme(name: str, expected: Callable[..., Any]) -> Callable[[Any], Any]:
    def case(data: Any) -> Any:
        x = array(data, *data.draw(SHAPES))
        axis, keep = data.draw(st.integers(-x.ndim, x.ndim - 1)), data.draw(st.booleans())
        wanted = expected(x, axis, keepdims=keep)
        return [x], lambda mb, x: getattr(mb, name)(x=x, axis=axis, keep_dims=keep), [wanted]

    return case


def products(data: Any) -> Any:
    n, k, m = data.draw(FEW), data.draw(FEW), data.draw(FEW)
    batch = data.draw(st.lists(st.integers(1, 3), max_size=2))
    other = [data.draw(st.sampled_from((1, b))) for b in batch][data.draw(st.integers(0, 2)) :]
    left, right = array(data, *batch, n, k), array(data, *other, k, m)
    flips = data.draw(st.booleans()), data.draw(st.booleans())
    x, y = left.swapaxes(-1, -2) if flips[0] else left, right.swapaxes(-1, -2) if flips[1] else right
    return (
        [np.ascontiguousarray(x), np.ascontiguousarray(y)],
        lambda mb, x, y: mb.matmul(x=x, y=y, transpose_x=flips[0], transpose_y=flips[1]),
        [left.astype(np.float64) @ right],
    )


def layers(data: Any) -> Any:
    x = array(data, *data.draw(st.lists(FEW, min_size=1, max_size=3)))
    weight = array(data, data.draw(FEW), x.shape[-1])
    bias = array(data, len(weight)) if data.draw(st.booleans()) else None
    wanted = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
    return [x], lambda mb, x: mb.linear(x=x, weight=weight, bias=bias), [wanted]


def einsums(data: Any) -> Any:
    b, c, h, w, u = (data.draw(FEW) for _ in range(5))
    if data.draw(st.booleans()):
        x, y, equation = array(data, b, c, h, w), array(data, b, w, h, u), "nchw,nwhu->nchu"
    else:
        x, y, equation = array(data, c, h, w), array(data, w, h, u), "chw,whr->chr"
    return [x, y], lambda mb, x, y: mb.einsum(values=(x, y), equation=equation), [np.einsum(equation, x, y)]


def attention(data: Any) -> Any:
    b, length, source, e, v = (data.draw(FEW) for _ in range(5))
    q, k, values = array(data, b, 2, length, e), array(data, b, 2, source, e), array(data, b, 2, source, v)
    mask = array(data, length, source) if data.draw(st.booleans()) else None
    wanted = functional.scaled_dot_product_attention(
        wide(q), wide(k), wide(values), None if mask is None else wide(mask)
    )
    return (
        [q, k, values],
        lambda mb, q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mask),
        [wanted],
    )


def pictures(data: Any) -> np.ndarray:
    return array(data, data.draw(st.integers(1, 2)), data.draw(FEW), *data.draw(st.tuples(st.integers(2, 5), FEW)))


def affine(data: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    return (array(data, *shape), array(data, *shape)) if data.draw(st.booleans()) else (None, None)


def batch_norms(data: Any) -> Any:
    x = pictures(data)
    mean, variance = array(data, x.shape[1]), array(data, x.shape[1], low=0.1)
    gamma, beta = affine(data, x.shape[1:2])
    wanted = functional.batch_norm(
        wide(x), wide(mean), wide(variance), *(None if p is None else wide(p) for p in (gamma, beta)), eps=1e-3
    )
    return (
        [x],
        lambda mb, x: mb.batch_norm(
            x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=np.float32(1e-3)
        ),
        [wanted],
    )


def instance_norms(data: Any) -> Any:
    x = pictures(data)
    gamma, beta = affine(data, x.shape[1:2])
    weights = [None if p is None else wide(p) for p in (gamma, beta)]
    wanted = functional.instance_norm(wide(x), weight=weights[0], bias=weights[1], eps=1e-2)
    return [x], lambda mb, x: mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=np.float32(1e-2)), [wanted]


def layer_norms(data: Any) -> Any:
    """Over any axes: for torch they are brought to the end."""
    x = array(data, *data.draw(st.lists(st.integers(2, 4), min_size=2, max_size=4)))
    axes = sorted(data.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1)))
    gamma, beta = affine(data, tuple(x.shape[a] for a in axes))
    end = list(range(-len(axes), 0))
    weights = [None if p is None else wide(p) for p in (gamma, beta)]
    moved = wide(x).movedim(axes, end)
    wanted = functional.layer_norm(moved, [x.shape[a] for a in axes], *weights, eps=1e-2).movedim(end, axes)
    return (
        [x],
        lambda mb, x: mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=np.float32(1e-2)),
        [wanted],
    )


def l2_norms(data: Any) -> Any:
    x = array(data, *data.draw(st.lists(FEW, min_size=3, max_size=5)))
    wanted = wide(x) / ((wide(x) ** 2).sum((-3, -2, -1), keepdim=True) + 1e-3).sqrt()
    return [x], lambda mb, x: mb.l2_norm(x=x, epsilon=np.float32(1e-3)), [wanted]


def local_norms(data: Any) -> Any:
    x, size = array(data, 1, data.draw(st.integers(1, 6)), 2, 3), data.draw(st.sampled_from((1, 3, 5)))
    squares = np.pad(x.astype(np.float64) ** 2, [(0, 0), (size // 2, size // 2), (0, 0), (0, 0)])
    around = np.lib.stride_tricks.sliding_window_view(squares, size, 1).sum(-1)
    wanted = x / (1.5 + 0.25 / size * around) ** 0.5
    return [x], lambda mb, x: mb.local_response_norm(x=x, size=size, alpha=0.25, beta=0.5, k=1.5), [wanted]


def steps(data: Any, x: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray, type]:
    """Scale and zero point, for all or along an axis, as given and as they broadcast."""
    dtype = data.draw(st.sampled_from((np.int8, np.uint8)))
    axis = data.draw(st.none() | st.integers(0, x.ndim - 1))
    count = () if axis is None else (x.shape[axis],)
    scale = (2.0 ** np.random.default_rng(data.draw(st.integers(0, 99))).integers(-6, -2, count)).astype(np.float32)
    zero = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 100, count).astype(dtype)
    shape = [-1 if k == axis else 1 for k in range(x.ndim)]
    how: dict[str, Any] = {"scale": scale, "zero_point": zero}
    if axis is None:
        return {**how, "scale": np.float32(scale), "zero_point": dtype(zero)}, scale, zero, dtype
    return {**how, "axis": axis}, scale.reshape(shape), zero.reshape(shape), dtype


def quantizations(data: Any) -> Any:
    x = np.round(array(data, *data.draw(SHAPES), low=-8, high=8) * 64) / np.float32(64)
    how, scale, zero, dtype = steps(data, x)
    bounds = np.iinfo(dtype)
    wanted = np.clip(np.round(x / scale) + zero, bounds.min, bounds.max)
    return [x], lambda mb, x: mb.quantize(input=x, output_dtype=np.dtype(dtype).name, **how), [wanted]


def dequantizations(data: Any) -> Any:
    x = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 127, data.draw(SHAPES)).astype(np.int32)
    how, scale, zero, dtype = steps(data, x)
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
    "reduce_log_sum": reduced("reduce_log_sum", lambda x, **how: np.log(np.sum(x, **how)), low=0.1),
    "reduce_log_sum_exp": reduced("reduce_log_sum_exp", lambda x, **how: np.log(np.sum(np.exp(x), **how))),
    "reduce_max": reduced("reduce_max", np.max),
    "reduce_mean": reduced("reduce_mean", np.mean),
    "reduce_min": reduced("reduce_min", np.min),
    "reduce_prod": reduced("reduce_prod", np.prod),
    "reduce_sum": reduced("reduce_sum", np.sum),
    "reduce_sum_square": reduced("reduce_sum_square", lambda x, **how: np.sum(x * x, **how)),
    "scaled_dot_product_attention": attention,
}


def test_every_operator_of_these_families_is_tested() -> None:
    families = (linear, normalization, quantization, reduction)
    assert set(CASES) == {kind for family in families for kind in family.OPERATORS}


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    target = NEWER.get(kind) or data.draw(st.sampled_from(("iOS16", "iOS18")))
    check(kind, [CASES[kind](data) for _ in range(8)], target, rtol=1e-4)


def test_the_first_of_equals_is_the_greatest(check: Any) -> None:
    x = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    check("reduce_argmax", [([x], lambda mb, x: mb.reduce_argmax(x=x, axis=1), [[1, 0]])])


def test_a_mean_of_integers_loses_its_fraction(check: Any) -> None:
    x = np.array([1, 2, 4], np.int32)
    check("reduce_mean", [([x], lambda mb, x: mb.reduce_mean(x=x), [2])])


def test_a_vector_multiplies_a_matrix(check: Any) -> None:
    x, y = np.arange(3, dtype=np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    check("matmul", [([x, y], lambda mb, x, y: mb.matmul(x=x, y=y), [x @ y])])
