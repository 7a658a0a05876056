"""A network on pictures, folders and videos: label maps, overlays and a legend, in the pictures' own sizes."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobileseg import outputs, video
from mobileseg.errors import OptionError, PictureError
from mobileseg.jobs import DEFAULT_PREDICTIONS
from mobileseg.mobile_assets import overlay as drawing
from mobileseg.pictures import load_picture
from mobileseg.prediction.segmenter import Segmenter, open_segmenter
from mobileseg.prediction.sources import LEGEND, MASKS, OVERLAYS, Source, find_sources
from mobileseg.types import Checkpoint, Classes, Preprocessing, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import nn

DEFAULT_OPACITY = 0.5
NAMED_FAILURES = 5
"""How many unreadable files an error names."""

Progress = Callable[[Path, int, int | None], None]
"""Told after each picture or frame: the file, how many are done, and of how many where that is known."""


@dataclass(frozen=True)
class PicturePrediction:
    """One picture. ``size``: its own, upright; ``shares``: of its pixels, by class; ``network_ms``: the network alone;
    ``total_ms``: from file to files."""

    path: Path
    size: Size
    mask: Path
    overlay: Path
    shares: tuple[float, ...]
    network_ms: float
    total_ms: float


@dataclass(frozen=True)
class VideoPrediction:
    """One video. ``masks``: the folder of its frames' label maps, where asked for; ``fps``: frames a second;
    ``seconds``: how long it lasts; the two times are medians over the frames."""

    path: Path
    size: Size
    overlay: Path
    masks: Path | None
    frames: int
    fps: float
    seconds: float
    audio_dropped: bool
    shares: tuple[float, ...]
    network_ms: float
    total_ms: float


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and what was wrong with it."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Prediction:
    """All that one run wrote. ``input_size``: what the pictures were resized to for the network; ``shares``: of all
    pixels, by class; ``network_ms``: median over all pictures and frames; ``seconds``: of the whole run, after
    loading."""

    model: str
    runtime: str
    notes: tuple[str, ...]
    input_size: Size
    classes: Classes
    output: Path
    legend: Path
    pictures: tuple[PicturePrediction, ...]
    videos: tuple[VideoPrediction, ...]
    failures: tuple[Failure, ...]
    shares: tuple[float, ...]
    network_ms: float
    seconds: float


@dataclass
class _Tally:
    """Pixels by class, and milliseconds: of the network alone, and in all, of each picture or frame."""

    counts: NDArray[np.int64]
    network_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)

    def add(self, other: _Tally) -> None:
        self.counts = self.counts + other.counts
        self.network_ms += other.network_ms
        self.total_ms += other.total_ms

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple((self.counts / self.counts.sum()).tolist())


@dataclass(frozen=True)
class _Run:
    """What all files of one run share."""

    segmenter: Segmenter
    output: Path
    opacity: float
    legend: bool
    video_masks: bool
    progress: Progress

    def no_tally(self) -> _Tally:
        return _Tally(np.zeros(len(self.segmenter.classes.names), np.int64))

    def drawn(self, picture: NDArray[np.uint8], tally: _Tally) -> tuple[Image, NDArray[np.uint8]]:
        """The mask of an ``(H, W, 3) uint8`` picture, and its overlay as pixels; what it took goes to ``tally``."""
        start = time.perf_counter()
        classes, seconds = self.segmenter.segment(picture)
        known = self.segmenter.classes
        blended = drawing.blend(picture, classes, known.palette, self.opacity)
        overlay = drawing.with_legend(blended, known) if self.legend else blended
        counts = np.bincount(classes.ravel(), minlength=len(known.names))
        tally.add(_Tally(counts, [1000 * seconds], [1000 * (time.perf_counter() - start)]))
        return drawing.mask_image(classes, known.palette), overlay


def predict(
    model: str | Path | Checkpoint | None,
    inputs: Sequence[str | Path],
    *,
    output: str | Path = DEFAULT_PREDICTIONS,
    classes: str | Path | Classes | None = None,
    size: Size | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | str | Path | None = None,
    factory: str | Callable[..., nn.Module] | nn.Module | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    opacity: float = DEFAULT_OPACITY,
    legend: bool = False,
    video_masks: bool = False,
    threads: int | None = None,
    compute_units: str = "all",
    progress: Progress = lambda path, done, total: None,
) -> Prediction:
    """Segment pictures and videos; write ``masks/NAME.png``, ``overlays/NAME.jpg`` or ``.mp4``, and ``legend.png``.

    ``model``: an artifact, a checkpoint, or None for the embedded demo network. ``inputs``: pictures, folders of
    pictures at any depth, videos. A mask's pixels are class indices, with the palette; masks and overlays have the
    picture's own size, upright. ``size``: what pictures are resized to for the network, where it takes more than one
    (a checkpoint: else what it was trained at). ``preprocessing``: for a checkpoint, or an artifact of raw input.
    ``factory``, ``architecture``, ``variant``: of a checkpoint, as `mobileseg.convert` has them (``model``, ...).
    ``legend``: the classes in a strip below each overlay too. ``video_masks``: label maps of a video's frames too.
    ``threads``: of an artifact's runtime, all cores where None. ``compute_units``: of Core ML on macOS.

    A file that cannot be read stands in the result's ``failures``, and the others are done. Raises `PictureError` where
    none can be read, `UnavailableError` for an artifact that cannot be run here, `MissingExtraError` for a package that
    is not installed, `OptionError` and other `UsageError` for what does not fit.
    """
    if not 0 <= opacity <= 1:
        raise OptionError(f"--opacity is from 0 (the picture) to 1 (the colours); got {opacity:g}.")
    folder = Path(output)
    sources = find_sources(inputs, folder)
    if any(source.is_video for source in sources):
        video.require()
    segmenter = open_segmenter(
        model,
        size=size,
        num_classes=num_classes,
        classes=classes,
        preprocessing=preprocessing,
        factory=factory,
        architecture=architecture,
        variant=variant,
        threads=threads,
        compute_units=compute_units,
    )
    run = _Run(segmenter, folder, opacity, legend, video_masks, progress)
    start, tally = time.perf_counter(), run.no_tally()
    pictures: list[PicturePrediction] = []
    videos: list[VideoPrediction] = []
    failures: list[Failure] = []
    with outputs.folder(folder):
        for done, source in enumerate(sources, 1):
            try:
                if source.is_video:
                    film, added = _video(source, run)
                    videos.append(film)
                else:
                    picture, added = _picture(source, run)
                    pictures.append(picture)
                    progress(source.path, done, len(sources))
                tally.add(added)
            except PictureError as error:
                failures.append(Failure(source.path, str(error)))
        if not pictures and not videos:
            raise PictureError(f"None of the files could be read. {failures_text(failures)}")
        return Prediction(
            model=segmenter.model,
            runtime=segmenter.runtime,
            notes=segmenter.notes,
            input_size=segmenter.size,
            classes=segmenter.classes,
            output=folder,
            legend=_write_legend(run, tally),
            pictures=tuple(pictures),
            videos=tuple(videos),
            failures=tuple(failures),
            shares=tally.shares,
            network_ms=statistics.median(tally.network_ms),
            seconds=time.perf_counter() - start,
        )


def failures_text(failures: Sequence[Failure]) -> str:
    """The first failures with their reasons, and how many more there are."""
    reasons = " ".join(failure.reason for failure in failures[:NAMED_FAILURES])
    more = len(failures) - NAMED_FAILURES
    return f"{reasons} And {more} more." if more > 0 else reasons


def _picture(source: Source, run: _Run) -> tuple[PicturePrediction, _Tally]:
    start = time.perf_counter()
    picture = load_picture(source.path)
    tally = run.no_tally()
    mask, overlay = run.drawn(picture, tally)
    mask_path = run.output / MASKS / f"{source.name}.png"
    overlay_path = run.output / OVERLAYS / f"{source.name}.jpg"
    _save(mask, mask_path)
    _save(_from_array(overlay), overlay_path)
    made = PicturePrediction(
        path=source.path,
        size=(picture.shape[0], picture.shape[1]),
        mask=mask_path,
        overlay=overlay_path,
        shares=tally.shares,
        network_ms=tally.network_ms[0],
        total_ms=1000 * (time.perf_counter() - start),
    )
    return made, tally


def _video(source: Source, run: _Run) -> tuple[VideoPrediction, _Tally]:
    """All frames, one in memory at a time; nothing is kept of a video that breaks off."""
    overlay_path = run.output / OVERLAYS / f"{source.name}.mp4"
    masks_path = run.output / MASKS / f"{source.name}.frames" if run.video_masks else None
    tally, frame = run.no_tally(), None
    with ExitStack() as stack:
        film = stack.enter_context(video.reading(source.path))
        masks = stack.enter_context(_finished(masks_path)) if masks_path is not None else None
        write = stack.enter_context(video.writing(stack.enter_context(_finished(overlay_path)), film))
        for index, frame in enumerate(film.frames):
            mask, overlay = run.drawn(frame.picture, tally)
            if masks is not None:
                _save(mask, masks / f"{index:06d}.png")
            write(replace(frame, picture=overlay))
            run.progress(source.path, index + 1, film.count)
        if frame is None:
            raise PictureError(f"'{source.path}' holds no frame; expected a video. Replace or remove it.")
    made = VideoPrediction(
        path=source.path,
        size=(frame.picture.shape[0], frame.picture.shape[1]),
        overlay=overlay_path,
        masks=masks_path,
        frames=len(tally.network_ms),
        fps=float(film.rate),
        seconds=float(frame.time * film.time_base + 1 / film.rate),
        audio_dropped=film.audio,
        shares=tally.shares,
        network_ms=statistics.median(tally.network_ms),
        total_ms=statistics.median(tally.total_ms),
    )
    return made, tally


def _write_legend(run: _Run, tally: _Tally) -> Path:
    path = run.output / LEGEND
    _save(drawing.legend(run.segmenter.classes, tally.shares), path)
    return path


def _from_array(picture: NDArray[np.uint8]) -> Image:
    from PIL import Image

    return Image.fromarray(picture)


def _save(image: Image, final: Path) -> None:
    """A PNG or JPEG by its suffix; encoded first, so that what the file system refuses is not the encoder's fault."""
    encoded = io.BytesIO()
    if final.suffix == ".jpg":
        # Full chroma resolution: boundaries between colours are what an overlay is looked at for.
        image.save(encoded, "JPEG", quality=92, subsampling=0)
    else:
        image.save(encoded, "PNG")
    with _finished(final) as unfinished:
        unfinished.write_bytes(encoded.getbuffer())


@contextmanager
def _finished(final: Path) -> Iterator[Path]:
    """A temporary path for a file or folder that gets its name at the end, where all went well."""
    with outputs.folder(final.parent), outputs.partial(final) as unfinished, outputs.explained(final):
        yield unfinished
        outputs.settle(unfinished, final)
