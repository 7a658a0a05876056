"""Average pooling as a depthwise convolution with constant weights.

Before: x (N, C, H, W) -> avg_pool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor_override) -> z
After:  x -> [pad] -> depthwise conv2d(1/d, stride, padding) -> [mul(map)] -> z

d is the divisor. Where windows divide by unlike numbers (borders that are not counted, windows that ceil_mode lets hang
over the edge), d is the kernel's area and the map (1, 1, h, w) holds area / divisor of each window: a window's divisor
is a product of one number by row and one by column. Windows that hang over read zeros.

Preconditions: form "convolution"; a batch of planes; a pooling that XNNPACK leaves to others: it takes neither padding
that counts, ceil_mode, another divisor, a stride that exceeds the kernel, nor a kernel of one pixel. The others stay.
In form "always", these too, up to windows of 25 elements: XNNPACK has no average pooling in int8 (16 channels at
128x256, 3x3: 3.3 ms in TFLite's own kernel, 0.30 as a convolution), and TFLite's demands one scale of both ends.

Exactness: with u = 2^-24 and k the kernel's area, a weight carries one rounding, each product one, the sum k - 1 and
the map two (its own and its product's): at most (k + 3) u of the window's mean absolute value from the exact mean.
ExecuTorch's XNNPACK delegate needs it: a pooling that it leaves splits the network into one call more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mobileseg.converters.passes.base import (
    Outcome,
    Pass,
    add_constant,
    arguments_of,
    aten,
    is_call,
    pair,
    replace,
    value,
)

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

Size = tuple[int, int]

LARGEST_WINDOW = 25
"""Window elements up to which every average pooling is a convolution in form "always"."""


@dataclass(frozen=True)
class Pooling:
    """``plane``: height and width that are pooled; ``pooled``: of the result; ``divisor``: the one given, if any."""

    kernel: Size
    stride: Size
    padding: Size
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None
    plane: Size
    pooled: Size

    @property
    def area(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def overhang(self) -> Size:
        """Rows and columns by which the last windows reach beyond the padded plane."""
        rows, columns = (
            max((n - 1) * s + k - size - 2 * p, 0)
            for n, s, k, size, p in zip(self.pooled, self.stride, self.kernel, self.plane, self.padding, strict=True)
        )
        return rows, columns

    def counted(self, axis: int) -> Tensor:
        """How many positions of one axis each window along it divides by; float64."""
        low, high = (-self.padding[axis], self.plane[axis] + self.padding[axis])
        if not self.count_include_pad:
            low, high = 0, self.plane[axis]
        start = torch.arange(self.pooled[axis], dtype=torch.float64) * self.stride[axis] - self.padding[axis]
        return (start + self.kernel[axis]).clamp(max=high) - start.clamp(min=low)

    @property
    def divisors(self) -> Tensor:
        """What each window divides its sum by: (h, w) float64."""
        if self.divisor is not None:
            return torch.full(self.pooled, self.divisor, dtype=torch.float64)
        return self.counted(0)[:, None] * self.counted(1)[None, :]

    @property
    def is_native(self) -> bool:
        """Whether XNNPACK pools so itself."""
        return (
            self.area > 1
            and not (self.ceil_mode and any(self.overhang))
            and not (self.count_include_pad and any(self.padding))
            and self.divisor in (None, self.area)
            and all(s <= k for s, k in zip(self.stride, self.kernel, strict=True))
        )


def pooling_of(node: Node) -> Pooling:
    """The geometry of an avg_pool2d node."""
    a = arguments_of(node)
    plane, pooled = value(cast("Node", node.args[0])).shape[-2:], value(node).shape[-2:]
    return Pooling(
        kernel=pair(a["kernel_size"]),
        stride=pair(a["stride"] or a["kernel_size"]),
        padding=pair(a["padding"]),
        ceil_mode=a["ceil_mode"],
        count_include_pad=a["count_include_pad"],
        divisor=a["divisor_override"],
        plane=(plane[0], plane[1]),
        pooled=(pooled[0], pooled[1]),
    )


def _rewrite(module: GraphModule, node: Node, pooling: Pooling) -> None:
    x = cast("Node", node.args[0])
    channels, divisors = value(x).shape[1], pooling.divisors
    uniform = bool((divisors == divisors[0, 0]).all())
    divisor = float(divisors[0, 0]) if uniform else float(pooling.area)
    weight = torch.full((channels, 1, *pooling.kernel), 1.0 / divisor)
    operands = [add_constant(module, node, f"{node.name}_weight", weight)]
    if not uniform:
        shares = (pooling.area / divisors)[None, None].float()
        operands.append(add_constant(module, node, f"{node.name}_shares", shares))
    (ph, pw), (below, right) = pooling.padding, pooling.overhang
    margins = (pw, pw + right, ph, ph + below) if below or right else None

    def rewritten(x: Tensor, weight: Tensor, *shares: Tensor) -> Tensor:
        padded = x if margins is None else F.pad(x, margins)
        padding = pooling.padding if margins is None else (0, 0)
        z = F.conv2d(padded, weight, None, pooling.stride, padding, groups=channels)
        return z * shares[0] if shares else z

    replace(node, rewritten, x, *operands)


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.average_pooling == "native":
        return Outcome(0)
    count, left = 0, []
    for node in list(module.graph.nodes):
        if not is_call(node, aten.avg_pool2d.default):
            continue
        pooling = pooling_of(node)
        if pooling.is_native and (forms.average_pooling == "convolution" or pooling.area > LARGEST_WINDOW):
            # Its arguments may still say ceil_mode, or name the divisor that it has anyway.
            _say_plainly(node, pooling)
        elif value(node).ndim != 4:
            left.append(f"{node.name}: it has no batch dimension")
        else:
            _rewrite(module, node, pooling)
            count += 1
    return Outcome(count, tuple(left))


def _say_plainly(node: Node, pooling: Pooling) -> None:
    given: tuple[Any, ...] = (list(pooling.kernel), list(pooling.stride), list(pooling.padding))
    node.args = (node.args[0], *given, False, pooling.count_include_pad)
    node.kwargs = {}


PASS = Pass(
    name="rewrite_average_pooling",
    exact="(k + 3) 2^-24 of a window's mean absolute value, k = the kernel's area",
    why="XNNPACK leaves poolings whose padding counts, and the network runs in more pieces",
    apply=_apply,
)
