"""Resizing and resampling of the last two axes. Source: ``image_resizing.py`` of coremltools' MIL, iOS 15 to 17.

The grids are those that MIL's documentation gives. Where torch has the same grid, its kernel computes it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mobileseg.errors import UnavailableError
from mobileseg.validation.coreml.operators.base import operator

SamplingMode = Literal["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]

# Sampling mode -> torch's align_corners, where torch has that grid.
_TORCH_GRIDS = {"STRICT_ALIGN_CORNERS": True, "ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """The spacing follows from the sizes, not from the factors. The pixel at the position rounded down."""
    size = _scaled(x, scale_factor_height, scale_factor_width)
    rows, columns = ((torch.arange(new) * old) // new for new, old in zip(size, x.shape[-2:], strict=True))
    return x.index_select(-2, rows).index_select(-1, columns)


def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return _nearest(x, (target_size_height, target_size_width))


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """The spacing follows from the sizes, not from the factors."""
    size = _scaled(x, scale_factor_height, scale_factor_width)
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    return _bilinear(x, size, "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT")


def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: SamplingMode = "DEFAULT"
) -> Tensor:
    return _bilinear(x, (target_size_height, target_size_width), sampling_mode)


def resize(
    x: Tensor,
    shape: list[int],
    resized_dims: int,
    interpolation_mode: Literal["LINEAR", "NEAREST_NEIGHBOR"] = "LINEAR",
    sampling_mode: SamplingMode = "DEFAULT",
) -> Tensor:
    """The last ``resized_dims`` axes (up to two) get the last lengths of ``shape``; 0 leaves an axis as it is."""
    wanted = [0, 0, *shape[len(shape) - resized_dims :]][-2:]
    height, width = (new or old for new, old in zip(wanted, x.shape[-2:], strict=True))
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return _nearest(x, (height, width))
    if not x.is_floating_point():
        raise UnavailableError("how integers between integers are rounded is not defined")
    return _bilinear(x, (height, width), sampling_mode)


def crop(x: Tensor, crop_height: list[int], crop_width: list[int]) -> Tensor:
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: Literal["bilinear", "nearest"],
    padding_mode: Literal["constant", "border", "reflection", "symmetric"],
    padding_value: float,
    coordinates_mode: Literal["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"],
    align_corners: bool,
) -> Tensor:
    """``coordinates``: (N, H', W', 2), each x then y. ``reflection`` does not repeat the edge, ``symmetric`` does."""
    sizes = torch.tensor([x.shape[3], x.shape[2]], dtype=torch.float32)
    pixels = _pixels(coordinates.float(), sizes, coordinates_mode, align_corners)
    centred = padding_mode == "reflection"
    # torch's own coordinates, -1 to 1 between the centres of the outer pixels or between their edges.
    grid = 2 * pixels / (sizes - 1).clamp(min=1) - 1 if centred else (2 * pixels + 1) / sizes - 1
    mode = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}[
        padding_mode
    ]
    shift = padding_value if padding_mode == "constant" else 0.0
    return functional.grid_sample(x - shift, grid, sampling_mode, mode, align_corners=centred) + shift


def _both_grids(align_corners: bool = True, half_pixel_centers: bool | None = None) -> str | None:
    return "both align_corners and half_pixel_centers" if align_corners and half_pixel_centers else None


def _other_resizes(
    resized_dims: int = 0, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> str | None:
    if resized_dims > 2:
        return f"{resized_dims} resized axes"
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode != "DEFAULT":
        return f"{interpolation_mode} with {sampling_mode}"
    return None


def _pixels(coordinates: Tensor, sizes: Tensor, mode: str, align_corners: bool) -> Tensor:
    if mode == "unnormalized":
        return coordinates
    unit = {"normalized_minus_one_to_one": (coordinates + 1) / 2, "normalized_zero_to_one": coordinates}[mode]
    return unit * (sizes - 1) if align_corners else unit * sizes - 0.5


def _scaled(x: Tensor, height: float, width: float) -> tuple[int, int]:
    """In float32, as the factors are written."""
    rows, columns = (
        int(np.floor(np.float32(f) * np.float32(n))) for f, n in zip((height, width), x.shape[-2:], strict=True)
    )
    return rows, columns


def _nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixel in which the new pixel's centre lies, as TensorFlow's ``half_pixel_centers`` has it: what coremltools
    makes of that, and its test of ``resize``, which Core ML passes."""
    rows, columns = (
        ((2 * torch.arange(new) + 1) * old) // (2 * new) for new, old in zip(size, x.shape[-2:], strict=True)
    )
    return x.index_select(-2, rows).index_select(-1, columns)


def _bilinear(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    # torch's "aligned" grid for a single pixel is 0, where ALIGN_CORNERS takes the middle.
    if mode in _TORCH_GRIDS and not (mode == "ALIGN_CORNERS" and 1 in size):
        planes = x.reshape(1, -1, *x.shape[-2:])
        resized = functional.interpolate(planes, size, mode="bilinear", align_corners=_TORCH_GRIDS[mode])
        return resized.reshape(*x.shape[:-2], *size)
    return _linear(_linear(x, -2, _grid(x.shape[-2], size[0], mode)), -1, _grid(x.shape[-1], size[1], mode))


def _grid(old: int, new: int, mode: str) -> Tensor:
    """Where each new element lies among the old, (new,) float32."""
    steps = torch.arange(new, dtype=torch.float64)
    if mode == "DEFAULT":
        positions = steps * old / new
    elif mode == "OFFSET_CORNERS":
        positions = (steps + 0.5) * max(1, old - 1) / new
    elif mode == "UNALIGN_CORNERS":
        positions = (steps + 0.5) * old / new - 0.5
    elif new > 1 and mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        positions = steps * (old - 1) / (new - 1)
    else:
        positions = steps + {"STRICT_ALIGN_CORNERS": 0.0, "ALIGN_CORNERS": (old - 1) / 2}[mode]
    return positions.clamp(0, old - 1).float()


def _linear(x: Tensor, axis: int, grid: Tensor) -> Tensor:
    low = grid.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (grid - low).reshape(-1, *[1] * (-1 - axis))
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)


OPERATORS = {
    "crop": operator(crop),
    "resample": operator(resample),
    "resize": operator(resize, _other_resizes),
    "resize_bilinear": operator(resize_bilinear),
    "resize_nearest_neighbor": operator(resize_nearest_neighbor),
    "upsample_bilinear": operator(upsample_bilinear, _both_grids),
    "upsample_nearest_neighbor": operator(upsample_nearest_neighbor),
}
