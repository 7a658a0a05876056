"""`predict` on videos: frames, times, turns and colours survive."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mobileseg.errors import MissingExtraError, PictureError
from mobileseg.pictures import load_labels
from mobileseg.prediction import Prediction, predict
from mobileseg.types import Checkpoint, Classes, Preprocessing

av = pytest.importorskip("av", reason="needs the extra: pip install 'mobileseg[video]'")

CLASSES = Classes("signals", ("red", "green", "blue"), ((220, 20, 60), (0, 150, 40), (0, 0, 142)))
COLOURS = np.array(CLASSES.palette)
SIZE = (48, 80)


class ColourNetwork(nn.Module):
    """The nearest colour's class, from RGB in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        colours = torch.tensor(COLOURS, dtype=torch.float32)
        self.convolution = nn.Conv2d(3, len(colours), 1)
        self.convolution.weight.data = 510 * colours[..., None, None]
        self.convolution.bias.data = -(colours**2).sum(dim=1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.convolution(pictures)


NETWORK = Checkpoint(
    network=ColourNetwork().eval(),
    architecture="colours",
    variant="test",
    num_classes=3,
    hyperparameters={},
    preprocessing=Preprocessing("unit"),
    size=SIZE,
    size_multiple=1,
    min_size=8,
    parameters=12,
    sha256="",
    path=Path("colours.pth"),
)


def layout(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A class map that changes from frame to frame: a red corner above left that grows, green right, blue below."""
    classes = np.ones(size, np.uint8)
    classes[: size[0] // 3, : 8 + 4 * index] = 0
    classes[size[0] // 2 :] = 2
    return classes


def film(
    path: Path, times: Sequence[int], size: tuple[int, int] = SIZE, time_base: Fraction = Fraction(1, 10), **more: Any
) -> Path:
    """A lossless video of `layout`, frame i shown at ``times[i] * time_base`` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=1 / time_base, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *size, "rgb24"
        stream.codec_context.time_base = time_base
        for name, value in more.items():
            setattr(stream.codec_context, name, value)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(COLOURS.astype(np.uint8)[layout(index, size)], format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path: Path) -> Path:
    """An MP4 whose header says to turn it by 90 degrees clockwise, as phones write it (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE[0] << 16, 0, 1 << 30)
    path.write_bytes(content)
    return path


def run(path: Path, tmp_path: Path, **options: Any) -> Prediction:
    return predict(NETWORK, [path], output=tmp_path / "out", classes=CLASSES, **options)


def frames_of(path: Path) -> tuple[list[np.ndarray], list[Fraction]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [f.to_ndarray(format="rgb24") for f in frames], [f.pts * f.time_base for f in frames]


def test_every_frame_is_there_in_its_colours(tmp_path: Path) -> None:
    (made,) = run(film(tmp_path / "a.mp4", range(6)), tmp_path, opacity=1.0, video_masks=True).videos
    frames, _ = frames_of(made.overlay)
    assert made.frames == len(frames) == 6
    for index, frame in enumerate(frames):
        nearest = ((frame[..., None, :].astype(int) - COLOURS) ** 2).sum(axis=-1).argmin(axis=-1)
        assert np.mean(nearest == layout(index)) > 0.98
    # Away from boundaries, H.264 gives the palette back within a few steps.
    assert np.abs(frames[0][40, 40].astype(int) - COLOURS[2]).max() <= 6
    assert np.abs(frames[0][4, 3].astype(int) - COLOURS[0]).max() <= 6


def test_masks_are_the_frames_label_maps(tmp_path: Path) -> None:
    (made,) = run(film(tmp_path / "a.mp4", range(3)), tmp_path, video_masks=True).videos
    assert made.masks is not None
    paths = sorted(made.masks.iterdir())
    assert [p.name for p in paths] == ["000000.png", "000001.png", "000002.png"]
    for index, path in enumerate(paths):
        assert np.array_equal(load_labels(path), layout(index))


def test_the_file_is_what_phones_and_browsers_play(tmp_path: Path) -> None:
    (made,) = run(film(tmp_path / "a.mkv", range(3)), tmp_path).videos
    assert made.overlay == tmp_path / "out" / "overlays" / "a.mp4"
    assert made.masks is None
    with av.open(str(made.overlay)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize("times", [[0, 1, 2, 3, 4], [0, 1, 5, 6, 9], [7, 8, 9, 10, 11]], ids=["even", "uneven", "late"])
def test_frames_are_shown_when_they_were(tmp_path: Path, times: list[int]) -> None:
    (made,) = run(film(tmp_path / "a.mkv", times), tmp_path).videos
    _, shown = frames_of(made.overlay)
    assert shown == [Fraction(time - times[0], 10) for time in times]
    with av.open(str(made.overlay)) as container:
        lasts = container.duration / av.time_base
    assert lasts == pytest.approx(made.seconds, abs=0.02)
    assert made.seconds == pytest.approx((times[-1] - times[0] + 1) / 10, abs=0.05)


def test_odd_sides_become_even(tmp_path: Path) -> None:
    (made,) = run(film(tmp_path / "a.mkv", range(2), (47, 81)), tmp_path, opacity=1.0).videos
    frames, _ = frames_of(made.overlay)
    assert made.size == (47, 81)
    assert frames[0].shape == (48, 82, 3)
    assert np.abs(frames[0][47, 81].astype(int) - COLOURS[2]).max() <= 6


def test_a_video_of_a_phone_held_upright_is_upright(tmp_path: Path) -> None:
    (made,) = run(turned(film(tmp_path / "a.mp4", range(2))), tmp_path, video_masks=True).videos
    assert made.size == (SIZE[1], SIZE[0])
    assert frames_of(made.overlay)[0][0].shape == (SIZE[1], SIZE[0], 3)
    mask = load_labels(made.masks / "000000.png")
    assert np.mean(mask == np.rot90(layout(0), -1)) > 0.95


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", range(2), sample_aspect_ratio=Fraction(2, 1))
    (made,) = run(path, tmp_path).videos
    assert made.size == (SIZE[0], 2 * SIZE[1])


def test_the_legend_is_below_every_frame(tmp_path: Path) -> None:
    (made,) = run(film(tmp_path / "a.mp4", range(2)), tmp_path, legend=True).videos
    assert made.size == SIZE
    assert frames_of(made.overlay)[0][1].shape[0] > SIZE[0]


def test_pictures_and_videos_share_one_run(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", range(2))
    Image.fromarray(COLOURS.astype(np.uint8)[layout(0)]).save(tmp_path / "a.png")
    told = []
    result = predict(
        NETWORK,
        [tmp_path / "a.mp4", tmp_path / "a.png"],
        output=tmp_path / "out",
        classes=CLASSES,
        progress=lambda path, done, total: told.append((path.name, done, total)),
    )
    assert (len(result.pictures), len(result.videos)) == (1, 1)
    assert sum(result.shares) == pytest.approx(1)
    assert told == [("a.mp4", 1, 2), ("a.mp4", 2, 2), ("a.png", 2, 2)]


def test_the_same_video_gives_the_same_bytes(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(4))
    first, second = (run(path, tmp_path).videos[0].overlay.read_bytes() for _ in range(2))
    assert first == second


def test_nothing_is_left_of_a_video_that_breaks_off(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(6))
    with av.open(str(path)) as container:
        packet = [(p.pos, p.size) for p in container.demux(video=0) if p.size][3]
    content = bytearray(path.read_bytes())
    content[packet[0] : sum(packet)] = bytes(packet[1])
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.mp4' cannot be read as a video after 3 frames"):
        run(path, tmp_path, video_masks=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0.0, 0.5], ids=["empty", "half"])
def test_a_video_that_was_cut_off(tmp_path: Path, keep: float) -> None:
    path = film(tmp_path / "a.mp4", range(4))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(PictureError, match=r"a\.mp4' cannot be read as a video:"):
        run(path, tmp_path)


def test_a_text_that_calls_itself_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(PictureError, match=r"'.*a\.mp4' cannot be read as a video"):
        run(tmp_path / "a.mp4", tmp_path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(PictureError, match="holds no video"):
        run(tmp_path / "a.mp4", tmp_path)


def test_without_the_package_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "a.mp4", range(2))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "av" else found(name, *more))
    with pytest.raises(MissingExtraError, match=r"mobileseg\[video\]"):
        run(path, tmp_path)
