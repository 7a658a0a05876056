"""Files of weights (``weight.bin``): reading an array, given the offset at which the program says it stands.

The file begins with 64 bytes of which the second ``uint32`` is the format's version, 2. An array is described by a
record of 64 bytes: the sentinel 0xDEADBEEF, the kind of its elements (both ``uint32``), the size of the data in bytes,
the data's offset in the file, and the bits at its end that mean nothing (``uint64`` each), little-endian. Elements of
fewer than 8 bits are packed from the lowest bit of each byte upwards, across bytes.

Source: MILBlob's ``StorageFormat.hpp`` in coremltools.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEADER = struct.Struct("<II")
_HEADER_BYTES = 64
_VERSION = 2
_RECORD = struct.Struct("<IIQQQ")
_SENTINEL = 0xDEADBEEF

# Kind of element in a record -> MIL's name of it.
_KINDS = {
    1: "fp16",
    2: "fp32",
    3: "uint8",
    4: "int8",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
}

WHOLE: Mapping[str, np.dtype[Any]] = {
    "fp16": np.dtype("<f2"),
    "fp32": np.dtype("<f4"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "int16": np.dtype("<i2"),
    "uint16": np.dtype("<u2"),
    "int32": np.dtype("<i4"),
    "uint32": np.dtype("<u4"),
}
"""Elements of whole bytes."""

PACKED = {"uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "int4": 4}
"""Bits of the elements that are packed; signed ones are in two's complement."""


@dataclass(frozen=True)
class BlobFile:
    """The content of one file of weights."""

    path: Path
    content: NDArray[np.uint8]

    def read(self, offset: int, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The array whose record stands at ``offset``; packed elements as int8 or uint8.

        Raises `UsageError` where the record or the data lie outside the file, or are not of this kind and shape.
        """
        record = self.content[offset : offset + _RECORD.size]
        if record.size < _RECORD.size:
            raise self._damaged(f"a record at offset {offset} lies outside its {self.content.size} bytes")
        sentinel, stored, size, start, padding = _RECORD.unpack(record.tobytes())
        if sentinel != _SENTINEL:
            raise self._damaged(f"there is no record at offset {offset}")
        if _KINDS.get(stored) != kind:
            raise self._damaged(
                f"the record at offset {offset} is of kind {_KINDS.get(stored, stored)}, the program says {kind}"
            )
        count = int(np.prod(shape, dtype=np.int64))
        if size != bytes_of(kind, count) or start + size > self.content.size:
            raise self._damaged(
                f"the data of the record at offset {offset} are {size} bytes at {start} of a file of "
                f"{self.content.size}, the program expects {count} elements of {kind}"
            )
        if kind in PACKED and padding != 8 * size - PACKED[kind] * count:
            raise self._damaged(f"the record at offset {offset} ends in {padding} bits of padding")
        return decode(self.content[start : start + size], kind, shape)

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"The weights '{self.path}' are damaged: {why}. Convert the package again.")


def open_blobs(path: Path) -> BlobFile:
    """Raises `UsageError` where the file cannot be read or is no file of weights."""
    try:
        content = np.fromfile(path, np.uint8)
    # ValueError: of a name that no file can have, with a zero in it.
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The weights {str(path)!r} cannot be read ({getattr(error, 'strerror', None) or error}). "
            "Copy the package again."
        ) from error
    file = BlobFile(path, content)
    if content.size < _HEADER_BYTES:
        raise file._damaged(f"they are {content.size} bytes, their header alone is {_HEADER_BYTES}")
    _, version = _HEADER.unpack(content[: _HEADER.size].tobytes())
    if version != _VERSION:
        raise file._damaged(f"they are of version {version}, expected {_VERSION}")
    return file


def decode(data: NDArray[np.uint8], kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Bytes to an array of ``kind``, which is one of `WHOLE` or `PACKED`. The data are of the right size."""
    if kind in WHOLE:
        return np.frombuffer(data.tobytes(), WHOLE[kind]).reshape(shape)
    return unpack(data, PACKED[kind], int(np.prod(shape, dtype=np.int64)), signed=kind.startswith("int")).reshape(shape)


def unpack(data: NDArray[np.uint8], bits: int, count: int, *, signed: bool = False) -> NDArray[Any]:
    """``count`` numbers of ``bits`` bits, as uint8 or int8 of shape (count,)."""
    fields = np.unpackbits(data, count=bits * count, bitorder="little").reshape(count, bits)
    numbers = np.packbits(fields, axis=1, bitorder="little")[:, 0] if count else np.zeros(0, np.uint8)
    if not signed:
        return numbers
    return np.where(numbers >= 1 << (bits - 1), numbers.astype(np.int16) - (1 << bits), numbers).astype(np.int8)


def bytes_of(kind: str, count: int) -> int:
    """What ``count`` elements of a kind take, packed."""
    return -(-PACKED[kind] * count // 8) if kind in PACKED else WHOLE[kind].itemsize * count
