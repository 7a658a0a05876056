"""Resizing and resampling of the Core ML executor against torch and the grids of MIL's documentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.errors import UnavailableError
from mobileseg.validation.coreml import load
from mobileseg.validation.coreml.operators import resizing


def wide(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).double()


def grid(old: int, new: int, mode: str) -> np.ndarray:
    """As MIL's documentation of ``resize_bilinear`` writes it."""
    i = np.arange(new)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if new == 1:
            return np.array([0.0 if mode.startswith("STRICT") else (old - 1) / 2])
        points = i * (old - 1) / (new - 1)
    elif mode == "DEFAULT":
        points = i * (old - old / new) / max(new - 1, 1)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, old - 1) / new
        points = 0.5 * delta + i * delta
    else:
        points = i * old / new + 0.5 * old / new - 0.5
    return np.clip(points, 0, old - 1)


def interpolated(x: np.ndarray, points: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    values = x.astype(np.float64)
    for axis, at in zip((-2, -1), points, strict=True):
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (at - low).reshape((-1,) + (1,) * (-1 - axis))
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def plane(draw: Any) -> np.ndarray:
    return draw.array((*draw.shape(1, 2, 3), draw.number(1, 6), draw.number(1, 6)))


def bilinear(draw: Any) -> Any:
    x, height, width, mode = plane(draw), draw.number(1, 9), draw.number(1, 9), draw.one(*MODES)
    return (
        [x],
        lambda mb, x: mb.resize_bilinear(x=x, target_size_height=height, target_size_width=width, sampling_mode=mode),
        [interpolated(x, (grid(x.shape[-2], height, mode), grid(x.shape[-1], width, mode)))],
    )


def halves(old: int, new: int) -> np.ndarray:
    """Where the centre of each new pixel lies among the old, in whole numbers."""
    return np.array([((2 * i + 1) * old) // (2 * new) for i in range(new)])


def resized(draw: Any) -> Any:
    """Of lengths that are 0, the old ones; those before the last ``resized_dims`` are not read."""
    x, dims, mode = plane(draw), draw.number(1, 2), draw.one(*MODES)
    told = [draw.number(0, 9) for _ in range(dims)]
    shape = [draw.number(0, 9) for _ in range(draw.number(0, x.ndim - dims))] + told
    height, width = (new or old for new, old in zip([0, 0, *told][-2:], x.shape[-2:], strict=True))
    if draw.flag():
        how = {"interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": "DEFAULT"}
        x = x if draw.flag() else draw.whole(x.shape, -9, 9)
        wanted = x.take(halves(x.shape[-2], height), -2).take(halves(x.shape[-1], width), -1)
    else:
        how = {"interpolation_mode": "LINEAR", "sampling_mode": mode}
        wanted = interpolated(x, (grid(x.shape[-2], height, mode), grid(x.shape[-1], width, mode)))
    return [x], lambda mb, x: mb.resize(x=x, shape=shape, resized_dims=np.uint32(dims), **how), [wanted]


def scaled(draw: Any) -> tuple[np.ndarray, dict[str, Any], int, int]:
    """By whole numbers, or by fractions that enlarge or shrink."""
    x, factors = plane(draw), draw.one((1, 2, 3, 4), (0.5, 1.5, 1.7, 2.25, 3.3))
    by = {"scale_factor_height": draw.one(*factors), "scale_factor_width": draw.one(*factors)}
    height, width = (
        int(np.floor(np.float32(f) * np.float32(n))) for f, n in zip(by.values(), x.shape[-2:], strict=True)
    )
    if height and width:
        return x, by, height, width
    return x, dict.fromkeys(by, 2), 2 * x.shape[-2], 2 * x.shape[-1]


def upsampled(draw: Any) -> Any:
    """The spacing follows from the sizes, as torch recomputes it."""
    x, by, height, width = scaled(draw)
    aligned, half = draw.flag(), draw.one(None, False, True)
    half = None if draw.ios < 16 or (aligned and half) else half
    mode = "STRICT_ALIGN_CORNERS" if aligned else "DEFAULT" if half is False else "UNALIGN_CORNERS"
    how = by | {"align_corners": aligned} | ({} if half is None else {"half_pixel_centers": half})
    points = grid(x.shape[-2], height, mode), grid(x.shape[-1], width, mode)
    return [x], lambda mb, x: mb.upsample_bilinear(x=x, **how), [interpolated(x, points)]


def repeated(draw: Any) -> Any:
    """The pixel at the position rounded down."""
    x, by, height, width = scaled(draw)
    rows, columns = ([i * n // m for i in range(m)] for m, n in ((height, x.shape[-2]), (width, x.shape[-1])))
    return [x], lambda mb, x: mb.upsample_nearest_neighbor(x=x, **by), [x.take(rows, -2).take(columns, -1)]


def nearest(draw: Any) -> Any:
    x, height, width = plane(draw), draw.number(1, 9), draw.number(1, 9)
    wanted = x.take(halves(x.shape[-2], height), -2).take(halves(x.shape[-1], width), -1)
    return (
        [x],
        lambda mb, x: mb.resize_nearest_neighbor(x=x, target_size_height=height, target_size_width=width),
        [wanted],
    )


def crops(draw: Any) -> Any:
    x = plane(draw)
    top, left = draw.number(0, x.shape[-2] - 1), draw.number(0, x.shape[-1] - 1)
    bottom, right = draw.number(0, x.shape[-2] - 1 - top), draw.number(0, x.shape[-1] - 1 - left)
    wanted = x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
    return [x], lambda mb, x: mb.crop(x=x, crop_height=[top, bottom], crop_width=[left, right]), [wanted]


def resampled(draw: Any) -> Any:
    """torch has each of these in one of its two conventions of corners; the others are brought to it. The points lie
    between pixels, so that rounding them in another form chooses no other one."""
    h, w = draw.number(2, 6), draw.number(2, 6)
    x, sizes = draw.array((2, 2, h, w)), np.array([w, h])
    pixels = draw.whole((2, 3, 4, 2), -2 * 8, 8 * 8).astype(np.float64) / 8 + 1 / 16
    mode, aligned = draw.one("bilinear", "nearest"), draw.flag()
    form = draw.one("normalized_minus_one_to_one", "normalized_zero_to_one", "unnormalized")
    unit = pixels / (sizes - 1) if aligned else (pixels + 0.5) / sizes
    told = {"normalized_minus_one_to_one": 2 * unit - 1, "normalized_zero_to_one": unit, "unnormalized": pixels}[form]
    ours, theirs, corners = draw.one(
        ("constant", "zeros", True),
        ("border", "border", True),
        ("reflection", "reflection", True),
        ("symmetric", "reflection", False),
    )
    points = torch.from_numpy(2 * pixels / (sizes - 1) - 1 if corners else (2 * pixels + 1) / sizes - 1)
    shift = draw.scalar(-2, 2)
    by = float(shift) if ours == "constant" else 0.0
    wanted = functional.grid_sample(wide(x) - by, points, mode, theirs, corners) + by
    return (
        [x, told.astype(np.float32)],
        lambda mb, x, points: mb.resample(
            x=x,
            coordinates=points,
            sampling_mode=mode,
            padding_mode=ours,
            padding_value=shift,
            coordinates_mode=form,
            align_corners=aligned,
        ),
        [wanted],
    )


CASES = {
    "crop": crops,
    "resample": resampled,
    "resize": resized,
    "resize_bilinear": bilinear,
    "resize_nearest_neighbor": nearest,
    "upsample_bilinear": upsampled,
    "upsample_nearest_neighbor": repeated,
}


def test_every_operator_of_this_family_is_tested() -> None:
    assert set(CASES) == set(resizing.OPERATORS)


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(settings.get_profile("operators"))
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    check(kind, CASES[kind], data, rtol=1e-4, half=kind != "resample")


def test_every_parameter_of_these_operators_is_varied(check: Any) -> None:
    check.has_varied(set(CASES), fixed=set())


def test_the_grids_that_torch_has(check: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    for aligned in (False, True):
        wanted = functional.interpolate(torch.from_numpy(x), (5, 6), mode="bilinear", align_corners=aligned)

        def build(mb: Any, x: Any, aligned: bool = aligned) -> Any:
            return mb.upsample_bilinear(x=x, scale_factor_height=1.7, scale_factor_width=1.5, align_corners=aligned)

        check.hold("upsample_bilinear", [([x], build, [wanted])])


@pytest.mark.parametrize("kind", ["resize", "resize_nearest_neighbor"])
def test_the_pixel_in_which_a_centre_lies_is_the_nearest(kind: str, check: Any) -> None:
    """Of 2 to 3, what coremltools' test of ``resize`` expects of Core ML; upsampling takes the pixel rounded down."""
    x = np.array([-6.0, 9.0], np.float32).reshape(1, 1, 2, 1)

    def build(mb: Any, x: Any) -> Any:
        if kind == "resize":
            how = {"resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"}
            return mb.resize(x=x, shape=[1, 1, 3, 2], **how)
        return mb.resize_nearest_neighbor(x=x, target_size_height=3, target_size_width=2)

    check.hold(kind, [([x], build, [[[[[-6, -6], [9, 9], [9, 9]]]]])])


def integers(mb: Any, x: Any) -> Any:
    return mb.resize(x=mb.cast(x=x, dtype="int32"), shape=[4, 4], resized_dims=np.uint32(2))


def test_integers_between_integers_are_refused(make_package: Any) -> None:
    x = np.ones((1, 2, 2), np.float32)
    with pytest.raises(UnavailableError, match=r"op \d+ 'resize'.*how integers between integers are rounded"):
        load(make_package([x], integers)).run({"in_0": x})
