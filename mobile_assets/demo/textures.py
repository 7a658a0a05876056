"""Noise and patterns for the procedural scenes, from additions, products and comparisons only.

No transcendental function is called: a seed gives the same scene whatever mathematical library the machine has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Points = NDArray[np.float64]

TILE = 128
"""Side of the tiling noise textures in pixels; a power of two, so that indices wrap by a bit mask."""


def grid_noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> Array:
    """Value noise ``(H, W)`` in -1..1: random values ``cell`` pixels apart, interpolated linearly."""
    height, width = size
    rows = np.arange(height, dtype=np.float32) / np.float32(cell)
    columns = np.arange(width, dtype=np.float32) / np.float32(cell)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    lattice = rng.random((int(top[-1]) + 2, int(left[-1]) + 2), dtype=np.float32) * 2 - 1
    down, right = (rows - top)[:, None], columns - left
    lines = lattice[top] * (1 - down) + lattice[top + 1] * down
    blended: Array = lines[:, left] * (1 - right) + lines[:, left + 1] * right
    return blended


def tile(rng: np.random.Generator, cell: int) -> Array:
    """Value noise ``(TILE, TILE)`` in -1..1 that repeats without a seam; ``cell`` divides `TILE`."""
    lattice = rng.random((TILE // cell, TILE // cell), dtype=np.float32) * 2 - 1
    ramp = np.arange(cell, dtype=np.float32) / np.float32(cell)
    down = ramp[:, None]
    rows = (lattice[:, None] * (1 - down) + np.roll(lattice, -1, axis=0)[:, None] * down).reshape(TILE, -1, 1)
    blended: Array = rows * (1 - ramp) + np.roll(rows, -1, axis=1) * ramp
    return blended.reshape(TILE, TILE)


def rough_tile(rng: np.random.Generator) -> Array:
    """Three octaves of `tile`, in -1..1."""
    rough: Array = (tile(rng, 16) * 2 + tile(rng, 4) + tile(rng, 1)) / np.float32(4)
    return rough


def sample(texture: NDArray[np.float32], u: Points, v: Points) -> Array:
    """``texture[v, u]`` at integer parts, repeated without end; ``u`` and ``v`` broadcast against each other."""
    mask = texture.shape[0] - 1
    taken: Array = texture[v.astype(np.int32) & mask, u.astype(np.int32) & mask]
    return taken


def fraction(x: Points) -> Points:
    """The part after the point, in 0..1, of negative numbers too."""
    return x - np.floor(x)
