"""What values every float tensor of a .tflite file takes over calibration pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError, PictureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

Range = tuple[float, float]

BINS = 4096
SAMPLES = 32768
"""How many elements of one tensor of one picture go into its histogram, evenly spaced; the extremes are of all."""

BORDER = 1e30
"""From here on a number stands for infinity: maximum poolings are padded with minus infinity or float32's lowest."""


@dataclass
class Statistics:
    """What is remembered of one tensor: extremes, and a histogram of ``BINS`` bins over (-radius, radius).

    The radius is a power of two. The histogram widens by merging pairs of bins, so that memory does not grow and
    nothing need be known beforehand.
    """

    low: float = np.inf
    high: float = -np.inf
    radius: float = 2.0**-20
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))

    def add(self, values: NDArray[np.float32], channels: int) -> None:
        """Take in finite values, the last axis of ``channels`` running fastest."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        step = max(1, values.size // SAMPLES)
        while math.gcd(step, channels) > 1:  # else some channels would never be looked at
            step += 1
        sample = values[::step]
        while self.radius <= float(np.abs(sample).max()):
            middle = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(middle, BINS // 4)
            self.radius *= 2
        self.counts += np.histogram(sample, BINS, (-self.radius, self.radius))[0]

    @property
    def centres(self) -> NDArray[np.float64]:
        width = 2 * self.radius / BINS
        return np.asarray((np.arange(BINS) + 0.5) * width - self.radius, np.float64)


def observe(
    content: bytes, pictures: Iterable[NDArray[np.uint8]], progress: Callable[[int], None] | None = None
) -> tuple[dict[int, Statistics], int]:
    """Statistics of the values of each float tensor by index, and the number of pictures.

    ``pictures``: (H, W, 3) uint8 of the file's input size, taken one at a time; ``progress`` is called with the number
    done. The reference kernels run, not a delegate's, which hides the tensors between its operators.
    Raises `PictureError` where there is no picture, or one of another size.
    """
    interpreter = _interpreter(content)
    source = interpreter.get_input_details()[0]
    _, height, width, channels = (int(n) for n in source["shape"])
    floats = [d["index"] for d in interpreter.get_tensor_details() if d["dtype"] is np.float32 and d["name"]]
    statistics: dict[int, Statistics] = {}
    count = 0
    for picture in pictures:
        if picture.shape != (height, width, channels):
            raise PictureError(
                f"Calibration picture {count + 1} is {picture.shape}; the model takes ({height}, {width}, {channels}). "
                "Resize the pictures to the size given by --size."
            )
        batch = np.broadcast_to(picture.astype(np.float32), source["shape"])
        interpreter.set_tensor(source["index"], np.ascontiguousarray(batch))
        interpreter.invoke()
        for index in floats:
            tensor = interpreter.get_tensor(index)
            values = _finite(tensor)
            if values.size:
                statistics.setdefault(index, Statistics()).add(values, tensor.shape[-1] if tensor.ndim else 1)
        count += 1
        if progress is not None:
            progress(count)
    if count == 0:
        raise PictureError("There is no calibration picture; int8 needs some. Name their folder with --calibration.")
    return statistics, count


def _finite(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """All values in one row, without the borders of padded maximum poolings and what is computed from them."""
    values = tensor.reshape(-1)
    if values.size and not (values.min() > -BORDER and values.max() < BORDER):
        return values[np.abs(values) < BORDER]
    return values


def _interpreter(content: bytes) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ModuleNotFoundError:
        raise MissingExtraError("tflite", "ai_edge_litert") from None
    interpreter = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    return interpreter
