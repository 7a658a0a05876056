"""Labelled street scenes without end, drawn by rule from a seed: what the demo networks learn and are judged by.

A camera looks down a street between two rows of buildings, hedges and gaps; trees, bushes, cars and people stand in
it. The classes share their colours, so that texture, shape and place tell them apart; light, haze, shadow, blur and
sensor noise vary. Only additions, products, divisions and comparisons are used, whose results IEEE 754 fixes, so that
a seed gives the same scene on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobileseg.mobile_assets.demo.canvas import (
    BUILDING,
    PAVEMENT,
    ROAD,
    SKY,
    VEGETATION,
    Camera,
    Canvas,
)
from mobileseg.mobile_assets.demo.objects import (
    draw_bush,
    draw_car,
    draw_crossing_car,
    draw_person,
    draw_tree,
    foliage_colour,
    jitter,
)
from mobileseg.mobile_assets.demo.textures import Array, Points, fraction, grid_noise, rough_tile, sample
from mobileseg.types import Size

CLASS_NAMES = ("sky", "building", "road", "pavement", "vegetation", "car", "person")

FAR = 140.0
"""Depth in metres beyond which only the skyline is drawn."""

SKIES = np.array([[0.42, 0.60, 0.85], [0.72, 0.76, 0.8], [0.5, 0.52, 0.56], [0.88, 0.62, 0.42], [0.3, 0.38, 0.58]])
FACADES = np.array(
    [
        [0.62, 0.55, 0.45],
        [0.55, 0.32, 0.24],
        [0.60, 0.60, 0.60],
        [0.80, 0.76, 0.66],
        [0.38, 0.40, 0.44],
        [0.46, 0.56, 0.50],
    ]
)
STONE = np.array([[0.36, 0.36, 0.37], [0.46, 0.45, 0.43], [0.55, 0.53, 0.50], [0.44, 0.38, 0.34]])

Drawer = Callable[[Canvas, np.random.Generator, float, float], None]


@dataclass(frozen=True)
class Scene:
    """``picture``: ``(H, W, 3) uint8`` RGB; ``labels``: ``(H, W) uint8``, indices into `CLASS_NAMES`."""

    picture: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Street:
    """Across the street, in metres right of the camera: the kerbs and the walls. ``lawn``: green beyond the walls."""

    kerbs: tuple[float, float]
    walls: tuple[float, float]
    lawn: bool

    @property
    def middle(self) -> float:
        return (self.kerbs[0] + self.kerbs[1]) / 2


def scene(seed: int, size: Size = (256, 512)) -> Scene:
    """The scene of ``seed`` at ``size`` (height, width in pixels). Another size of the same seed is another scene."""
    rng = np.random.default_rng(seed)
    canvas = _empty(rng, size)
    street = _street(rng)
    _draw_sky(canvas, rng)
    _draw_skyline(canvas, rng)
    _draw_ground(canvas, rng, street)
    for side in (0, 1):
        _draw_wall(canvas, rng, street, side)
    _draw_things(canvas, rng, street)
    return Scene(_expose(canvas.picture, rng), canvas.labels)


def _empty(rng: np.random.Generator, size: Size) -> Canvas:
    height, width = size
    camera = Camera(
        focal=height * rng.uniform(0.85, 1.2),
        centre=width * rng.uniform(0.36, 0.64),
        horizon=height * rng.uniform(0.36, 0.52),
        tilt=rng.uniform(-0.04, 0.04),
        height=rng.uniform(1.4, 2.2),
    )
    haze = jitter(rng, SKIES[rng.integers(len(SKIES))], 0.15)
    return Canvas(
        np.empty((height, width, 3), np.float32), np.zeros(size, np.uint8), camera, haze, rng.uniform(60, 400)
    )


def _street(rng: np.random.Generator) -> Street:
    middle, half = rng.uniform(-2.5, 2.5), rng.uniform(2.8, 5.0)
    left, right = middle - half, middle + half
    walls = (left - rng.uniform(1.6, 4.5), right + rng.uniform(1.6, 4.5))
    return Street((left, right), walls, bool(rng.random() < 0.6))


def _columns(canvas: Canvas) -> Points:
    """Middles of the picture's columns."""
    middles: Points = np.arange(canvas.labels.shape[1], dtype=np.float64) + 0.5
    return middles


def _rows(canvas: Canvas) -> Points:
    """Middles of the picture's rows, ``(H, 1)``."""
    middles: Points = np.arange(canvas.labels.shape[0], dtype=np.float64)[:, None] + 0.5
    return middles


def _above_ground(canvas: Canvas) -> int:
    """How many rows, from the top, are not ground alone."""
    lowest = float(canvas.camera.horizon_at(_columns(canvas)[[0, -1]]).max())
    height: int = canvas.labels.shape[0]
    return min(height, int(lowest) + 2)


def _draw_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    width = canvas.labels.shape[1]
    zenith = jitter(rng, SKIES[rng.integers(len(SKIES))], 0.2)
    height = _above_ground(canvas)
    fall = np.clip(np.arange(height, dtype=np.float32) / np.float32(canvas.camera.horizon), 0, 1)[:, None, None]
    cloud = jitter(rng, np.array([0.85, 0.85, 0.86]), 0.25)
    veil = grid_noise(rng, (height, width), height / 3) + grid_noise(rng, (height, width), height / 10) * 0.4
    share = np.clip(veil - np.float32(rng.uniform(-0.3, 0.9)), 0, 1)[..., None]
    canvas.picture[:height] = (zenith * (1 - fall) + canvas.haze * fall) * (1 - share) + cloud * share
    canvas.labels[:height] = SKY


def _draw_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Far roofs and tree tops along the horizon, down to the ground that will cover their feet."""
    height, width = canvas.labels.shape
    blocks = int(rng.integers(6, 14))
    block = np.arange(width) * blocks // width
    green = rng.random(blocks) < 0.4
    tops = rng.uniform(0.01, 0.13, blocks) * height
    ragged = np.where(green[block], grid_noise(rng, (1, width), height / 32)[0] * (height * 0.02), 0)
    columns = _columns(canvas)
    roof = canvas.camera.horizon_at(columns) - tops[block] + ragged
    colours = np.where(
        green[:, None],
        np.stack([foliage_colour(rng) for _ in range(blocks)]),
        np.stack([jitter(rng, FACADES[k], 0.25) for k in rng.integers(len(FACADES), size=blocks)]),
    )
    bottom = _above_ground(canvas)
    inside = _rows(canvas)[:bottom] > roof
    grain = 1 + 0.25 * grid_noise(rng, (bottom, width), max(2.0, height / 100))
    paint = canvas.hazy(colours.astype(np.float32), FAR * 0.6)[block] * grain[..., None]
    np.copyto(canvas.picture[:bottom], paint, where=inside[..., None])
    np.copyto(canvas.labels[:bottom], np.where(green, VEGETATION, BUILDING).astype(np.uint8)[block], where=inside)


def _draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Road with markings, pavements with slabs and kerbs, and what lies beyond the walls."""
    camera = canvas.camera
    columns = _columns(canvas)
    first = int(camera.horizon_at(columns[[0, -1]]).min())
    below = _rows(canvas)[first:] - camera.horizon_at(columns)
    depth = camera.focal * camera.height / np.maximum(below, 0.5)
    across = (columns - camera.centre) * depth / camera.focal
    visible = below > 0.5

    on_road = (across > street.kerbs[0]) & (across < street.kerbs[1])
    beyond = (across < street.walls[0]) | (across > street.walls[1])
    labels = np.where(on_road, ROAD, np.where(beyond & street.lawn, VEGETATION, PAVEMENT)).astype(np.uint8)

    road, stone = (jitter(rng, STONE[k], 0.3) for k in rng.integers(len(STONE), size=2))
    palette = np.zeros((len(CLASS_NAMES), 3), np.float32)
    palette[ROAD], palette[PAVEMENT], palette[VEGETATION] = road, stone, foliage_colour(rng)
    rough = sample(rough_tile(rng), (across + 500) * 9, depth * 9)
    strength = np.zeros(len(CLASS_NAMES), np.float32)
    strength[[ROAD, PAVEMENT, VEGETATION]] = rng.uniform(0.06, 0.25), rng.uniform(0.06, 0.25), 0.45
    fade = (30 / (depth + 30)).astype(np.float32)
    shade = 1 + rough * strength[labels] * fade
    slab = rng.uniform(0.5, 1.4)
    joints = (fraction(across / slab) < 0.06) | (fraction(depth / slab) < 0.06)
    shade = np.where((labels == PAVEMENT) & joints & (depth < 18), shade * np.float32(rng.uniform(0.75, 1)), shade)
    patches = sample(rough_tile(rng), (across + 500) * 2, depth * 1.2) > 0.35
    shade = np.where(patches & (labels != VEGETATION), shade * np.float32(rng.uniform(0.8, 1.15)), shade)
    shadow, lit = _shadows(rng, street, across, depth)
    shade = np.where(shadow, shade * lit, shade)

    kerb = (np.minimum(np.abs(across - street.kerbs[0]), np.abs(across - street.kerbs[1])) < 0.12) & ~on_road
    paint = palette[labels]
    np.copyto(paint, np.float32(rng.uniform(0.45, 0.8)), where=kerb[..., None])
    marks = _markings(rng, street, across, depth) & on_road
    np.copyto(paint, np.float32(rng.uniform(0.65, 0.95)), where=marks[..., None])
    share = (depth / (depth + canvas.haze_depth)).astype(np.float32)[..., None]
    paint = paint * shade[..., None] * (1 - share) + canvas.haze * share
    np.copyto(canvas.picture[first:], paint, where=visible[..., None])
    np.copyto(canvas.labels[first:], labels, where=visible)


def _shadows(
    rng: np.random.Generator, street: Street, across: Points, depth: Points
) -> tuple[NDArray[np.bool_], np.float32]:
    """Where a row of houses, or leaves above the road, take the sun; and how much light is left."""
    lit = np.float32(rng.uniform(0.5, 0.9))
    reach = rng.uniform(0, 1.2) * (street.kerbs[1] - street.kerbs[0])
    houses = across < street.walls[0] + reach if rng.random() < 0.5 else across > street.walls[1] - reach
    leaves = sample(rough_tile(rng), (across + 500) * 6, depth * 6) > rng.uniform(0.15, 0.5)
    return (houses | (leaves & (depth > rng.uniform(3, 12))) if rng.random() < 0.4 else houses), lit


def _markings(rng: np.random.Generator, street: Street, across: Points, depth: Points) -> NDArray[np.bool_]:
    """A dashed or solid centre line, edge lines, a zebra crossing: each there or not."""
    marks = np.zeros(across.shape, np.bool_)
    if rng.random() < 0.7:
        dashes = fraction(depth / rng.uniform(4, 8)) < rng.choice([0.5, 1.0])
        marks |= (np.abs(across - street.middle) < 0.09) & dashes
    if rng.random() < 0.35:
        marks |= np.minimum(np.abs(across - street.kerbs[0] - 0.4), np.abs(across - street.kerbs[1] + 0.4)) < 0.07
    if rng.random() < 0.35:
        start = rng.uniform(5, 16)
        marks |= (depth > start) & (depth < start + 2.8) & (fraction(across) < 0.5)
    return marks


def _draw_wall(canvas: Canvas, rng: np.random.Generator, street: Street, side: int) -> None:
    """One row of houses, hedges and gaps along the street, from the camera to `FAR`.

    In the columns of a gap, the end wall of the next house is seen.
    """
    camera = canvas.camera
    edges = np.concatenate([[0.0], np.cumsum(rng.uniform(5, 18, 24))])
    count = len(edges)
    gap = rng.random(count) < 0.22
    gap[1:] &= ~gap[:-1]
    green = (rng.random(count) < 0.25) & ~gap
    tall = np.where(green, rng.uniform(1.2, 5.0, count), rng.uniform(2.8, 11.0, count))
    colours = np.stack([jitter(rng, FACADES[k], 0.3) for k in rng.integers(len(FACADES), size=count)])
    colours[green] = foliage_colour(rng)

    middle = int(camera.centre + 0.5)
    facing = slice(0, middle) if side == 0 else slice(middle, None)
    columns = _columns(canvas)[facing]
    lateral = columns - camera.centre + (1e-6 if side else -1e-6)
    depth = np.minimum(camera.focal * street.walls[side] / lateral, FAR * 2)
    segment = np.minimum(np.searchsorted(edges, depth, side="right") - 1, count - 1)
    ends = gap[segment] & (segment + 1 < count)
    segment = np.where(ends, segment + 1, segment)
    depth = np.where(ends, edges[segment], depth)
    out = np.abs(lateral) * depth / camera.focal - abs(street.walls[side])
    standing = (depth < FAR) & ~gap[segment] & (out < rng.uniform(5, 12))
    along = np.where(ends, out, depth)

    up = camera.height - (_rows(canvas) - camera.horizon_at(columns)) * depth / camera.focal
    rough = sample(rough_tile(rng), (along * 20)[None, :], (up + 50) * 20)
    ragged = np.where(green[segment], rough * 0.35, np.floor(fraction(along / 3.1) * 1.2) * 0.4)
    inside = standing & (up > 0) & (up < tall[segment] + ragged)

    leaf = green[segment]
    shade = np.where(leaf, 0.85 + 0.7 * rough, 1 + 0.12 * rough) * np.where(ends, np.float32(rng.uniform(0.6, 1.2)), 1)
    paint = colours[segment] * shade[..., None].astype(np.float32)
    glass, panes = _windows(rng, segment, along, up, tall, count)
    np.copyto(paint, panes, where=(glass & ~leaf)[..., None])
    share = (depth / (depth + canvas.haze_depth)).astype(np.float32)[:, None]
    paint = paint * (1 - share) + canvas.haze * share
    np.copyto(canvas.picture[:, facing], paint, where=inside[..., None])
    np.copyto(canvas.labels[:, facing], np.where(leaf, VEGETATION, BUILDING).astype(np.uint8), where=inside)


def _windows(
    rng: np.random.Generator, segment: NDArray[np.intp], along: Points, up: Points, tall: Points, count: int
) -> tuple[NDArray[np.bool_], Array]:
    """Where a facade has window panes or a shop front, and their colours ``(H, w, 3)``."""
    wide, storey = rng.uniform(1.4, 3.2, count)[segment], rng.uniform(2.5, 3.4, count)[segment]
    pane, sill = rng.uniform(0.3, 0.75, count)[segment], rng.uniform(0.15, 0.4, count)[segment]
    u, v = along / wide, up / storey
    shop = (rng.random(count) < 0.4)[segment]
    ground_floor = up < storey
    across, above = fraction(u), fraction(v)
    upper = (across < pane) & (above > sill) & (above < 0.82) & ~(ground_floor & shop)
    front = ground_floor & shop & (across < 0.9) & (up > 0.4) & (above < 0.75)
    glass = (upper | front) & (up < tall[segment] - 0.4)
    lights = rng.random((32, 32, 1), dtype=np.float32) * 0.5 + 0.05
    tints = (lights * jitter(rng, np.array([0.85, 0.95, 1.1]), 0.2)).astype(np.float32)
    bright = rng.random((32, 32)) < rng.uniform(0, 0.3)
    tints[bright] = rng.uniform(0.4, 1, (int(bright.sum()), 3))
    cell = (np.floor(v).astype(np.int32) & 31, (np.floor(u).astype(np.int32) + segment * 7) & 31)
    return glass, tints[cell]


def _draw_things(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Trees, bushes, cars and people where they may stand, far ones first."""
    things: list[tuple[float, float, Drawer]] = []

    def place(count: int, near: float, far: float, draw: Drawer, where: Callable[[], float]) -> None:
        things.extend((rng.uniform(near, far), where(), draw) for _ in range(count))

    left, right = street.kerbs
    gauge = right - left

    def pavement() -> float:
        kerb = int(rng.integers(2))
        return street.kerbs[kerb] + (street.walls[kerb] - street.kerbs[kerb]) * rng.uniform(0.1, 0.9)

    def verge() -> float:
        kerb = int(rng.integers(2))
        return street.kerbs[kerb] + (street.walls[kerb] - street.kerbs[kerb]) * float(rng.choice([0.15, 0.85]))

    def lane() -> float:
        return left + gauge * float(rng.choice([0.25, 0.75])) + rng.uniform(-0.3, 0.3)

    def parked() -> float:
        return float(rng.choice([left + 1.0, right - 1.0]))

    place(int(rng.integers(0, 5)), 5, 40, draw_tree, verge)
    place(int(rng.integers(0, 4)), 4, 20, draw_bush, verge)
    place(int(rng.integers(0, 3)), 6, 28, draw_car, lane)
    place(int(rng.integers(0, 4)), 5, 24, draw_car, parked)
    place(int(rng.random() < 0.25), 7, 18, draw_crossing_car, lambda: rng.uniform(left, right))
    place(int(rng.integers(1, 6)), 4, 14, draw_person, pavement)
    place(int(rng.integers(0, 3)), 4, 14, draw_person, lambda: rng.uniform(left, right))
    for depth, x, draw in sorted(things, key=lambda thing: -thing[0]):
        draw(canvas, rng, x, depth)


def _expose(picture: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the sensor makes of the light: slight blur, uneven light, colour cast, exposure, contrast, noise, 8 bits."""
    height, width = picture.shape[:2]
    spread = np.float32(rng.uniform(0.05, 0.22))
    middle = 1 - 2 * spread
    padded = np.pad(picture, ((1, 1), (0, 0), (0, 0)), mode="edge")
    soft = padded[1:-1] * middle + (padded[:-2] + padded[2:]) * spread
    padded = np.pad(soft, ((0, 0), (1, 1), (0, 0)), mode="edge")
    soft = padded[:, 1:-1] * middle + (padded[:, :-2] + padded[:, 2:]) * spread
    slope = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    gain = (rng.uniform(0.55, 1.3) * rng.uniform(0.88, 1.12, 3)).astype(np.float32)
    soft = soft * ((1 + rows * slope[0] + columns * slope[1]) * gain) + np.float32(rng.uniform(-0.03, 0.06))
    grain = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8).astype(np.float32)
    noise = (grain[0] - grain[1]) * np.float32(rng.uniform(0.005, 0.05))
    exposed: NDArray[np.uint8] = np.clip(soft * 255 + noise + 0.5, 0, 255).astype(np.uint8)
    return exposed
