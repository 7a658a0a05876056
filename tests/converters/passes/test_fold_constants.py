"""What does not depend on the picture: folded, padded with, or left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes import fold_constants
from mobileseg.converters.passes.fold_constants import PASS

SIZE = (9, 12)


class Coordinates(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(n, 1, h, w)
        columns = torch.arange(w, dtype=torch.float32).mul(0.5).view(1, 1, 1, w).expand(n, 1, h, w)
        return torch.cat([x, rows, columns], 1)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class Padded(nn.Module):
    """As ENet widens its skip connections."""

    def __init__(self, value: float, behind: bool) -> None:
        super().__init__()
        self.value, self.behind = value, behind

    def forward(self, x: Tensor) -> Tensor:
        plane = torch.full((x.shape[0], 5, *x.shape[2:]), self.value, device=x.device)
        return torch.cat((x, plane) if self.behind else (plane, x), 1)


class Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.new_zeros(x.shape[0], 3, 2, x.shape[3]), x, x.new_zeros(x.shape[0], 3, 1, x.shape[3])], -2)


class Mixed(nn.Module):
    """Two numbers: no padding has both."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), x, torch.ones_like(x)], 1)


FOLDED: dict[str, tuple[nn.Module, set[str]]] = {
    "coordinates": (Coordinates(), {"cat"}),
    "normalised weights": (Normalised(), {"conv2d"}),
    "zeros behind": (Padded(0.0, True), {"pad"}),
    "numbers before": (Padded(1.5, False), {"pad"}),
    "rows on both sides": (Rows(), {"pad"}),
    "two numbers": (Mixed(), {"cat"}),
}


@pytest.mark.parametrize("case", FOLDED)
@pytest.mark.parametrize("batch", [1, 2])
def test_what_is_folded(exported: Any, lines: tuple[Forms, ...], case: str, batch: int) -> None:
    torch.manual_seed(0)
    network, operators = FOLDED[case]
    x = torch.randn(batch, 3, *SIZE)
    rewritten = exported(network, x).rewrite(PASS, lines[0])
    assert set(rewritten.operators) == operators
    assert (rewritten.outcome.count >= 1, rewritten.outcome.left) == (True, ())
    assert torch.equal(rewritten(x), network(x))


class Untouched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x - self.mean)
        return torch.cat([x, F.relu(x)], 1) + torch.rand(1)


def test_what_it_does_not_touch(exported: Any, lines: tuple[Forms, ...]) -> None:
    """Weights themselves, what depends on the picture, what is random."""
    x = torch.randn(1, 3, *SIZE)
    rewritten = exported(Untouched(), x).rewrite(PASS, lines[0])
    assert rewritten.outcome.count == 0
    assert {"sub", "conv2d", "relu", "cat", "rand", "add"} == set(rewritten.operators)


def test_a_large_plane_of_one_number_is_no_constant(
    exported: Any, lines: tuple[Forms, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plane(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.full(x.shape, 2.0)

    x = torch.randn(1, 3, *SIZE)
    assert exported(Plane(), x).rewrite(PASS, lines[0]).outcome.count == 1
    monkeypatch.setattr(fold_constants, "_LARGE", 9 * 12)
    left = exported(Plane(), x).rewrite(PASS, lines[0])
    assert left.outcome.count == 0
    assert torch.equal(left(x), 2 * x)
