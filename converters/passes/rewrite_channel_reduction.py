"""Softmax and argmax as over the last axis, in which a backend takes them.

Before: x (N, C, H, W) -> softmax(dim) -> z
After:  x -> permute(dim last) -> reshape (M, n) -> softmax(1) -> reshape -> permute back -> z
Before: x (N, C, H, W) -> argmax(dim=1) -> z (N, H, W)
After:  x -> permute(0, 2, 3, 1) -> argmax(dim=3) -> z

Preconditions: form "last_axis"; four axes; no change of type; for argmax, the second axis and not kept.

Exactness: argmax is bit-exact, ties included (the first maximum in the order of the channels, which stays); softmax
adds the same exponentials, in an order that is the backend's own on either axis. ExecuTorch needs it: XNNPACK takes a
softmax over the last axis alone, of four axes it takes the wrong one where its memory order is channels-last (1.5.1
confuses the two without a word; hence two axes), and the portable argmax reads a pixel's channels where they lie side
by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from mobileseg.converters.passes.base import Outcome, Pass, arguments_of, aten, is_call, replace, value

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_SOFTMAX = (aten.softmax.int, aten._softmax.default)


def _softmax(x: Tensor, axis: int) -> Tensor:
    last = x.movedim(axis, -1)
    return torch.softmax(last.reshape(-1, last.shape[-1]), 1).reshape(last.shape).movedim(-1, axis)


def _argmax(x: Tensor) -> Tensor:
    return torch.argmax(x.permute(0, 2, 3, 1), 3)


def _keeps_type(a: dict[str, Any]) -> bool:
    return a.get("dtype") is None and not a.get("half_to_float")


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    if forms.channel_reduction == "native":
        return Outcome(0)
    count = 0
    for node in list(module.graph.nodes):
        if not is_call(node, *_SOFTMAX, aten.argmax.default) or value(cast("Node", node.args[0])).ndim != 4:
            continue
        x, a = cast("Node", node.args[0]), arguments_of(node)
        if is_call(node, *_SOFTMAX) and _keeps_type(a):
            axis = a["dim"] % 4
            replace(node, lambda x, axis=axis: _softmax(x, axis), x)
        elif is_call(node, aten.argmax.default) and a["dim"] in (1, -3) and not a["keepdim"]:
            replace(node, _argmax, x)
        else:
            continue
        count += 1
    return Outcome(count)


PASS = Pass(
    name="rewrite_channel_reduction",
    exact="bit-exact (argmax); the backend's order of summation (softmax)",
    why="XNNPACK takes softmax over the last of two axes; the portable argmax is faster over the last axis",
    apply=_apply,
)
