"""What int8 costs a network, layer by layer, and which layers to keep in float: simulated, without writing a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import registry
from mobileseg.decibels import as_plain
from mobileseg.errors import OptionError
from mobileseg.jobs import DEFAULT_CALIBRATION, DEFAULT_OUTPUT, Job, check_size, prepare
from mobileseg.making import Clock, Progress, about, rewritten_for, silent, sorting
from mobileseg.pipeline import exported, open_network
from mobileseg.types import INT8, Checkpoint, Int8Recipe, Preprocessing, Size

if TYPE_CHECKING:
    from torch import nn

    from mobileseg.quantization.program.planned import Calibrated
    from mobileseg.quantization.program.survey import Kept, Survey, Unit
    from mobileseg.sources import PictureSource

PRECISION = "int8"

Decibels = float | str
"""A number, ``"infinite"`` (no error), or ``"no signal"`` (nothing but error)."""


@dataclass(frozen=True)
class LayerError:
    """One unit: an operator and what moves its numbers. ``module``: its path in the network, empty for what is outside
    (preprocessing); ``node``: of the rewritten program; ``operators``: those that compute.

    ``flips``: share of pixels that change class where this unit alone is in int8; ``error_share``: of the squares of
    these, over all units. ``cost_share``: of the network's computation. ``sqnr_db``: of its result,
    rounded, where this unit alone is in int8; ``accumulated_sqnr_db``: where all are. ``rank``: its place, from 1, in
    the order in which units are kept in float. ``kept_float``: the budget wants it in float.
    """

    module: str
    node: str
    operators: tuple[str, ...]
    flips: float
    error_share: float
    cost_share: float
    sqnr_db: Decibels
    accumulated_sqnr_db: Decibels
    rank: int
    kept_float: bool


@dataclass(frozen=True)
class FloatStep:
    """The first ``units`` of the order in float: what they cost, as a share, and the share of pixels that keep their
    class."""

    units: int
    cost_share: float
    pixel_agreement: float


@dataclass(frozen=True)
class Budget:
    """What a share of pixels, ``min_agreement`` on new pictures, which asks for ``sought`` on the probes, wants in
    float: ``kept``, the fewest units that meet it. ``met``: False
    where half of the units, the most that may stay in float, do not."""

    min_agreement: float
    sought: float
    kept: FloatStep
    met: bool


@dataclass(frozen=True)
class Sensitivity:
    """``layers``: in the network's order. ``units``: how many there are, with those that round nothing. ``curve``: from
    int8 throughout on. ``ranges``: the method that was taken. Pictures are counted; ``probes`` of them, mirrored, are
    what agreement is measured on. All of it is of the simulation in torch."""

    checkpoint: Checkpoint
    target: str
    size: Size
    pictures: str
    images: int
    probes: int
    ranges: str
    units: int
    layers: tuple[LayerError, ...]
    curve: tuple[FloatStep, ...]
    budget: Budget

    @property
    def worst_first(self) -> tuple[LayerError, ...]:
        """By the pixels that each alone makes change class."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.error_share))

    @property
    def report(self) -> dict[str, Any]:
        """In what JSON knows; the layers worst first, each with its ``place`` in the network, from 1."""
        from mobileseg import __version__

        places = {layer.node: place for place, layer in enumerate(self.layers, 1)}
        network = self.checkpoint
        return {
            "tool": {"name": "mobileseg", "version": __version__},
            "checkpoint": {
                "path": network.path.as_posix(),
                "sha256": network.sha256,
                "architecture": network.architecture,
                "variant": network.variant,
            },
            "target": self.target,
            "precision": PRECISION,
            "size": self.size,
            "calibration": {"source": self.pictures, "images": self.images, "probes": self.probes},
            "ranges": self.ranges,
            "units": self.units,
            "budget": asdict(self.budget),
            "curve": [asdict(step) for step in self.curve],
            "layers": [{"place": places[layer.node], **asdict(layer)} for layer in self.worst_first],
        }


def sensitivity(
    checkpoint: str | Path | None = None,
    *,
    to: str = "tflite",
    size: Size | None = None,
    model: str | Callable[..., nn.Module] | nn.Module | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | str | Path | None = None,
    preprocessing_overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    calibration: str | Path | None = None,
    calibration_size: int = DEFAULT_CALIBRATION,
    seed: int = 0,
    recipe: Int8Recipe = INT8,
    progress: Progress = silent,
    announce: Callable[[Checkpoint, Size], None] | None = None,
) -> Sensitivity:
    """Measure what rounding each layer to int8 does to a network's result, and which layers to keep in float.

    ``to``: one target, in whose int8 forms the network is looked at. ``recipe``: as for a file; its ``min_agreement``
    is the budget. The rest is as `mobileseg.convert` has it. Nothing is written.

    Raises what `mobileseg.convert` raises for the same; `OptionError` for several targets.
    """
    demo = checkpoint is None and model is None
    job = _job(to, options or {}, calibration, calibration_size, seed, demo=demo)
    (target,) = job.targets
    clock = Clock(progress)
    with clock.stage("Load the checkpoint"):
        network = open_network(
            checkpoint,
            architecture=architecture,
            variant=variant,
            num_classes=num_classes,
            model=model,
            size=size,
            preprocessing=preprocessing,
            overrides=preprocessing_overrides,
        )
        chosen = check_size(network, size or network.size)
    if announce is not None:
        announce(network, chosen)
    from mobileseg.quantization.program import equalized
    from mobileseg.quantization.program.planned import calibrated
    from mobileseg.quantization.program.search import Budget as Limits
    from mobileseg.quantization.program.survey import survey
    from mobileseg.sources import calibration_pictures

    source = calibration_pictures(job, chosen)
    with clock.stage("Export"):
        program = exported(network, chosen, job)
    if recipe.equalized:
        with clock.stage("Equalize channels"):
            program = replace(program, program=equalized(program.program, source.pictures, recipe))
    with clock.stage(f"Rewrite for {target.name}"):
        module = rewritten_for(target, PRECISION, job.options[target.name], program).module
    sort = sorting(registry.QUANTIZERS[target.name, PRECISION])
    with clock.stage(f"Calibrate {PRECISION}") as count:
        found = calibrated(module, source.pictures, recipe, sort, count, about(source))
    limits = Limits(found.sought(recipe.min_agreement), recipe.max_miou_drop)
    with clock.stage("Measure each operator") as count:
        tell = None if count is None else partial(count, "operators")
        surveyed = survey(module, found.plan, found.judge, limits, recipe.max_evaluations, tell)
    return _told(network, job, chosen, source, found, surveyed, recipe.min_agreement)


def _job(
    to: str, options: Mapping[str, Any], calibration: str | Path | None, calibration_size: int, seed: int, *, demo: bool
) -> Job:
    job = prepare(
        to=to,
        precision=PRECISION,
        head="logits",
        output_size="network",
        raw_input=False,
        output=DEFAULT_OUTPUT,
        options=options,
        workers=None,
        gates=None,
        calibration=calibration,
        calibration_size=calibration_size,
        calibration_labels=None,
        recipe=INT8,
        images=None,
        labels=None,
        image_count=1,
        seed=seed,
        demo=demo,
    )
    if len(job.targets) + len(job.missing) != 1:
        named = ", ".join([*(t.name for t in job.targets), *job.missing])
        raise OptionError(
            f"The layers of one target are looked at, and --to names {named}. Each has forms of its own: "
            "name one, and run again for the others."
        )
    return job


def _told(
    network: Checkpoint,
    job: Job,
    size: Size,
    source: PictureSource,
    calibrated: Calibrated,
    found: Survey,
    min_agreement: float,
) -> Sensitivity:
    from mobileseg.foreign import path_in_deployed

    searched, prefix = found.searched, path_in_deployed(network.network)
    sought = calibrated.sought(min_agreement)
    kept = frozenset(node for item in searched.kept for node in item.unit)
    step = FloatStep(len(searched.kept), searched.cost, searched.agreement)
    total = sum(item.error for item in searched.errors) or 1.0
    return Sensitivity(
        checkpoint=network,
        target=job.targets[0].name,
        size=size,
        pictures=source.name,
        images=source.count,
        probes=len(calibrated.probes),
        ranges=calibrated.ranges,
        units=len(searched.errors),
        layers=tuple(_layer(unit, prefix, total, unit.first in kept) for unit in found.units),
        curve=tuple(_step(step) for step in found.curve),
        budget=Budget(min_agreement, sought, step, searched.agreement >= sought),
    )


def _layer(unit: Unit, prefix: str, total: float, kept: bool) -> LayerError:
    from mobileseg.converters.passes.base import module_of

    return LayerError(
        module=f"{module_of(unit.first)}.".removeprefix(prefix).rstrip("."),
        node=unit.first.name,
        operators=unit.operators,
        flips=unit.flips,
        error_share=unit.error / total,
        cost_share=unit.cost,
        sqnr_db=as_plain(unit.own_db),
        accumulated_sqnr_db=as_plain(unit.accumulated_db),
        rank=unit.rank + 1,
        kept_float=kept,
    )


def _step(kept: Kept) -> FloatStep:
    return FloatStep(kept.units, kept.cost, kept.agreement)
