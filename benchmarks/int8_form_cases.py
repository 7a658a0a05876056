"""The forms that `int8_forms.py` times: of each operator, as a step of a chain, (1, C, H, W) float32 to the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mobileseg.converters.passes.separable import FORMS as PRODUCTS

Shape = tuple[int, int, int]
Step = Callable[[Tensor, int], Tensor]
"""One form of the chain's i-th member: (1, C, H, W) to the same."""

LENGTH = 10


@dataclass(frozen=True)
class Form:
    """``left``: operators that stay float."""

    step: Step
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """``forms``: all compute the same. ``before``: what stands in front of each: a gain and offset per channel, a
    LEAKY_RELU where the converter would fold the form into these, or nothing."""

    operator: str
    shape: Shape
    forms: dict[str, Form]
    before: Literal["affine", "leaky", "nothing"] = "affine"


# The forms


def depthwise_affine(x: Tensor, gain: Tensor, offset: Tensor | None = None) -> Tensor:
    return F.conv2d(x, gain.reshape(-1, 1, 1, 1), offset, groups=x.shape[1])


def vectors(shape: Shape, low: float, high: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape[2], generator=generator) * (high - low) + low for _ in range(LENGTH)]


def rows_of(vectors: Sequence[Tensor], shape: Shape) -> list[Tensor]:
    return [v.reshape(1, -1, 1, 1).expand(-1, -1, -1, shape[1]).contiguous() for v in vectors]


def prelu(shape: Shape) -> Case:
    a = vectors(shape, 0.05, 0.55)
    rows, columns = rows_of(a, shape), [v.reshape(1, -1, 1, 1) for v in a]
    return Case(
        "PReLU, slopes <= 1",
        shape,
        {
            "PRELU": Form(lambda x, i: F.prelu(x, a[i])),
            "PRELU, left in float": Form(lambda x, i: F.prelu(x, a[i]), ("PRELU",)),
            "MAXIMUM(x, MUL by channel)": Form(lambda x, i: torch.maximum(x, x * columns[i])),
            "MAXIMUM(x, MUL by row)": Form(lambda x, i: torch.maximum(x, x * rows[i])),
            "MAXIMUM(x, depthwise 1x1)": Form(lambda x, i: torch.maximum(x, depthwise_affine(x, a[i]))),
            "x + RELU(depthwise 1x1)": Form(lambda x, i: x + F.relu(depthwise_affine(x, a[i] - 1))),
            "LEAKY_RELU (one slope)": Form(lambda x, i: F.leaky_relu(x, 0.25)),
        },
    )


def mixed_prelu(shape: Shape) -> Case:
    a = vectors(shape, 0.1, 1.6)
    rest, turned = rows_of([1 - v for v in a], shape), rows_of([-torch.ones(shape[2])] * LENGTH, shape)
    low = rows_of([v.clamp(max=1) for v in a], shape)
    above = rows_of([(1 - v).clamp(max=0) for v in a], shape)
    return Case(
        "PReLU, slopes on both sides of 1",
        shape,
        {
            "PRELU, left in float": Form(lambda x, i: F.prelu(x, a[i]), ("PRELU",)),
            "MAXIMUM(x, 0) + MUL(MINIMUM(x, 0))": Form(
                lambda x, i: F.relu(x) + torch.minimum(x, x.new_zeros(1, 1, 1, 1)) * a[i].reshape(1, -1, 1, 1)
            ),
            "x + MUL(RELU(MUL)), rows": Form(lambda x, i: x + F.relu(x * turned[i]) * rest[i]),
            "MAXIMUM(x, MUL) - RELU(MUL), rows": Form(lambda x, i: torch.maximum(x, x * low[i]) - F.relu(x * above[i])),
            "depthwise(x) + depthwise(|x|)": Form(
                lambda x, i: (
                    depthwise_affine(x, (1 + a[i]) / 2) + depthwise_affine(F.leaky_relu(x, -1.0), (1 - a[i]) / 2)
                )
            ),
            "MAXIMUM of turned signs (turn_signs)": Form(lambda x, i: torch.maximum(x, x * low[i])),
        },
    )


def relu(shape: Shape) -> Case:
    ones, half = torch.ones(shape[2]), shape[2] // 2
    (row,) = rows_of([ones * 0.99], shape)

    def apart(x: Tensor) -> Tensor:
        # A concatenation, into which no limit is fused.
        return torch.cat([x[:, half:], x[:, :half]], 1)

    return Case(
        "ReLU behind a concatenation",
        shape,
        {
            "without (the concatenation alone)": Form(lambda x, _: apart(x)),
            "RELU (the quantizer's MUL by 1)": Form(lambda x, _: F.relu(apart(x))),
            "RELU, left in float": Form(lambda x, _: F.relu(apart(x)), ("RELU",)),
            "in the depthwise 1x1 before": Form(lambda x, _: apart(F.relu(x))),
            "depthwise 1x1 with RELU": Form(lambda x, _: F.relu(depthwise_affine(apart(x), ones))),
            "MUL by row, with RELU": Form(lambda x, _: F.relu(apart(x) * row)),
        },
    )


def affine(shape: Shape) -> Case:
    g, t = vectors(shape, 0.5, 1.1), vectors(shape, -0.1, 0.1)
    g_rows, t_rows = rows_of(g, shape), rows_of(t, shape)
    diagonal = [torch.diag(v)[:, :, None, None] for v in g]
    return Case(
        "gain and offset per channel",
        shape,
        {
            "MUL, ADD by channel": Form(lambda x, i: x * g[i].reshape(1, -1, 1, 1) + t[i].reshape(1, -1, 1, 1)),
            "MUL, ADD by row": Form(lambda x, i: x * g_rows[i] + t_rows[i]),
            "depthwise 1x1": Form(lambda x, i: depthwise_affine(x, g[i], t[i])),
            "1x1 with zeros": Form(lambda x, i: F.conv2d(x, diagonal[i], t[i])),
        },
        before="leaky",
    )


def average(shape: Shape) -> Case:
    weights = torch.full((shape[2], 1, 3, 3), 1 / 9)
    pooled: Step = lambda x, _: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)  # noqa: E731
    return Case(
        "average pooling 3x3",
        shape,
        {
            "AVERAGE_POOL_2D": Form(pooled),
            "AVERAGE_POOL_2D, left in float": Form(pooled, ("AVERAGE_POOL_2D",)),
            "depthwise 3x3": Form(lambda x, _: F.conv2d(x, weights, padding=1, groups=x.shape[1])),
        },
    )


def depthwise(shape: Shape, dilation: int) -> Case:
    channels, generator = shape[2], torch.Generator().manual_seed(0)
    own = [torch.randn(channels, 1, 3, 3, generator=generator) * 0.4 for _ in range(LENGTH)]
    full = [torch.einsum("oi,ohw->oihw", torch.eye(channels), w[:, 0]) for w in own]
    return Case(
        f"depthwise 3x3, dilation {dilation}",
        shape,
        {
            "DEPTHWISE_CONV_2D": Form(
                lambda x, i: F.conv2d(x, own[i], None, 1, dilation, dilation, x.shape[1]),
            ),
            "CONV_2D with zeros": Form(lambda x, i: F.conv2d(x, full[i], None, 1, dilation, dilation)),
        },
        before="nothing",
    )


def grouped(shape: Shape, outputs: int, groups: int, kernel: int) -> Case:
    inputs, generator = shape[2], torch.Generator().manual_seed(0)
    own = [torch.randn(outputs, inputs // groups, kernel, kernel, generator=generator) / inputs for _ in range(LENGTH)]
    blocks = torch.eye(groups).repeat_interleave(outputs // groups, 0)
    full = [torch.einsum("og,oihw->ogihw", blocks, w).flatten(1, 2).contiguous() * 4 for w in own]
    own = [w * 4 for w in own]

    def back(x: Tensor) -> Tensor:
        copies = -(-inputs // outputs)
        return torch.cat([x] * copies, 1)[:, :inputs] if inputs != outputs else x

    def few(x: Tensor, _: int) -> Tensor:
        return back(x[:, :outputs])

    forms = {
        "CONV_2D in groups": Form(lambda x, i: back(F.conv2d(x, own[i], None, 1, kernel // 2, 1, groups))),
        "CONV_2D with zeros": Form(lambda x, i: back(F.conv2d(x, full[i], None, 1, kernel // 2))),
    }
    if outputs < inputs:
        forms = {"without (back to as many channels)": Form(few), **forms}
    title = f"{inputs} to {outputs} channels in {groups} groups, {kernel}x{kernel}"
    return Case(title, shape, forms, before="nothing")


def products(shape: Shape) -> Case:
    """Both axes to a tenth and back: averages, then copies."""
    height, width, _ = shape
    down = [torch.eye(n // 10).repeat_interleave(10, 1) / 10 for n in (height, width)]
    down = [F.pad(m, (0, n - m.shape[1])) for m, n in zip(down, (height, width), strict=True)]

    def there_and_back(form: str) -> Step:
        def step(x: Tensor, _: int) -> Tensor:
            x = PRODUCTS[form](x, rows=down[0], columns=down[1])
            return PRODUCTS[form](x, rows=down[0].T * 10, columns=down[1].T * 10)

        return step

    forms = {form: Form(there_and_back(form)) for form in ("channels_last", "linear_channels_last")}
    return Case("constant matrix products, to a tenth and back", shape, forms)


def shuffle(shape: Shape) -> Case:
    channels = shape[2]

    def of_rank_5(x: Tensor, _: int) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    def flat(x: Tensor, _: int) -> Tensor:
        n, c, h, w = x.shape
        lines = x.permute(0, 2, 3, 1).reshape(n * h * w, 2, c // 2).transpose(1, 2)
        return lines.reshape(n, h, w, c).permute(0, 3, 1, 2)

    permutation = torch.eye(channels)[torch.arange(channels).reshape(2, -1).T.reshape(-1)][:, :, None, None]
    return Case(
        "channel shuffle",
        shape,
        {
            "TRANSPOSE, 3 axes": Form(flat),
            "TRANSPOSE, 5 axes": Form(of_rank_5),
            "CONV_2D 1x1 of ones": Form(lambda x, _: F.conv2d(x, permutation)),
        },
    )


def resizing(shape: Shape) -> Case:
    def twice(x: Tensor, align: bool) -> Tensor:
        return F.max_pool2d(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=align), 2)

    return Case(
        "bilinear x2, and MAX_POOL_2D back",
        shape,
        {
            "RESIZE_BILINEAR, half pixel centres": Form(lambda x, _: twice(x, False)),
            "RESIZE_BILINEAR, aligned corners": Form(lambda x, _: twice(x, True)),
            "RESIZE_BILINEAR, left in float": Form(lambda x, _: twice(x, True), ("RESIZE_BILINEAR",)),
        },
    )


def elementwise(shape: Shape) -> Case:
    v, r = vectors(shape, 0.5, 1.1), rows_of(vectors(shape, 0.5, 1.1), shape)
    return Case(
        "elementwise",
        shape,
        {
            "ADD, and a LEAKY_RELU": Form(lambda x, i: x + F.leaky_relu(x, 0.1 + i / 20)),
            "SUB, and a LEAKY_RELU": Form(lambda x, i: x - F.leaky_relu(x, 0.1 + i / 20)),
            "MAXIMUM, and a LEAKY_RELU": Form(lambda x, i: torch.maximum(x, F.leaky_relu(x, 0.1 + i / 20))),
            "MUL by channel": Form(lambda x, i: x * v[i].reshape(1, -1, 1, 1)),
            "MUL by row": Form(lambda x, i: x * r[i]),
        },
        before="leaky",
    )


def cases() -> Iterator[Case]:
    wide, middle, deep = (128, 256, 16), (64, 128, 64), (32, 64, 128)
    for shape in (wide, middle, deep):
        yield prelu(shape)
    for shape in (wide, middle):
        yield mixed_prelu(shape)
        yield relu(shape)
        yield elementwise(shape)
    for shape in ((128, 256, 4), wide, middle):
        yield affine(shape)
        yield depthwise(shape, 1)
    yield depthwise((64, 128, 8), 2)
    yield depthwise(deep, 2)
    yield average(wide)
    yield grouped(wide, 4, 4, 1)
    yield grouped((64, 128, 32), 32, 4, 1)
    yield grouped((32, 64, 64), 64, 4, 1)
    yield grouped((64, 128, 32), 48, 16, 3)
    yield products((128, 256, 10))
    yield shuffle((64, 128, 50))
    yield resizing((128, 256, 10))


# Files
