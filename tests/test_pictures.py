"""Pictures and label maps of every kind that folders hold, and the ones that must be refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mobileseg.errors import OptionError, PictureError
from mobileseg.pictures import (
    choose,
    find_pictures,
    iter_labels,
    iter_pictures,
    load_labels,
    load_picture,
    pair_labels,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def two_by_three() -> np.ndarray:
    return np.array([[RED, GREEN, BLUE], [(9, 9, 9), (200, 100, 50), (1, 2, 3)]], np.uint8)


def test_pictures_are_found_recursively_sorted_and_by_suffix(tmp_path):
    picture = Image.new("RGB", (2, 2))
    for name in ("b/2.png", "a/10.JPG", "a/1.jpeg", "c.bmp", "d.webp", "e.tiff"):
        save(tmp_path / name, picture)
    for name in ("notes.txt", "._a.png", "a/list.csv"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    found = [p.relative_to(tmp_path).as_posix() for p in find_pictures(tmp_path)]
    assert found == ["a/1.jpeg", "a/10.JPG", "b/2.png", "c.bmp", "d.webp", "e.tiff"]


def test_missing_empty_and_file_folders_are_named(tmp_path):
    with pytest.raises(PictureError, match=r"absent' does not exist"):
        find_pictures(tmp_path / "absent")
    with pytest.raises(PictureError, match=r"holds no picture.*\.png"):
        find_pictures(tmp_path)
    path = save(tmp_path / "one.png", Image.new("RGB", (2, 2)))
    with pytest.raises(PictureError, match="is a file"):
        find_pictures(path)


def test_labels_are_paired_by_place_and_name(tmp_path):
    for name in ("p/x/1.jpg", "p/2.jpg", "l/2.png", "l/x/1.png", "l/3.png"):
        save(tmp_path / name, Image.new("L", (2, 2)))
    pictures = find_pictures(tmp_path / "p")
    pairs = pair_labels(pictures, tmp_path / "p", tmp_path / "l")
    assert [p.relative_to(tmp_path).as_posix() for p in pairs] == ["l/2.png", "l/x/1.png"]
    (tmp_path / "l/2.png").unlink()
    with pytest.raises(PictureError, match=r"1 of 2 pictures.*2\.jpg"):
        pair_labels(pictures, tmp_path / "p", tmp_path / "l")


def test_choice_depends_on_set_count_and_seed_only(tmp_path):
    paths = [tmp_path / f"{i:03}.png" for i in range(50)]
    chosen = choose(paths, 10, seed=3)
    assert choose(reversed(paths), 10, seed=3) == chosen
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen)
    assert choose(paths, 10, seed=4) != chosen
    assert choose(paths, 99, seed=3) == paths
    with pytest.raises(OptionError, match="at least 1"):
        choose(paths, 0, seed=3)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif"])
def test_lossless_rgb_is_read_as_it_is(tmp_path, suffix):
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(two_by_three()))
    picture = load_picture(path)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, two_by_three())


@pytest.mark.parametrize("transparency", [None, 1])
def test_palettes_are_looked_up(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE])
    path = save(tmp_path / "p.png", image, **({} if transparency is None else {"transparency": transparency}))
    np.testing.assert_array_equal(load_picture(path), [[RED, GREEN], [GREEN, BLUE]])


def test_grey_is_repeated_and_transparency_dropped(tmp_path):
    grey = np.array([[0, 128, 255]], np.uint8)
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(load_picture(save(tmp_path / "l.png", Image.fromarray(grey))), expected)
    with_alpha = Image.fromarray(np.stack([grey, grey * 0], axis=-1), "LA")
    np.testing.assert_array_equal(load_picture(save(tmp_path / "la.png", with_alpha)), expected)
    bilevel = Image.fromarray(grey > 100).convert("1")
    np.testing.assert_array_equal(load_picture(save(tmp_path / "1.png", bilevel))[0, :, 0], [0, 255, 255])
    rgba = Image.fromarray(np.dstack([two_by_three(), np.array([[0, 1, 2], [3, 4, 255]], np.uint8)]), "RGBA")
    np.testing.assert_array_equal(load_picture(save(tmp_path / "rgba.png", rgba)), two_by_three())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight_and_are_not_clipped(tmp_path, suffix):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    path = save(tmp_path / f"16.{suffix}", Image.fromarray(values))
    np.testing.assert_array_equal(load_picture(path)[0], np.repeat([[0], [0], [1], [128], [255]], 3, axis=1))


def test_cmyk_becomes_rgb(tmp_path):
    path = save(tmp_path / "c.tif", Image.new("CMYK", (2, 2), (0, 255, 255, 0)))
    np.testing.assert_array_equal(load_picture(path), np.full((2, 2, 3), RED))
    jpeg = load_picture(save(tmp_path / "c.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0))))
    assert np.abs(jpeg.astype(int) - RED).max() < 12


def test_floating_point_pictures_are_refused(tmp_path):
    path = save(tmp_path / "f.tif", Image.fromarray(np.ones((2, 2), np.float32)))
    with pytest.raises(PictureError, match=r"f\.tif.*floating-point"):
        load_picture(path)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", Image.fromarray(two_by_three()), exif=exif)
    np.testing.assert_array_equal(load_picture(path), turn(two_by_three()))


def test_resize_gives_height_by_width_and_averages_when_it_shrinks(tmp_path):
    board = (np.indices((64, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)
    path = save(tmp_path / "board.png", Image.fromarray(board))
    small = load_picture(path, (8, 12))
    assert small.shape == (8, 12, 3)
    # Without antialiasing a checkerboard sampled at every eighth pixel is all black or all white.
    assert np.abs(small.astype(int) - 127).max() < 10
    assert load_picture(path, (65, 97)).shape == (65, 97, 3)


def test_iterators_read_one_at_a_time(tmp_path):
    good = save(tmp_path / "a.png", Image.fromarray(two_by_three()))
    pictures = iter_pictures([good, tmp_path / "absent.png"], (4, 6))
    assert next(pictures).shape == (4, 6, 3)
    with pytest.raises(PictureError, match=r"absent\.png"):
        next(pictures)
    label = save(tmp_path / "l.png", Image.fromarray(np.array([[7, 255]], np.uint8)))
    assert [x.tolist() for x in iter_labels([label])] == [[[7, 255]]]


@pytest.mark.parametrize("content", [b"", b"plain text", b"\x89PNG\r\n\x1a\n" + b"\x00" * 30, b"\xff\xd8\xff\xe0 cut"])
def test_broken_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for load in (load_picture, load_labels):
        with pytest.raises(PictureError, match=r"broken\.png"):
            load(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_files_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / f"cut.{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureError, match="cut"):
        load_picture(path)


def test_a_folder_in_place_of_a_picture_is_refused(tmp_path):
    with pytest.raises(PictureError, match="cannot be read"):
        load_picture(tmp_path)


def test_label_maps_keep_their_indices(tmp_path):
    indices = np.array([[0, 1, 2], [18, 255, 3]], np.uint8)
    grey = Image.fromarray(indices)
    palette = Image.fromarray(indices, "P")
    palette.putpalette(list(range(256)) * 3)
    wide = Image.fromarray(indices.astype(np.uint16))
    for name, image in (("l", grey), ("p", palette), ("w", wide)):
        labels = load_labels(save(tmp_path / f"{name}.png", image))
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, indices)


def test_colour_pictures_and_indices_above_255_are_no_label_maps(tmp_path):
    with pytest.raises(PictureError, match="one channel"):
        load_labels(save(tmp_path / "rgb.png", Image.fromarray(two_by_three())))
    with pytest.raises(PictureError, match="300"):
        load_labels(save(tmp_path / "wide.png", Image.fromarray(np.array([[1, 300]], np.uint16))))
