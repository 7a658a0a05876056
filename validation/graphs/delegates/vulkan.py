"""Vulkan's payloads, read with ExecuTorch's own classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mobileseg.validation.graphs.costs import Call, Listing, Tensor, constant
from mobileseg.validation.graphs.rules import unknown
from mobileseg.validation.graphs.rules.executorch import ATEN


def read(payload: bytes) -> Listing:
    """Packing a constant is an operator of the payload."""
    from executorch.backends.vulkan.serialization import vulkan_graph_serialize as serialization

    header = serialization.VulkanDelegateHeader.from_bytes(
        payload[: serialization.VulkanDelegateHeader.EXPECTED_LENGTH]
    )
    start = header.flatbuffer_offset
    graph = serialization.flatbuffer_to_vk_graph(payload[start : start + header.flatbuffer_size])
    tensors = {i: v.value for i, v in enumerate(graph.values) if hasattr(v.value, "constant_id")}
    return Listing(
        calls=tuple(
            Call(
                operator=call.name,
                name=f"operator {number}",
                rule=ATEN.get(call.name.rpartition(".")[0], unknown),
                inputs=dict(_places(graph, call.args[:-1])),
                outputs=tuple(key for _, key in _places(graph, call.args[-1:])),
                delegated=True,
                options={i: v.bool_val for i, v in _values(graph, call.args) if hasattr(v, "bool_val")},
            )
            for number, call in enumerate(graph.chain)
        ),
        tensors={key: _tensor(tensor) for key, tensor in tensors.items()},
        inputs=tuple(graph.input_ids),
        outputs=tuple(graph.output_ids),
    )


def _values(graph: Any, arguments: Sequence[int]) -> Iterator[tuple[int, Any]]:
    return ((place, graph.values[index].value) for place, index in enumerate(arguments))


def _places(graph: Any, arguments: Sequence[int]) -> Iterator[tuple[int | str, int]]:
    for place, value in _values(graph, arguments):
        if hasattr(value, "constant_id"):
            yield place, arguments[place]
        elif type(value).__name__ == "ValueList":
            yield from ((f"{place} {number}", index) for number, index in enumerate(value.items))


def _tensor(tensor: Any) -> Tensor:
    dtype = tensor.datatype.name.lower()
    return constant(tensor.dims, dtype) if tensor.constant_id >= 0 else Tensor(tuple(tensor.dims), dtype)
