"""The ExecuTorch tracer: what it says each operator gives is what torch gives there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg import registry
from mobileseg.errors import MobilesegError, UnavailableError
from mobileseg.validation.graphs.executorch import deserialized, plan_named
from mobileseg.validation.traces import executorch as tracer
from mobileseg.validation.traces import trace_artifact
from mobileseg.validation.traces.base import Trace
from mobileseg.validation.traces.program import dissect

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")

SIZE = (12, 20)
SAME = "looked into, it gives the same result"


class Known(nn.Module):
    """Every value by name, the last of them the result."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.slopes = nn.PReLU(8)
        self.last = nn.Conv2d(16, 5, 1)
        with torch.no_grad():
            self.slopes.weight.copy_(torch.linspace(-0.5, 0.7, 8))

    def values(self, x: Tensor) -> dict[str, Tensor]:
        convolved = self.first(x)
        activated = self.slopes(convolved)
        pooled = F.max_pool2d(activated, 2)
        enlarged = F.interpolate(pooled, scale_factor=2, mode="bilinear", align_corners=False)
        joined = torch.cat([activated, enlarged], 1)
        return {
            "convolved": convolved,
            "activated": activated,
            "pooled": pooled,
            "enlarged": enlarged,
            "joined": joined,
            "result": self.last(joined),
        }

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)["result"]


class Halved(nn.Module):
    """Two parts for XNNPACK, and between them a maximum over the channels, which ExecuTorch's own kernels run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def values(self, x: Tensor) -> dict[str, Tensor]:
        first = self.first(x)
        greatest = first.max(dim=1, keepdim=True).values
        return {"first": first, "greatest": greatest, "less": first - greatest, "result": self.last(first - greatest)}

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)["result"]


class Reshaped(nn.Module):
    """Reshapings, which ExecuTorch leaves out, between operators that it runs."""

    def values(self, x: Tensor) -> dict[str, Tensor]:
        more = x + 1
        squashed = torch.sigmoid(more.view(1, 3, 2, 6, 20))
        twice = squashed.view(1, 3, 240) * 2
        return {"more": more, "squashed": squashed, "twice": twice, "result": twice.view(1, 3, 12, 20) - more}

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)["result"]


class Stretching(nn.Module):
    """Reshapings to what the picture's height decides, which ExecuTorch does not leave out."""

    def values(self, x: Tensor) -> dict[str, Tensor]:
        more = x + 1
        flat = more.flatten(1)
        squashed = torch.sigmoid(flat)
        restored = squashed.view(1, 3, -1, SIZE[1])
        less = restored * 2 - more
        return {"flat": flat, "squashed": squashed, "restored": restored, "less": less, "result": torch.tanh(less)}

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)["result"]


class Overwritten(nn.Module):
    """ExecuTorch can be told to let ``index_put`` write over its input."""

    def forward(self, x: Tensor) -> Tensor:
        squashed = torch.sigmoid(torch.relu(x))
        return torch.index_put(squashed, (torch.tensor([0]),), torch.ones(1, 3, *SIZE)) + 1


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,)))


def seeded(build: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(0)
    return build().eval()


def lowered(
    path: Path, network: nn.Module, delegate: str, precision: str = "fp32", size: tuple[int, int] = SIZE
) -> Path:
    """A file of ours, with the preprocessing ``imagenet`` in it."""
    from mobileseg.converters.executorch import TARGET
    from mobileseg.converters.export import Deployed, export, rewrite
    from mobileseg.converters.target import Lowering

    options = {"delegate": delegate}
    module = Deployed(network, registry.preprocessing("imagenet"), "logits")
    rewritten = rewrite(export(module, size), TARGET.backend(options), precision)
    metadata = {"input": {"name": "picture", "layout": "NCHW"}, "output": {"name": "logits", "layout": "NCHW"}}
    TARGET.lower(rewritten, Lowering(precision, "logits", metadata, options), path)
    return path


def foreign(
    path: Path, module: nn.Module, partitioners: Sequence[Any] = (), heights: Any = None, **options: Any
) -> Path:
    """A file of ExecuTorch's own tools."""
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    program = torch.export.export(module, (noise(),), dynamic_shapes=heights and ({2: heights},))
    edge = to_edge_transform_and_lower(program, partitioner=list(partitioners))
    path.write_bytes(edge.to_executorch(ExecutorchBackendConfig(**options)).buffer)
    return path


def picture(size: tuple[int, int] = SIZE) -> Tensor:
    """(1, 3, H, W) float32, whole numbers in 0..255."""
    return (torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)) * 255).round()


def noise() -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def preprocessed(x: Tensor) -> Tensor:
    gain, offset = registry.preprocessing("imagenet").affine()
    return x * torch.tensor(gain).view(1, 3, 1, 1) + torch.tensor(offset).view(1, 3, 1, 1)


def differences(trace: Trace, want: Tensor) -> Iterator[tuple[float, str]]:
    """How far each traced value of the same shape, up to NHWC, is from a tensor of torch's."""
    for key in trace.specs:
        value = trace.value(key)
        for candidate in (value, value.transpose(0, 3, 1, 2)) if value.ndim == 4 else (value,):
            if candidate.shape == tuple(want.shape):
                yield float(np.abs(candidate - want.detach().numpy()).max()), key


def nearest(trace: Trace, values: Mapping[str, Tensor]) -> dict[str, tuple[float, str]]:
    return {name: min(differences(trace, want)) for name, want in values.items()}


def far_off(found: Mapping[str, tuple[float, str]], limit: float) -> dict[str, float]:
    return {name: difference for name, (difference, _) in found.items() if not difference <= limit}


def check_order(trace: Trace) -> None:
    """Each step reads the file's input or what an earlier step gave, and nothing else: no constant."""
    known = set(trace.inputs)
    for position, step in enumerate(trace.steps):
        assert step.index == position
        assert step.inputs
        assert set(step.inputs) <= known
        assert step.outputs
        assert not set(step.outputs) & known
        known.update(step.outputs)
    assert known == set(trace.specs)
    assert set(trace.outputs) <= known


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def known() -> Known:
    return cast("Known", seeded(Known))


@pytest.fixture(scope="module")
def file(folder: Path, known: Known) -> Path:
    return lowered(folder / "known.pte", known, "xnnpack")


@pytest.fixture(scope="module")
def portable(folder: Path, known: Known) -> Path:
    return lowered(folder / "portable.pte", known, "portable")


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., Trace]:
    def run(path: Path, x: Tensor | None = None) -> Trace:
        kept = tmp_path / path.stem
        kept.mkdir()
        return trace_artifact(path, (picture() if x is None else x).numpy(), kept)

    return run


@pytest.mark.parametrize("delegate", ["xnnpack", "portable"])
def test_each_value_of_torchs_is_there(file, portable, known, traced, delegate):
    trace = traced(file if delegate == "xnnpack" else portable)
    check_order(trace)
    values = known.values(preprocessed(picture()))
    assert far_off(nearest(trace, values), 1e-5) == {}
    np.testing.assert_allclose(trace.value(trace.outputs[0]), values["result"].detach().numpy(), atol=1e-5)
    np.testing.assert_array_equal(trace.value(trace.inputs[0]), picture().numpy())
    assert SAME in trace.runtime


def test_values_inside_xnnpack_are_in_its_own_dimensions(file, traced):
    trace = traced(file)
    (convolution,) = [
        step for step in trace.steps if step.operator == "Conv2d" and step.name.startswith("network.first")
    ]
    assert trace.specs[convolution.outputs[0]].shape == (1, 6, 10, 8)
    assert trace.specs[trace.outputs[0]].shape == (1, 5, 6, 10)
    assert {spec.layout for spec in trace.specs.values()} == {""}


def test_operators_are_named_after_the_schema_the_weights_and_their_places(file, portable, traced):
    inside, outside = traced(file), traced(portable)
    assert {"Conv2d", "MaxPooling2d", "StaticResizeBilinear2D", "Concatenate2"} <= {s.operator for s in inside.steps}
    assert {"aten.convolution", "aten.max_pool2d_with_indices", "aten.cat"} <= {s.operator for s in outside.steps}
    for trace, place in ((inside, "node"), (outside, "instruction")):
        named = [step.name.partition(" (") for step in trace.steps if "(" in step.name]
        assert [name for name, _, _ in named] == ["network.first.weight", "network.last.weight"]
        assert all(where.startswith(place) for _, _, where in named)
        assert all(step.name.startswith(place) for step in trace.steps if "(" not in step.name)


def test_calls_and_kernels_in_turn(folder, traced):
    network = seeded(Halved)
    trace = traced(lowered(folder / "halved.pte", network, "xnnpack"))
    check_order(trace)
    found = nearest(trace, network.values(preprocessed(picture())))
    assert far_off(found, 1e-5) == {}
    places = [step.name.removesuffix(")").partition(" (")[2] or step.name for step in trace.steps]
    kinds = [kind for kind, _ in itertools.groupby(place.split()[0] for place in places)]
    assert kinds == ["call", "instruction", "call"]
    assert len({place.split(",")[0] for place in places if place.startswith("call")}) == 2


def test_float16_inside(folder, known, traced):
    trace = traced(lowered(folder / "half.pte", known, "xnnpack", "fp16"))
    check_order(trace)
    found = nearest(trace, known.values(preprocessed(picture())))
    assert all(difference < 0.01 for difference, _ in found.values())
    assert trace.specs[found["pooled"][1]].dtype == "float16"
    assert trace.specs[trace.outputs[0]].dtype == "float32"
    assert SAME in trace.runtime


def test_reshapings_that_the_file_leaves_out_do_not_break_the_thread(folder, traced):
    trace = traced(foreign(folder / "reshaped.pte", seeded(Reshaped)), noise())
    check_order(trace)
    found = nearest(trace, Reshaped().values(noise()))
    assert far_off(found, 1e-6) == {}
    reads = {step.operator: step.inputs for step in trace.steps}
    key = {name: key for name, (_, key) in found.items()}
    assert reads == {
        "aten.add": trace.inputs,
        "aten.sigmoid": (key["more"],),
        "aten.mul": (key["squashed"],),
        "aten.sub": (key["twice"], key["more"]),
    }


@pytest.mark.parametrize("delegate", ["portable", "xnnpack"])
def test_a_picture_of_any_height(folder, traced, delegate, monkeypatch):
    """And each value alone: the memory of the others is used again."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    partitioners = [XnnpackPartitioner()] if delegate == "xnnpack" else []
    monkeypatch.setattr(tracer, "_BYTES_AT_ONCE", 1)
    heights = torch.export.Dim("height", min=4, max=2 * SIZE[0])
    trace = traced(foreign(folder / f"any.{delegate}.pte", Stretching(), partitioners, heights), noise())
    check_order(trace)
    assert far_off(nearest(trace, Stretching().values(noise())), 1e-6) == {}


def test_a_value_that_is_written_over_is_left_out(folder, traced):
    trace = traced(foreign(folder / "overwritten.pte", Overwritten(), run_reinplace_pass=True), noise())
    check_order(trace)
    assert [step.operator for step in trace.steps] == ["aten.relu", "aten.index_put_", "aten.add"]
    assert (trace.value(trace.steps[1].outputs[0]) == 1).all()


def test_parts_give_what_the_whole_gives(file, traced, tmp_path, monkeypatch):
    whole = traced(file)
    monkeypatch.setattr(tracer, "_BYTES_AT_ONCE", 5000)
    runs: list[int] = []
    run = tracer._run
    monkeypatch.setattr(tracer, "_run", lambda *given: runs.append(1) or run(*given))
    parts = trace_artifact(file, picture().numpy(), tmp_path)
    assert len(runs) > 3
    assert (parts.steps, parts.specs) == (whole.steps, whole.specs)
    for key in whole.specs:
        np.testing.assert_array_equal(whole.value(key), parts.value(key))


@pytest.mark.parametrize(("added", "said"), [(0.5, "differs by up to 0.5"), (np.nan, "differs by up to inf")])
def test_a_copy_that_gives_another_result_is_told(file, traced, monkeypatch, added, said):
    run = tracer._run
    monkeypatch.setattr(tracer, "_run", lambda *given: [array + np.float32(added) for array in run(*given)])
    assert said in traced(file).runtime


@pytest.mark.parametrize("same", [np.nan, np.inf, 3])
def test_what_is_no_number_in_both_is_no_difference(same):
    assert tracer._difference(np.float32([1, same]), np.float32([1, same])) == 0


def test_a_copy_that_does_not_run_is_our_fault(file, traced, monkeypatch):
    monkeypatch.setattr(tracer, "handing_out", lambda program, places: file.read_bytes()[:2000])
    with pytest.raises(MobilesegError, match=r"not the copy of it.*report it"):
        traced(file)


@pytest.mark.parametrize(("identifier", "name"), [("CoreMLBackend", "Core ML"), ("NoSuchBackend", "NoSuchBackend")])
def test_another_delegate_is_named_with_the_way_out(file, identifier, name):
    opened = deserialized(file)
    plan = plan_named(opened, "forward")
    delegates = [replace(delegate, id=identifier) for delegate in plan.delegates]
    with pytest.raises(UnavailableError, match=rf"{name} runs them as one.*--delegate xnnpack or --delegate portable"):
        dissect(opened, replace(plan, delegates=delegates))


def test_branches_are_refused(folder, traced):
    with pytest.raises(UnavailableError, match="without branches"):
        traced(foreign(folder / "branching.pte", Branching()), noise())


@pytest.mark.slow
@pytest.mark.parametrize("delegate", ["xnnpack", "portable"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["enet", "espnetv2"])
def test_a_whole_network_gives_the_same_result(tmp_path, traced, name, precision, delegate):
    from mobileseg.checkpoint import load_checkpoint

    with resources.as_file(resources.files("mobileseg.mobile_assets.demo") / f"{name}.safetensors") as weights:
        network, size = load_checkpoint(weights).network, (64, 96)
    trace = traced(lowered(tmp_path / f"{name}.pte", network, delegate, precision, size), picture(size))
    check_order(trace)
    assert SAME in trace.runtime
    assert all(np.isfinite(trace.value(key)).all() for key in trace.specs)
