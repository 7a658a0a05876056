"""`predict` on pictures: the right class at the right place in the right colour, under the right name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mobileseg import as_json
from mobileseg.errors import OptionError, OutputError, PictureError, UnavailableError, UsageError
from mobileseg.mobile_assets.demo import scene
from mobileseg.mobile_assets.labels import DATASETS
from mobileseg.pictures import load_labels, load_picture
from mobileseg.prediction import Prediction, predict, segmenter
from mobileseg.prediction.segmenter import classes_at, resized
from mobileseg.prediction.sources import find_sources
from mobileseg.types import Checkpoint, Classes, Preprocessing

CLASSES = Classes(
    "signals", ("red", "green", "blue", "orange"), ((250, 0, 0), (0, 150, 40), (0, 0, 200), (255, 160, 0))
)
COLOURS = np.array(CLASSES.palette, np.float32)
SIZE = (40, 60)


def layout(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A class map that no mirror, turn or exchange of classes leaves as it is."""
    height, width = size
    classes = np.zeros(size, np.uint8)
    classes[: height // 4, width // 3 :] = 1
    classes[height // 2 :, : width // 2] = 2
    classes[3 * height // 4 :, width // 2 :] = 3
    return classes


def painted(size: tuple[int, int] = SIZE) -> np.ndarray:
    return COLOURS.astype(np.uint8)[layout(size)]


def nearest_colour(order: tuple[int, ...] = (0, 1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Weights (C, 3) and biases of a 1x1 convolution from RGB (0..255) whose largest output is the nearest colour."""
    return 2 * COLOURS[:, order], -(COLOURS**2).sum(axis=1)


class ColourNetwork(nn.Module):
    """The nearest colour's class, from RGB in 0..1; the logits are at half the picture's size."""

    def __init__(self) -> None:
        super().__init__()
        weight, bias = nearest_colour()
        self.convolution = nn.Conv2d(3, len(COLOURS), 1)
        self.convolution.weight.data = torch.from_numpy(weight)[..., None, None] * 255
        self.convolution.bias.data = torch.from_numpy(bias)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.convolution(pictures[..., ::2, ::2])


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return Checkpoint(
        network=ColourNetwork().eval(),
        architecture="colours",
        variant="test",
        num_classes=4,
        hyperparameters={},
        preprocessing=Preprocessing("unit"),
        size=SIZE,
        size_multiple=2,
        min_size=8,
        parameters=16,
        sha256="",
        path=Path("colours.pth"),
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "painted.png"
    path.parent.mkdir()
    Image.fromarray(painted()).save(path)
    return path


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """A factory of .onnx files of the colour network at full size, from RGB 0..255 in NCHW."""
    onnx = pytest.importorskip("onnx", reason="needs the extra: pip install 'mobileseg[onnx]'")
    pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'mobileseg[onnx]'")

    def make(
        metadata: dict[str, Any] | None = None,
        head: str = "logits",
        size: tuple[Any, Any] = SIZE,
        order: tuple[int, ...] = (0, 1, 2),
        bias: float = 0.0,
    ) -> Path:
        helper, of_array = onnx.helper, onnx.numpy_helper.from_array
        weight, biases = nearest_colour(order)
        nodes = [helper.make_node("Conv", ["picture", "w", "b"], ["logits"])]
        shape, dtype, last = [1, 4, *size], onnx.TensorProto.FLOAT, "logits"
        if head == "argmax":
            nodes.append(helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0))
            shape, dtype, last = [1, *size], onnx.TensorProto.INT64, "classes"
        graph = helper.make_graph(
            nodes,
            "colours",
            [helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, [1, 3, *size])],
            [helper.make_tensor_value_info(last, dtype, shape)],
            [of_array(weight[..., None, None], "w"), of_array((biases + bias).astype(np.float32), "b")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        if metadata is not None:
            helper.set_model_props(model, {"mobileseg": json.dumps(metadata)})
        path = tmp_path / "colours.onnx"
        onnx.save(model, path)
        return path

    return make


def embedded(**changes: Any) -> dict[str, Any]:
    """Metadata as the converters write it."""
    classes = {"dataset": "signals", "names": CLASSES.names, "palette": CLASSES.palette, "void": None}
    base = {
        "target": "onnx",
        "precision": "fp32",
        "head": "logits",
        "classes": classes,
        "raw_input": False,
        "input": {"layout": "NCHW"},
        "output": {"layout": "NCHW"},
    }
    return base | changes


def run(model: Any, inputs: Any, tmp_path: Path, **options: Any) -> Prediction:
    given = inputs if isinstance(inputs, list) else [inputs]
    if isinstance(model, Checkpoint):
        options.setdefault("classes", CLASSES)
    return predict(model, given, output=tmp_path / "out", **options)


def test_the_mask_has_the_classes_where_the_picture_has_the_colours(
    checkpoint: Checkpoint, picture: Path, tmp_path: Path
) -> None:
    (made,) = run(checkpoint, picture, tmp_path).pictures
    mask = Image.open(made.mask)
    assert mask.mode == "P"
    assert np.mean(np.asarray(mask) == layout()) > 0.97
    assert np.mean((np.asarray(mask.convert("RGB")) == painted()).all(axis=-1)) > 0.97
    assert np.array_equal(load_labels(made.mask), np.asarray(mask))


def test_the_overlay_has_each_class_in_its_colour_over_the_picture(
    checkpoint: Checkpoint, picture: Path, tmp_path: Path
) -> None:
    other = replace(CLASSES, palette=((0, 255, 255), (255, 0, 255), (255, 255, 0), (9, 9, 9)))
    (made,) = run(checkpoint, picture, tmp_path, classes=other, opacity=0.5).pictures
    overlay = load_picture(made.overlay).astype(int)
    for row, column in ((5, 5), (4, 40), (30, 10), (36, 50)):
        expected = (painted()[row, column].astype(int) + other.palette[layout()[row, column]]) / 2
        assert np.abs(overlay[row, column] - expected).max() <= 6, (row, column)


@pytest.mark.parametrize("size", [(20, 30), (80, 120), (31, 47)], ids=str)
def test_a_picture_of_any_size_keeps_it(checkpoint: Checkpoint, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(painted(size)).save(tmp_path / "p.png")
    (made,) = run(checkpoint, tmp_path / "p.png", tmp_path).pictures
    assert made.size == load_labels(made.mask).shape == load_picture(made.overlay).shape[:2] == size
    assert np.mean(load_labels(made.mask) == layout(size)) > 0.9


def test_a_picture_that_lies_on_its_side_is_set_upright(checkpoint: Checkpoint, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # stored turned counter-clockwise: to be shown turned clockwise
    Image.fromarray(np.rot90(painted())).save(tmp_path / "phone.png", exif=exif)
    (made,) = run(checkpoint, tmp_path / "phone.png", tmp_path).pictures
    assert made.size == SIZE
    assert np.mean(load_labels(made.mask) == layout()) > 0.97


def test_shares_are_of_the_pixels(checkpoint: Checkpoint, picture: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((*SIZE, 3), CLASSES.palette[2], np.uint8)).save(picture.with_name("second.png"))
    result = run(checkpoint, picture.parent, tmp_path)
    first, second = result.pictures
    counts = np.bincount(load_labels(first.mask).ravel(), minlength=4)
    assert np.allclose(first.shares, counts / counts.sum())
    assert second.shares == (0.0, 0.0, 1.0, 0.0)
    assert np.allclose(result.shares, np.mean([first.shares, second.shares], axis=0))
    assert first.network_ms < first.total_ms
    assert result.legend.is_file()


def test_the_result_is_plain_json(checkpoint: Checkpoint, picture: Path, tmp_path: Path) -> None:
    plain = json.loads(json.dumps(as_json.plain(run(checkpoint, picture, tmp_path)), allow_nan=False))
    assert plain["classes"]["names"] == list(CLASSES.names)
    assert plain["pictures"][0]["mask"].endswith("out/masks/painted.png")
    assert plain["failures"] == plain["videos"] == []


def test_the_same_run_writes_the_same_bytes(checkpoint: Checkpoint, picture: Path, tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        run(checkpoint, picture, tmp_path, legend=True)
        contents.append({p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


def test_a_legend_is_added_below_only_where_asked(checkpoint: Checkpoint, picture: Path, tmp_path: Path) -> None:
    (made,) = run(checkpoint, picture, tmp_path, legend=True).pictures
    assert load_picture(made.overlay).shape[0] > SIZE[0]
    assert load_labels(made.mask).shape == SIZE


@pytest.mark.parametrize("head", ["logits", "softmax"])
def test_values_are_resized_before_the_argmax(head: Any) -> None:
    logits = np.random.default_rng(3).normal(size=(5, 6, 7)).astype(np.float32)
    expected = nn.functional.interpolate(torch.from_numpy(logits)[None], (20, 33), mode="bilinear")[0].argmax(0)
    given = torch.from_numpy(logits).softmax(0).numpy() if head == "softmax" else logits
    assert np.array_equal(classes_at(given, head, (20, 33)), expected)


def test_class_maps_are_resized_to_the_nearest() -> None:
    classes = np.array([[0, 1], [2, 3]])
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert classes_at(classes, "argmax", (4, 4)).tolist() == expected


def test_pictures_are_fed_as_they_are_for_parity(tmp_path: Path) -> None:
    full = np.random.default_rng(4).integers(0, 256, (90, 130, 3), np.uint8)
    Image.fromarray(full).save(tmp_path / "p.png")
    for size in ((40, 60), (90, 130), (200, 300)):
        assert np.array_equal(resized(full, size), load_picture(tmp_path / "p.png", size))


def test_an_artifact_brings_its_classes_and_colours(
    make_onnx: Callable[..., Path], picture: Path, tmp_path: Path
) -> None:
    result = run(make_onnx(embedded()), picture, tmp_path)
    assert result.classes == CLASSES
    assert result.runtime.startswith("onnxruntime")
    assert np.array_equal(load_labels(result.pictures[0].mask), layout())


def test_an_artifact_that_returns_classes(make_onnx: Callable[..., Path], picture: Path, tmp_path: Path) -> None:
    metadata = embedded(head="argmax", output={"layout": "NHW"})
    (made,) = run(make_onnx(metadata, head="argmax"), picture, tmp_path).pictures
    assert np.array_equal(load_labels(made.mask), layout())


def test_an_artifact_of_raw_input_is_fed_what_it_says(
    make_onnx: Callable[..., Path], picture: Path, tmp_path: Path
) -> None:
    bgr = {"name": "bgr", "channel_order": "BGR", "scale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1], "post_scale": 1.0}
    artifact = make_onnx(embedded(raw_input=True, preprocessing=bgr), order=(2, 1, 0))
    (made,) = run(artifact, picture, tmp_path).pictures
    assert np.array_equal(load_labels(made.mask), layout())
    with pytest.raises(OptionError, match="--preprocessing"):
        run(make_onnx(embedded(raw_input=True)), picture, tmp_path)


def test_another_data_sets_classes_can_be_named(make_onnx: Callable[..., Path], picture: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\n")
    assert run(make_onnx(embedded()), picture, tmp_path, classes=names).classes.names == ("a", "b", "c", "d")
    with pytest.raises(OptionError, match="the network has 4"):
        run(make_onnx(embedded()), picture, tmp_path, classes="camvid")


def test_an_artifact_of_others_without_metadata(make_onnx: Callable[..., Path], picture: Path, tmp_path: Path) -> None:
    assert run(make_onnx(), picture, tmp_path).classes.dataset == "generic"
    with pytest.raises(OptionError, match="--num-classes"):
        run(make_onnx(head="argmax"), picture, tmp_path)
    assert len(run(make_onnx(head="argmax"), picture, tmp_path, num_classes=4).classes.names) == 4


def test_an_artifacts_size_is_kept_and_a_free_one_is_asked_for(
    make_onnx: Callable[..., Path], picture: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="40x60 alone"):
        run(make_onnx(embedded()), picture, tmp_path, size=(20, 30))
    free = make_onnx(embedded(), size=("height", "width"))
    with pytest.raises(OptionError, match="--size HxW"):
        run(free, picture, tmp_path)
    assert run(free, picture, tmp_path, size=(20, 30)).input_size == (20, 30)


def test_an_artifact_that_cannot_run_here_says_what_can(
    make_onnx: Callable[..., Path], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = segmenter.open_artifact
    monkeypatch.setattr(
        segmenter, "open_artifact", lambda *given: replace(opened(*given), cannot_run="A phone runs it.")
    )
    with pytest.raises(UnavailableError, match="A phone runs it"):
        run(make_onnx(embedded()), picture, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_network_of_nan_writes_no_mask(make_onnx: Callable[..., Path], picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NaN"):
        run(make_onnx(embedded(), bias=float("nan")), picture, tmp_path)
    assert not (tmp_path / "out").exists()


def test_folders_keep_their_structure(checkpoint: Checkpoint, picture: Path, tmp_path: Path) -> None:
    (picture.parent / "deep" / "er").mkdir(parents=True)
    shutil.copy(picture, picture.parent / "deep" / "er" / "painted.png")
    run(checkpoint, picture.parent, tmp_path)
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert found == [
        "legend.png",
        "masks/deep/er/painted.png",
        "masks/painted.png",
        "overlays/deep/er/painted.jpg",
        "overlays/painted.jpg",
    ]


def test_no_two_files_get_one_name(tmp_path: Path) -> None:
    given = ["a/x.png", "a/x.jpg", "a/X.bmp", "a/x.png.webp", "b/x.png", "c/a/x.png", "d/a/x.png"]
    for name in given:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sources = find_sources([tmp_path / name for name in given], tmp_path / "out")
    names = [source.name for source in sources]
    assert len({name.casefold() for name in names}) == len(given)
    assert names == ["x", "x.jpg", "X.bmp", "x.png", "b/x", "a/x", "a/x.png"]


def test_a_picture_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    assert len(find_sources([tmp_path / "a", tmp_path / "a" / "x.png", tmp_path / "a"], tmp_path / "out")) == 1


def test_what_was_written_before_is_no_picture(checkpoint: Checkpoint, picture: Path) -> None:
    for _ in range(2):
        result = predict(checkpoint, [picture.parent], output=picture.parent, classes=CLASSES)
        assert [made.path for made in result.pictures] == [picture]


def test_an_unreadable_picture_is_named_and_the_others_are_done(
    checkpoint: Checkpoint, picture: Path, tmp_path: Path
) -> None:
    broken = picture.with_name("broken.png")
    broken.write_bytes(picture.read_bytes()[:60])
    result = run(checkpoint, picture.parent, tmp_path)
    assert [made.path for made in result.pictures] == [picture]
    assert [failure.path for failure in result.failures] == [broken]
    assert "broken.png" in result.failures[0].reason
    assert not list((tmp_path / "out").rglob("*broken*"))


def test_pictures_that_are_all_unreadable_are_an_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for index in range(7):
        (tmp_path / f"broken{index}.png").write_text("no picture")
    with pytest.raises(PictureError, match=r"broken0.*broken4.*And 2 more") as caught:
        run(checkpoint, tmp_path, tmp_path)
    assert "broken5" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_does_not_exist_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"nowhere\.png does not exist"):
        predict(tmp_path / "no.pth", [tmp_path / "nowhere.png"], output=tmp_path / "out")


@pytest.mark.parametrize("opacity", [-0.1, 1.5, float("nan")])
def test_an_opacity_beyond_its_range(checkpoint: Checkpoint, picture: Path, tmp_path: Path, opacity: float) -> None:
    with pytest.raises(OptionError, match="--opacity"):
        run(checkpoint, picture, tmp_path, opacity=opacity)


def test_an_output_that_is_a_file(checkpoint: Checkpoint, picture: Path) -> None:
    with pytest.raises(OutputError, match="--output"):
        predict(checkpoint, [picture], output=picture, classes=CLASSES)


def test_the_demo_network_finds_its_scenes_classes(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    street = scene(10_000, (192, 320))
    Image.fromarray(street.picture).save(tmp_path / "street.png")
    result = run(None, tmp_path, tmp_path)
    assert result.classes == DATASETS["demo"]
    assert np.mean(load_labels(result.pictures[0].mask) == street.labels) > 0.85


def test_a_real_network_finds_real_streets(shared: Path, tmp_path: Path) -> None:
    pictures = sorted((shared / "images" / "cityscapes" / "test").iterdir())[:1]
    labels = load_labels(shared / "images" / "cityscapes" / "test_labels" / pictures[0].name)
    result = run(shared / "checkpoints" / "enet-cityscapes-davidtvs.pth", pictures, tmp_path)
    mask = load_labels(result.pictures[0].mask)
    counted = labels != 255
    assert mask.shape == labels.shape
    assert np.mean(mask[counted] == labels[counted]) > 0.9
    assert result.classes.names[0] == "road"
