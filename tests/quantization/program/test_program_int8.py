from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobileseg.errors import OptionError, PictureError
from mobileseg.quantization.params import params_of
from mobileseg.quantization.program import plan_program
from mobileseg.quantization.program.plan import Plan, plan_for
from mobileseg.quantization.program.planned import tensor_of
from mobileseg.quantization.program.search import agreement, search
from mobileseg.quantization.program.sensitivity import sensitivities
from mobileseg.quantization.program.simulate import Observer, Simulator, first_result, rounded_weights
from mobileseg.quantization.program.values import name_of, units_of, values_of
from mobileseg.types import INT8

ALL_INT8 = replace(INT8, min_agreement=0.0)
TARGETS = ("onnx", "tflite")


def named(nodes: Any) -> list[str]:
    return [name_of(node) for node in nodes]


def inputs(module: Any, pictures: Any) -> list[torch.Tensor]:
    shape = next(n for n in module.graph.nodes if n.op == "placeholder").meta["val"].shape
    return [tensor_of(picture, shape) for picture in pictures()]


def values_on(runner: Any, wanted: Any, picture: torch.Tensor) -> dict[Any, torch.Tensor]:
    found: dict[Any, torch.Tensor] = {}
    with torch.no_grad():
        runner(wanted, lambda node, value: found.__setitem__(node, value)).run(picture)
    return found


def simulated(module: Any, plan: Plan, picture: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every node's value in the simulation, by name."""

    class Keeping(Simulator):
        def run_node(self, n: Any) -> Any:
            kept[n.name] = result = super().run_node(n)
            return result

    kept: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        Keeping(module, plan).run(picture)
    return kept


def spoiled(plan: Plan, node: Any) -> Plan:
    """The plan with next to no levels for one value."""
    low, high = plan.ranges[node]
    return plan_for(plan.values, {**plan.ranges, node: (200 * low, 200 * high)})


@pytest.mark.parametrize("target", TARGETS)
def test_masks_are_flags_and_what_they_select_has_its_sources_scale(target: str, rewritten: Any) -> None:
    values = values_of(rewritten(target=target))
    assert {"ceil", "sign"} & set(named(values.flags))
    assert not {"ceil", "sign", "permute", "reshape", "slice", "max_pool2d"} & set(named(values.rounded))
    selections = [n for n in values.origin if name_of(n) == "mul"]
    assert selections
    assert len({values.root(n) for n in selections}) == 1


def test_a_limit_is_rounded_with_its_convolution(rewritten: Any) -> None:
    values = values_of(rewritten())
    assert named(values.fused) == ["conv2d"]
    assert named(values.fused.values()) == ["relu"]


def test_units_cover_every_operator_once(rewritten: Any) -> None:
    module = rewritten()
    found = [n for unit in units_of(values_of(module), module) for n in unit]
    assert found == [n for n in module.graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("target", TARGETS)
def test_each_window_gets_its_value_once_at_the_first_maximum_of_the_int8_tensor(
    target: str, batch: int, rewritten: Any, pictures: Any
) -> None:
    module = rewritten(target=target, batch=batch)
    planned = plan_program(module, pictures, ALL_INT8)
    kept = simulated(module, planned.plan, inputs(module, pictures)[0])
    pooled = next(n for n in module.graph.nodes if name_of(n) == "max_pool2d" and kept[n.name].shape[2] == 16)
    before, values = kept[pooled.args[0].name], planned.plan.values
    root = values.root(next(n for n in values.origin if name_of(n) == "mul"))
    y = kept[root.name]
    _, positions = torch.nn.functional.max_pool2d(before, 2, return_indices=True)
    expected = torch.nn.functional.max_unpool2d(y, positions, 2, output_size=before.shape[2:])
    merged = [n for n in values.origin if values.root(n) is root and n.meta["val"].shape == expected.shape]
    assert merged
    assert any(torch.equal(kept[n.name], expected) for n in merged)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_into_the_program_computes_what_was_simulated(
    target: str, rewritten: Any, pictures: Any
) -> None:
    module = rewritten(target=target)
    planned = plan_program(module, pictures, ALL_INT8)
    written = planned.written()
    assert sum("dequantize_per_channel" in str(n.target) for n in written.graph.nodes) == 4
    assert not any("quantize" in str(n.target) for n in module.graph.nodes)
    for picture in inputs(module, pictures):
        with torch.no_grad():
            a, b = first_result(written(picture)), first_result(Simulator(module, planned.plan).run(picture))
        step = planned.plan.scales[planned.plan.values.root(module.graph.output_node().all_input_nodes[0])].scale
        assert float((a - b).abs().max()) <= step * 1.01
        assert float(((a - b).abs() > step / 2).float().mean()) < 0.01


def test_weights_of_a_convolution_in_float_stay_and_its_result_is_rounded_for_int8_readers_alone(
    rewritten: Any, pictures: Any
) -> None:
    module = rewritten()
    planned = plan_program(module, pictures, ALL_INT8)
    units = list(units_of(planned.plan.values, module))
    first = next(unit for unit in units if "conv2d" in named(unit))
    plan = plan_for(planned.plan.values, planned.plan.ranges, frozenset(first))
    relu = next(n for n in first if name_of(n) == "relu")
    assert plan.scale_behind(relu) is None
    readers = plan.read_rounded()
    assert readers
    assert all(reader not in plan.floats for reader in readers)
    picture = inputs(module, pictures)[0]
    inner = simulated(module, plan, picture)[relu.name]
    exact = values_on(lambda wanted, see: Observer(module, wanted, see), [relu], picture)[relu]
    rounded_input = torch.equal(inner, exact)
    assert rounded_input  # all that leads to it is in float: the picture's bytes are exact anyway


def test_with_everything_in_float_nothing_is_rounded(rewritten: Any, pictures: Any) -> None:
    module = rewritten()
    planned = plan_program(module, pictures, ALL_INT8)
    plan = plan_for(planned.plan.values, planned.plan.ranges, frozenset(module.graph.nodes))
    picture = inputs(module, pictures)[0]
    with torch.no_grad():
        assert torch.equal(first_result(Simulator(module, plan).run(picture)), first_result(module(picture)))
    assert plan.scales == {}


def test_each_units_error_is_that_of_it_alone(rewritten: Any, pictures: Any) -> None:
    module = rewritten()
    planned = plan_program(module, pictures, ALL_INT8)
    chosen = inputs(module, pictures)[:2]
    steps: list[tuple[int, int]] = []
    errors = sensitivities(module, planned.plan, chosen, lambda done, of: steps.append((done, of)))
    assert steps[-1] == (2 * len(errors), 2 * len(errors))
    last = errors[-1]
    others = frozenset(n for item in errors[:-1] for n in item.unit)
    ends = {n for n in last.unit if n in planned.plan.scales}
    alone = Plan(planned.plan.values, {}, {n: planned.plan.scales[n] for n in ends}, others)
    weights = {n: w for n, w in rounded_weights(module, planned.plan).items() if n in last.unit}
    assert weights
    expected = flips = 0.0
    with torch.no_grad():
        for picture in chosen:
            exact, found = (
                first_result(module(picture)),
                first_result(Simulator(module, alone, weights=weights).run(picture)),
            )
            expected += float((found - exact).square().sum() / exact.square().sum()) / 2
            flips += float((found.argmax(1) != exact.argmax(1)).double().mean()) / 2
    assert last.flips == flips
    assert last.logits == pytest.approx(expected, rel=1e-3)
    assert last.error == pytest.approx(flips**2, abs=1e-10)
    assert last.error > 0.0


def test_the_search_keeps_in_float_what_the_budget_needs_and_nothing_without_need(
    rewritten: Any, pictures: Any
) -> None:
    module = rewritten()
    planned = plan_program(module, pictures, ALL_INT8).plan
    worst = planned.values.rounded[-1]  # no int8 operator reads it, so that in float nothing rounds it
    plan = spoiled(planned, worst)
    probes = inputs(module, pictures)
    idle = search(module, plan, probes, at_least=0.0)
    assert (idle.kept, idle.errors, idle.cost) == ((), (), 0.0)
    wanted = (agreement(module, planned, probes) + idle.int8) / 2
    assert wanted > idle.int8
    found = search(module, plan, probes, at_least=wanted)
    assert found.held
    assert [worst in item.unit for item in found.kept] == [True]
    assert found.agreement > idle.int8
    assert found.agreement == agreement(module, found.plan, probes)
    assert 0.0 < found.cost < 1.0


def test_the_recipe_is_said_with_what_was_found(rewritten: Any, pictures: Any) -> None:
    planned = plan_program(rewritten(), pictures, replace(INT8, min_agreement=1.0, ranges="min-max"))
    assert "ranges by min-max" in planned.words
    assert "kept in float" in planned.words
    assert planned.kept_float
    assert planned.calibrated.images == 4


@pytest.mark.parametrize("value", [0, 255])
def test_pictures_of_one_colour_give_finite_scales(value: int, rewritten: Any) -> None:
    module = rewritten()
    same = np.full((33, 46, 3), value, np.uint8)
    planned = plan_program(module, lambda: iter([same]), ALL_INT8)
    for scale in planned.plan.scales.values():
        assert np.isfinite(scale.scale)
        assert scale.scale > 0.0
        assert -128 <= scale.zero_point <= 127
    with torch.no_grad():
        result = first_result(planned.written()(inputs(module, lambda: iter([same]))[0]))
    assert bool(result.isfinite().all())


def test_a_dead_channel_gives_finite_numbers(rewritten: Any, pictures: Any) -> None:
    class Dead(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
            for layer in (self[0], self[2]):
                layer.weight.data[:] = 0.0
                layer.bias.data[:] = 0.0

    planned = plan_program(rewritten(Dead()), pictures, ALL_INT8)
    with torch.no_grad():
        assert bool(first_result(planned.written()(inputs(planned.module, pictures)[0])).eq(0.0).all())


def test_scales_hold_zero_and_the_ends() -> None:
    for low, high in ((0.0, 0.0), (-1.0, 3.0), (2.0, 5.0), (-5.0, -2.0), (0.0, 1e-44), (-3e38, 3e38)):
        scale = params_of(low, high)
        assert scale.scale > 0.0
        ends = [(n - scale.zero_point) * scale.scale for n in (-128, 127)]
        assert ends[0] <= 0.0 <= ends[1]
        assert ends[0] <= min(low, 0.0) + scale.scale
        assert ends[1] >= max(high, 0.0) - scale.scale


def test_errors_say_what_to_do(rewritten: Any, pictures: Any) -> None:
    with pytest.raises(PictureError, match="--calibration"):
        plan_program(rewritten(), lambda: iter(()), INT8)
    with pytest.raises(PictureError, match=r"picture 1 is \(8, 8, 3\).*--size"):
        plan_program(rewritten(), lambda: iter([np.zeros((8, 8, 3), np.uint8)]), INT8)
    with pytest.raises(OptionError, match="percentile"):
        plan_program(rewritten(), pictures, replace(INT8, ranges="percentiles"))


@pytest.mark.parametrize("target", TARGETS)
def test_biases_beside_next_to_nothing_are_32_bit_numbers(target: str, rewritten: Any, pictures: Any) -> None:
    """The scale of what a convolution reads is widened as far as its biases need it, and no other."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Hardtanh(-1e-9, 1e-9), nn.Conv2d(4, 3, 1))
    network[0].weight.data *= 1e-14
    network[2].bias.data[:] = torch.tensor([3.0, -1.0, 0.0])
    plain = plan_program(rewritten(network, target=target), pictures, ALL_INT8).plan
    last = max(n for n in plain.values.rounded if name_of(n) == "conv2d")
    source = plain.values.root(last.args[0])
    weights = np.abs(network[2].weight.detach().numpy()).max(axis=(1, 2, 3)) / 127
    assert plain.scales[source].scale == pytest.approx(float((np.abs([3, -1, 0]) / weights).max()) / 2**30, rel=1e-5)
    ordinary = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Hardtanh(-1e9, 1e9), nn.Conv2d(4, 3, 1))
    module = rewritten(ordinary, target=target)
    planned = plan_program(module, pictures, replace(ALL_INT8, ranges="min-max")).plan
    first = min(n for n in planned.values.rounded if name_of(n) == "conv2d")
    seen = [values_on(lambda w, see: Observer(module, w, see), [first], p)[first] for p in inputs(module, pictures)]
    low, high = min(float(v.min()) for v in seen), max(float(v.max()) for v in seen)
    assert planned.ranges[planned.values.root(first)] == pytest.approx((low, high), rel=1e-5)
