"""Transposed convolutions as convolutions and an interleaving, for every geometry.

Weights and pictures are small integers, so that all sums are exact and the comparison needs no tolerance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobileseg.converters.forms import Forms
from mobileseg.converters.passes.blocks import BLOCKS
from mobileseg.converters.passes.rewrite_transposed_convolution import PASS


@pytest.fixture(scope="module")
def as_convolution(lines: tuple[Forms, ...]) -> list[Forms]:
    """The forms that this pass works in, with each way of putting blocks together."""
    words = ("channels_last", "depth_to_space", "channels_first", "strided")
    return [
        replace(lines[0], transposed_convolution=form, blocks=word)
        for form in ("convolution", "rows")
        for word in words
    ]


def integers(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    return torch.randint(-4, 5, tuple(shape), generator=torch.Generator().manual_seed(seed)).float()


class Cropped(nn.Module):
    """A transposed convolution of the upper left corner of the picture: geometries of many sizes share one export."""

    def __init__(self, size: tuple[int, int], layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.size, self.layer = size, layer
        with torch.no_grad():
            for i, p in enumerate(layer.parameters()):
                p.copy_(integers(p.shape, i))

    def forward(self, x: Tensor) -> Tensor:
        # A negation, for of what a file returns TFLite's form is another.
        return -self.layer(x[:, :, : self.size[0], : self.size[1]])  # type: ignore[no-any-return]


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Kernel, stride, padding, output padding and size of one axis, such that something is left of the output."""
    kernel, stride = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    output_padding = draw(st.integers(0, stride - 1))
    size = draw(st.integers(1, 6))
    room = (size - 1) * stride + kernel + output_padding - 1
    return kernel, stride, draw(st.integers(0, room // 2)), output_padding, size


@st.composite
def layers(draw: st.DrawFn) -> Cropped:
    kernel, stride, padding, output_padding, size = zip(draw(axes()), draw(axes()), strict=True)
    channels, bias = draw(st.integers(1, 3)), draw(st.booleans())
    layer = nn.ConvTranspose2d(2, channels, kernel, stride, padding, output_padding, bias=bias)
    return Cropped((size[0], size[1]), layer)


@given(cases=st.lists(layers(), min_size=6, max_size=10), batch=st.integers(1, 2), seed=st.integers(0, 2**31))
@settings(max_examples=4, deadline=None)
def test_every_geometry(
    exported: Any, several: Any, as_convolution: list[Forms], cases: list[Cropped], batch: int, seed: int
) -> None:
    x = integers((batch, 2, 7, 7), seed)
    network = several(cases)
    program = exported(network, x)
    assert {forms.blocks for forms in as_convolution} == set(BLOCKS)
    for forms in as_convolution:
        rewritten = program.rewrite(PASS, forms)
        assert (rewritten.outcome.count, rewritten.outcome.left) == (len(cases), ())
        rows = sum(case.layer.stride[0] for case in cases)
        assert rewritten.operators["conv2d"] == (rows if forms.transposed_convolution == "rows" else len(cases))
        assert "conv_transpose2d" not in rewritten.operators
        for case, result, expected in zip(cases, rewritten(x), network(x), strict=True):
            assert torch.equal(result, expected), (case.layer, case.size)


# The layers that the networks have, and the corners of the arithmetic; size of the convolution's kernel.
KNOWN = {
    "k2 s2": (nn.ConvTranspose2d(2, 3, 2, 2), (1, 1)),
    "k3 s2 p1 op1": (nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), (2, 2)),
    "k4 s2 p1": (nn.ConvTranspose2d(2, 3, 4, 2, 1), (3, 3)),
    "stride 1": (nn.ConvTranspose2d(2, 3, 3), (3, 3)),
    "stride above kernel": (nn.ConvTranspose2d(2, 3, (1, 2), (3, 4)), (1, 1)),
    "padding crops every border": (nn.ConvTranspose2d(2, 3, 5, 2, 4), (3, 3)),
    "padding beyond the kernel": (nn.ConvTranspose2d(2, 3, 2, 2, 4), (1, 1)),
    "groups": (nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), (2, 2)),
    "depthwise": (nn.ConvTranspose2d(2, 2, 4, 2, 1, groups=2, bias=False), (3, 3)),
    "dilation": (nn.ConvTranspose2d(2, 3, 3, 1, 2, dilation=(1, 2)), (3, 5)),
    "dilation, stride and groups": (nn.ConvTranspose2d(2, 2, 3, 2, 2, 1, groups=2, dilation=2), (3, 3)),
    "no bias": (nn.ConvTranspose2d(2, 3, (3, 2), 2, (1, 0), (1, 0), bias=False), (2, 1)),
}


@pytest.mark.parametrize("blocks", sorted(BLOCKS))
def test_known_layers(exported: Any, several: Any, as_convolution: list[Forms], blocks: str) -> None:
    forms, by_rows = (f for f in as_convolution if f.blocks == blocks)
    x = integers((2, 2, 7, 6), 0)
    network = several([Cropped((7, 6), layer) for layer, _ in KNOWN.values()])
    rewritten = exported(network, x).rewrite(PASS, forms)
    assert (rewritten.outcome.count, rewritten.outcome.left) == (len(KNOWN), ())
    convolutions = [n for n in rewritten.module.graph.nodes if n.target is torch.ops.aten.conv2d.default]
    assert [tuple(n.args[1].meta["val"].shape[-2:]) for n in convolutions] == [k for _, k in KNOWN.values()]
    for name, result, expected in zip(KNOWN, rewritten(x), network(x), strict=True):
        assert torch.equal(result, expected), name
    for name, result, expected in zip(KNOWN, exported(network, x).rewrite(PASS, by_rows)(x), network(x), strict=True):
        assert torch.equal(result, expected), name


@pytest.mark.parametrize(
    ("layer", "kernels"),
    [
        (nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), [(1, 2), (2, 2)]),
        (nn.ConvTranspose2d(2, 3, 2, 2), [(1, 1), (1, 1)]),
        (nn.ConvTranspose2d(2, 3, (1, 2), (3, 4)), [(1, 1), (1, 1), (1, 1)]),
        (nn.ConvTranspose2d(2, 3, 3), [(3, 3)]),
    ],
)
def test_a_row_of_blocks_reads_the_rows_that_it_needs(
    exported: Any, lines: tuple[Forms, ...], layer: nn.Module, kernels: list[tuple[int, int]]
) -> None:
    forms = replace(lines[0], transposed_convolution="rows", blocks="channels_last")
    rewritten = exported(layer, integers((1, 2, 5, 6), 0)).rewrite(PASS, forms)
    found = [n for n in rewritten.module.graph.nodes if n.target is torch.ops.aten.conv2d.default]
    assert [tuple(n.args[1].meta["val"].shape[-2:]) for n in found] == kernels
    assert "split_with_sizes" not in rewritten.operators


def test_what_a_tflite_file_returns_is_written_by_one_depth_to_space(exported: Any, lines: tuple[Forms, ...]) -> None:
    forms = replace(lines[0], transposed_convolution="rows", blocks="depth_to_space")
    network = nn.Sequential(nn.ConvTranspose2d(2, 3, 2, 2), nn.ConvTranspose2d(3, 2, 3, 2, 1, 1))
    x = torch.randn(1, 2, 5, 6)
    rewritten = exported(network, x).rewrite(PASS, forms)
    assert (rewritten.operators["conv2d"], rewritten.operators["depth_to_space"]) == (2 + 1, 1)
    torch.testing.assert_close(rewritten(x), network(x).detach(), rtol=0, atol=1e-5)


def test_ordinary_numbers(exported: Any, as_convolution: list[Forms]) -> None:
    torch.manual_seed(0)
    network = nn.ConvTranspose2d(32, 12, 3, 2, 1, 1)
    x = torch.randn(1, 32, 9, 11)
    program = exported(network, x)
    expected = network(x).detach()
    for forms in as_convolution:
        error = (program.rewrite(PASS, forms)(x) - expected).abs().max()
        assert float(error) <= 1e-6 * float(expected.abs().max())


class Computed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv_transpose2d(x, x[:, :, :2, :2].transpose(0, 1))


REFUSED = {
    "computed": (Computed(), "conv_transpose2d: its weights are computed, not constant"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_left_is_named(exported: Any, as_convolution: list[Forms], case: str) -> None:
    network, sentence = REFUSED[case]
    x = integers((2, 2, 5, 5), 0)
    rewritten = exported(network, x).rewrite(PASS, as_convolution[0])
    assert (rewritten.outcome.count, rewritten.outcome.left) == (0, (sentence,))
    assert rewritten.operators["conv_transpose2d"] == 1
    assert torch.equal(rewritten(x), network(x))


def test_the_native_form_and_plain_convolutions_stay(exported: Any, several: Any, lines: tuple[Forms, ...]) -> None:
    x = integers((1, 2, 5, 5), 0)
    program = exported(several([nn.ConvTranspose2d(2, 3, 2, 2), nn.Conv2d(2, 3, 2)]), x)
    native = program.rewrite(PASS, replace(lines[0], transposed_convolution="native"))
    assert (native.outcome.count, native.outcome.left) == (0, ())
    assert dict(native.operators) == {"conv_transpose2d": 1, "conv2d": 1}


def test_only_output_padding_beyond_the_padding_is_rewritten(
    exported: Any, several: Any, lines: tuple[Forms, ...]
) -> None:
    cropped = [nn.ConvTranspose2d(2, 3, 2, 2), nn.ConvTranspose2d(2, 3, 3, 2, padding=1, output_padding=1)]
    beyond = [
        nn.ConvTranspose2d(2, 3, 2, 2, output_padding=1),
        nn.ConvTranspose2d(2, 3, 5, 3, padding=1, output_padding=2),
        nn.ConvTranspose2d(2, 3, 3, 2, padding=(1, 0), output_padding=(1, 1)),
    ]
    x = integers((1, 2, 5, 5), 0)
    network = several([*cropped, *beyond])
    rewritten = exported(network, x).rewrite(PASS, replace(lines[0], transposed_convolution="native_if_cropped"))
    assert (rewritten.outcome.count, rewritten.operators["conv_transpose2d"]) == (len(beyond), len(cropped))
    for result, expected in zip(rewritten(x), network(x), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
