"""Things that stand in the street: trees, bushes, cars, people. Each draws itself on a canvas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobileseg.mobile_assets.demo.canvas import CAR, PERSON, VEGETATION, Canvas, Colour, Patch, patch
from mobileseg.mobile_assets.demo.textures import Points, rough_tile, sample

FOLIAGE = np.array([[0.16, 0.30, 0.10], [0.26, 0.36, 0.14], [0.12, 0.22, 0.12], [0.42, 0.34, 0.12], [0.40, 0.22, 0.10]])
SKIN = np.array([[0.85, 0.66, 0.54], [0.62, 0.43, 0.32], [0.36, 0.24, 0.18]])
DARK = np.array([0.06, 0.06, 0.07], np.float32)
GLASS = np.array([0.20, 0.25, 0.30], np.float32)


def jitter(rng: np.random.Generator, colour: NDArray[np.float64], amount: float) -> Colour:
    """``colour`` times a common factor and shifted a little a channel."""
    common = 1 + rng.uniform(-amount, amount)
    shifted: Colour = np.clip(colour * common + rng.uniform(-amount, amount, 3) * 0.2, 0.02, 1).astype(np.float32)
    return shifted


def foliage_colour(rng: np.random.Generator) -> Colour:
    return jitter(rng, FOLIAGE[rng.integers(len(FOLIAGE))], 0.35)


def any_colour(rng: np.random.Generator) -> Colour:
    """Paint or cloth: often near grey, sometimes vivid."""
    grey = rng.uniform(0.06, 0.9)
    spread = rng.uniform(-0.4, 0.4, 3) if rng.random() < 0.55 else rng.uniform(-0.06, 0.06, 3)
    return np.clip(grey + spread, 0.03, 0.97).astype(np.float32)


def _disc(x: Points, y: Points, radius_x: float, radius_y: float) -> Points:
    return (x / radius_x) ** 2 + (y / radius_y) ** 2


def _box(x: Points, y: Points, half: float, bottom: float, top: float) -> NDArray[np.bool_]:
    return (np.abs(x) < half) & (y > bottom) & (y < top)


def draw_shadow(canvas: Canvas, x: float, depth: float, half: float) -> None:
    """A soft dark ellipse on the ground under a thing that is ``2 * half`` metres wide."""
    place = patch(canvas, x, depth, (half * 1.3, 0.3, 0.35))
    if place is not None:
        outside = _disc(place.across, place.up, half * 1.25, 0.25)
        place.darken(outside < 1, 0.75)
        place.darken(outside < 0.6, 0.75)


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, depth: float) -> None:
    """A trunk and a crown of three overlapping, ragged discs."""
    radius, middle = rng.uniform(1.1, 2.4), rng.uniform(3.4, 5.2)
    lobes = rng.uniform(-0.5, 0.5, (3, 2)) * radius
    sizes = rng.uniform(0.6, 1.0, 3) * radius
    texture, colour = rough_tile(rng), foliage_colour(rng)
    bark = jitter(rng, np.array([0.22, 0.17, 0.13]), 0.4)
    trunk = rng.uniform(0.12, 0.24)
    draw_shadow(canvas, x, depth, 0.7)
    place = patch(canvas, x, depth, (radius * 2, middle + radius * 2, 0.1))
    if place is None:
        return
    light = 1 + np.clip(place.across / trunk, -1, 1) * 0.35 + np.zeros_like(place.up)
    place.paint(_box(place.across, place.up, trunk, 0, middle), bark, VEGETATION, light.astype(np.float32))
    rough = sample(texture, (place.across + 50) * 24, (place.up + 50) * 24)
    u, v = place.across, place.up - middle
    discs = [_disc(u - dx, v - dy, s, s * 0.9) for (dx, dy), s in zip(lobes, sizes, strict=True)]
    distance: Points = np.min(discs, axis=0)
    shade = 0.85 + 0.75 * rough + np.clip((place.up - middle) / (radius * 3), -0.3, 0.3)
    place.paint(distance + 0.45 * rough < 1, colour, VEGETATION, np.maximum(shade, 0.2).astype(np.float32))


def draw_bush(canvas: Canvas, rng: np.random.Generator, x: float, depth: float) -> None:
    half, tall = rng.uniform(0.5, 1.6), rng.uniform(0.6, 1.5)
    texture, colour = rough_tile(rng), foliage_colour(rng)
    draw_shadow(canvas, x, depth, half)
    place = patch(canvas, x, depth, (half * 1.5, tall * 1.5, 0.1))
    if place is None:
        return
    rough = sample(texture, (place.across + 50) * 30, (place.up + 50) * 30)
    inside = (_disc(place.across, place.up, half, tall) + 0.4 * rough < 1) & (place.up > 0)
    shade = 0.7 + 0.6 * rough + 0.3 * place.up / tall
    place.paint(inside, colour, VEGETATION, np.maximum(shade, 0.2).astype(np.float32))


def _car_face(place: Patch, colour: Colour, lamp: Colour, cabin: float) -> None:
    """Front or rear: body, cabin with a window, wheels, lamps, plate."""
    x, y = place.across, place.up
    side = np.abs(x)
    place.paint(_box(side - 0.68, y, 0.14, 0, 0.4), DARK, CAR)
    place.paint(_box(x, y, 0.88, 0.25, 0.95) & (side - 0.88 < (0.6 - np.abs(y - 0.6)) * 0.3), colour, CAR)
    place.paint((y >= 0.9) & (y < cabin) & (side < 0.84 - (y - 0.9) * 0.35), colour, CAR, 0.9)
    place.paint((y >= 0.98) & (y < cabin - 0.1) & (side < 0.74 - (y - 0.9) * 0.35), GLASS, CAR)
    place.paint(_box(side - 0.7, y, 0.13, 0.66, 0.82), lamp, CAR)
    place.paint(_box(x, y, 0.25, 0.5, 0.62), np.full(3, 0.75, np.float32), CAR)
    place.paint(_box(x, y, 0.86, 0.25, 0.36), DARK, CAR)


def draw_car(canvas: Canvas, rng: np.random.Generator, x: float, depth: float) -> None:
    """A car along the street: slices of its outline from far to near give the side, then its front or rear."""
    colour, cabin = any_colour(rng), rng.uniform(1.35, 1.75)
    lamp = np.array([0.75, 0.12, 0.1] if rng.random() < 0.5 else [0.95, 0.93, 0.85], np.float32)
    length = rng.uniform(3.4, 4.4)
    draw_shadow(canvas, x, depth, 1.05)
    for step in np.linspace(length, 0.15, 12):
        place = patch(canvas, x, depth + step, (1.0, cabin + 0.1, 0.05))
        if place is None:
            continue
        y, side = place.up, np.abs(place.across)
        draw_shadow(canvas, x, depth + step, 1.0)
        if step < length * 0.25 or step > length * 0.75:
            place.paint(_box(side - 0.75, y, 0.13, 0, 0.5), DARK, CAR)
        place.paint(_box(place.across, y, 0.88, 0.25, 0.95), colour, CAR, 0.75)
        if length * 0.1 < step < length * 0.72:
            roof = (y >= 0.9) & (y < cabin) & (side < 0.84 - (y - 0.9) * 0.35)
            place.paint(roof, colour, CAR, 0.8)
            place.paint(roof & (y < cabin - 0.12) & (y > 1.0), GLASS, CAR, 0.8)
    near = patch(canvas, x, depth, (1.0, cabin + 0.1, 0.05))
    if near is not None:
        _car_face(near, colour, lamp, cabin)


def draw_crossing_car(canvas: Canvas, rng: np.random.Generator, x: float, depth: float) -> None:
    """A car seen from its side."""
    colour, cabin, half = any_colour(rng), rng.uniform(1.35, 1.6), rng.uniform(1.8, 2.2)
    shift = rng.uniform(-0.3, 0.3)
    draw_shadow(canvas, x, depth, half)
    place = patch(canvas, x, depth, (half + 0.1, cabin + 0.1, 0.1))
    if place is None:
        return
    u, v = place.across, place.up
    roof = (v >= 0.85) & (v < cabin) & (np.abs(u - shift) < half * 0.62 - (v - 0.85) * 0.6)
    place.paint(_box(u, v, half, 0.25, 0.9), colour, CAR)
    place.paint(roof, colour, CAR, 0.9)
    place.paint(roof & (v > 0.92) & (v < cabin - 0.1) & (np.abs(u - shift) > 0.05), GLASS, CAR)
    place.paint(_box(u, v, half, 0.25, 0.36), DARK, CAR)
    for wheel in (-half * 0.62, half * 0.62):
        place.paint(_disc(u - wheel, v - 0.32, 0.32, 0.32) < 1, DARK, CAR)
        place.paint(_disc(u - wheel, v - 0.32, 0.15, 0.15) < 1, np.full(3, 0.5, np.float32), CAR)


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, depth: float) -> None:
    """Legs, a torso with arms, a head with hair."""
    size, stride = rng.uniform(0.92, 1.08), rng.uniform(0.0, 0.22)
    coat, trousers = any_colour(rng), any_colour(rng) * np.float32(0.7)
    skin = jitter(rng, SKIN[rng.integers(len(SKIN))], 0.15)
    hair = jitter(rng, np.array([0.16, 0.12, 0.09]), 0.6)
    skirt = rng.random() < 0.25
    draw_shadow(canvas, x, depth, 0.35)
    place = patch(canvas, x, depth, (0.55, 1.95, 0.05))
    if place is None:
        return
    u, v = place.across / size, place.up / size
    spread = stride * (0.9 - v)
    light = (1 + np.clip(u, -0.3, 0.3) * rng.uniform(-1, 1) + np.zeros_like(v)).astype(np.float32)
    for leg in (-1, 1):
        place.paint((v > 0) & (v < 0.9) & (np.abs(u - leg * (0.09 + spread)) < 0.1), trousers, PERSON, light)
    if skirt:
        place.paint((v > 0.45) & (v < 1.0) & (np.abs(u) < 0.36 - v * 0.16), coat, PERSON, light)
    place.paint((v >= 0.82) & (v < 1.5) & (np.abs(u) < 0.2 + (v - 0.82) * 0.08), coat, PERSON, light)
    swing = stride * (1.4 - v) * 0.6
    for arm in (-1, 1):
        place.paint((v > 0.78) & (v < 1.45) & (np.abs(u - arm * (0.28 + swing)) < 0.065), coat * 0.85, PERSON, light)
    place.paint((v >= 1.45) & (v < 1.56) & (np.abs(u) < 0.07), skin, PERSON)
    place.paint(_disc(u, v - 1.65, 0.115, 0.145) < 1, skin, PERSON, light)
    place.paint((_disc(u, v - 1.67, 0.125, 0.15) < 1) & (v > 1.68), hair, PERSON)
