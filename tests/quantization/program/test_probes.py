from typing import Any

import numpy as np
import pytest

from mobileseg.quantization.program.probes import unseen, unseen_labels


@pytest.mark.parametrize("size", [(40, 60), (41, 63), (360, 480), (5, 5), (1, 1)])
def test_a_probe_has_the_size_of_its_picture(size: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert unseen(picture).shape == picture.shape
    assert unseen(picture).dtype == np.uint8


def test_it_is_the_middle_mirrored() -> None:
    """A picture that grows brighter to the right, and greener downwards."""
    across, down = np.meshgrid(np.arange(100), np.arange(50))
    probe = unseen(np.stack([2 * across, 4 * down, 0 * down], axis=2).astype(np.uint8)).astype(int)
    left, right = probe[25, 2, 0], probe[25, 97, 0]
    assert abs(left - 2 * 88) <= 3
    assert abs(right - 2 * 11) <= 3
    assert abs(probe[2, 50, 1] - 4 * 6) <= 4
    assert abs(probe[47, 50, 1] - 4 * 43) <= 4


@pytest.mark.parametrize("factor", [1, 2])
def test_labels_stay_with_their_pixels(factor: int) -> None:
    """Labels of half the picture's size, too: three stripes of three brightnesses, not symmetric."""
    labels = np.repeat(np.repeat([[0] * 30 + [1] * 50 + [2] * 20], 60, axis=0), 2, axis=1).astype(np.uint8)
    picture = np.repeat(100 * labels[:, :, None], 3, axis=2)
    changed, found = unseen(picture), unseen_labels(labels[::factor, ::factor])
    rows, columns = (np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(found.shape, (60, 200), strict=True))
    agreement = (changed[:, :, 0] == 100 * found[np.ix_(rows, columns)]).mean()
    assert agreement > 0.97
    assert found[0, 0] == 2
    assert found[0, -1] == 0
