"""What a plan does to the network's answers: pixels that keep their class and, where there are labels, mIoU lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mobileseg.quantization.program.simulate import Observer, Simulator, first_result

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.fx import GraphModule

    from mobileseg.quantization.program.plan import Plan

IGNORED = 255
"""The label of a pixel without a class."""


@dataclass(frozen=True)
class Effect:
    """``agreement``: share of pixels, 0 to 1, of the same class as in float; ``miou_drop``: points of mIoU lost, None
    without labels."""

    agreement: float
    miou_drop: float | None = None


class Judge:
    """Holds plans of one program against its float results, which are computed once.

    ``pictures``: as the program takes them; ``labels``: the (H, W) uint8 class map of each, of any size, or none at
    all; ``void``: the class that is none.
    """

    def __init__(
        self,
        module: GraphModule,
        pictures: Sequence[Tensor],
        labels: Sequence[NDArray[np.uint8]] = (),
        void: int | None = None,
    ) -> None:
        self._module, self.pictures, self._labels, self._void = module, pictures, labels, void
        exact = Observer(module, (), lambda node, value: None)
        self._exact: list[Tensor] = []
        self._scores = _Scores()
        with torch.no_grad():
            for number, picture in enumerate(pictures):
                result = first_result(exact.run(picture))
                self._exact.append(_classes(result))
                self._score(self._scores, number, result)

    def effect(self, plan: Plan) -> Effect:
        """What the simulated plan does on the pictures."""
        simulated, scores = Simulator(self._module, plan), _Scores()
        equal = total = 0
        with torch.no_grad():
            for number, (picture, exact) in enumerate(zip(self.pictures, self._exact, strict=True)):
                result = first_result(simulated.run(picture))
                equal += int((_classes(result) == exact).sum())
                total += exact.numel()
                self._score(scores, number, result)
        drop = 100.0 * (self._scores.miou - scores.miou) if self._labels else None
        return Effect(equal / max(1, total), drop)

    def _score(self, scores: _Scores, number: int, result: Tensor) -> None:
        if self._labels:
            labels = self._labels[number]
            scores.add(labels, _at_size(result, labels.shape[:2]), self._void)


def _classes(result: Tensor) -> Tensor:
    return result.argmax(1) if result.is_floating_point() else result


def _at_size(result: Tensor, size: Sequence[int]) -> NDArray[np.int64]:
    """The first picture's classes at its labels' size: of logits resized bilinearly, of a class map the nearest."""
    floating = result.is_floating_point()
    planes = result[:1] if floating else result[:1, None].float()
    if tuple(planes.shape[2:]) != tuple(size):
        planes = torch.nn.functional.interpolate(planes, tuple(size), mode="bilinear" if floating else "nearest-exact")
    return np.asarray((planes.argmax(1) if floating else planes[:, 0].long())[0].numpy(), np.int64)


class _Scores:
    """Pixels by label and prediction."""

    def __init__(self) -> None:
        self._confusion = np.zeros((IGNORED + 1, IGNORED + 1), np.int64)

    def add(self, labels: NDArray[np.uint8], predicted: NDArray[np.int64], void: int | None) -> None:
        counted = labels != IGNORED
        if void is not None:
            counted &= labels != void
        places = labels[counted].astype(np.int64) * (IGNORED + 1) + np.minimum(predicted[counted], IGNORED)
        self._confusion += np.bincount(places, minlength=self._confusion.size).reshape(self._confusion.shape)

    @property
    def miou(self) -> float:
        """Mean intersection over union, 0 to 1, of the classes that the labels have; 0 where they have none."""
        hits, labelled = np.diagonal(self._confusion), self._confusion.sum(axis=1)
        union = labelled + self._confusion.sum(axis=0) - hits
        present = labelled > 0
        return float((hits[present] / union[present]).mean()) if present.any() else 0.0
