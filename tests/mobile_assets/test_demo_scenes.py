"""The procedural scenes: the same for a seed always, different for another, with every class and a street's layout."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from mobileseg.mobile_assets import demo
from mobileseg.mobile_assets.demo.canvas import CAR, PERSON, ROAD, SKY
from mobileseg.types import Size

SMALL: Size = (64, 128)

LABELS_OF_SEED_0 = "7dab27c3f13b963604b31ce315a674a355793e9f00655d6aa0ef9a093ff34123"
LABELS_OF_SEED_1_AT_96X160 = "532dd20c44749f82b811d0c3ee2edf10a29c9577b4bb432df7dbdd00f0589e80"


def checksum(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_labels_are_those_of_every_other_machine() -> None:
    """Weights, figures and reports were made with these labels; a change of the generator makes them void."""
    assert checksum(demo.scene(0).labels) == LABELS_OF_SEED_0
    assert checksum(demo.scene(1, (96, 160)).labels) == LABELS_OF_SEED_1_AT_96X160


def test_a_seed_gives_the_same_scene_in_another_process() -> None:
    program = (
        "import sys; from mobileseg.mobile_assets import demo; s = demo.scene(7, (64, 128)); "
        "sys.stdout.buffer.write(s.picture.tobytes() + s.labels.tobytes())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    here = demo.scene(7, SMALL)
    assert other == here.picture.tobytes() + here.labels.tobytes()


def test_drawing_one_scene_does_not_change_the_next() -> None:
    alone = demo.scene(5, SMALL)
    demo.scene(4, SMALL)
    after = demo.scene(5, SMALL)
    assert np.array_equal(alone.picture, after.picture)
    assert np.array_equal(alone.labels, after.labels)


def test_different_seeds_give_different_scenes() -> None:
    scenes = demo.scenes(range(20), SMALL)
    assert len({checksum(s.picture) for s in scenes}) == len({checksum(s.labels) for s in scenes}) == 20


@pytest.mark.parametrize("size", [(256, 512), (32, 32), (97, 131), (240, 160)])
def test_any_size_gives_whole_pictures_and_labels_in_range(size: Size) -> None:
    for seed in range(3):
        drawn = demo.scene(seed, size)
        assert drawn.picture.shape == (*size, 3)
        assert drawn.labels.shape == size
        assert drawn.picture.dtype == drawn.labels.dtype == np.uint8
        assert drawn.labels.max() < len(demo.CLASS_NAMES)
        assert drawn.picture.std() > 5


def test_every_class_has_its_share() -> None:
    labels = np.stack([s.labels for s in demo.scenes(range(60), SMALL)])
    shares = np.bincount(labels.ravel(), minlength=len(demo.CLASS_NAMES)) / labels.size
    assert shares.min() > 0.01, dict(zip(demo.CLASS_NAMES, shares, strict=True))
    assert shares.max() < 0.5


def test_it_is_a_street() -> None:
    """Sky above road, and cars and people mostly in the lower two thirds."""
    labels = np.stack([s.labels for s in demo.scenes(range(60), SMALL)])
    rows = {label: np.nonzero(labels == label)[1].mean() / SMALL[0] for label in (SKY, ROAD, CAR, PERSON)}
    assert rows[SKY] < 0.4 < rows[CAR] < rows[ROAD]
    assert 0.4 < rows[PERSON] < 0.9


def test_colour_alone_does_not_tell_the_classes() -> None:
    """The nearest mean colour names less than 60 % of the pixels: a network has to use texture and shape."""
    drawn = demo.scenes(range(40), SMALL)
    colours = np.concatenate([s.picture.reshape(-1, 3) for s in drawn]).astype(np.float64)
    labels = np.concatenate([s.labels.ravel() for s in drawn])
    means = np.stack([colours[labels == label].mean(0) for label in range(len(demo.CLASS_NAMES))])
    nearest = ((colours[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == labels).mean() < 0.6


def test_pictures_are_those_of_the_scenes() -> None:
    drawn = demo.pictures(3, SMALL, first_seed=11)
    assert [checksum(p) for p in drawn] == [checksum(demo.scene(seed, SMALL).picture) for seed in (11, 12, 13)]


def test_no_seed_serves_two_purposes() -> None:
    purposes = (demo.CALIBRATION_SEEDS, demo.EVALUATION_SEEDS, demo.PROGRESS_SEEDS, demo.TRAINING_SEEDS)
    for one, other in itertools.combinations(purposes, 2):
        assert one.stop <= other.start or other.stop <= one.start
    assert len(demo.EVALUATION_SEEDS) >= 200


def test_the_demo_needs_no_heavy_module() -> None:
    program = (
        "import sys, mobileseg.mobile_assets.demo, mobileseg.mobile_assets.labels; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
