"""Metadata entries of a TFLite file, read from the flatbuffer itself: no interpreter's package is needed for it.

The layout is that of https://github.com/google/flatbuffers/blob/master/docs/source/internals.md, the fields those of
TFLite's schema.fbs. All numbers are little-endian; offsets of tables, vectors and strings count from where they stand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Fields by their number, of the tables Model, Metadata and Buffer.
_BUFFERS, _METADATA = 4, 6
_NAME, _BUFFER = 0, 1
_DATA = 0

_FIRST_FIELD = 4
"""Bytes at which a vtable's fields begin, after its own size and the table's."""


def metadata_entry(content: bytes, name: str) -> bytes | None:
    """What the file ``content`` holds under ``name``; None where there is nothing.

    ``content`` is one that an interpreter has accepted: offsets are not checked again. Raises `struct.error` for one
    that points beyond its end.
    """
    model = _target(content, 0)
    buffers = list(_tables(content, model, _BUFFERS))
    for entry in _tables(content, model, _METADATA):
        if _vector(content, entry, _NAME) == name.encode():
            at = _field(content, entry, _BUFFER)
            # Of a number that is zero nothing is written.
            number = 0 if at is None else _uint32(content, at)
            return _vector(content, buffers[number], _DATA) if number < len(buffers) else None
    return None


def _uint32(content: bytes, at: int) -> int:
    number: int = struct.unpack_from("<I", content, at)[0]
    return number


def _target(content: bytes, at: int) -> int:
    """Where the offset at ``at`` points."""
    return at + _uint32(content, at)


def _field(content: bytes, table: int, number: int) -> int | None:
    """Where a field of a table stands; None where the table has it not."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    (size,) = struct.unpack_from("<H", content, vtable)
    slot = _FIRST_FIELD + 2 * number
    offset = struct.unpack_from("<H", content, vtable + slot)[0] if slot < size else 0
    return table + offset if offset else None


def _vector(content: bytes, table: int, number: int) -> bytes | None:
    """The bytes of a field that is a string or a vector of bytes."""
    at = _field(content, table, number)
    if at is None:
        return None
    start = _target(content, at)
    return content[start + 4 : start + 4 + _uint32(content, start)]


def _tables(content: bytes, table: int, number: int) -> Iterator[int]:
    """Where the tables of a field that is a vector of tables begin."""
    at = _field(content, table, number)
    if at is None:
        return
    start = _target(content, at)
    for i in range(_uint32(content, start)):
        yield _target(content, start + 4 + 4 * i)
