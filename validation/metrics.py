"""How far two segmentations lie apart, accumulated picture by picture so that no more than one is held in memory.

Error sums are taken in float64 over all values of all pictures; shares are of all pixels of all pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mobileseg.errors import PictureError
from mobileseg.types import NotRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUNDARY_RADIUS = 2
"""Half width in pixels of the band around class boundaries."""

CONFIDENT_MARGIN = 0.5
"""Lead in probability of the first class over the second from which the reference counts as sure of a pixel."""

IGNORED_LABEL = 255
"""The label value that marks a pixel without a class in every dataset's index maps."""


EQUAL = -150
"""The exponent at which a histogram counts errors of zero: below that of float32's smallest number."""

_LARGEST = 129
"""Above the exponent of float32's largest number."""


@dataclass(frozen=True)
class LogitErrors:
    """Differences of value. Each figure is `NotRun` where it is not defined."""

    max_abs_err: float | NotRun
    """Largest ``|reference - artifact|``, in logits (in probability where the artifact ends in a softmax)."""
    mean_abs_err: float | NotRun
    """Mean of ``|reference - artifact|``, in the same unit."""
    sqnr_db: float | NotRun
    """``10 log10(sum reference^2 / sum (reference - artifact)^2)`` in dB; infinite where the two are equal."""
    cosine: float | NotRun
    """Cosine of the angle between all reference values and all artifact values, -1 to 1."""
    histogram: tuple[tuple[int, int], ...] = ()
    """Exponent e, and how many values have ``2^(e-1) <= |reference - artifact| < 2^e``; those that are equal, at
    `EQUAL`."""


@dataclass(frozen=True)
class Agreement:
    """Shares of pixels, 0 to 1, at the artifact's output size."""

    pixels: float
    """Pixels that get the same class from both."""
    boundary: float | NotRun
    """The same among pixels whose 5x5 neighbourhood holds more than one class of the reference."""
    confident_flips: float
    """Pixels that change class although the reference's softmax puts its class 0.5 or more ahead of the next.

    A threshold on the artifact's own largest error would be vacuous: a pixel whose margin exceeds twice that error
    cannot flip. This one depends on the reference alone, so a worse artifact is not held to a laxer rule, and class
    maps can be held to it.
    """


@dataclass(frozen=True)
class ClassAgreement:
    """The artifact's classes against the reference's, which stand in the labels' place."""

    iou: tuple[float | None, ...]
    """Intersection over union of each class; None where the reference gives the class to no pixel."""
    confusion: NDArray[np.int64] = field(compare=False)
    """Pixel counts ``(C, C + 1)``: rows are the reference's classes, columns the artifact's, the last no valid one."""


@dataclass(frozen=True)
class LabelScores:
    """Accuracy against labels, of the checkpoint (``reference``) and of the file (``artifact``)."""

    miou_reference: float
    """Mean intersection over union, 0 to 1, over the classes that occur in the labels."""
    miou_artifact: float
    """The same of the artifact."""
    pixel_accuracy_reference: float
    """Share of labelled pixels that get their label's class, 0 to 1."""
    pixel_accuracy_artifact: float
    """The same of the artifact."""
    iou_reference: tuple[float | None, ...]
    """Intersection over union of each class; None where the class does not occur in the labels."""
    iou_artifact: tuple[float | None, ...]
    """The same of the artifact."""
    confusion_reference: NDArray[np.int64] = field(compare=False)
    """Pixel counts ``(C, C + 1)``: rows are labels, columns predictions, the last column no valid class at all."""
    confusion_artifact: NDArray[np.int64] = field(compare=False)
    """The same of the artifact."""


class ExactSum:
    """A sum of float64 numbers that is rounded once, at the end, and so is the same in any order (Shewchuk 1997,
    "Adaptive precision floating-point arithmetic")."""

    def __init__(self) -> None:
        self._parts: list[float] = []

    def add(self, number: float) -> None:
        """``number``: finite."""
        parts = []
        for part in self._parts:
            larger, smaller = (number, part) if abs(number) >= abs(part) else (part, number)
            number = larger + smaller
            lost = smaller - (number - larger)
            if lost:
                parts.append(lost)
        self._parts = [*parts, number]

    def merge(self, other: ExactSum) -> None:
        """Add another sum, with nothing lost."""
        for part in other._parts:
            self.add(part)

    @property
    def value(self) -> float:
        return math.fsum(self._parts)


class LogitErrorSums:
    """Accumulates `LogitErrors` over arrays of equal shape and any layout."""

    def __init__(self) -> None:
        self._count = self._not_finite = 0
        self._max = 0.0
        self._absolute, self._noise, self._product = ExactSum(), ExactSum(), ExactSum()
        self._reference, self._artifact = ExactSum(), ExactSum()
        self._histogram = np.zeros(_LARGEST - EQUAL + 1, np.int64)

    def add(self, reference: NDArray[np.float32], artifact: NDArray[np.float32]) -> None:
        ref, art = reference.astype(np.float64).ravel(), artifact.astype(np.float64).ravel()
        self._count += ref.size
        not_finite = ref.size - int(np.isfinite(art).sum())
        self._not_finite += not_finite
        if not_finite:
            return
        difference = np.abs(ref - art)
        self._max = max(self._max, float(difference.max(initial=0.0)))
        self._absolute.add(float(difference.sum()))
        # NumPy's own sums: a BLAS adds in an order that hangs on the number of threads.
        self._noise.add(float(np.square(difference).sum()))
        self._reference.add(float(np.square(ref).sum()))
        self._artifact.add(float(np.square(art).sum()))
        self._product.add(float((ref * art).sum()))
        exponents = np.where(difference > 0, np.frexp(difference)[1], EQUAL).clip(EQUAL, _LARGEST)
        self._histogram += np.bincount(exponents - EQUAL, minlength=self._histogram.size)

    def merge(self, other: LogitErrorSums) -> None:
        """Add what was accumulated over other arrays."""
        self._count += other._count
        self._not_finite += other._not_finite
        self._max = max(self._max, other._max)
        self._absolute.merge(other._absolute)
        self._noise.merge(other._noise)
        self._reference.merge(other._reference)
        self._artifact.merge(other._artifact)
        self._product.merge(other._product)
        self._histogram += other._histogram

    def result(self) -> LogitErrors:
        if self._not_finite:
            broken = NotRun(f"{self._not_finite} of the artifact's {self._count} values are NaN or infinite")
            return LogitErrors(broken, broken, broken, broken)
        return LogitErrors(
            self._max,
            self._absolute.value / self._count if self._count else NotRun("no values"),
            self._sqnr(),
            self._cosine(),
            tuple((int(i) + EQUAL, int(self._histogram[i])) for i in np.flatnonzero(self._histogram)),
        )

    def _sqnr(self) -> float | NotRun:
        if self._noise.value == 0.0:
            return math.inf
        if self._reference.value == 0.0:
            return NotRun("all of the reference's values are zero: there is no signal")
        return 10.0 * math.log10(self._reference.value / self._noise.value)

    def _cosine(self) -> float | NotRun:
        reference, artifact = self._reference.value, self._artifact.value
        if reference == 0.0 or artifact == 0.0:
            return NotRun("all values of one side are zero: the angle is not defined")
        cosine = self._product.value / math.sqrt(reference) / math.sqrt(artifact)
        return max(-1.0, min(1.0, cosine))


class AgreementCounts:
    """Accumulates `Agreement` over class maps."""

    def __init__(self) -> None:
        self._pixels = self._equal = self._band = self._band_equal = self._confident_flips = 0

    def add(self, reference: NDArray[np.int64], artifact: NDArray[np.int64], confident: NDArray[np.bool_]) -> None:
        """``(H, W)`` class maps, and where the reference is sure of its class (`confident_pixels`)."""
        equal = reference == artifact
        band = boundary_band(reference)
        self._pixels += equal.size
        self._equal += int(equal.sum())
        self._band += int(band.sum())
        self._band_equal += int((equal & band).sum())
        self._confident_flips += int((~equal & confident).sum())

    def merge(self, other: AgreementCounts) -> None:
        """Add what was counted on other pictures."""
        self._pixels += other._pixels
        self._equal += other._equal
        self._band += other._band
        self._band_equal += other._band_equal
        self._confident_flips += other._confident_flips

    def result(self) -> Agreement:
        return Agreement(
            pixels=self._equal / self._pixels,
            boundary=self._band_equal / self._band
            if self._band
            else NotRun("the reference's maps have no class boundary"),
            confident_flips=self._confident_flips / self._pixels,
        )


class LabelCounts:
    """Accumulates `LabelScores` over label maps and the two predictions at the labels' size."""

    def __init__(self, num_classes: int, void: int | None) -> None:
        self._num_classes, self._void = num_classes, void
        self._reference = np.zeros((num_classes, num_classes + 1), np.int64)
        self._artifact = np.zeros_like(self._reference)

    def add(self, labels: NDArray[np.uint8], reference: NDArray[np.int64], artifact: NDArray[np.int64]) -> None:
        """``(H, W)`` each. Raises `PictureError` for a label that is no class of the network."""
        self._reference += confusion_matrix(labels, reference, self._num_classes, self._void)
        self._artifact += confusion_matrix(labels, artifact, self._num_classes, self._void)

    def merge(self, other: LabelCounts) -> None:
        """Add what was counted on other pictures, of the same classes."""
        self._reference += other._reference
        self._artifact += other._artifact

    def result(self) -> LabelScores:
        """Raises `PictureError` where every pixel added was void: there is nothing to score."""
        if not self._reference.any():
            raise PictureError(
                "Every pixel of the label maps is void; expected class indices. Check the labels folder."
            )
        iou_reference, iou_artifact = class_iou(self._reference), class_iou(self._artifact)
        return LabelScores(
            miou_reference=_mean_of_present(iou_reference),
            miou_artifact=_mean_of_present(iou_artifact),
            pixel_accuracy_reference=float(self._reference.trace() / self._reference.sum()),
            pixel_accuracy_artifact=float(self._artifact.trace() / self._artifact.sum()),
            iou_reference=iou_reference,
            iou_artifact=iou_artifact,
            confusion_reference=self._reference,
            confusion_artifact=self._artifact,
        )


class ClassCounts:
    """Accumulates the artifact's classes by the reference's, at the artifact's output size."""

    def __init__(self, num_classes: int) -> None:
        self._confusion = np.zeros((num_classes, num_classes + 1), np.int64)

    def add(self, reference: NDArray[np.int64], artifact: NDArray[np.int64]) -> None:
        """``(H, W)`` class maps."""
        classes = self._confusion.shape[0]
        columns = np.where((artifact >= 0) & (artifact < classes), artifact, classes)
        counts = np.bincount((reference * (classes + 1) + columns).ravel(), minlength=self._confusion.size)
        self._confusion += counts.reshape(self._confusion.shape)

    def merge(self, other: ClassCounts) -> None:
        """Add what was counted on other pictures, of the same classes."""
        self._confusion += other._confusion

    def result(self) -> ClassAgreement:
        return ClassAgreement(class_iou(self._confusion), self._confusion)


def class_map(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """``(C, H, W)`` logits to ``(H, W)`` classes, the first of equals; -1 where a value is not finite."""
    classes = logits.argmax(axis=0)
    return np.where(np.isfinite(logits).all(axis=0), classes, -1)


def confident_pixels(logits: NDArray[np.float32], margin: float = CONFIDENT_MARGIN) -> NDArray[np.bool_]:
    """Where the softmax of ``(C, H, W)`` logits puts its class at least ``margin`` ahead of the next: ``(H, W)``."""
    if logits.shape[0] == 1:
        return np.ones(logits.shape[1:], np.bool_)
    best = np.sort(softmax(logits), axis=0)[-2:]
    sure: NDArray[np.bool_] = best[1] - best[0] >= margin
    return sure


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the first axis of ``(C, H, W)``."""
    exponentials = np.exp(logits - logits.max(axis=0, keepdims=True))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=0, keepdims=True)
    return probabilities


def boundary_band(classes: NDArray[np.int64], radius: int = BOUNDARY_RADIUS) -> NDArray[np.bool_]:
    """Pixels of an ``(H, W)`` class map with a pixel of another class within ``radius`` rows and columns."""
    highest = lowest = classes
    for axis in (0, 1):
        widths = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
        # The edge's replica lies inside every window that reaches beyond the edge, so it adds no value to it.
        highest = _windows(np.pad(highest, widths, "edge"), radius, axis).max(axis=-1)
        lowest = _windows(np.pad(lowest, widths, "edge"), radius, axis).min(axis=-1)
    band: NDArray[np.bool_] = highest != lowest
    return band


def confusion_matrix(
    labels: NDArray[np.uint8], predictions: NDArray[np.int64], num_classes: int, void: int | None
) -> NDArray[np.int64]:
    """Pixel counts ``(C, C + 1)``, label by prediction; the last column takes predictions outside ``0..C-1``.

    Pixels labelled ``void`` or 255 are left out; a prediction of ``void`` stays in and is therefore wrong.
    Raises `PictureError` for any other label that is not below ``num_classes``.
    """
    counted = labels != IGNORED_LABEL
    if void is not None:
        counted &= labels != void
    rows = labels[counted].astype(np.int64)
    if rows.size and rows.max() >= num_classes:
        raise PictureError(
            f"A label map holds class {rows.max()}, but the network has {num_classes} classes; "
            f"expected 0..{num_classes - 1}, or {IGNORED_LABEL} for pixels without a class. "
            "Use label maps of the classes that the network was trained on."
        )
    columns = predictions[counted]
    columns = np.where((columns >= 0) & (columns < num_classes), columns, num_classes)
    width = num_classes + 1
    return np.bincount(rows * width + columns, minlength=num_classes * width).reshape(num_classes, width)


def class_iou(confusion: NDArray[np.int64]) -> tuple[float | None, ...]:
    """``TP / (TP + FP + FN)`` of each class of a ``(C, C + 1)`` confusion matrix; None for a class without labels."""
    hits = np.diagonal(confusion)
    labelled = confusion.sum(axis=1)
    union = labelled + confusion.sum(axis=0)[:-1] - hits
    return tuple(float(h / u) if n else None for h, u, n in zip(hits, union, labelled, strict=True))


def resize_bilinear(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """``(C, H, W)`` logits to ``(C, *size)``: bilinear, with half-pixel centres (``align_corners=False``)."""
    if logits.shape[1:] == size:
        return logits
    import torch
    from torch.nn import functional

    resized = functional.interpolate(torch.from_numpy(np.ascontiguousarray(logits))[None], size=size, mode="bilinear")
    return np.asarray(resized[0].numpy(), np.float32)


def resize_nearest(classes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """An ``(H, W)`` class map to ``size``: the source pixel that holds each target pixel's centre."""
    rows, columns = (((2 * np.arange(n) + 1) * old) // (2 * n) for n, old in zip(size, classes.shape, strict=True))
    resized: NDArray[np.int64] = classes[rows[:, None], columns[None, :]]
    return resized


def _windows(padded: NDArray[np.int64], radius: int, axis: int) -> NDArray[np.int64]:
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis)


def _mean_of_present(values: tuple[float | None, ...]) -> float:
    present = [v for v in values if v is not None]
    return sum(present) / len(present)
