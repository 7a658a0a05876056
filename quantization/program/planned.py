"""From a rewritten program and calibration pictures to its int8 plan: the part that all targets share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mobileseg.errors import PictureError
from mobileseg.quantization.calibration import About
from mobileseg.quantization.prints import Known, print_of
from mobileseg.quantization.program.insert import inserted
from mobileseg.quantization.program.judge import Judge
from mobileseg.quantization.program.names import head_of, layers_of, named
from mobileseg.quantization.program.plan import plan_for, ranges_of
from mobileseg.quantization.program.search import cost, search
from mobileseg.quantization.program.simulate import Observer, classes, first_result, observe
from mobileseg.quantization.program.values import is_float, name_of, units_of, values_of
from mobileseg.quantization.program.watch import Watch
from mobileseg.quantization.ranges import range_method
from mobileseg.quantization.recovery.equalize import equalize
from mobileseg.types import Int8Findings, KeptUnit, NotRun

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.plan import Plan
    from mobileseg.quantization.program.search import Searched
    from mobileseg.quantization.program.values import Values
    from mobileseg.quantization.recovery.equalize import Equalized
    from mobileseg.types import Int8Recipe

Sort = Callable[["Values"], "Values"]
"""The values that a target rounds, of those that could be."""

Tell = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are (0: not known)."""

NEWEST = 2.0
"""Most that `Calibrated.novelty` may be."""

CANDIDATES = ("percentile", "percentile:99.95", "percentile:99.999", "mse", "min-max")
"""Of these range methods ``"auto"`` takes the one that keeps most pixels equal on the probes."""

NO_LABELS = "the calibration pictures have no labels (--calibration-labels)"

Pictures = Callable[[], "Iterator[NDArray[np.uint8]]"]
"""Each call gives the pictures anew, (H, W, 3) uint8 RGB of the program's size, one at a time."""


@dataclass(frozen=True)
class Planned:
    """``module``: the rewritten program, in float. ``calibrated``: what the plan was made of; ``picture``: one of the
    calibration pictures."""

    module: GraphModule
    plan: Plan
    searched: Searched
    recipe: Int8Recipe
    calibrated: Calibrated
    picture: NDArray[np.uint8]

    @property
    def words(self) -> str:
        """The recipe, for people."""
        found = self.searched
        said = [
            "static int8: weights symmetric per channel, activations asymmetric per tensor",
            f"ranges by {self.calibrated.ranges} over the calibration pictures",
            f"simulated on up to {self.recipe.probes} of them, mirrored: {found.int8:.2%} of pixels equal",
        ]
        if self.recipe.equalized:
            said.insert(1, "channels equalized")
        if found.miou_drop is not None:
            said.append(f"{max(0.0, found.miou_drop):.2f} points of mIoU lost there")
        elif self.recipe.max_miou_drop is not None:
            said.append(f"{NO_LABELS}, so that the limit of mIoU is a gate alone")
        if found.kept:
            said.append(
                f"{len(found.kept)} of {len(found.errors)} units kept in float, {found.cost:.0%} of the cost: "
                f"{found.agreement:.2%}"
            )
        return "; ".join(said)

    @property
    def kept_float(self) -> tuple[str, ...]:
        """What computes in float, ``"KIND: layer of the checkpoint"``, the largest error first."""
        return tuple(f"{unit.operator}: {unit.name}" for unit in self.kept)

    @property
    def kept(self) -> tuple[KeptUnit, ...]:
        """The units in float, the largest error for its cost first."""
        found, layers = self.searched, layers_of(self.module)
        error = sum(item.error for item in found.errors)
        whole = cost(self.module, self.module.graph.nodes)
        heads = [head_of(item.unit, self.plan.values) for item in found.kept]
        return tuple(
            KeptUnit(
                named(head, layers),
                name_of(head),
                item.error / error if error > 0.0 else 0.0,
                cost(self.module, item.unit) / whole,
            )
            for head, item in zip(heads, found.kept, strict=True)
        )

    @property
    def findings(self) -> Int8Findings:
        """What a report tells of the plan; of the file, nothing yet."""
        found = self.searched
        return Int8Findings(
            recipe=self.recipe,
            ranges=self.calibrated.ranges,
            ranges_tried=self.calibrated.tried,
            probes=len(self.calibrated.probes),
            novelty=self.calibrated.novelty,
            sought=self.calibrated.sought(self.recipe.min_agreement),
            int8=found.int8,
            agreement=found.agreement,
            miou_drop=NotRun(NO_LABELS) if found.miou_drop is None else found.miou_drop,
            held=found.held,
            evaluations=found.evaluations,
            units=sum(1 for _ in units_of(self.plan.values, self.module)),
            kept=self.kept,
            cost_share=found.cost,
            float_operators=NotRun("the runtime chooses what it computes in float beside what is kept"),
            file_agreement=NotRun("the file was not run on the probes"),
            equalization=NotRun("it was not asked for"),
            warnings=self.calibrated.warnings,
        )

    def written(self) -> GraphModule:
        """The program with its values quantized and back (`insert`)."""
        return inserted(self.module, self.plan)

    def known(self) -> list[Known]:
        """What the plan says of each float value, with the value's print on ``picture``."""
        found: list[Known] = []

        def see(node: Node, value: Tensor) -> None:
            seen, is_float = print_of(value.detach().numpy()), node in self.plan.floats
            held = None
            if node in self.plan.values.flags:
                held = None if is_float else (seen.figures[0], seen.figures[1])
            elif self.plan.scale_held(node) is not None:
                held = self.plan.ranges[self.plan.values.root(node)]
            found.append(Known(seen, held, is_float))

        computed = [n for n in self.module.graph.nodes if n.op in {"placeholder", "call_function"} and is_float(n)]
        with torch.no_grad():
            Observer(self.module, computed, see).run(tensor_of(self.picture, _shape(self.module)))
        return found


NOTHING = About()


def same(values: Values) -> Values:
    """What most targets round: what the program's own sorting finds."""
    return values


@dataclass(frozen=True)
class Calibrated:
    """``plan``: int8 throughout, by the range method ``ranges``; ``tried``: the share of equal pixels of each method,
    where several were tried. ``images``: how many pictures calibrated. ``judge``: holds plans against float on the
    probes. ``novelty``: how many times as many pixels change class on these as on the same pictures as they are, 1 to
    `NEWEST`. ``warnings``: of `watch`."""

    plan: Plan
    ranges: str
    images: int
    judge: Judge
    novelty: float
    tried: Mapping[str, float]
    warnings: tuple[str, ...]

    @property
    def probes(self) -> Sequence[Tensor]:
        """What agreement is measured on, each (N, 3, H, W) float32."""
        return self.judge.pictures

    def sought(self, min_agreement: float) -> float:
        """The share of equal pixels that a plan must have on the probes for that share on new pictures. Where a
        network was trained on the pictures, mirrored ones are harder than these, and new ones harder by as much again.
        """
        return 1.0 - (1.0 - min_agreement) / self.novelty


def plan_program(
    module: GraphModule,
    pictures: Pictures,
    recipe: Int8Recipe,
    sort: Sort = same,
    progress: Tell | None = None,
    about: About = NOTHING,
) -> Planned:
    """Calibrate, and keep in float what the recipe's budget asks for.

    ``module``, ``sort``, ``progress``, ``about``, and what is raised: as of `calibrated`.
    """
    tell = progress or (lambda what, done, of: None)
    found = calibrated(module, pictures, recipe, sort, progress, about)
    searched = search(
        module,
        found.plan,
        found.probes,
        at_least=found.sought(recipe.min_agreement),
        most_lost=recipe.max_miou_drop,
        evaluations=recipe.max_evaluations,
        judge=found.judge,
        progress=lambda done, of: tell("operators", done, of),
        tried=lambda done, of: tell("plans", done, of),
    )
    picture = next(pictures())
    return Planned(module, searched.plan, searched, recipe, found, picture)


def calibrated(
    module: GraphModule,
    pictures: Pictures,
    recipe: Int8Recipe,
    sort: Sort = same,
    progress: Tell | None = None,
    about: About = NOTHING,
) -> Calibrated:
    """The plan of int8 throughout: ranges of all values, by the method that keeps most pixels equal.

    ``module``: unlifted, in a target's forms, each node's value in ``meta["val"]``. ``sort``: the values that the
    target rounds, of those that could be. ``about``: the pictures' number, names and labels.

    Raises `PictureError` where there is no picture, or one of another size; `OptionError` for an unknown range method;
    `CheckpointError` where the network computes no finite numbers on a picture.
    """
    methods = {name: range_method(name) for name in (CANDIDATES if recipe.ranges == "auto" else (recipe.ranges,))}
    values = sort(values_of(module))
    tell = progress or (lambda what, done, of: None)
    watch = Watch(module, values, about)
    tensors = (_watched(watch, picture, _shape(module), number) for number, picture in enumerate(pictures(), 1))
    statistics, images = observe(module, values, tensors, lambda done: tell("pictures", done, about.count), watch.value)
    if images == 0:
        raise PictureError("There is no calibration picture; int8 needs some. Name their folder with --calibration.")
    judge = _judge(module, pictures, recipe, about)
    plans = {name: plan_for(values, ranges_of(values, statistics, method)) for name, method in methods.items()}
    tried: dict[str, float] = {}
    if len(plans) > 1:
        for number, (name, plan) in enumerate(plans.items(), 1):
            tried[name] = judge.effect(plan).agreement
            tell("range methods", number, len(plans))
    best = max(plans, key=lambda name: tried.get(name, 0.0))
    changed = 1.0 - (tried[best] if tried else judge.effect(plans[best]).agreement)
    novelty = _novelty(module, plans[best], pictures, recipe, changed)
    return Calibrated(plans[best], best, images, judge, novelty, tried, watch.warnings(statistics))


def _watched(watch: Watch, picture: NDArray[np.uint8], shape: Sequence[int], number: int) -> Tensor:
    watch.picture(picture)
    return tensor_of(picture, shape, number)


def _judge(module: GraphModule, pictures: Pictures, recipe: Int8Recipe, about: About) -> Judge:
    """Of the first pictures, mirrored, and their labels where there are any."""
    probes = [tensor_of(picture, _shape(module)) for picture in probes_of(pictures, recipe)]
    if about.labels is None:
        return Judge(module, probes)
    labels = [_mirrored(labels) for labels in itertools.islice(about.labels(), recipe.probes)]
    return Judge(module, probes, labels, about.void)


def _novelty(module: GraphModule, plan: Plan, pictures: Pictures, recipe: Int8Recipe, changed: float) -> float:
    """``changed``: the share of pixels that change class on the probes."""
    probes = itertools.islice(pictures(), recipe.probes)
    as_they_are = Judge(module, [tensor_of(picture, _shape(module)) for picture in probes])
    known = 1.0 - as_they_are.effect(plan).agreement
    return min(max(changed / known, 1.0), NEWEST) if known > 0.0 else 1.0


def probes_of(pictures: Pictures, recipe: Int8Recipe) -> Iterator[NDArray[np.uint8]]:
    """The pictures that plans are simulated on, (H, W, 3) uint8."""
    return (_mirrored(picture) for picture in itertools.islice(pictures(), recipe.probes))


def _mirrored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Left to right. A network is surer of the pictures that it was trained on, which calibration pictures often are,
    than of others, and int8 changes fewer of their pixels: mirrored, they do as pictures that it has not seen
    (docs/measurements.md)."""
    return np.ascontiguousarray(picture[:, ::-1])


def tensor_of(picture: NDArray[np.uint8], shape: Sequence[int], number: int = 1) -> Tensor:
    """A picture (H, W, 3) uint8 as a program takes it: (N, 3, H, W) float32 of that ``shape``, the same for a whole
    batch.

    Raises `PictureError` for one of another size; ``number`` is what it is called.
    """
    if picture.shape != (shape[2], shape[3], shape[1]):
        raise PictureError(
            f"Calibration picture {number} is {picture.shape}; the model takes {(shape[2], shape[3], shape[1])}. "
            "Resize the pictures to the size given by --size."
        )
    values = np.ascontiguousarray(picture.transpose(2, 0, 1)[None].astype(np.float32))
    return torch.from_numpy(values).expand(tuple(shape)).contiguous()


def equalized(program: ExportedProgram, pictures: Pictures, recipe: Int8Recipe) -> ExportedProgram:
    """`equalize_channels`'s program."""
    return equalize_channels(program, pictures, recipe).program


def equalize_channels(program: ExportedProgram, pictures: Pictures, recipe: Int8Recipe) -> Equalized:
    """The program in canonical form, before its rewriting, with channels of like ranges (`recovery.equalize`)."""
    shape = program.example_inputs[0][0].shape
    few = itertools.islice(pictures(), recipe.probes)
    return equalize(program, (tensor_of(picture, shape, n) for n, picture in enumerate(few, 1)))


def exact_classes(module: GraphModule, picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The (N, H', W') class map of the program in float; ``picture``: (H, W, 3) uint8, the same for a whole batch."""
    with torch.no_grad():
        result = first_result(module(tensor_of(picture, _shape(module))))
    return np.asarray(classes(result).numpy(), np.int64)


def int8_agreement(
    module: GraphModule,
    pictures: Pictures,
    recipe: Int8Recipe,
    sort: Sort = same,
    progress: Tell | None = None,
    about: About = NOTHING,
) -> float:
    """The share of equal pixels, 0 to 1, of int8 throughout, with one method of ranges, on the mirrored probes."""
    tell = progress or (lambda what, done, of: None)
    values = sort(values_of(module))
    tensors = (tensor_of(picture, _shape(module), number) for number, picture in enumerate(pictures(), 1))
    statistics, _ = observe(module, values, tensors, lambda done: tell("pictures", done, about.count))
    plan = plan_for(values, ranges_of(values, statistics, range_method(recipe.ranges)))
    return _judge(module, pictures, recipe, NOTHING).effect(plan).agreement


def _shape(module: GraphModule) -> Sequence[int]:
    return tuple(next(n for n in module.graph.nodes if n.op == "placeholder").meta["val"].shape)
