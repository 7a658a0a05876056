"""Metadata entries read from the flatbuffer alone, against files that its own package writes."""

from __future__ import annotations

import struct

import pytest

from mobileseg.validation.runners.tflite_metadata import metadata_entry

flatbuffers = pytest.importorskip("flatbuffers", reason="install the extra: pip install 'mobileseg[tflite]'")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


def written(entries: list[tuple[str, bytes | None]]) -> bytes:
    """A model of metadata alone; None is an entry whose buffer has no data."""
    model = schema.ModelT()
    model.version, model.description = 3, "described, so that fields stand before and after"
    model.buffers, model.metadata = [schema.BufferT()], []
    for name, data in entries:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = None if data is None else list(data)
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("data", [b"x", b"{}" * 700, bytes(range(256))])
def test_the_entry_of_a_name(data: bytes) -> None:
    content = written([("mobileseg-not", b"no"), ("mobileseg", data), ("mobileseg2", b"no")])
    assert metadata_entry(content, "mobileseg") == data


@pytest.mark.parametrize("entries", [[], [("other", b"no")], [("mobileseg", None)]])
def test_nothing_under_the_name(entries: list[tuple[str, bytes | None]]) -> None:
    assert metadata_entry(written(entries), "mobileseg") is None


def test_the_first_buffer_is_the_one_that_is_not_said() -> None:
    """A number of zero is not written: buffer 0, which holds nothing."""
    model = schema.ModelT()
    entry = schema.MetadataT()
    entry.name, model.metadata, model.buffers = "mobileseg", [entry], [schema.BufferT()]
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert metadata_entry(bytes(builder.Output()), "mobileseg") is None


def test_what_points_beyond_the_end() -> None:
    content = written([("mobileseg", b"x")])
    with pytest.raises(struct.error):
        metadata_entry(struct.pack("<I", 2**31) + content[4:], "mobileseg")
