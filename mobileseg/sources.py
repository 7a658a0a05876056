"""Where the pictures of calibration and parity come from: the user's folders, or the demo's scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobileseg.errors import OptionError
from mobileseg.jobs import DEFAULT_PICTURES, SYNTHETIC, Job
from mobileseg.mobile_assets.demo import CALIBRATION_SEEDS, EVALUATION_SEEDS, scene
from mobileseg.pictures import choose, find_pictures, iter_labels, iter_pictures, load_labels, load_picture, pair_labels
from mobileseg.quantization.calibration import check_calibration, choose_pictures
from mobileseg.types import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PictureSource:
    """Pictures of one size, and their labels where there are any. ``name`` is what a report calls them. ``part`` gives
    those of the numbers alone, None where there is no way to them but one after the other. ``names``: of each picture.
    ``void``: the labels' class that is none.

    Can be sent to another process.
    """

    name: str
    count: int
    pictures: Callable[[], Iterator[NDArray[np.uint8]]]
    labels: Callable[[], Iterator[NDArray[np.uint8]]] | None = None
    part: Callable[[range], PictureSource] | None = None
    names: tuple[str, ...] = ()
    void: int | None = None


def _demo_pictures(seeds: range, count: int, size: Size, *, labelled: bool) -> PictureSource:
    chosen = seeds[:count]
    return _scenes(f"demo scenes {chosen[0]} to {chosen[-1]}", size, labelled, chosen, range(len(chosen)))


def _scenes(name: str, size: Size, labelled: bool, seeds: range, numbers: range) -> PictureSource:
    chosen = [seeds[number] for number in numbers]
    return PictureSource(
        name,
        len(chosen),
        partial(_scene_pictures, chosen, size),
        partial(_scene_labels, chosen, size) if labelled else None,
        partial(_scenes, name, size, labelled, seeds),
        tuple(f"demo scene {seed}" for seed in chosen),
    )


def _scene_pictures(seeds: Sequence[int], size: Size) -> Iterator[NDArray[np.uint8]]:
    return (scene(seed, size).picture for seed in seeds)


def _scene_labels(seeds: Sequence[int], size: Size) -> Iterator[NDArray[np.uint8]]:
    return (scene(seed, size).labels for seed in seeds)


def _folder(name: str, paths: Sequence[Path], size: Size, labels: Sequence[Path] | None = None) -> PictureSource:
    """Pictures and label maps from disk, each decoded once so that a broken one shows before minutes of conversion."""
    for path in paths:
        load_picture(path)
    for path in labels or ():
        load_labels(path)
    return _source(name, paths, size, labels)


def _source(name: str, paths: Sequence[Path], size: Size, labels: Sequence[Path] | None = None) -> PictureSource:
    return _files(name, size, paths, labels, range(len(paths)))


def _files(
    name: str, size: Size, paths: Sequence[Path], labels: Sequence[Path] | None, numbers: range
) -> PictureSource:
    chosen = [paths[number] for number in numbers]
    maps = None if labels is None else [labels[number] for number in numbers]
    return PictureSource(
        name,
        len(chosen),
        partial(iter_pictures, chosen, size),
        None if maps is None else partial(iter_labels, maps),
        partial(_files, name, size, paths, labels),
        tuple(f"'{path.name}'" for path in chosen),
    )


def calibration_pictures(job: Job, size: Size) -> PictureSource:
    """What int8 takes its ranges from: the folder asked for, or demo scenes for the demo network and on request; with
    the label maps of their folder, where one was named."""
    if job.calibration is None or job.calibration == SYNTHETIC:
        if job.calibration_labels is not None:
            raise OptionError(
                "--calibration-labels needs the folder of the pictures that the label maps belong to: --calibration."
            )
        return _demo_pictures(CALIBRATION_SEEDS, job.calibration_size, size, labelled=False)
    chosen = choose_pictures(job.calibration, job.calibration_size, job.seed)
    check_calibration(chosen)
    labels = None
    if job.calibration_labels is not None:
        labels = pair_labels(chosen, job.calibration, job.calibration_labels)
        for path in labels:
            load_labels(path)
    return _source(f"{len(chosen)} pictures of {job.calibration}", chosen, size, labels)


def parity_pictures(job: Job, size: Size, *, demo: bool) -> PictureSource:
    """What file and checkpoint are compared on.

    The pictures asked for; else those of the calibration folder that calibration left over (all of them where it used
    all); else demo scenes, labelled where the network is the demo's own.
    """
    if job.images is not None:
        chosen = choose(find_pictures(job.images), job.image_count, job.seed)
        labels = pair_labels(chosen, job.images, job.labels) if job.labels is not None else None
        return _folder(f"{len(chosen)} pictures of {job.images}", chosen, size, labels)
    if job.labels is not None:
        raise OptionError("--labels needs --images: the folder of the pictures that the label maps belong to.")
    if job.calibration is not None and job.calibration != SYNTHETIC:
        everything = find_pictures(job.calibration)
        used = set(choose_pictures(job.calibration, job.calibration_size, job.seed))
        left = [p for p in everything if p not in used]
        chosen = choose(left or everything, job.image_count, job.seed)
        held = "not calibrated on" if left else "also calibrated on"
        return _folder(f"{len(chosen)} pictures of {job.calibration} ({held})", chosen, size)
    return _demo_pictures(EVALUATION_SEEDS, job.image_count, size, labelled=demo)


def proof_pictures(
    size: Size,
    *,
    images: Path | None,
    labels: Path | None,
    count: int | None,
    noise: int | None,
    seed: int,
    demo: bool,
) -> PictureSource:
    """What a finished file is held against its reference on: the folder's pictures (``count`` of them, or all), each
    decoded only when its turn comes; or so many pictures of ``noise``; or demo scenes, labelled where the reference is
    the demo network.

    Raises `PictureError` where there is no picture, or one without its label map; `OptionError` for options that
    exclude each other.
    """
    if noise is not None and (images is not None or labels is not None):
        raise OptionError("--random makes its own pictures, without labels; leave out --images and --labels, or it.")
    if labels is not None and images is None:
        raise OptionError("--labels needs --images: the folder of the pictures that the label maps belong to.")
    if noise is not None:
        return _noisy(f"{noise} random pictures, seed {seed}", size, seed, range(noise))
    if images is None:
        return _demo_pictures(EVALUATION_SEEDS, count or DEFAULT_PICTURES, size, labelled=demo)
    found = find_pictures(images)
    chosen = found if count is None else choose(found, count, seed)
    paired = pair_labels(chosen, images, labels) if labels is not None else None
    return _source(f"{len(chosen)} pictures of {images}", chosen, size, paired)


def _noisy(name: str, size: Size, seed: int, numbers: range) -> PictureSource:
    return PictureSource(
        name, len(numbers), partial(_noise, numbers, size, seed), None, partial(_noisy, name, size, seed)
    )


def _noise(numbers: range, size: Size, seed: int) -> Iterator[NDArray[np.uint8]]:
    return (np.random.default_rng((seed, n)).integers(0, 256, (*size, 3), np.uint8) for n in numbers)
