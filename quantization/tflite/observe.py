"""What values every float tensor of a .tflite file takes over calibration pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mobileseg.errors import MissingExtraError, PictureError
from mobileseg.quantization.ranges import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

T = TypeVar("T")


def observe(
    content: bytes, pictures: Iterable[NDArray[np.uint8]], progress: Callable[[int], None] | None = None
) -> tuple[dict[int, Statistics], int]:
    """Statistics of the values of each float tensor by index, and the number of pictures.

    ``pictures``: (H, W, 3) uint8 of the file's input size, taken one at a time; ``progress`` is called with the number
    done. Raises `PictureError` where there is no picture, or one of another size.
    """
    interpreter = _interpreter(content)
    statistics: dict[int, Statistics] = {}
    count = 0
    for picture in pictures:
        for index, tensor in _tensors(interpreter, picture, count):
            statistics.setdefault(index, Statistics()).add(tensor, tensor.shape[-1] if tensor.ndim else 1)
        count += 1
        if progress is not None:
            progress(count)
    if count == 0:
        raise PictureError("There is no calibration picture; int8 needs some. Name their folder with --calibration.")
    return {index: seen for index, seen in statistics.items() if seen.pictures}, count


def read(
    content: bytes, picture: NDArray[np.uint8], function: Callable[[NDArray[np.float32]], T]
) -> Iterator[tuple[int, T]]:
    """A function of each float tensor's values on one picture, with the tensor's index. Raises as `observe`."""
    for index, tensor in _tensors(_interpreter(content), picture, 0):
        yield index, function(tensor)


def _tensors(interpreter: Any, picture: NDArray[np.uint8], number: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    source = interpreter.get_input_details()[0]
    _, height, width, channels = (int(n) for n in source["shape"])
    if picture.shape != (height, width, channels):
        raise PictureError(
            f"Calibration picture {number + 1} is {picture.shape}; the model takes ({height}, {width}, {channels}). "
            "Resize the pictures to the size given by --size."
        )
    batch = np.broadcast_to(picture.astype(np.float32), source["shape"])
    interpreter.set_tensor(source["index"], np.ascontiguousarray(batch))
    interpreter.invoke()
    for details in interpreter.get_tensor_details():
        if details["dtype"] is np.float32 and details["name"]:
            yield details["index"], interpreter.get_tensor(details["index"])


def _interpreter(content: bytes) -> Any:
    """The reference kernels run, not a delegate's, which hides the tensors between its operators."""
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
