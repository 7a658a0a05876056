"""Frames from a video file and into one, one at a time (PyAV, the extra ``video``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError, PictureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = frozenset({".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
"""What is taken for a video, in any case of letters."""

DEFAULT_RATE = Fraction(25)
"""Frames a second of a stream that does not tell."""

BT709 = 1
"""ITU-R BT.709 in ITU-T H.273's tables of primaries, transfer and matrix alike; its range 1 is the limited one."""


@dataclass(frozen=True)
class Frame:
    """``picture``: (H, W, 3) uint8 RGB as players show it, upright and with square pixels. ``time``: when it is shown,
    in units of the video's ``time_base`` since its first frame."""

    picture: NDArray[np.uint8]
    time: int


@dataclass(frozen=True)
class Video:
    """An open video. ``rate``: frames a second; ``count``: frames that the file announces, None where it does not;
    ``time_base``: seconds; ``frames`` can be read once."""

    rate: Fraction
    count: int | None
    time_base: Fraction
    audio: bool
    frames: Iterator[Frame]


def require() -> None:
    """Raises `MissingExtraError` where videos cannot be read here."""
    if importlib.util.find_spec("av") is None:
        raise MissingExtraError("video", "av")


@contextmanager
def reading(path: Path) -> Iterator[Video]:
    """Opens the file's first video stream. Raises `PictureError` for what cannot be read, here or at a frame."""
    import av

    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    with container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise PictureError(f"'{path}' holds no video; expected a file with a video stream.")
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)
        yield Video(
            rate=rate,
            count=stream.frames or None,
            time_base=Fraction(stream.time_base),
            audio=bool(container.streams.audio),
            frames=_frames(path, container, stream, rate),
        )


def _frames(path: Path, container: Any, stream: Any, rate: Fraction) -> Iterator[Frame]:
    import av

    step = max(1, round(1 / (rate * stream.time_base)))
    pixel = Fraction(stream.sample_aspect_ratio or 1)
    first, time, done = None, -step, 0
    try:
        for frame in container.decode(stream):
            first = frame.pts if first is None else first
            # Some files have no times, or the same one twice; an encoder wants each later than the one before.
            time = time + step if frame.pts is None or first is None else max(frame.pts - first, time + 1)
            stored = frame.to_ndarray(format="rgb24", width=round(frame.width * pixel))
            # The angle is counter-clockwise, as NumPy's.
            picture = np.rot90(stored, round(frame.rotation / 90))
            done += 1
            yield Frame(np.ascontiguousarray(picture), time)
    except av.FFmpegError as error:
        raise _unreadable(path, error, done) from error


@contextmanager
def writing(path: Path, like: Video) -> Iterator[Callable[[Frame], None]]:
    """Writes an MP4 (H.264, yuv420p, BT.709) frame by frame at the times of ``like``; without sound.

    All frames have the size of the first. An odd height or width, which yuv420p does not have, gets its last row or
    column twice. Raises `OSError` for what the operating system refuses.
    """
    import av

    # One thread: how x264 divides a frame's work changes its bytes. Without B-frames decoding and showing times are
    # the same, and the file lasts as long as its frames say.
    options = {"crf": "18", "preset": "fast", "threads": "1", "bf": "0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=like.rate, options=options)
        step = max(1, round(1 / (like.rate * like.time_base)))

        def begin(picture: NDArray[np.uint8]) -> None:
            stream.height, stream.width = picture.shape[:2]
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.time_base = like.time_base
            context.color_primaries = context.color_trc = context.colorspace = context.color_range = BT709

        def send(packets: Any) -> None:
            for packet in packets:
                packet.duration = step
                container.mux(packet)

        def write(frame: Frame) -> None:
            picture = _even(frame.picture)
            if not stream.codec_context.is_open:
                begin(picture)
            send(stream.encode(_encodable(picture, frame.time, like.time_base)))

        yield write
        send(stream.encode())


def _encodable(picture: NDArray[np.uint8], time: int, time_base: Fraction) -> Any:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )
    frame.pts, frame.time_base = time, time_base
    return frame


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def _unreadable(path: Path, error: Exception, after: int = 0) -> PictureError:
    place = f" after {after} frames" if after else ""
    return PictureError(f"'{path}' cannot be read as a video{place}: {error}. Replace or remove it.")
