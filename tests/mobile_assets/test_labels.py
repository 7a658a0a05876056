"""Class names and palettes: the data sets', and what a user's file may and may not say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobileseg.errors import OptionError
from mobileseg.mobile_assets.demo import CLASS_NAMES
from mobileseg.mobile_assets.labels import DATASETS, classes_for, generic, load_classes


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_has_a_distinct_name_and_colour_for_each_class(name: str) -> None:
    classes = DATASETS[name]
    assert len(set(classes.names)) == len(classes.names) == len(classes.palette) == len(set(classes.palette))
    assert all(0 <= channel <= 255 for colour in classes.palette for channel in colour)
    assert classes.dataset == name


@pytest.mark.parametrize(
    ("num_classes", "dataset", "void"),
    [
        (11, "camvid", None),
        (12, "camvid", 11),
        (19, "cityscapes", None),
        (20, "cityscapes", 19),
        (21, "voc", None),
        (1, "generic", None),
        (7, "generic", None),
        (300, "generic", None),
    ],
)
def test_the_number_of_classes_chooses_the_data_set(num_classes: int, dataset: str, void: int | None) -> None:
    classes = classes_for(num_classes)
    assert (classes.dataset, classes.void) == (dataset, void)
    assert len(classes.names) == len(classes.palette) == num_classes


def test_known_colours() -> None:
    """Spot checks against the data sets' own publications."""
    voc = load_classes("voc", 21)
    assert voc.palette[1] == (128, 0, 0)
    assert voc.palette[voc.names.index("person")] == (192, 128, 128)
    assert voc.palette[voc.names.index("tvmonitor")] == (0, 64, 128)
    cityscapes = load_classes("cityscapes", 20)
    assert cityscapes.palette[cityscapes.names.index("bicycle")] == (119, 11, 32)
    camvid = load_classes("camvid", 12)
    assert camvid.palette[camvid.names.index("pavement")] == (0, 0, 192)


def test_void_first_is_the_same_set_shifted_by_one() -> None:
    last, first = load_classes("cityscapes", 20), load_classes("cityscapes-void-first", 20)
    assert first.names[1:] == last.names[:-1]
    assert first.palette[1:] == last.palette[:-1]
    assert first.names[first.void or 0] == last.names[last.void or 0] == "void"


def test_the_demo_classes_are_those_of_the_scenes() -> None:
    assert load_classes("demo", len(CLASS_NAMES)).names == CLASS_NAMES


def test_many_generic_colours_differ() -> None:
    assert len(set(generic(1000).palette)) == 1000


def test_a_text_file_has_a_name_on_each_line(tmp_path: Path) -> None:
    file = tmp_path / "garden.txt"
    file.write_text("soil\r\n\r\n  plant \nweed\n", encoding="utf-8")
    classes = load_classes(str(file), 3)
    assert classes.names == ("soil", "plant", "weed")
    assert classes.dataset == "garden"
    assert classes.palette == generic(3).palette


def test_a_json_file_may_give_palette_and_void(tmp_path: Path) -> None:
    file = tmp_path / "two.json"
    file.write_text(json.dumps({"names": ["Gehweg", "übrig"], "palette": [[1, 2, 3], [255, 0, 9]], "void": 1}))
    classes = load_classes(str(file), 2)
    assert (classes.names, classes.palette, classes.void) == (("Gehweg", "übrig"), ((1, 2, 3), (255, 0, 9)), 1)
    without_void = load_classes(str(file), 1)
    assert (without_void.names, without_void.palette, without_void.void) == (("Gehweg",), ((1, 2, 3),), None)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", 'no list of strings "names"'),
        ('{"names": "sky"}', 'no list of strings "names"'),
        ('{"names": [1, 2]}', 'no list of strings "names"'),
        ('{"names": []}', "names no class"),
        ('{"names": ["a", "b"], "palette": [[0, 0, 0]]}', '"palette"'),
        ('{"names": ["a", "b"], "palette": [[0, 0, 0], [0, 0, 256]]}', '"palette"'),
        ('{"names": ["a", "b"], "palette": [[0, 0, 0], [0, 0.5, 1]]}', '"palette"'),
        ('{"names": ["a", "b"], "palette": [[0, 0, 0], "red"]}', '"palette"'),
        ('{"names": ["a", "b"], "void": 2}', '"void"'),
        ('{"names": ["a", "b"], "void": true}', '"void"'),
        ('{"names": ["a", "b", "c"]}', "are 3, the network has 2"),
    ],
)
def test_a_malformed_file_is_refused_with_what_was_expected(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "classes.json"
    file.write_text(content)
    with pytest.raises(OptionError) as caught:
        load_classes(str(file), 2)
    assert complaint in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(OptionError, match="cannot be read as UTF-8"):
        load_classes(str(file), 2)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\n\n")
    with pytest.raises(OptionError, match="names no class"):
        load_classes(str(file), 2)


@pytest.mark.parametrize("word", ["citiscapes", "Cityscapes"])
def test_an_unknown_name_gets_the_nearest(word: str) -> None:
    with pytest.raises(OptionError, match=r"Did you mean 'cityscapes'\?"):
        load_classes(word, 20)


def test_a_directory_is_no_class_set(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no class set or file"):
        load_classes(str(tmp_path), 20)


@pytest.mark.parametrize(("name", "num_classes", "remedy"), [("camvid", 21, "voc"), ("voc", 5, "generic")])
def test_a_set_of_another_size_is_refused_with_one_that_fits(name: str, num_classes: int, remedy: str) -> None:
    with pytest.raises(OptionError, match=f"--classes {remedy}"):
        load_classes(name, num_classes)
