"""What several networks share: activations, convolution units, shape look-ups, default sizes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mobileseg.types import Size, StateDict

# Picture sizes that authors trained at, by class count: CamVid 11 classes and void, Cityscapes 19 and void, VOC 21.
CAMVID: Size = (360, 480)
CITYSCAPES: Size = (512, 1024)
VOC: Size = (256, 256)
TRAINED_SIZES: dict[int, Size] = {11: CAMVID, 12: CAMVID, 19: CITYSCAPES, 20: CITYSCAPES, 21: VOC}
OTHER: Size = (256, 512)


def default_size(multiple: int = 1) -> Callable[[int], Size]:
    """The usual size for a number of classes, each side rounded up to ``multiple``."""

    def size(num_classes: int) -> Size:
        height, width = TRAINED_SIZES.get(num_classes, OTHER)
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    return size


def activation(relu: bool, slopes: int = 1) -> nn.Module:
    """ReLU, or PReLU with ``slopes`` parameters (1, or one a channel)."""
    return nn.ReLU() if relu else nn.PReLU(slopes)


def conv_unit(*convolutions: nn.Conv2d | nn.ConvTranspose2d, act: nn.Module | None = None) -> nn.Sequential:
    """Convolutions with nothing between, batch normalisation, activation: keys ``0..n-1``, ``n`` and ``n+1``."""
    norm = nn.BatchNorm2d(convolutions[-1].out_channels)
    return nn.Sequential(*convolutions, norm, *([] if act is None else [act]))


def width(state: StateDict, key: str, axis: int = 0) -> int | None:
    """Length of ``state[key]`` along ``axis``, or None where there is no such tensor or axis."""
    tensor = state.get(key)
    return None if tensor is None or tensor.ndim <= axis else int(tensor.shape[axis])


def widths(state: StateDict, *keys: str) -> tuple[int, ...] | None:
    """First axis of each key's tensor, or None where one is missing: then the state is of another layout."""
    found = tuple(width(state, key) for key in keys)
    known = tuple(n for n in found if n is not None)
    return known if len(known) == len(found) else None
