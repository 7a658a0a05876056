"""Runs a file and the checkpoint that it came from on the same pictures, and measures how far they lie apart."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import CheckpointError, PictureError, UsageError
from mobileseg.types import ChannelOrder, Head, NotRun, OutputSize, Preprocessing
from mobileseg.validation.metrics import (
    IGNORED_LABEL,
    Agreement,
    AgreementCounts,
    ClassAgreement,
    ClassCounts,
    LabelCounts,
    LabelScores,
    LogitErrors,
    LogitErrorSums,
    class_map,
    confident_pixels,
    resize_bilinear,
    resize_nearest,
    softmax,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mobileseg.types import Checkpoint
    from mobileseg.validation.runners.base import Runner

Reference = Callable[["NDArray[np.uint8]"], "NDArray[np.float32]"]
"""``(N, H, W, 3) uint8`` RGB pictures to the checkpoint's logits ``(N, C, H', W') float32``."""

LABEL_PROTOCOL: dict[Head, str] = {
    "logits": "logits resized bilinearly to the label size, argmax over all outputs",
    "softmax": "logarithms of the probabilities resized bilinearly to the label size, argmax over all outputs",
    "argmax": "class maps of both sides resized to the label size by nearest neighbour",
}
"""How either side's prediction gets to the labels' size; void and 255 pixels of the labels are left out."""

CHANNELS: dict[ChannelOrder, tuple[int, int, int]] = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}


_NOT_ASKED = NotRun("the SQNR gate needed no second look")


@dataclass(frozen=True)
class ParityResult:
    """What `compare` measured."""

    runner: str
    """Name and version of the runtime that ran the file."""
    notes: tuple[str, ...]
    """What had to be assumed about the file."""
    head: Head
    """What the file returns."""
    images: int
    """Pictures compared."""
    errors: LogitErrors | NotRun
    """Differences of value; `NotRun` where the file returns classes."""
    agreement: Agreement
    """Shares of pixels of equal class."""
    classes: ClassAgreement
    """The same class by class."""
    scores: LabelScores | NotRun
    """Accuracy of both against labels; `NotRun` where no labels were given."""
    reference_sqnr_db: float | NotRun = _NOT_ASKED
    """How far the checkpoint's own float32 arithmetic is determined: its SQNR against float64, in dB."""


class Tally:
    """What `compare` accumulates. Tallies of parts of the pictures, merged in any order, give to the last bit what one
    over all of them gives."""

    def __init__(self, num_classes: int, void: int | None) -> None:
        self.num_classes = num_classes
        self.images = 0
        self.errors = LogitErrorSums()
        self.agreement = AgreementCounts()
        self.classes = ClassCounts(num_classes)
        self.scores = LabelCounts(num_classes, void)
        self.labelled = False

    def merge(self, other: Tally) -> None:
        """Add what was found on other pictures."""
        self.images += other.images
        self.errors.merge(other.errors)
        self.agreement.merge(other.agreement)
        self.classes.merge(other.classes)
        self.scores.merge(other.scores)
        self.labelled |= other.labelled

    def result(self, runner: Runner) -> ParityResult:
        """Raises `PictureError` for labels that are void throughout."""
        returns_classes = NotRun(
            "the file returns classes, not logits: there are no values to compare, and no SQNR gate applies"
        )
        return ParityResult(
            runner=runner.runtime,
            notes=runner.notes,
            head=runner.head,
            images=self.images,
            errors=returns_classes if runner.head == "argmax" else self.errors.result(),
            agreement=self.agreement.result(),
            classes=self.classes.result(),
            scores=self.scores.result() if self.labelled else NotRun("no labels were given"),
        )


@dataclass(frozen=True)
class Compared:
    """One picture, and what was found on it.

    ``picture``: ``(H, W, 3) uint8`` RGB; ``label``: ``(h, w) uint8`` or None; ``reference``, ``artifact``:
    ``(H', W') int64`` class maps.
    """

    number: int
    picture: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    reference: NDArray[np.int64]
    artifact: NDArray[np.int64]
    tally: Tally


def compared(
    reference: Reference,
    runner: Runner,
    number: int,
    picture: NDArray[np.uint8],
    label: NDArray[np.uint8] | None,
    *,
    void: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Compared:
    """One picture, as `tallied` takes it."""
    expected = _finite(reference(picture[None])[0])
    actual = runner.run(_runner_input(picture[None], runner, preprocessing))[0]
    _check_shape(expected, actual, runner)
    tally = Tally(expected.shape[0], void)
    tally.images = 1
    if runner.head != "argmax":
        tally.errors.add(softmax(expected) if runner.head == "softmax" else expected, actual)
    classes = class_map(expected)
    actual_classes = actual if runner.head == "argmax" else class_map(actual)
    tally.agreement.add(classes, actual_classes, confident_pixels(expected))
    tally.classes.add(classes, actual_classes)
    if label is not None:
        tally.labelled = True
        tally.scores.add(label, *_at_label_size(expected, actual, runner.head, (label.shape[0], label.shape[1])))
    return Compared(number, picture, label, classes, actual_classes, tally)


def compare(
    reference: Reference,
    runner: Runner,
    pictures: Iterable[NDArray[np.uint8]],
    labels: Iterable[NDArray[np.uint8]] | None = None,
    *,
    void: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> ParityResult:
    """`tallied`, summed up."""
    return tallied(reference, runner, pictures, labels, void=void, preprocessing=preprocessing).result(runner)


def tallied(
    reference: Reference,
    runner: Runner,
    pictures: Iterable[NDArray[np.uint8]],
    labels: Iterable[NDArray[np.uint8]] | None = None,
    *,
    void: int | None = None,
    preprocessing: Preprocessing | None = None,
    numbers: Iterable[int] | None = None,
    seen: Callable[[Compared], None] = lambda found: None,
) -> Tally:
    """Compares picture by picture, holding one at a time.

    ``pictures``: ``(H, W, 3) uint8`` RGB of the file's input size. ``labels``: an ``(h, w) uint8`` class map for each,
    of any size. ``void``: the output that is no class. ``preprocessing``: what turns a picture into the network's
    input, needed for a file of raw input. ``numbers``: what the pictures are called, from 0 on where None. ``seen`` is
    told of each in turn. A file that ends in a softmax is held against the softmax of the reference.
    Raises `PictureError` for no pictures or unequal numbers of pictures and labels, `UsageError` for a file whose
    output is not the network's, `CheckpointError` for a reference that is not finite.
    """
    total: Tally | None = None
    for number, (picture, label) in zip(numbers or itertools.count(), _in_pairs(pictures, labels), strict=False):
        one = compared(reference, runner, number, picture, label, void=void, preprocessing=preprocessing)
        seen(one)
        total = total or Tally(one.tally.num_classes, void)
        total.merge(one.tally)
    if total is None:
        raise PictureError("No picture was given to compare the file and the checkpoint on; expected at least one.")
    return total


def network_input(pictures: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """``(N, H, W, 3) uint8`` RGB pictures as the authors fed them: ``(N, 3, H, W) float32``, computed in float64."""
    gain, offset = preprocessing.affine()
    ordered = pictures[..., CHANNELS[preprocessing.channel_order]].astype(np.float64)
    return np.ascontiguousarray((ordered * gain + offset).transpose(0, 3, 1, 2), np.float32)


def reference_of(checkpoint: Checkpoint, output_size: OutputSize = "network") -> Reference:
    """The checkpoint as a function of pictures, on the CPU in float32.

    ``output_size`` ``"input"``: its logits resized bilinearly to the pictures (half-pixel centres).
    """

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        fed = torch.from_numpy(network_input(pictures, checkpoint.preprocessing))
        return np.asarray(_logits(checkpoint.network, fed, output_size).numpy(), np.float32)

    return run


def reference_of_file(runner: Runner) -> Reference:
    """Another file as the reference: its logits, the logarithms of its probabilities, or a class map as logits that
    are sure of it."""

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        result = runner.run(pictures)
        if runner.head == "softmax":
            result = np.log(np.maximum(result, np.finfo(np.float32).tiny))
        return _as_logits(result) if runner.head == "argmax" else result

    return run


def _as_logits(classes: NDArray[np.int64]) -> NDArray[np.float32]:
    """``(N, H, W)`` classes as ``(N, 256, H, W)`` logits, of which the class's own is 100 and the others are 0."""
    logits = np.zeros((classes.shape[0], IGNORED_LABEL + 1, *classes.shape[1:]), np.float32)
    np.put_along_axis(logits, classes[:, None], np.float32(100), axis=1)
    return logits


def _logits(network: nn.Module, fed: Tensor, output_size: OutputSize) -> Tensor:
    import torch

    with torch.inference_mode():
        logits: Tensor = network(fed)
        if output_size == "network":
            return logits
        return torch.nn.functional.interpolate(logits, fed.shape[2:], mode="bilinear", align_corners=False)


def record(reference: Reference, pictures: Iterable[NDArray[np.uint8]], folder: Path) -> None:
    """Run the reference on (H, W, 3) pictures and keep what it returns in ``folder``, for `recorded`."""
    for picture in pictures:
        np.save(_record_of(picture[None], folder), reference(picture[None]))


def recorded(folder: Path) -> Reference:
    """The reference whose answers `record` kept: so it is run once, however many files are held against it."""

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = np.load(_record_of(pictures, folder))
        return logits

    return run


def _record_of(pictures: NDArray[np.uint8], folder: Path) -> Path:
    digest = hashlib.sha256(repr(pictures.shape).encode() + np.ascontiguousarray(pictures).tobytes())
    return folder / f"{digest.hexdigest()}.npy"


def reference_precision(
    checkpoint: Checkpoint, pictures: Iterable[NDArray[np.uint8]], output_size: OutputSize = "network"
) -> float | NotRun:
    """SQNR in dB of the checkpoint in float32 against itself in float64, over (H, W, 3) uint8 RGB pictures.

    Max-pooling indices of near-equal neighbours hang on the last bit, and each that flips moves a value by a pixel: no
    other order of summation can be expected to come nearer to the float32 result than the exact result does.
    """
    import torch

    exact = copy.deepcopy(checkpoint.network).double()
    run, errors = reference_of(checkpoint, output_size), LogitErrorSums()
    for picture in pictures:
        fed = torch.from_numpy(network_input(picture[None], checkpoint.preprocessing)).double()
        errors.add(_logits(exact, fed, output_size)[0].numpy(), run(picture[None])[0])
    return errors.result().sqnr_db


def _in_pairs(
    pictures: Iterable[NDArray[np.uint8]], labels: Iterable[NDArray[np.uint8]] | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]:
    """Each picture with its label map, or with None where no labels were given."""
    if labels is None:
        yield from ((picture, None) for picture in pictures)
        return
    label_iterator = iter(labels)
    for picture in pictures:
        label = next(label_iterator, None)
        if label is None:
            raise PictureError("There are fewer label maps than pictures; expected one for each.")
        yield picture, label
    if next(label_iterator, None) is not None:
        raise PictureError("There are more label maps than pictures; expected one for each.")


def _runner_input(pictures: NDArray[np.uint8], runner: Runner, preprocessing: Preprocessing | None) -> NDArray[Any]:
    if not runner.raw_input:
        return pictures
    if preprocessing is None:
        raise UsageError(
            f"'{runner.artifact.path}' takes the network's own input; name its preprocessing: --preprocessing."
        )
    return network_input(pictures, preprocessing)


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise CheckpointError(
            "The checkpoint's own output holds NaN or infinite values, so nothing can be held against it; "
            "check the weights and the preprocessing (--preprocessing)."
        )
    return logits


def _check_shape(expected: NDArray[np.float32], actual: NDArray[Any], runner: Runner) -> None:
    wanted = expected.shape[1:] if runner.head == "argmax" else expected.shape
    if actual.shape != wanted:
        raise UsageError(
            f"'{runner.artifact.path}' returns {actual.shape} for one picture, the checkpoint {wanted}; "
            "expected a file that was made from this checkpoint (--against)."
        )


def _at_label_size(
    expected: NDArray[np.float32], actual: NDArray[Any], head: Head, size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both predictions as class maps of the labels' size, by `LABEL_PROTOCOL`: both sides in the same way."""
    if head == "argmax":
        return resize_nearest(class_map(expected), size), resize_nearest(actual, size)
    if head == "softmax":
        # log softmax differs from the logits by one number a pixel, which stays common to all classes when resized.
        actual = np.log(np.maximum(actual, np.finfo(np.float32).tiny))
    return class_map(resize_bilinear(expected, size)), class_map(resize_bilinear(actual, size))
