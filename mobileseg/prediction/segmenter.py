"""One way to run whatever is given: an artifact in its own runtime, or a checkpoint in PyTorch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import OptionError, UnavailableError, UsageError
from mobileseg.jobs import check_size
from mobileseg.settings import resolve_preprocessing
from mobileseg.types import Checkpoint, Classes, Head, Placement, Preprocessing, Size
from mobileseg.validation.metrics import resize_bilinear, resize_nearest
from mobileseg.validation.parity import network_input, reference_of
from mobileseg.validation.runners import RUNNERS, Runner, open_artifact
from mobileseg.validation.runners.base import DYNAMIC
from mobileseg.validation.runners.trial import tflite_tried

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

MOST_CLASSES = 256
"""What a mask with a byte a pixel can tell apart."""


@dataclass(frozen=True)
class Segmenter:
    """A network that is ready to run.

    ``model``: the file, or the demo's name; ``runtime``: what runs it; ``size``: the pictures that it takes;
    ``run``: ``(1, H, W, 3) uint8`` RGB of that size to what `Runner.run` returns for the ``head``.
    """

    model: str
    runtime: str
    size: Size
    classes: Classes
    head: Head
    notes: tuple[str, ...]
    run: Callable[[NDArray[np.uint8]], NDArray[Any]]

    def segment(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
        """The ``(H, W) uint8`` class map of an ``(H, W, 3) uint8`` RGB picture of any size, and the seconds that the
        network took.

        Raises `UsageError` for an output that holds NaN, infinite values or no class of the network.
        """
        fed = resized(picture, self.size)[None]
        start = time.perf_counter()
        output = self.run(fed)[0]
        seconds = time.perf_counter() - start
        count = len(self.classes.names)
        valid = np.isin(output, range(count)) if self.head == "argmax" else np.isfinite(output)
        if not valid.all():
            raise UsageError(
                f"'{self.model}' returned NaN, infinite values, or other classes than its {count}. "
                "Hold it against its checkpoint: convert it again, in fp32 where it is of lower precision."
            )
        return classes_at(output, self.head, (picture.shape[0], picture.shape[1])), seconds


def open_segmenter(
    model: str | Path | Checkpoint | None,
    *,
    size: Size | None = None,
    num_classes: int | None = None,
    classes: str | Path | Classes | None = None,
    preprocessing: Preprocessing | str | Path | None = None,
    factory: str | Callable[..., nn.Module] | nn.Module | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
    compute_units: str = "all",
) -> Segmenter:
    """An artifact by its suffix, else a checkpoint; None is the embedded demo network, or the ``factory``'s own.

    Raises what `open_artifact` and `open_network` raise; `UnavailableError` for an artifact that cannot run here;
    `SizeError` or `OptionError` for options that do not fit it.
    """
    if isinstance(model, (str, Path)) and Path(model).suffix in RUNNERS:
        tflite_tried(model)
        placement = Placement(threads=threads or os.cpu_count() or 1, compute_units=compute_units)
        runner = open_artifact(Path(model), placement)
        return _of_artifact(runner, size, num_classes, classes, preprocessing)
    if compute_units != Placement().compute_units:
        raise OptionError(f"Only Core ML files have compute units to choose; leave out --compute-units for '{model}'.")
    from mobileseg import pipeline

    if isinstance(model, Checkpoint):
        return _of_checkpoint(model, size, classes)
    opened = pipeline.open_network(
        model,
        architecture=architecture,
        variant=variant,
        num_classes=num_classes,
        model=factory,
        size=size,
        preprocessing=preprocessing,
    )
    return _of_checkpoint(opened, size, classes)


def _of_checkpoint(checkpoint: Checkpoint, size: Size | None, classes: str | Path | Classes | None) -> Segmenter:
    import torch

    from mobileseg import pipeline
    from mobileseg.mobile_assets.demo import DEMO

    demo = any(checkpoint.path == network.weights for network in DEMO.values())
    named = classes if isinstance(classes, Classes) else pipeline.classes_of(checkpoint, classes, demo=demo)
    return Segmenter(
        model=str(checkpoint.path),
        runtime=f"torch {torch.__version__}",
        size=check_size(checkpoint, size or checkpoint.size),
        classes=_checked(named, checkpoint.num_classes),
        head="logits",
        notes=(),
        run=reference_of(checkpoint),
    )


def _of_artifact(
    runner: Runner,
    size: Size | None,
    num_classes: int | None,
    classes: str | Path | Classes | None,
    preprocessing: Preprocessing | str | Path | None,
) -> Segmenter:
    path = runner.artifact.path
    if runner.cannot_run:
        raise UnavailableError(f"'{path}' cannot be run here: {runner.cannot_run}")
    return Segmenter(
        model=str(path),
        runtime=runner.runtime,
        size=_artifact_size(runner, size),
        classes=_artifact_classes(runner, num_classes, classes),
        head=runner.head,
        notes=runner.notes,
        run=_artifact_run(runner, preprocessing),
    )


def _artifact_size(runner: Runner, asked: Size | None) -> Size:
    height, width = runner.size
    if DYNAMIC not in (height, width):
        if asked not in (None, (height, width)):
            raise OptionError(
                f"'{runner.artifact.path}' takes pictures of {height}x{width} alone. Leave out --size (pictures are "
                "resized to it, and masks back), or convert with that --size."
            )
        return height, width
    if asked is None:
        raise OptionError(f"'{runner.artifact.path}' takes pictures of more than one size; choose one: --size HxW.")
    return asked


def _artifact_classes(runner: Runner, num_classes: int | None, asked: str | Path | Classes | None) -> Classes:
    from mobileseg.mobile_assets.labels import classes_for, load_classes

    path, embedded = runner.artifact.path, runner.metadata.get("classes")
    known = _channels(runner) or (len(embedded["names"]) if embedded else None)
    if known is not None and num_classes not in (None, known):
        raise OptionError(f"'{path}' has {known} classes, not {num_classes}; leave out --num-classes.")
    count = known or num_classes
    if count is None:
        raise OptionError(f"'{path}' does not tell how many classes it returns; say it: --num-classes N.")
    if isinstance(asked, Classes):
        return _checked(asked, count)
    if asked is not None:
        return _checked(load_classes(str(asked), count), count)
    return _checked(_embedded(embedded) if embedded else classes_for(count), count)


def _channels(runner: Runner) -> int | None:
    """The length of the class axis, where there is one and it is fixed."""
    spec = runner.outputs[0]
    if runner.head == "argmax":
        return None
    channels = spec.shape[3 if spec.layout == "NHWC" else 1]
    return None if channels == DYNAMIC else channels


def _embedded(entry: Mapping[str, Any]) -> Classes:
    """The classes as `mobileseg.description` writes them into an artifact."""
    palette = tuple((red, green, blue) for red, green, blue in entry["palette"])
    return Classes(entry["dataset"], tuple(entry["names"]), palette, entry["void"])


def _checked(classes: Classes, count: int) -> Classes:
    if len(classes.names) != count:
        raise OptionError(
            f"The classes '{classes.dataset}' are {len(classes.names)}, the network has {count}. "
            "Name fitting ones: --classes NAME|FILE."
        )
    if count > MOST_CLASSES:
        raise OptionError(f"The network has {count} classes; masks with a byte a pixel hold at most {MOST_CLASSES}.")
    return classes


def _artifact_run(
    runner: Runner, asked: Preprocessing | str | Path | None
) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    if not runner.raw_input:
        if asked is not None:
            raise OptionError(
                f"'{runner.artifact.path}' has its preprocessing inside; leave out --preprocessing, or convert with it."
            )
        return runner.run
    embedded = runner.metadata.get("preprocessing", {})
    default = resolve_preprocessing(
        None, Preprocessing("unit"), {f.name: embedded.get(f.name) for f in fields(Preprocessing)}
    )
    if asked is None and not embedded:
        raise OptionError(
            f"'{runner.artifact.path}' takes the network's own input; name it: --preprocessing NAME|FILE."
        )
    preprocessing = resolve_preprocessing(asked, default, {})
    return lambda pictures: runner.run(network_input(pictures, preprocessing))


def resized(picture: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """``(H, W, 3)`` to ``(*size, 3)``, as `mobileseg.pictures.load_picture` does it."""
    from PIL import Image

    if picture.shape[:2] == size:
        return picture
    return np.array(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def classes_at(output: NDArray[Any], head: Head, size: Size) -> NDArray[np.uint8]:
    """A network's output as an ``(H, W) uint8`` class map of ``size``, the first of equals.

    Logits ``(C, h, w)`` are resized bilinearly (half-pixel centres) before the argmax, probabilities as their
    logarithms, class maps ``(h, w)`` by nearest neighbour; as `validation.parity.LABEL_PROTOCOL` has it.
    """
    if head == "argmax":
        return resize_nearest(output, size).astype(np.uint8)
    values = np.log(np.maximum(output, np.finfo(np.float32).tiny)) if head == "softmax" else output
    # Class by class: all of them at the size of a camera's picture would be gigabytes.
    classes = np.zeros(size, np.uint8)
    best = resize_bilinear(values[:1], size)[0].copy()
    for index in range(1, len(values)):
        scores = resize_bilinear(values[index : index + 1], size)[0]
        better = scores > best
        classes[better] = index
        np.maximum(best, scores, out=best)
    return classes
