"""PReLU in each form: bit for bit torch's own, and left alone where no form is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.rewrite_prelu import PASS


def prelu(*slopes: float) -> nn.PReLU:
    module = nn.PReLU(len(slopes))
    with torch.no_grad():
        module.weight.copy_(torch.tensor(slopes))
    return module


def numbers() -> Tensor:
    """(2, 4, 5, 7): normal numbers, and the ends of the range in one row."""
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    x[:, :, 0] = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, -1.0])
    return x


# Slopes, the operator that computes them in form "native", and in form "maximum".
CASES = {
    "one": ((0.25,), "leaky_relu", "leaky_relu"),
    "one negative": ((-0.3,), "leaky_relu", "leaky_relu"),
    "one above 1": ((1.7,), "leaky_relu", "leaky_relu"),
    "one zero": ((0.0,), "leaky_relu", "leaky_relu"),
    "at most 1": ((0.1, -2.0, 1.0, 0.0), "prelu", "maximum"),
    "at least 1": ((1.0, 1.5, 3.0, 1.1), "prelu", "minimum"),
    "all 1": ((1.0, 1.0, 1.0, 1.0), "prelu", "maximum"),
    "just below 1": ((0.99999994, 0.5, 0.25, 0.99999994), "prelu", "maximum"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_slope_in_every_form(exported: Any, lines: tuple[Forms, ...], case: str) -> None:
    slopes, native, maximum = CASES[case]
    x = numbers()
    network = prelu(*slopes)
    program = exported(network, x)
    assert {forms.prelu for forms in lines} == {"native", "maximum", "rows"}
    for forms in lines:
        rewritten = program.rewrite(PASS, forms)
        of_rows = maximum if max(slopes) <= 1 else native
        operator = {"native": native, "maximum": maximum, "rows": of_rows}[forms.prelu]
        assert rewritten.outcome.count == (operator != "prelu")
        assert rewritten.outcome.left == ()
        assert rewritten.operators[operator] == 1
        assert rewritten.operators["prelu"] == (operator == "prelu")
        assert torch.equal(rewritten(x), network(x))


@pytest.mark.parametrize(("channels", "operators"), [(11, {"mul": 1, "maximum": 1}), (12, {"prelu": 1})])
def test_rows_for_few_channels(
    exported: Any, lines: tuple[Forms, ...], channels: int, operators: dict[str, int]
) -> None:
    network, x = prelu(*[i / 12 for i in range(channels)]), torch.randn(2, channels, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], prelu="rows"))
    assert dict(rewritten.operators) == operators
    assert torch.equal(rewritten(x), network(x))


def test_slopes_on_both_sides_of_1_add_the_rest(exported: Any, lines: tuple[Forms, ...]) -> None:
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    network = prelu(0.5, 1.5, -0.3, 2.0)
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], prelu="maximum"))
    assert (rewritten.outcome.count, rewritten.outcome.left) == (1, ())
    assert dict(rewritten.operators) == {"mul": 2, "relu": 1, "add": 1}
    bound = 2.0**-23 * x.abs() * (1 + (1 - torch.tensor([0.5, 1.5, -0.3, 2.0]).reshape(1, -1, 1, 1)).abs())
    assert bool(((rewritten(x) - network(x)).abs() <= bound).all())


@pytest.mark.parametrize(("channels", "product"), [(23, "mul"), (24, "conv2d"), (63, "conv2d"), (64, "mul")])
@pytest.mark.parametrize("low", [-0.5, 1.0])
def test_products_of_some_channels_are_depthwise_convolutions_in_int8(
    exported: Any, lines: tuple[Forms, ...], channels: int, product: str, low: float
) -> None:
    network, x = prelu(*[low + i / channels for i in range(channels)]), torch.randn(2, channels, 5, 7)
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], prelu="maximum"))
    assert dict(rewritten.operators) == {product: 1, "maximum" if low < 1 else "minimum": 1}
    assert torch.equal(rewritten(x), network(x))


def test_computed_slopes_are_left_by_name(exported: Any, forms: Forms) -> None:
    class Computed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.prelu(x, x.mean((0, 2, 3)))

    x = numbers()[:, :, 1:]
    rewritten = exported(Computed(), x).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ("prelu: its slopes are computed, not constant",))
    assert torch.equal(rewritten(x), Computed()(x))


def test_one_module_used_twice_and_vectors(exported: Any, lines: tuple[Forms, ...]) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = prelu(0.5, -0.25, 0.75)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.act(x).mean((2, 3)) - 0.5)  # type: ignore[no-any-return]

    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    rewritten = exported(Twice(), x).rewrite(PASS, replace(lines[0], prelu="maximum"))
    assert (rewritten.outcome.count, rewritten.outcome.left) == (2, ())
    assert torch.equal(rewritten(x), Twice()(x))


def test_other_activations_are_left_alone(exported: Any, several: Any, forms: Forms) -> None:
    network = several([nn.LeakyReLU(0.1), nn.ReLU(), nn.ELU()])
    rewritten = exported(network, numbers()).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, ())
    assert dict(rewritten.operators) == {"leaky_relu": 1, "relu": 1, "elu": 1}
