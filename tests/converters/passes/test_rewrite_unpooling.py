"""Where the unpooling pass fires, what it leaves behind, and what it refuses by name.

How exactly it computes is the matter of `test_rewrite_unpooling_exactly`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.blocks import BLOCKS
from mobileseg.converters.passes.rewrite_unpooling import MASKS, PASS

max_unpool2d = torch.ops.aten.max_unpool2d.default
# What no phone's delegate takes, and what the rewrite is there to avoid.
FORBIDDEN = {
    *(
        "max_unpool2d",
        "max_pool2d_with_indices",
        "gather",
        "scatter",
        "index",
        "index_put",
        "index_select",
        "topk",
        "argmax",
    ),
    *(
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "where",
        "logical_and",
        "logical_or",
        "logical_not",
        "bitwise_and",
        "bitwise_not",
    ),
}


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def pool(x: Tensor, kernel: Any = 2, **options: Any) -> tuple[Tensor, Tensor]:
    pooled, indices = F.max_pool2d(x, kernel, return_indices=True, **options)
    return pooled, indices


def picture(*shape: int, seed: int = 0) -> Tensor:
    """Integers 0..2: a window without a tie is rare."""
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


class ENetLike(nn.Module):
    """Two nested poolings, unpooled in reverse order by torch's own modules; odd sizes by output_size."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        a, outer = self.pool(x)
        b, inner = self.pool(F.relu(a - 1))
        c = self.unpool(b * 3, inner, output_size=a.shape[-2:])
        d: Tensor = self.unpool(c + a, outer, output_size=x.shape[-2:])
        return d


@pytest.mark.parametrize("mask", sorted(MASKS))
@pytest.mark.parametrize("blocks", sorted(BLOCKS))
def test_nested_unpooling_of_odd_sizes(exported: Any, lines: tuple[Forms, ...], mask: Any, blocks: Any) -> None:
    x = picture(2, 3, 11, 14)
    network = ENetLike()
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], mask=mask, blocks=blocks))
    assert (rewritten.outcome.count, rewritten.outcome.left) == (2, ())
    assert torch.equal(rewritten(x), network(x))
    assert rewritten.operators["max_pool2d"] == 2
    assert not FORBIDDEN & set(rewritten.operators)
    assert rewritten.dtypes == {torch.float32}


# Windows that ENet has not; each unpools what was pooled, plus one.
WINDOWS = {
    "non-square": ({"kernel": (3, 2)}, (9, 10)),
    "overlapping": ({"kernel": 3, "stride": 2, "padding": 1}, (9, 8)),
    "ceil mode": ({"kernel": 2, "ceil_mode": True}, (7, 5)),
    "overlapping in ceil mode": ({"kernel": 3, "stride": 2, "ceil_mode": True}, (8, 6)),
    "stride above kernel": ({"kernel": 2, "stride": 3}, (9, 10)),
    "dilated": ({"kernel": 2, "stride": 2, "dilation": 2}, (8, 9)),
    "one pixel": ({"kernel": 1}, (3, 4)),
    "whole plane": ({"kernel": (6, 5)}, (6, 5)),
}


def test_every_window(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    def one(options: dict[str, Any], plane: tuple[int, int]) -> nn.Module:
        def network(x: Tensor) -> Tensor:
            pooled, indices = pool(x[:, :, : plane[0], : plane[1]], **options)
            result: Tensor = max_unpool2d(pooled + 1, indices, plane)
            return result

        return Lambda(network)

    x = picture(2, 2, 10, 10)
    network = several([one(*case) for case in WINDOWS.values()])
    program = exported(network, x)
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert (rewritten.outcome.count, rewritten.outcome.left) == (len(WINDOWS), ())
        assert not FORBIDDEN & set(rewritten.operators)
        assert rewritten.dtypes == {torch.float32}
        for name, result, expected in zip(WINDOWS, rewritten(x), network(x), strict=True):
            assert torch.equal(result, expected), name


def test_unpoolings_of_one_pooling_share_its_masks(exported: Any, forms: Forms) -> None:
    def network(x: Tensor, *ys: Tensor) -> tuple[Tensor, ...]:
        _, indices = pool(x)
        return tuple(F.max_unpool2d(y, indices, 2) for y in ys)

    x, ys = picture(1, 2, 6, 8), [torch.randn(1, 2, 3, 4) for _ in range(3)]
    rewritten = exported(Lambda(network), x, *ys).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (3, ())
    # The window's last position needs no mask: who is left takes the value.
    operator, each = {"sign": ("sign", 1), "ceil": ("ceil", 1), "scaled": ("clamp", 2)}[forms.mask]
    assert rewritten.operators[operator] == 3 * each
    # The pooled output is used by nothing but the masks.
    assert rewritten.operators["max_pool2d"] == 1
    for result, expected in zip(rewritten(x, *ys), network(x, *ys), strict=True):
        assert torch.equal(result, expected)


# Value channels that differ from the pooled tensor's: the indices of 4 channels brought to those of the values.
CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda i: i[:, 1:3],
    "one image": lambda i: i[:1],
    "expanded": lambda i: i[:, :1].expand(-1, 6, -1, -1),
    "expanded by size": lambda i: i[:, :1].expand(2, 6, 3, 4),
    "repeated": lambda i: i.repeat(1, 2, 1, 1),
    "selected": lambda i: i.index_select(1, torch.tensor([3, 0, 0])),
    "concatenated": lambda i: torch.cat([i, i[:, :2]], dim=1),
    "copied": lambda i: i.clone(),
    "in two steps": lambda i: torch.cat([i[:, 2:], i[:, :1].expand(-1, 3, -1, -1)], dim=-3),
}


def test_indices_brought_to_other_channels(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    def one(change: Callable[[Tensor], Tensor]) -> nn.Module:
        def network(x: Tensor) -> Tensor:
            _, indices = pool(x)
            changed = change(indices)
            n, c = changed.shape[:2]
            values = 1 + torch.arange(n * c * 12, dtype=torch.float32).reshape(n, c, 3, 4)
            return F.max_unpool2d(values, changed, 2)

        return Lambda(network)

    x = picture(2, 4, 6, 8)
    network = several([one(change) for change in CHANNELS.values()])
    program = exported(network, x)
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        assert rewritten.outcome.left == ()
        assert rewritten.outcome.count == len(CHANNELS)
        # Selecting whole channels of the pooled tensor is the user's own index_select, now of numbers.
        assert FORBIDDEN & set(rewritten.operators) == {"index_select"}
        assert "max_pool2d_with_indices" not in rewritten.operators
        for name, result, expected in zip(CHANNELS, rewritten(x), network(x), strict=True):
            assert torch.equal(result, expected), name


def test_indices_of_two_poolings_of_the_same_window(exported: Any, forms: Forms) -> None:
    def network(x: Tensor) -> Tensor:
        (a, i), (b, j) = pool(x), pool(2 - x)
        return F.max_unpool2d(torch.cat([a, b], 1), torch.cat([i, j], 1), 2)

    x = picture(2, 2, 4, 6)
    rewritten = exported(Lambda(network), x).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (1, ())
    assert torch.equal(rewritten(x), network(x))


def _returned(x: Tensor) -> tuple[Tensor, Tensor]:
    pooled, indices = pool(x)
    return F.max_unpool2d(pooled, indices, 2), indices


def _arithmetic(x: Tensor) -> Tensor:
    pooled, indices = pool(x)
    return F.max_unpool2d(pooled, 63 - indices, 2)


def _rows_moved(x: Tensor) -> Tensor:
    pooled, indices = pool(x)
    return F.max_unpool2d(pooled.flip(2), indices.flip(2), 2)


def _rows_cut(x: Tensor) -> Tensor:
    pooled, indices = pool(x)
    result: Tensor = max_unpool2d(pooled[:, :, 1:], indices[:, :, 1:], (8, 8))
    return result


def _rows_joined(x: Tensor) -> Tensor:
    pooled, indices = pool(x[:, :, :4])
    other, others = pool(x[:, :, 4:])
    result: Tensor = max_unpool2d(torch.cat([pooled, other], 2), torch.cat([indices, others], 2), (4, 8))
    return result


def _larger_plane(x: Tensor) -> Tensor:
    pooled, indices = pool(x)
    return F.max_unpool2d(pooled, indices, 2, output_size=(9, 9))


def _two_windows(x: Tensor) -> Tensor:
    (a, i), (b, j) = pool(x), pool(x, 3, stride=2, padding=1)
    return F.max_unpool2d(torch.cat([a, b], 1), torch.cat([i, j], 1), 2)


def _adaptive(x: Tensor) -> Tensor:
    pooled, indices = F.adaptive_max_pool2d(x, (4, 4), return_indices=True)
    return F.max_unpool2d(pooled, indices, 2)


def _one_image(x: Tensor) -> Tensor:
    pooled, indices = pool(x[0])
    return F.max_unpool2d(pooled, indices, 2)


def _sliced_rows_of_one_image(x: Tensor) -> Tensor:
    pooled, indices = pool(x[0])
    result: Tensor = max_unpool2d(pooled[:, 1:], indices[:, 1:], (8, 8))
    return result


# Network, how many unpoolings are rewritten all the same, what the sentence must name.
REFUSED: dict[str, tuple[Callable[[Tensor], Any], int, str]] = {
    "indices returned": (_returned, 1, "max_pool2d_with_indices: its indices are used by output"),
    "arithmetic on indices": (
        _arithmetic,
        0,
        r"max_unpool2d: its indices \(\w+\) do not come unchanged from a max-pooling",
    ),
    "rows moved": (_rows_moved, 0, r"max_unpool2d: its indices \(flip\w*\) do not come unchanged"),
    "rows cut": (_rows_cut, 0, r"max_unpool2d: its indices \(slice\w*\) do not come unchanged"),
    "rows joined": (_rows_joined, 0, r"max_unpool2d: its indices \(cat\w*\) do not come unchanged"),
    "plane of another size": (
        _larger_plane,
        0,
        "max_unpool2d: it unpools to 9x9, its indices count positions in a 8x8 plane",
    ),
    "two windows": (
        _two_windows,
        0,
        r"poolings of different windows \(max_pool2d_with_indices, max_pool2d_with_indices_1\)",
    ),
    "adaptive pooling": (_adaptive, 0, r"max_unpool2d: its indices \(\w+\) do not come unchanged from a max-pooling"),
    "no batch": (_one_image, 0, "max_unpool2d: .*no batch"),
    "rows cut, no batch": (
        _sliced_rows_of_one_image,
        0,
        r"max_unpool2d: its indices \(slice\w*\) do not come unchanged",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_rewritten_is_left_by_name(exported: Any, lines: tuple[Forms, ...], case: str) -> None:
    network, count, sentence = REFUSED[case]
    x = picture(1, 2, 8, 8)
    rewritten = exported(Lambda(network), x).rewrite(PASS, lines[0])
    assert rewritten.outcome.count == count
    assert len([s for s in rewritten.outcome.left if re.search(sentence, s)]) == 1
    # What is left still computes what it did.
    for result, expected in zip(
        *(t if isinstance(t, tuple) else (t,) for t in (rewritten(x), network(x))), strict=True
    ):
        assert torch.equal(result, expected)


def test_indices_from_outside_are_left_by_name(exported: Any, forms: Forms) -> None:
    y, indices = pool(picture(1, 2, 8, 8))
    rewritten = exported(Lambda(lambda y, i: F.max_unpool2d(y, i, 2)), y, indices).rewrite(PASS, forms)
    assert rewritten.outcome.count == 0
    assert len(rewritten.outcome.left) == 1
    assert "do not come unchanged from a max-pooling" in rewritten.outcome.left[0]
    assert rewritten.operators["max_unpool2d"] == 1


def test_a_pooling_whose_indices_nobody_uses_is_a_plain_pooling(exported: Any, forms: Forms) -> None:
    x = picture(1, 2, 7, 8)
    rewritten = exported(Lambda(lambda x: pool(x, 3, stride=2, padding=1)[0]), x).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    assert dict(rewritten.operators) == {"max_pool2d": 1}
    assert torch.equal(rewritten(x), pool(x, 3, stride=2, padding=1)[0])


def test_nearest_upsampling_is_not_unpooling(exported: Any, forms: Forms) -> None:
    x = picture(1, 2, 8, 8)
    rewritten = exported(Lambda(lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2)), x).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    assert rewritten.operators["upsample_nearest2d"] == 1
