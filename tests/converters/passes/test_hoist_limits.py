"""Limits in front of what only moves numbers: equal to the bit, and only where convolutions alone are behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.hoist_limits import PASS


class Network(nn.Module):
    """Two convolutions and a function of their outputs."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.a(x), self.b(x), x)


def limited(node: Any) -> list[str]:
    """What each limit of a rewritten module reads."""
    return [
        n.args[0].target.__name__.split(".")[0]
        for n in node.module.graph.nodes
        if "relu" in n.name or "hardtanh" in n.name
    ]


HOISTED = {
    "one": (lambda a, b, x: F.relu(F.pixel_shuffle(a, 2)), 1),
    "two, concatenated": (lambda a, b, x: F.relu6(torch.cat([a, b], 1)), 2),
    "slices, permuted and reshaped": (
        lambda a, b, x: F.hardtanh(torch.cat(a.permute(0, 2, 3, 1).split(4, 3), 2).reshape(2, 10, 7, 4), -0.5, 0.25),
        1,
    ),
    "the same one twice": (lambda a, b, x: F.relu(torch.cat([b, b[:, :2]], 1)), 1),
}
LEFT = {
    "nothing between": lambda a, b, x: F.relu(a),
    "the picture": lambda a, b, x: F.relu(torch.cat([a, x], 1)),
    "a sum": lambda a, b, x: F.relu(torch.cat([b + 1, b], 1)),
    "read elsewhere": lambda a, b, x: (F.relu(torch.cat([a, b], 1)), a),
    "read between": lambda a, b, x: next(F.relu(y) + y for y in [torch.cat([a, b], 1)]),
}


@pytest.mark.parametrize(("function", "sources"), HOISTED.values(), ids=HOISTED)
def test_hoisted(exported: Any, lines: tuple[Forms, ...], function: Any, sources: int) -> None:
    torch.manual_seed(0)
    network, x = Network(function), torch.randn(2, 3, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, lines[0])
    assert rewritten.outcome.count == 1
    assert limited(rewritten) == [name for name in limited(rewritten) if name.startswith("conv")]
    assert len(limited(rewritten)) == sources
    assert torch.equal(rewritten(x), network(x))


@pytest.mark.parametrize("function", LEFT.values(), ids=LEFT)
def test_left(exported: Any, lines: tuple[Forms, ...], function: Any) -> None:
    network, x = Network(function), torch.randn(2, 3, 5, 7)
    before = exported(network, x)
    rewritten = before.rewrite(PASS, lines[0])
    assert rewritten.outcome.count == 0
    for result, expected in zip(rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected)
