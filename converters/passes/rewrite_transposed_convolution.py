"""A transposed convolution as a convolution with stride 1 and an interleaving of its output's phases.

Before: x -> conv_transpose2d(W (C_in, C_out, kh, kw), stride s, padding p, output_padding) -> z
After:  x -> conv2d(W' (sh sw C_out, C_in, th, tw)) -> phases -> merge (see `blocks`) -> crop -> z

Output row o = s j + r collects x[j + q] W[k] over all k, q with o + p = s (j + q) + k. So phase r uses the taps k = (r
+ p) mod s + s t at q = (r + p) // s - t, and all phases together need rows j + q_min .. j + q_max of x: a convolution
over th = q_max - q_min + 1 rows, in which a phase's missing taps are zeros. The same for columns. k2 s2 becomes a 1x1
convolution, k3 s2 p1 op1 a 2x2 one.

Groups and dilation are zeros in W, put there first. A kernel smaller than the stride is fine: a phase without taps is
the bias.

In form "rows" each row of phases has a convolution of its own, over the rows of x that it reads: k3 s2 p1 op1 becomes a
1x2 and a 2x2 one, three quarters of the products. Their results are lines, which a concatenation puts in turn. (What
TFLite's file returns stays one convolution and a DEPTH_TO_SPACE, which writes it in one pass where the concatenation
and the reshape are two.)

Preconditions: constant weights.

Exactness: the same products, summed in another order (tests hold 1e-6 of the largest output); a zero tap adds an exact
zero. TFLite needs it: litert-torch cannot lower output_padding, a quantized TRANSPOSE_CONV with a bias does not load,
and its int8 kernel takes 5 to 9 times the time of its float one. XNNPACK's own takes two to four times as long as this.
In form "native_if_cropped" only what has more output padding than padding is rewritten: coremltools refuses such layers
or gives them another size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch.nn.functional as F
from torch import Tensor

from mobileseg.converters.passes.base import (
    Outcome,
    Pass,
    add_constant,
    arguments_of,
    aten,
    constant,
    is_call,
    pair,
    replace,
    value,
)
from mobileseg.converters.passes.blocks import BLOCKS

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_SHAPES = (aten.alias.default, aten.clone.default, aten.permute.default, aten.reshape.default, aten.view.default)
_PLANE = BLOCKS["channels_first"]

Taps = list[list[tuple[int, int]]]


def _taps(kernel: int, stride: int, padding: int) -> Taps:
    """For each phase of one axis, its taps as (index into the kernel, offset into x)."""
    return [
        [
            ((r + padding) % stride + stride * t, (r + padding) // stride - t)
            for t in range(-(-(kernel - (r + padding) % stride) // stride))
        ]
        for r in range(stride)
    ]


def _span(taps: Taps) -> tuple[int, int]:
    offsets = [q for phase in taps for _, q in phase]
    # Phases without taps are the bias, of a convolution with one tap of zeros.
    return min(offsets, default=0), max(offsets, default=0)


def phase_weights(weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Weights (C_in, C_out, kh, kw) of the transposed convolution as those of the convolution (sh * sw * C_out, C_in,
    th, tw)."""
    c_in, c_out = weight.shape[:2]
    (top, bottom), (left, right) = _span(rows), _span(columns)
    out = weight.new_zeros(len(rows), len(columns), c_out, c_in, bottom - top + 1, right - left + 1)
    for r, row_taps in enumerate(rows):
        for c, column_taps in enumerate(columns):
            for kh, qh in row_taps:
                for kw, qw in column_taps:
                    out[r, c, :, :, qh - top, qw - left] = weight[:, :, kh, kw].T
    return out.flatten(0, 2)


def dense_weights(weight: Tensor, groups: int, dilation: tuple[int, int]) -> Tensor:
    """Weights (C_in, C_out / groups, kh, kw) as those (C_in, C_out, ...) of one group, the dilation's gaps in them."""
    c_in, c_out, height, width = weight.shape
    (dh, dw), inputs = dilation, c_in // groups
    dense = weight.new_zeros(c_in, c_out * groups, (height - 1) * dh + 1, (width - 1) * dw + 1)
    for g in range(groups):
        own = slice(g * inputs, (g + 1) * inputs)
        dense[own, g * c_out : (g + 1) * c_out, ::dh, ::dw] = weight[own]
    return dense


Frame = tuple[int, int, int, int]
"""Top, left, height and width of what a convolution reads of a plane, and of zeros around it."""


def _frame(rows: Taps, columns: Taps, needed: tuple[int, int]) -> Frame:
    """What a convolution over these taps makes as many rows and columns of as are needed."""
    (top, bottom), (left, right) = _span(rows), _span(columns)
    return top, left, needed[0] + bottom - top, needed[1] + right - left


def _refusal(module: GraphModule, a: dict[str, Any]) -> str | None:
    if constant(module, a["weight"]) is None or (a["bias"] is not None and constant(module, a["bias"]) is None):
        return "its weights are computed, not constant"
    return None


def _is_cropped(a: dict[str, Any]) -> bool:
    """Whether each axis's output padding only undoes padding: the result lies inside the unpadded one."""
    return all(extra <= cut for extra, cut in zip(pair(a["output_padding"]), pair(a["padding"]), strict=True))


def _is_by_rows(node: Node, forms: Forms) -> bool:
    if forms.transposed_convolution != "rows":
        return False
    return not (forms.blocks == "depth_to_space" and _is_result(node))


def _is_result(node: Node) -> bool:
    """Whether nothing but changes of shape lies between here and an output of the network."""
    return any(user.op == "output" or (is_call(user, *_SHAPES) and _is_result(user)) for user in node.users)


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.transposed_convolution == "native":
        return Outcome(0)
    keeps_cropped = forms.transposed_convolution == "native_if_cropped"
    blocks = BLOCKS[forms.blocks]
    count, left = 0, []
    for node in list(module.graph.nodes):
        if not is_call(node, aten.conv_transpose2d.input):
            continue
        a = arguments_of(node)
        if keeps_cropped and _is_cropped(a):
            continue
        refusal = _refusal(module, a)
        if refusal is not None:
            left.append(f"{node.name}: {refusal}")
            continue
        x, bias = a["input"], constant(module, a["bias"])
        weight = dense_weights(cast("Tensor", constant(module, a["weight"])), a["groups"], pair(a["dilation"]))
        (sh, sw), (ph, pw) = pair(a["stride"]), pair(a["padding"])
        rows, columns = _taps(weight.shape[2], sh, ph), _taps(weight.shape[3], sw, pw)
        # All phases by one convolution, or those of each row.
        parts = [[phase] for phase in rows] if _is_by_rows(node, forms) else [rows]
        height, width = value(node).shape[-2:]
        # The phases need ceil(size / stride) rows each.
        needed = -(-height // sh), -(-width // sw)
        frames = [_frame(part, columns, needed) for part in parts]
        weights = [phase_weights(weight, part, columns) for part in parts]
        operands = [add_constant(module, node, f"{node.name}_weight", w, a["weight"]) for w in weights]
        if bias is not None:
            repeated = bias.repeat(len(parts[0]) * sw)
            operands.append(add_constant(module, node, f"{node.name}_bias", repeated, a["bias"]))

        def rewritten(
            x: Tensor,
            *constants: Tensor,
            frames: Sequence[Frame] = frames,
            stride: tuple[int, int] = (sh, sw),
            size: tuple[int, int] = (height, width),
        ) -> Tensor:
            weights, bias = constants[: len(frames)], (*constants[len(frames) :], None)[0]
            read = [_PLANE.cut(x, *frame, fill=0.0) for frame in frames]
            planes = [blocks.enter(F.conv2d(part, w, bias)) for part, w in zip(read, weights, strict=True)]
            whole = blocks.interleave(planes[0], stride) if len(planes) == 1 else blocks.stack(planes, stride[1])
            return blocks.leave(blocks.cut(whole, 0, 0, *size, fill=0.0))

        replace(node, rewritten, x, *operands)
        count += 1
    return Outcome(count, tuple(left))


PASS = Pass(
    name="rewrite_transposed_convolution",
    exact="1e-6 of the largest output (the same products in another order)",
    why="TFLite lowers no output_padding, its quantized operator is broken or slow, and XNNPACK's own is slow",
    apply=_apply,
)
