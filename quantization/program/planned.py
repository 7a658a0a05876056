"""From a rewritten program and calibration pictures to its int8 plan: the part that all targets share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mobileseg.errors import PictureError
from mobileseg.quantization.prints import Known, print_of
from mobileseg.quantization.program.insert import inserted
from mobileseg.quantization.program.plan import plan_for, ranges_of
from mobileseg.quantization.program.search import agreement, search
from mobileseg.quantization.program.simulate import Observer, observe
from mobileseg.quantization.program.values import is_float, values_of
from mobileseg.quantization.ranges import range_method
from mobileseg.quantization.recovery.equalize import equalize

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from mobileseg.quantization.program.plan import Plan
    from mobileseg.quantization.program.search import Searched
    from mobileseg.quantization.program.values import Values
    from mobileseg.types import Int8Recipe

CANDIDATES = ("percentile", "percentile:99.999", "mse", "min-max")
"""Of these range methods ``"auto"`` takes the one that keeps most pixels equal on the probes."""

Pictures = Callable[[], "Iterator[NDArray[np.uint8]]"]
"""Each call gives the pictures anew, (H, W, 3) uint8 RGB of the program's size, one at a time."""


@dataclass(frozen=True)
class Planned:
    """``module``: the rewritten program, in float. ``ranges``: the method that was taken. ``images``: how many
    pictures calibrated; ``picture``: one of them."""

    module: GraphModule
    plan: Plan
    searched: Searched
    recipe: Int8Recipe
    ranges: str
    images: int
    picture: NDArray[np.uint8]

    @property
    def words(self) -> str:
        """The recipe, for people."""
        found = self.searched
        said = [
            "static int8: weights symmetric per channel, activations asymmetric per tensor",
            f"ranges by {self.ranges} over the calibration pictures",
            f"simulated on up to {self.recipe.probes} of them, mirrored: {found.int8:.2%} of pixels equal",
        ]
        if self.recipe.equalized:
            said.insert(1, "channels equalized")
        if found.kept:
            said.append(
                f"{len(found.kept)} of {len(found.errors)} units kept in float, {found.cost:.0%} of the cost: "
                f"{found.agreement:.2%}"
            )
        return "; ".join(said)

    @property
    def kept_float(self) -> tuple[str, ...]:
        """The names of the values whose operators compute in float."""
        return tuple(node.name for item in self.searched.kept for node in item.unit if node in self.plan.values.rounded)

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


def same(values: Values) -> Values:
    """What most targets round: what the program's own sorting finds."""
    return values


@dataclass(frozen=True)
class Calibrated:
    """``plan``: int8 throughout, by the range method ``ranges``. ``images``: how many pictures calibrated. ``probes``:
    what agreement is measured on, each (N, 3, H, W) float32."""

    plan: Plan
    ranges: str
    images: int
    probes: tuple[Tensor, ...]


def plan_program(
    module: GraphModule,
    pictures: Pictures,
    recipe: Int8Recipe,
    sort: Callable[[Values], Values] = same,
    progress: Callable[[str, int, int], None] | None = None,
) -> Planned:
    """Calibrate, and keep in float what the recipe's budget asks for.

    ``module``, ``sort``, ``progress``, and what is raised: as of `calibrated`.
    """
    tell = progress or (lambda what, done, of: None)
    found = calibrated(module, pictures, recipe, sort, progress)
    searched = search(
        module,
        found.plan,
        found.probes,
        at_least=recipe.min_agreement,
        progress=lambda done, of: tell("operators", done, of),
    )
    return Planned(module, searched.plan, searched, recipe, found.ranges, found.images, next(pictures()))


def calibrated(
    module: GraphModule,
    pictures: Pictures,
    recipe: Int8Recipe,
    sort: Callable[[Values], Values] = same,
    progress: Callable[[str, int, int], None] | None = None,
) -> Calibrated:
    """The plan of int8 throughout: ranges of all values, by the method that keeps most pixels equal.

    ``module``: unlifted, in a target's forms, each node's value in ``meta["val"]``. ``sort``: the values that the
    target rounds, of those that could be. ``progress``: called with what is
    counted, how many are done, and how many there are (0: not known).

    Raises `PictureError` where there is no picture, or one of another size; `OptionError` for an unknown range method.
    """
    methods = {name: range_method(name) for name in (CANDIDATES if recipe.ranges == "auto" else (recipe.ranges,))}
    values = sort(values_of(module))
    tell = progress or (lambda what, done, of: None)
    tensors = (tensor_of(picture, _shape(module), number) for number, picture in enumerate(pictures(), 1))
    statistics, images = observe(module, values, tensors, lambda done: tell("pictures", done, 0))
    if images == 0:
        raise PictureError("There is no calibration picture; int8 needs some. Name their folder with --calibration.")
    probes = [tensor_of(_mirrored(picture), _shape(module)) for picture in itertools.islice(pictures(), recipe.probes)]
    plans = {name: plan_for(values, ranges_of(values, statistics, method)) for name, method in methods.items()}
    best = next(iter(plans))
    if len(plans) > 1:
        best = max(plans, key=lambda name: agreement(module, plans[name], probes))
    return Calibrated(plans[best], best, images, tuple(probes))


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
    """The program in canonical form, before its rewriting, with channels of like ranges (`recovery.equalize`)."""
    shape = program.example_inputs[0][0].shape
    few = itertools.islice(pictures(), recipe.probes)
    return equalize(program, (tensor_of(picture, shape, n) for n, picture in enumerate(few, 1))).program


def _shape(module: GraphModule) -> Sequence[int]:
    return tuple(next(n for n in module.graph.nodes if n.op == "placeholder").meta["val"].shape)
