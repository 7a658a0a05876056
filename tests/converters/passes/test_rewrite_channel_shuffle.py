"""Channel shuffle: recognised in each spelling, moved bit for bit, and no other 5-D transposition touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.rewrite_channel_shuffle import PASS

C, H, W = 12, 5, 7


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """As ShuffleNet and ESPNetV2 write it."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


SHUFFLES: dict[str, Callable[[Tensor], Tensor]] = {
    "2 groups": lambda x: shuffle(x, 2),
    "3 groups": lambda x: shuffle(x, 3),
    "4 groups": lambda x: shuffle(x, 4),
    "1 group": lambda x: shuffle(x, 1),
    "a group a channel": lambda x: shuffle(x, C),
    "negative dimensions": lambda x: x.view(-1, 3, 4, H, W).transpose(-3, -4).reshape(-1, C, H, W),
    "permute": lambda x: x.reshape(2, 6, 2, H, W).permute(0, 2, 1, 3, 4).reshape(2, C, H, W),
    "permute, negative dimensions": lambda x: x.reshape(2, 6, 2, H, W).permute(0, 2, 1, -2, -1).reshape(2, C, H, W),
    "torch's own": lambda x: F.channel_shuffle(x, 3),
}
OTHERS: dict[str, Callable[[Tensor], Any]] = {
    "images exchanged for groups": lambda x: x.view(2, 2, 6, H, W).transpose(0, 1).reshape(2, C, H, W),
    "rows exchanged for columns": lambda x: x.view(2, 3, 4, H, W).transpose(3, 4).reshape(2, C, H, W),
    "groups exchanged for rows": lambda x: x.view(2, 3, 4, H, W).permute(0, 3, 2, 1, 4).reshape(2, C, H, W),
    "space to depth": lambda x: x[:, :, :4, :6].reshape(2, C, 2, 2, 6).transpose(2, 3).reshape(2, C, 4, 6),
    "another shape at the end": lambda x: x.view(2, 3, 4, H, W).transpose(1, 2).reshape(2, C * H, W, 1),
    "batch split, not channels": lambda x: x.view(1, 2, C, H, W).transpose(1, 2).reshape(2, C, H, W),
    "plane split along": lambda x: x.view(2, 3, 20, 7, 1).transpose(1, 2).reshape(2, C, H, W),
    "4-D transposition": lambda x: x.transpose(1, 2).reshape(2, C, H, W),
}


def test_every_spelling_of_a_shuffle(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    x = torch.arange(2 * C * H * W, dtype=torch.float32).reshape(2, C, H, W)
    network = several([Lambda(f) for f in SHUFFLES.values()])
    program = exported(network, x)
    assert {forms.channel_shuffle for forms in lines} == {"channels_last", "channels_first", "rank_5"}
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert (rewritten.outcome.count, rewritten.outcome.left) == (len(SHUFFLES), ())
        assert "channel_shuffle" not in rewritten.operators
        rank = max(n.meta["val"].ndim for n in rewritten.module.graph.nodes if n.op == "call_function")
        assert rank == 5 if forms.channel_shuffle == "rank_5" else rank <= 4
        for name, result, expected in zip(SHUFFLES, rewritten(x), network(x), strict=True):
            assert torch.equal(result, expected), name


def test_no_other_transposition_is_touched(exported: Any, several: Any, forms: Forms) -> None:
    x = torch.arange(2 * C * H * W, dtype=torch.float32).reshape(2, C, H, W)
    network = several([Lambda(f) for f in OTHERS.values()])
    program = exported(network, x)
    before = program.program.graph
    rewritten = program.rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    assert rewritten.operators.total() == len([n for n in before.nodes if n.op == "call_function"])
    for name, result, expected in zip(OTHERS, rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected), name


def test_a_shuffle_whose_middle_is_used_elsewhere_stays(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    def swapped_twice(x: Tensor) -> tuple[Tensor, Tensor]:
        swapped = x.view(2, 3, 4, H, W).transpose(1, 2)
        return swapped.reshape(2, C, H, W), swapped.mean(1)

    def viewed_twice(x: Tensor) -> tuple[Tensor, Tensor]:
        grouped = x.view(2, 3, 4, H, W)
        return grouped.transpose(1, 2).reshape(2, C, H, W), grouped.mean(1)

    x = torch.randn(2, C, H, W)
    network = several([Lambda(swapped_twice), Lambda(viewed_twice)])
    rewritten = exported(network, x).rewrite(PASS, lines[0])
    assert rewritten.outcome.count == 0
    for results, expected in zip(rewritten(x), network(x), strict=True):
        assert all(torch.equal(r, e) for r, e in zip(results, expected, strict=True))
