"""Where a file goes wrong: one picture through torch's graph and through the file, operator by operator."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import registry
from mobileseg.decibels import as_plain
from mobileseg.types import OutputSize, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobileseg.converters.export import Exported
    from mobileseg.types import Checkpoint
    from mobileseg.validation.bisect import Comparison, Fault, Match
    from mobileseg.validation.bisect.differences import Difference
    from mobileseg.validation.runners import Runner
    from mobileseg.validation.traces import Trace


@dataclass(frozen=True)
class Bisection:
    """``record``: the report's ``operators``. ``faults``: how many operators are wrong."""

    record: Mapping[str, Any]
    faults: int


def bisect(
    runner: Runner, checkpoint: Checkpoint, picture: NDArray[np.uint8], number: int, output_size: OutputSize
) -> Bisection:
    """Hold what every operator of a file gives against torch's graph of the checkpoint.

    ``picture``: ``(H, W, 3) uint8`` RGB of the file's size, ``number``: which of the pictures that were compared it is.
    The values of both sides are kept in a temporary folder: some gigabytes for a large picture.
    Raises `UnavailableError` for a file that cannot be looked into.
    """
    from mobileseg.validation.bisect import locate
    from mobileseg.validation.traces import trace_artifact

    exported = _exported(runner, checkpoint, output_size)
    pictures, fed = _both_inputs(runner, checkpoint, picture)
    with tempfile.TemporaryDirectory(prefix="mobileseg-") as folder:
        trace = trace_artifact(runner.artifact.path, runner.encoded(pictures), Path(folder))
        comparison = _comparison(runner, checkpoint, exported, trace, fed)
        located = locate(comparison)
        accumulated = comparison.plainly(located.matches)
    rewrites = _rewrites(runner, exported)
    record = {
        "runner": trace.runtime,
        "picture": number,
        "torch_values": len(comparison.network.nodes),
        "file_operators": len(trace.steps),
        "values": [
            _value(comparison, node, match, accumulated[node])
            for node, match in located.matches.items()
            if node in accumulated
        ],
        "faults": [_fault(comparison, fault, rewrites) for fault in located.faults],
    }
    return Bisection(record, len(located.faults))


def _exported(runner: Runner, checkpoint: Checkpoint, output_size: OutputSize) -> Exported:
    from mobileseg.converters.export import Deployed, export

    preprocessing = None if runner.raw_input else checkpoint.preprocessing
    return export(Deployed(checkpoint.network, preprocessing, runner.head, output_size), runner.size)


def _both_inputs(
    runner: Runner, checkpoint: Checkpoint, picture: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """What the runner takes, and what torch's graph takes: ``(1, 3, H, W) float32``."""
    import numpy as np

    from mobileseg.validation.parity import network_input

    if runner.raw_input:
        fed = network_input(picture[None], checkpoint.preprocessing)
        return fed, fed
    return picture[None], np.ascontiguousarray(picture[None].transpose(0, 3, 1, 2), np.float32)


def _comparison(
    runner: Runner, checkpoint: Checkpoint, exported: Exported, trace: Trace, fed: NDArray[np.float32]
) -> Comparison:
    import torch

    from mobileseg.foreign import path_in_deployed
    from mobileseg.validation.bisect import Candidate, Candidates, Comparison, Network

    return Comparison(
        network=Network(exported.program.module(check_guards=False), path_in_deployed(checkpoint.network)),
        candidates=Candidates(trace, scaled=_may_be_scaled(runner)),
        precision=runner.artifact.precision,
        picture=torch.from_numpy(fed),
        output=Candidate(trace.outputs[0], channels_last=runner.outputs[0].layout == "NHWC"),
    )


def _may_be_scaled(runner: Runner) -> bool:
    """Whether channels may have been equalized, or signs turned, on the way to this file."""
    recipe = registry.QUANTIZERS.get((runner.artifact.target, runner.artifact.precision))
    return runner.metadata.get("tool") == "mobileseg" and recipe is not None and recipe.planned


def _rewrites(runner: Runner, exported: Exported) -> Mapping[str, tuple[str, ...]]:
    """What mobileseg does to which node on the way to such a file; nothing is known of a file of others."""
    from mobileseg.converters.touched import touched

    metadata = runner.metadata
    if metadata.get("tool") != "mobileseg" or metadata.get("target") not in registry.TARGETS:
        return {}
    target = registry.target(metadata["target"])
    return touched(exported, target.backend(metadata.get("options", {})), runner.artifact.precision)


def _value(comparison: Comparison, node: str, match: Match, accumulated: Difference) -> dict[str, Any]:
    makers = {key: step for step in comparison.candidates.trace.steps for key in step.outputs}
    step = makers.get(match.candidate.key)
    return {
        **_node(comparison, node),
        "file_operator": step.operator if step else "input",
        "file_name": step.name if step else match.candidate.key,
        "file_value": match.candidate.key,
        **_difference(match),
        "accumulated_sqnr_db": as_plain(accumulated.sqnr_db),
        "with_saturation": {
            "sqnr_db": as_plain(match.difference.whole_db),
            "accumulated_sqnr_db": as_plain(accumulated.whole_db),
        },
    }


def _fault(comparison: Comparison, fault: Fault, rewrites: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    passes = dict.fromkeys(name for node in fault.nodes for name in rewrites.get(node, ()))
    spec = comparison.candidates.trace.specs[fault.match.candidate.key] if fault.match else None
    return {
        **_node(comparison, fault.node),
        "torch_nodes": [_node(comparison, node) for node in fault.nodes],
        "file_operators": [{"index": s.index, "operator": s.operator, "name": s.name} for s in fault.steps],
        **(_difference(fault.match) if fault.match else {"sqnr_db": None, "bias_steps": None}),
        "alone": fault.alone,
        "rewrites": list(passes),
        "quantization": _quantization(spec),
    }


def _node(comparison: Comparison, node: str) -> dict[str, str]:
    network = comparison.network
    return {"node": node, "operator": network.operator(node), "module": network.module_of(node)}


def _difference(match: Match) -> dict[str, Any]:
    return {"sqnr_db": as_plain(match.difference.sqnr_db), "bias_steps": match.difference.bias_steps}


def _quantization(spec: TensorSpec | None) -> dict[str, Any] | None:
    """How the file stores the wrong value, where it is quantized."""
    if spec is None or spec.scale is None:
        return None
    return {"dtype": spec.dtype, "scale": spec.scale, "zero_point": spec.zero_point}
