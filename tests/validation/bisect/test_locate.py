"""Locating, on traces that are made from torch's own values: one operator is broken, and has to be found."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from mobileseg.converters.export import export
from mobileseg.types import TensorSpec
from mobileseg.validation.bisect import Candidate, Candidates, Comparison, Located, Network, locate
from mobileseg.validation.bisect.differences import Difference, difference, tolerance_db
from mobileseg.validation.traces.base import Kept, Step, Trace, fed

Break = Callable[[Tensor], Tensor]

BREAKS: dict[str, Break] = {
    "steeper": lambda x: torch.where(x < 0, 1.2 * x, x),
    "shifted by a pixel": lambda x: x.roll(1, 3) if x.dim() == 4 else x + 1,
    "channels exchanged": lambda x: x.flip(1),
    "an offset": lambda x: x + 0.05 * x.abs().max(),
    "one row zero": lambda x: x * (torch.arange(x.shape[2]) != 1).to(x.dtype)[:, None],
}


@pytest.fixture(scope="module")
def graph(planted: Any) -> GraphModule:
    module: GraphModule = export(planted.small(), planted.SIZE).program.module(check_guards=False)
    return module


@pytest.fixture(scope="module")
def picture(planted: Any) -> Tensor:
    return torch.randn(1, 3, *planted.SIZE, generator=torch.Generator().manual_seed(5))


def as_a_file(
    graph: GraphModule,
    picture: Tensor,
    folder: Path,
    *,
    broken: dict[str, Break] | None = None,
    stored_as: dict[str, Break] | None = None,
    absent: frozenset[str] = frozenset(),
    rounded: type[np.floating[Any]] = np.float32,
) -> Trace:
    """A trace whose steps are the graph's nodes: channels last, as a phone has them, each rounded to a precision.

    ``broken``: nodes whose result is spoiled; ``stored_as``: nodes in whose place the file has something else, which
    comes to the same; ``absent``: nodes that are computed inside of what follows.
    """
    network, kept, specs = Network(graph), Kept(folder), dict[str, TensorSpec]()

    def keep(name: str, value: Tensor) -> Tensor:
        spoiled = (broken or {}).get(name, lambda x: x)(value)
        stored = spoiled.numpy().astype(rounded)
        if name not in absent:
            held = (stored_as or {}).get(name, lambda x: x)(spoiled).numpy().astype(rounded)
            laid = np.ascontiguousarray(held.transpose(0, 2, 3, 1)) if held.ndim == 4 else held
            kept.write(name, laid)
            specs[name] = TensorSpec(name, laid.shape, laid.dtype.name, layout="")
        return torch.from_numpy(stored.astype(np.float32))

    network.run(picture, keep)
    steps = [
        Step(i, network.operator(name).upper(), name, tuple(_read(network, name, specs)), (name,))
        for i, name in enumerate(network.nodes)
        if name in specs and name != network.picture
    ]
    return Trace("torch", (network.picture,), (network.output,), fed(steps, {network.picture}), specs, kept)


def _read(network: Network, name: str, known: dict[str, TensorSpec]) -> list[str]:
    """The nearest nodes before that the file has."""
    found, waiting = list[str](), list(network.nodes[name].all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node.name in known:
            found.append(node.name)
        elif node.name in network.nodes:
            waiting += node.all_input_nodes
    return found


def located(
    graph: GraphModule, picture: Tensor, trace: Trace, precision: str = "fp32", *, scaled: bool = False
) -> Located:
    output = Candidate(trace.outputs[0], channels_last=True)
    return locate(Comparison(Network(graph), Candidates(trace, scaled), precision, picture, output))


def values_of(graph: GraphModule, picture: Tensor) -> list[str]:
    names: list[str] = []
    Network(graph).run(picture, lambda name, value: (names.append(name), value)[1])
    return names


@pytest.mark.parametrize("rounded", [np.float32, np.float16])
def test_a_sound_file(graph: GraphModule, picture: Tensor, tmp_path: Path, rounded: type[np.floating[Any]]) -> None:
    precision = {np.float32: "fp32", np.float16: "fp16"}[rounded]
    found = located(graph, picture, as_a_file(graph, picture, tmp_path, rounded=rounded), precision)
    assert found.faults == ()
    assert set(found.matches) == set(values_of(graph, picture))
    # Each is its own counterpart, or that of an operator that gives the same numbers.
    assert sum(match.candidate.key == name for name, match in found.matches.items()) >= len(found.matches) - 2


def equalized(x: Tensor) -> Tensor:
    """Channels times 1, -2, 1/4, ..., as equalization and turned signs leave them."""
    return x * torch.tensor([1.0, -2.0, 0.25]).repeat(x.shape[1])[: x.shape[1], None, None] if x.dim() == 4 else x


def test_values_whose_channels_are_scaled(graph: GraphModule, picture: Tensor, tmp_path: Path) -> None:
    inner = [name for name in values_of(graph, picture)[1:] if name != Network(graph).output]
    trace = as_a_file(graph, picture, tmp_path, stored_as=dict.fromkeys(inner, equalized))
    plain = located(graph, picture, trace)
    found = located(graph, picture, trace, scaled=True)
    assert found.faults == ()
    assert set(found.matches) == set(values_of(graph, picture))
    assert len(plain.matches) < len(found.matches) / 2


def test_a_wrong_operator_among_scaled_values_is_found(graph: GraphModule, picture: Tensor, tmp_path: Path) -> None:
    inner = [name for name in values_of(graph, picture)[1:] if name != Network(graph).output]
    wrong = next(name for name in inner if "prelu" in name)
    stored, broken = dict.fromkeys(inner, equalized), {wrong: BREAKS["steeper"]}
    (fault,) = located(
        graph, picture, as_a_file(graph, picture, tmp_path, stored_as=stored, broken=broken), scaled=True
    ).faults
    assert fault.node == wrong
    assert fault.alone


@pytest.mark.parametrize("kind", BREAKS)
def test_whichever_operator_is_wrong_is_found(graph: GraphModule, picture: Tensor, tmp_path: Path, kind: str) -> None:
    # A copy (what dropout leaves) cannot be told from what it copies; and each kind breaks others of the rest.
    names = [name for name in values_of(graph, picture)[1:] if Network(graph).operator(name) != "clone"]
    for name in names[list(BREAKS).index(kind) :: len(BREAKS)]:
        folder = tmp_path / name
        folder.mkdir()
        found = located(graph, picture, as_a_file(graph, picture, folder, broken={name: BREAKS[kind]}))
        assert [fault.node for fault in found.faults] == [name], kind
        (fault,) = found.faults
        assert fault.alone
        assert fault.steps[-1].name == name
        assert {step.operator for step in fault.steps[:-1]} <= {"CLONE"}


def test_what_is_folded_is_passed_over(graph: GraphModule, picture: Tensor, tmp_path: Path) -> None:
    """Convolutions are inside of their normalizations, as every target has them."""
    network = Network(graph)
    folded = frozenset(name for name in network.nodes if network.operator(name) == "conv2d") - {"conv2d_3"}
    assert len(folded) >= 4
    sound, wrong = tmp_path / "sound", tmp_path / "wrong"
    sound.mkdir()
    wrong.mkdir()
    assert located(graph, picture, as_a_file(graph, picture, sound, absent=folded)).faults == ()
    trace = as_a_file(graph, picture, wrong, absent=folded, broken={"getitem_5": BREAKS["an offset"]})
    (fault,) = located(graph, picture, trace).faults
    assert fault.node == "getitem_5"
    assert {network.operator(node) for node in fault.nodes} >= {"conv2d", "_native_batch_norm_legit_no_training"}


class Joined(nn.Module):
    """Two branches that one normalization follows, as in ERFNet and EdgeNets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 1)
        nn.init.constant_(self.norm.weight, 1.3)
        nn.init.constant_(self.norm.bias, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))
        return y


def test_what_is_folded_into_branches(picture: Tensor, planted: Any, tmp_path: Path) -> None:
    """The file's convolutions lie near torch's, and are right: they are normalized already."""
    joined = Joined().eval()
    graph = export(joined, planted.SIZE).program.module(check_guards=False)
    folded: dict[str, Break] = {
        "conv2d": lambda x: 1.3 * x / math.sqrt(1 + joined.norm.eps) + 0.05,
        "conv2d_1": lambda x: 1.3 * x / math.sqrt(1 + joined.norm.eps) + 0.05,
    }
    found = located(graph, picture, as_a_file(graph, picture, tmp_path, stored_as=folded, absent=frozenset({"cat"})))
    assert found.faults == ()
    assert not found.matches.keys() & {"conv2d", "conv2d_1"}
    assert "getitem" in found.matches


def test_two_faults(graph: GraphModule, picture: Tensor, tmp_path: Path) -> None:
    broken = {"prelu": BREAKS["steeper"], "conv2d_3": BREAKS["channels exchanged"]}
    found = located(graph, picture, as_a_file(graph, picture, tmp_path, broken=broken))
    assert [fault.node for fault in found.faults] == ["prelu", "conv2d_3"]
    assert [fault.alone for fault in found.faults] == [False, True]


def test_another_network_is_no_single_fault(graph: GraphModule, picture: Tensor, planted: Any, tmp_path: Path) -> None:
    other = planted.small()
    for parameter in other.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    trace = as_a_file(export(other, planted.SIZE).program.module(check_guards=False), picture, tmp_path)
    found = located(graph, picture, trace)
    assert found.faults
    assert not found.faults[0].alone


def test_a_file_that_yields_nothing_but_nan(graph: GraphModule, picture: Tensor, tmp_path: Path) -> None:
    trace = as_a_file(graph, picture, tmp_path, broken={"prelu_1": lambda x: x * math.nan})
    first, *_ = located(graph, picture, trace).faults
    assert first.node == "prelu_1"


# Differences


def spec(**more: Any) -> TensorSpec:
    return TensorSpec("x", (1,), "float32", layout="", **more)


def test_a_difference_in_decibels() -> None:
    ones = np.ones(1000, np.float32)
    assert difference(ones, ones, spec()) == Difference(math.inf, math.inf)
    assert difference(ones, np.float32(1.1) * ones, spec()).sqnr_db == pytest.approx(20, abs=1e-4)
    assert difference(ones, ones * np.float32(math.nan), spec()).sqnr_db == -math.inf
    assert difference(0 * ones, ones, spec()).sqnr_db == -math.inf


def test_a_zero_point_off_by_one_is_a_bias_of_one_step() -> None:
    stored = TensorSpec("x", (1,), "int8", "", scale=0.1, zero_point=3)
    expected = np.random.default_rng(0).normal(0, 3, 10_000).astype(np.float32)
    quantized = np.clip(np.round(expected / 0.1), -131, 124) * 0.1
    sound = difference(expected, quantized.astype(np.float32), stored)
    assert sound.within(tolerance_db("int8", stored))
    assert sound.bias_steps == pytest.approx(0, abs=0.05)
    shifted = difference(expected, (quantized + 0.1).astype(np.float32), stored)
    assert shifted.bias_steps == pytest.approx(1, abs=0.05)
    assert not shifted.within(tolerance_db("int8", stored))


def test_a_value_of_few_steps_is_as_far_off_as_rounding_leaves_it() -> None:
    """One large number sets the scale, and most of the others are fractions of it."""
    stored = TensorSpec("x", (1,), "int8", "", scale=1.0, zero_point=0)
    expected = np.random.default_rng(0).normal(0, 1.5, 10_000).astype(np.float32)
    sound = difference(expected, np.round(expected), stored)
    assert sound.sqnr_db < tolerance_db("int8", stored)
    assert sound.rms_steps == pytest.approx(12**-0.5, abs=0.02)
    assert sound.within(tolerance_db("int8", stored))
    for wrong in (np.round(expected) + 1, np.round(-expected), np.round(np.roll(expected, 1))):
        assert not difference(expected, wrong, stored).within(tolerance_db("int8", stored))
    # Of what lies below half a step nothing is left.
    faint = expected / 16
    assert difference(faint, np.round(faint), stored).rms_steps == pytest.approx(1.5 / 16, abs=0.01)
    assert not difference(faint, np.round(faint), stored).within(tolerance_db("int8", stored))


def test_saturation_is_the_range_s_and_not_the_operator_s() -> None:
    stored = TensorSpec("x", (1,), "int8", "", scale=0.1, zero_point=0)
    found = difference(np.full(10, 50, np.float32), np.full(10, 12.7, np.float32), stored)
    assert found.sqnr_db > 100
    assert found.whole_db == pytest.approx(20 * math.log10(50 / 37.3), abs=1e-3)


def test_the_tolerance_is_the_looser_of_the_file_s_and_the_value_s() -> None:
    half = TensorSpec("x", (1,), "float16", "")
    assert tolerance_db("fp32", spec()) > tolerance_db("fp32", half) > tolerance_db("int8", half)
    assert tolerance_db("unknown", spec()) == tolerance_db("fp32", spec())
    assert tolerance_db("unknown", half) == tolerance_db("fp16", half)
