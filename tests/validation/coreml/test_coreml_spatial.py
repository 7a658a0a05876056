"""Convolution, pooling and resizing of the Core ML executor against torch and the grids of MIL's documentation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.validation.coreml.operators import convolution, pooling, resizing

FEW = st.integers(1, 3)


def array(data: Any, *shape: int) -> np.ndarray:
    return np.random.default_rng(data.draw(st.integers(0, 1 << 16))).uniform(-2, 2, shape).astype(np.float32)


def wide(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).double()


def padded(x: torch.Tensor, padding: list[tuple[int, int]], value: float = 0.0) -> torch.Tensor:
    """By NumPy, so that nothing of torch's or the executor's order of axes is taken on trust."""
    return torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *padding], constant_values=value))


def padding_of(data: Any, sizes: list[int], spans: list[int], strides: list[int]) -> tuple[dict, list]:
    """A way of padding, and what it comes to: TensorFlow's rule for ``same``, ONNX's for ``same_lower``."""
    kind = data.draw(st.sampled_from(("valid", "custom", "same", "same_lower")))
    pairs = [(0, 0)] * len(sizes)
    if kind == "custom":
        pairs = [(data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k - 1))) for k in spans]
        return {"pad_type": kind, "pad": [n for pair in pairs for n in pair]}, pairs
    if kind != "valid":
        pairs = []
        for n, span, stride in zip(sizes, spans, strides, strict=True):
            total = max((math.ceil(n / stride) - 1) * stride + span - n, 0)
            pairs.append((total // 2, (total + 1) // 2)[:: 1 if kind == "same" else -1])
    return {"pad_type": kind}, pairs


def convolutions(data: Any) -> Any:
    axes = data.draw(FEW)
    groups, kernel = data.draw(FEW), [data.draw(FEW) for _ in range(axes)]
    strides, dilations = [data.draw(FEW) for _ in kernel], [data.draw(st.integers(1, 2)) for _ in kernel]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [span + data.draw(st.integers(0, 4)) for span in spans]
    x = array(data, data.draw(st.integers(1, 2)), groups * data.draw(st.integers(1, 2)), *sizes)
    weight = array(data, groups * data.draw(st.integers(1, 2)), x.shape[1] // groups, *kernel)
    bias = array(data, len(weight)) if data.draw(st.booleans()) else None
    how, padding = padding_of(data, sizes, spans, strides)
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    wanted = run(
        padded(wide(x), padding),
        wide(weight),
        None if bias is None else wide(bias),
        strides,
        0,
        dilations,
        groups,
    )
    return (
        [x],
        lambda mb, x: mb.conv(
            x=x, weight=weight, bias=bias, strides=strides, dilations=dilations, groups=groups, **how
        ),
        [wanted],
    )


def transposed(data: Any) -> Any:
    """By torch's own padding and output padding, which MIL says as crops or as the shape that comes out."""
    axes = data.draw(st.integers(1, 2))
    groups, kernel = data.draw(st.integers(1, 2)), [data.draw(st.integers(1, 4)) for _ in range(axes)]
    strides, dilations = [data.draw(FEW) for _ in kernel], [data.draw(st.integers(1, 2)) for _ in kernel]
    x = array(data, 1, 2 * groups, *[data.draw(st.integers(2, 5)) for _ in kernel])
    weight = array(data, x.shape[1], data.draw(st.integers(1, 2)), *kernel)
    bias = array(data, weight.shape[1] * groups) if data.draw(st.booleans()) else None
    pads = [data.draw(st.integers(0, (k - 1) * d // 2)) for k, d in zip(kernel, dilations, strict=True)]
    extra = [data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    run = (functional.conv_transpose1d, functional.conv_transpose2d)[axes - 1]
    wanted = run(wide(x), wide(weight), None if bias is None else wide(bias), strides, pads, extra, groups, dilations)
    how: dict[str, Any] = {"pad_type": "custom", "pad": [n for p in pads for n in (p, p)]}
    if any(extra):
        how["output_shape"] = list(wanted.shape)
    elif not any(pads):
        how = {"pad_type": "valid"}
    return (
        [x],
        lambda mb, x: mb.conv_transpose(
            x=x, weight=weight, bias=bias, strides=strides, dilations=dilations, groups=groups, **how
        ),
        [wanted],
    )


def windows(data: Any) -> tuple[np.ndarray, list[int], list[int]]:
    axes = data.draw(FEW)
    kernel = [data.draw(st.integers(1, 4)) for _ in range(axes)]
    x = array(data, 1, 2, *[k + data.draw(st.integers(0, 4)) for k in kernel])
    return x, kernel, [data.draw(FEW) for _ in kernel]


def pooled(x: torch.Tensor, kernel: list[int], strides: list[int]) -> torch.Tensor:
    """(N, C, *windows, elements of a window)."""
    for axis, (k, s) in enumerate(zip(kernel, strides, strict=True)):
        x = x.unfold(axis + 2, k, s)
    return x.flatten(-len(kernel))


def maxima(data: Any) -> Any:
    x, kernel, strides = windows(data)
    how, padding = padding_of(data, list(x.shape[2:]), kernel, strides)
    wanted = pooled(padded(wide(x), padding, -np.inf), kernel, strides).amax(-1)
    return [x], lambda mb, x: mb.max_pool(x=x, kernel_sizes=kernel, strides=strides, **how), [wanted]


def means(data: Any) -> Any:
    x, kernel, strides = windows(data)
    how, padding = padding_of(data, list(x.shape[2:]), kernel, strides)
    without = data.draw(st.booleans())
    sums = pooled(padded(wide(x), padding), kernel, strides).sum(-1)
    inside = pooled(padded(torch.ones(x.shape).double(), padding), kernel, strides).sum(-1)
    return (
        [x],
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=kernel, strides=strides, exclude_padding_from_average=without, **how
        ),
        [sums / (inside if without else math.prod(kernel))],
    )


def roots(data: Any) -> Any:
    x, kernel, strides = windows(data)
    x, kernel, strides = x.reshape(*x.shape[:4], -1)[..., 0], kernel[:2], strides[:2]
    kernel = [min(k, n) for k, n in zip(kernel, x.shape[2:], strict=True)]
    wanted = pooled(wide(x) ** 2, kernel, strides[: len(kernel)]).sum(-1).sqrt()
    return (
        [x],
        lambda mb, x: mb.l2_pool(x=x, kernel_sizes=kernel, strides=strides[: len(kernel)], pad_type="valid"),
        [wanted],
    )


def grid(old: int, new: int, mode: str) -> np.ndarray:
    """As MIL's documentation of ``resize_bilinear`` writes it."""
    i = np.arange(new)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if new == 1:
            return np.array([0.0 if mode.startswith("STRICT") else (old - 1) / 2])
        points = i * (old - 1) / (new - 1)
    elif mode == "DEFAULT":
        points = i * (old - old / new) / max(new - 1, 1)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, old - 1) / new
        points = 0.5 * delta + i * delta
    else:
        points = i * old / new + 0.5 * old / new - 0.5
    return np.clip(points, 0, old - 1)


def interpolated(x: np.ndarray, points: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    values = x.astype(np.float64)
    for axis, at in zip((-2, -1), points, strict=True):
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (at - low).reshape((-1,) + (1,) * (-1 - axis))
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def picture(data: Any) -> tuple[np.ndarray, int, int]:
    x = array(data, *data.draw(st.tuples(FEW, FEW, st.integers(1, 6), st.integers(1, 6))))
    return (x[0] if data.draw(st.booleans()) else x), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))


def bilinear(data: Any) -> Any:
    x, height, width = picture(data)
    mode = data.draw(st.sampled_from(MODES))
    return (
        [x],
        lambda mb, x: mb.resize_bilinear(x=x, target_size_height=height, target_size_width=width, sampling_mode=mode),
        [interpolated(x, (grid(x.shape[-2], height, mode), grid(x.shape[-1], width, mode)))],
    )


def resized(data: Any) -> Any:
    x, height, width = picture(data)
    mode = data.draw(st.sampled_from(MODES))
    dims = data.draw(st.integers(1, 2))
    height = height if dims == 2 else x.shape[-2]
    return (
        [x],
        lambda mb, x: mb.resize(x=x, shape=[7, height, width], resized_dims=np.uint32(dims), sampling_mode=mode),
        [interpolated(x, (grid(x.shape[-2], height, mode), grid(x.shape[-1], width, mode)))],
    )


def upsampled(data: Any) -> Any:
    x, rows, columns = picture(data)
    aligned = data.draw(st.booleans())
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS"
    points = grid(x.shape[-2], rows * x.shape[-2], mode), grid(x.shape[-1], columns * x.shape[-1], mode)
    return (
        [x],
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=rows, scale_factor_width=columns, align_corners=aligned
        ),
        [interpolated(x, points)],
    )


def repeated(data: Any) -> Any:
    x, rows, columns = picture(data)
    return (
        [x],
        lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=rows, scale_factor_width=columns),
        [x.repeat(rows, -2).repeat(columns, -1)],
    )


def nearest(data: Any) -> Any:
    x, height, width = picture(data)
    rows, columns = ([i * n // m for i in range(m)] for m, n in ((height, x.shape[-2]), (width, x.shape[-1])))
    return (
        [x],
        lambda mb, x: mb.resize_nearest_neighbor(x=x, target_size_height=height, target_size_width=width),
        [x.take(rows, -2).take(columns, -1)],
    )


def crops(data: Any) -> Any:
    x, _, _ = picture(data)
    top, left = data.draw(st.integers(0, x.shape[-2] - 1)), data.draw(st.integers(0, x.shape[-1] - 1))
    bottom = data.draw(st.integers(0, x.shape[-2] - 1 - top))
    right = data.draw(st.integers(0, x.shape[-1] - 1 - left))
    wanted = x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
    return [x], lambda mb, x: mb.crop(x=x, crop_height=[top, bottom], crop_width=[left, right]), [wanted]


def resampled(data: Any) -> Any:
    """torch has each of these in one of its two conventions of corners; the others are brought to it."""
    x = array(data, 2, 2, data.draw(st.integers(2, 6)), data.draw(st.integers(2, 6)))
    points = array(data, 2, 3, 4, 2) * np.float32(0.8)
    mode, aligned = data.draw(st.sampled_from(("bilinear", "nearest"))), data.draw(st.booleans())
    ours, theirs = data.draw(
        st.sampled_from(
            (("constant", "zeros"), ("border", "border"), ("reflection" if aligned else "symmetric", "reflection"))
        )
    )
    form = data.draw(st.sampled_from(("normalized_minus_one_to_one", "normalized_zero_to_one", "unnormalized")))
    sizes = np.array([x.shape[3], x.shape[2]])
    told = {
        "normalized_minus_one_to_one": points,
        "normalized_zero_to_one": (points + 1) / 2,
        "unnormalized": (points + 1) / 2 * (sizes - 1) if aligned else (points + 1) / 2 * sizes - 0.5,
    }[form].astype(np.float32)
    shift = data.draw(st.sampled_from((0.0, 1.5))) if ours == "constant" else 0.0
    wanted = functional.grid_sample(wide(x) - shift, wide(points), mode, theirs, aligned) + shift
    return (
        [x, told],
        lambda mb, x, points: mb.resample(
            x=x,
            coordinates=points,
            sampling_mode=mode,
            padding_mode=ours,
            padding_value=np.float32(shift),
            coordinates_mode=form,
            align_corners=aligned,
        ),
        [wanted],
    )


CASES = {
    "avg_pool": means,
    "conv": convolutions,
    "conv_transpose": transposed,
    "crop": crops,
    "l2_pool": roots,
    "max_pool": maxima,
    "resample": resampled,
    "resize": resized,
    "resize_bilinear": bilinear,
    "resize_nearest_neighbor": nearest,
    "upsample_bilinear": upsampled,
    "upsample_nearest_neighbor": repeated,
}


def test_every_operator_of_these_families_is_tested() -> None:
    assert set(CASES) == {*convolution.OPERATORS, *pooling.OPERATORS, *resizing.OPERATORS}


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    target = "iOS17" if kind == "resize" else data.draw(st.sampled_from(("iOS16", "iOS18")))
    check(kind, [CASES[kind](data) for _ in range(8)], target, rtol=1e-4)


@pytest.mark.parametrize("average", [False, True])
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_pooling_with_ceil_mode_is_torch_s(average: bool, check: Any, data: Any) -> None:
    def case() -> Any:
        axes = data.draw(st.integers(1, 2))
        kernel = [data.draw(st.integers(2, 4)) for _ in range(axes)]
        strides = [data.draw(st.integers(1, k)) for k in kernel]
        pads = [data.draw(st.integers(0, k // 2)) for k in kernel]
        x = array(data, 1, 2, *[k + data.draw(st.integers(0, 5)) for k in kernel])
        without = data.draw(st.booleans())
        how = {
            "kernel_sizes": kernel,
            "strides": strides,
            "pad_type": "custom",
            "pad": [n for p in pads for n in (p, p)],
            "ceil_mode": True,
        }
        if average:
            pool = (functional.avg_pool1d, functional.avg_pool2d)[axes - 1]
            wanted = pool(torch.from_numpy(x), kernel, strides, pads, True, not without)
            return [x], lambda mb, x: mb.avg_pool(x=x, exclude_padding_from_average=without, **how), [wanted]
        pool = (functional.max_pool1d, functional.max_pool2d)[axes - 1]
        return [x], lambda mb, x: mb.max_pool(x=x, **how), [pool(wide(x), kernel, strides, pads, 1, True)]

    check("avg_pool" if average else "max_pool", [case() for _ in range(8)])


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
    check(
        "conv_transpose",
        [([y], lambda mb, y: mb.conv_transpose(x=y, weight=weight, strides=[stride], pad_type="same"), [wanted])],
        rtol=1e-4,
    )


def test_upsampling_by_a_fraction_keeps_to_the_sizes(check: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    wanted = functional.interpolate(torch.from_numpy(x), (5, 6), mode="bilinear")
    check(
        "upsample_bilinear",
        [
            (
                [x],
                lambda mb, x: mb.upsample_bilinear(
                    x=x, scale_factor_height=1.7, scale_factor_width=1.5, align_corners=False
                ),
                [wanted],
            )
        ],
    )


def test_nearest_of_the_newer_resize(check: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    check(
        "resize",
        [
            (
                [x],
                lambda mb, x: mb.resize(
                    x=x, shape=[0, 6], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"
                ),
                [x.take([0, 0, 1, 2, 2, 3], -1)],
            )
        ],
    )
