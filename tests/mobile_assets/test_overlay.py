"""What is drawn of a segmentation: colours, boundaries, legends."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mobileseg.mobile_assets import overlay
from mobileseg.mobile_assets.labels import DATASETS, generic

PALETTE = ((255, 0, 0), (0, 128, 64), (10, 20, 250))


def three_classes() -> np.ndarray:
    """Class 0 above left, 1 above right, 2 below: no mirror or turn of it is itself."""
    classes = np.zeros((40, 60), np.uint8)
    classes[:24, 45:] = 1
    classes[24:] = 2
    return classes


@pytest.mark.parametrize("palette", [PALETTE, generic(256).palette], ids=["three", "all 256"])
def test_a_mask_keeps_indices_and_colours_through_png(palette: tuple[tuple[int, int, int], ...]) -> None:
    classes = np.random.default_rng(0).integers(0, len(palette), (9, 7), np.uint8)
    encoded = io.BytesIO()
    overlay.mask_image(classes, palette).save(encoded, "PNG")
    read = Image.open(encoded)
    assert read.mode == "P"
    assert np.array_equal(np.asarray(read), classes)
    assert np.array_equal(np.asarray(read.convert("RGB")), np.array(palette, np.uint8)[classes])


@pytest.mark.parametrize("opacity", [0.0, 0.25, 0.5, 1.0])
def test_inside_a_region_picture_and_colour_are_mixed(opacity: float) -> None:
    classes = three_classes()
    picture = np.random.default_rng(1).integers(0, 256, (*classes.shape, 3), np.uint8)
    blended = overlay.blend(picture, classes, PALETTE, opacity)
    inside = ~overlay.boundaries(classes, 1)
    expected = (1 - opacity) * picture + opacity * np.array(PALETTE)[classes]
    assert blended.dtype == np.uint8
    assert np.abs(blended - expected)[inside].max() <= 0.5 + 1e-9


def test_on_a_boundary_each_side_has_its_own_colour() -> None:
    classes = three_classes()
    blended = overlay.blend(np.full((*classes.shape, 3), 200, np.uint8), classes, PALETTE, 0.5)
    for row, column in ((5, 44), (5, 45), (23, 10), (24, 10)):
        assert tuple(blended[row, column]) == PALETTE[classes[row, column]]
    assert tuple(blended[5, 43]) != PALETTE[0]


def test_boundaries_are_as_wide_as_said_on_both_sides() -> None:
    classes = np.zeros((12, 20), np.uint8)
    classes[:, 10:] = 1
    assert np.flatnonzero(overlay.boundaries(classes, 3)[4]).tolist() == [7, 8, 9, 10, 11, 12]
    assert np.flatnonzero(overlay.boundaries(classes.T.copy(), 1)[:, 4]).tolist() == [9, 10]
    assert not overlay.boundaries(np.ones((5, 5), np.uint8), 2).any()


def test_a_map_narrower_than_a_boundary_is_drawn() -> None:
    assert overlay.boundaries(np.array([[0, 1]], np.uint8), 3).all()


def test_boundaries_grow_with_the_picture() -> None:
    assert [overlay.boundary_width(s) for s in ((360, 480), (1024, 2048), (3024, 4032))] == [1, 2, 6]


def test_a_legend_has_a_swatch_and_a_text_for_each_class() -> None:
    classes = DATASETS["cityscapes"]
    drawn = np.asarray(overlay.legend(classes, [1 / 20] * 20))
    column = drawn[:, 20]
    order = [tuple(c) for c in column if tuple(c) in set(classes.palette)]
    assert tuple(dict.fromkeys(order)) == tuple(dict.fromkeys(classes.palette))
    # Letters are dark on white: each row of the table has some, right of its swatch.
    rows = np.array_split(drawn[8:-8, 60:], 20)
    assert all((row < 100).any() for row in rows)


def test_a_strip_fills_its_width_with_columns() -> None:
    classes = DATASETS["camvid"]
    wide, narrow = overlay.legend(classes, width=1000), overlay.legend(classes, width=300)
    assert (wide.width, narrow.width) == (1000, 300)
    assert wide.height < narrow.height


def test_the_strip_is_below_the_unchanged_picture() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (50, 200, 3), np.uint8)
    drawn = overlay.with_legend(picture, DATASETS["demo"])
    assert np.array_equal(drawn[:50], picture)
    assert drawn.shape[0] > 60
    assert drawn.shape[1:] == (200, 3)


def test_what_is_there_is_not_shown_as_nothing() -> None:
    assert [overlay.share_text(s) for s in (0.0, 1e-6, 0.001, 0.3821, 1.0)] == [
        "-",
        "< 0.1 %",
        "0.1 %",
        "38.2 %",
        "100.0 %",
    ]
