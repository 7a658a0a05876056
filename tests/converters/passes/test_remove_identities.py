"""Operators that do nothing, and limits that are whole numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.remove_identities import PASS


class Idle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = (x * 8)[:, :, : x.shape[2], :].detach()
        y = F.hardtanh(y.expand(x.shape), 0, 6)
        return torch.clamp(y, -1, 4).clamp_min(1).float() + x


def test_nothing_is_left_of_them(exported: Any, forms: Forms) -> None:
    x = torch.randn(2, 3, 5, 6)
    rewritten = exported(Idle(), x).rewrite(PASS, forms)
    assert set(rewritten.operators) == {"mul", "hardtanh", "clamp", "clamp_min", "add"}
    limited = [n for n in rewritten.module.graph.nodes if n.op == "call_function" and n.name != "mul"]
    limits = [limit for n in limited for limit in n.args[1:]]
    assert not [limit for limit in limits if isinstance(limit, int)]
    assert (rewritten.outcome.count >= 4, rewritten.outcome.left) == (True, ())
    assert torch.equal(rewritten(x), Idle()(x))


class Working(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x[:, :1].expand(x.shape), torch.clamp(x, -0.5, 0.5), torch.clamp(x.argmax(1), 0, 1)


def test_what_it_does_not_touch(exported: Any, forms: Forms) -> None:
    """An expansion, limits that are floats, and limits of whole numbers of a tensor of whole numbers."""
    x = torch.randn(2, 3, 5, 6)
    rewritten = exported(Working(), x).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    assert (rewritten.operators["expand"], rewritten.operators["clamp"]) == (1, 2)
    for result, expected in zip(rewritten(x), Working()(x), strict=True):
        assert torch.equal(result, expected)


def test_a_picture_that_comes_out_as_it_went_in(exported: Any, forms: Forms) -> None:
    x = torch.randn(1, 3, 4, 4)

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(x.shape)

    assert torch.equal(exported(Same(), x).rewrite(PASS, forms)(x), x)
