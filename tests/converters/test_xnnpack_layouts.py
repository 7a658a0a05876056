"""XNNPACK's graph without needless transpositions: it computes the same numbers, bit for bit, and moves fewer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")

from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

from mobileseg.converters.executorch.delegates.xnnpack_constants import names
from mobileseg.converters.executorch.delegates.xnnpack_layouts import operators, rearranged
from mobileseg.converters.executorch.delegates.xnnpack_search import moved

ABSENT = 0xFFFFFFFF
INPUT, OUTPUT = 1, 2
NCHW, NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
FLOAT = schema.XNNDatatype.xnn_datatype_fp32


class Build:
    """An ``XNNGraph``, an operator at a time; the methods return the number of what the operator gives."""

    def __init__(self) -> None:
        self.graph = schema.XNNGraph("0", [], [], 0, [], [], [schema.ConstantDataOffset(0, 0)])
        self.data: dict[str, bytes] = {}

    def dims(self, key: int) -> list[int]:
        return self.tensor(key).dims

    def tensor(self, key: int) -> Any:
        union: Any = self.graph.xvalues[key].xvalue_union
        return getattr(union, "tensor_value", union)

    def value(self, dims: Sequence[int], *, flags: int = 0, constant: int = 0, scale: float | None = None) -> int:
        key, external = len(self.graph.xvalues), ABSENT
        if flags:
            external = self.graph.num_externs
            self.graph.num_externs += 1
        kind = FLOAT if scale is None else schema.XNNDatatype.xnn_datatype_qint8
        new = schema.XNNTensorValue(kind, len(dims), list(dims), constant, external, flags, key)
        union = new if scale is None else schema.XNNQuantizedTensorValue(new, schema.PerTensorQuant(scale, 0))
        self.graph.xvalues.append(schema.XValue(union))
        return key

    def input(self, *dims: int) -> int:
        key = self.value(dims, flags=INPUT)
        self.graph.input_ids.append(key)
        return key

    def constant(self, *dims: int) -> int:
        number = len(self.graph.constant_data)
        content = np.random.default_rng(number).standard_normal(math.prod(dims), np.float32).tobytes()
        self.graph.constant_data.append(schema.ConstantDataOffset(0, len(content), str(number)))
        self.data[str(number)] = content
        return self.value(dims, constant=number)

    def output(self, key: int) -> None:
        tensor = self.tensor(key)
        tensor.flags, tensor.external_id = OUTPUT, self.graph.num_externs
        self.graph.num_externs += 1
        self.graph.output_ids.append(key)

    def node(self, union: Any, limits: tuple[float, float] | None = None) -> int:
        number = len(self.graph.xnodes)
        self.graph.xnodes.append(schema.XNode(union, number, schema.OutputMinMax(*limits) if limits else None))
        return int(union.output_id)

    def like(self, key: int, dims: Sequence[int]) -> int:
        union: Any = self.graph.xvalues[key].xvalue_union
        return self.value(dims, scale=union.quant_params.scale if hasattr(union, "quant_params") else None)

    def transpose(self, key: int, order: Sequence[int]) -> int:
        new = self.like(key, [self.dims(key)[axis] for axis in order])
        return self.node(schema.XNNStaticTranspose(len(order), list(order), key, new, 0))

    def reshape(self, key: int, *dims: int) -> int:
        return self.node(schema.XNNStaticReshape(len(dims), list(dims), key, self.like(key, dims), 0))

    def unary(self, key: int, name: str = "Ceiling") -> int:
        return self.node(getattr(schema, f"XNN{name}")(key, self.like(key, self.dims(key)), 0))

    def clamp(self, key: int) -> int:
        return self.node(schema.XNNClamp(key, self.like(key, self.dims(key)), 0), limits=(-1.0, 0.5))

    def binary(self, a: int, b: int, name: str = "Subtract") -> int:
        dims = np.broadcast_shapes(tuple(self.dims(a)), tuple(self.dims(b)))
        return self.node(getattr(schema, f"XNN{name}")(a, b, self.like(a, dims), 0))

    def cat(self, keys: Sequence[int], axis: int) -> int:
        dims = list(self.dims(keys[0]))
        dims[axis] = sum(self.dims(key)[axis] for key in keys)
        places = [*keys, *[ABSENT] * (5 - len(keys))]
        kind = getattr(schema, f"XNNConcatenate{len(keys)}")
        return self.node(kind(axis, *places[:4], self.like(keys[0], dims), 0, places[4]))

    def slice(self, key: int, axis: int, start: int, stop: int) -> int:
        dims = list(self.dims(key))
        offsets = [start if a == axis else 0 for a in range(len(dims))]
        dims[axis] = stop - start
        return self.node(schema.XNNStaticSlice(len(dims), offsets, dims, key, self.like(key, dims), 0))

    def pad(self, key: int, before: Sequence[int], after: Sequence[int]) -> int:
        dims = [a + n + b for a, n, b in zip(before, self.dims(key), after, strict=True)]
        new = self.like(key, dims)
        return self.node(schema.XNNStaticConstantPad(list(before), list(after), 0.5, key, new, 0))

    def softmax(self, key: int) -> int:
        """An operator that stays in its order."""
        return self.unary(key, "Softmax")


def numbers(value: Any) -> Any:
    return getattr(value.xvalue_union, "tensor_value", value.xvalue_union)


def computed(graph: Any, data: Mapping[str, bytes]) -> dict[int, NDArray[Any]]:
    """What the graph's outputs come to, by external number; each value must have the shape that it says it has."""
    found: dict[int, NDArray[Any]] = {}
    values = {numbers(value).id_out: numbers(value) for value in graph.xvalues}
    assert list(values) == list(range(len(values)))
    for key, value in values.items():
        if value.constant_buffer_idx:
            content = data[graph.constant_data[value.constant_buffer_idx].named_key]
            found[key] = np.frombuffer(content, np.float32).reshape(value.dims)
        elif key in graph.input_ids:
            found[key] = np.random.default_rng(100 + value.external_id).standard_normal(value.dims, np.float32)
    for node in graph.xnodes:
        union = node.xnode_union
        result = KERNELS[type(union).__name__.removeprefix("XNN")](union, found)
        limits = node.output_min_max
        result = result if limits is None else result.clip(limits.output_min, limits.output_max)
        assert union.output_id not in found
        assert list(result.shape) == values[union.output_id].dims
        found[union.output_id] = result
    return {values[key].external_id: found[key] for key in graph.output_ids}


def _joined(union: Any, found: dict[int, NDArray[Any]]) -> NDArray[Any]:
    keys = [union.input1_id, union.input2_id, union.input3_id, union.input4_id, union.input5_id]
    return np.concatenate([found[key] for key in keys if key != ABSENT], union.axis)


KERNELS: dict[str, Callable[[Any, dict[int, NDArray[Any]]], NDArray[Any]]] = {
    "StaticTranspose": lambda n, v: v[n.input_id].transpose(n.perm),
    "StaticReshape": lambda n, v: v[n.input_id].reshape(n.new_shape),
    "StaticSlice": lambda n, v: v[n.input_id][
        tuple(slice(start, start + size) for start, size in zip(n.offsets, n.sizes, strict=True))
    ],
    "StaticConstantPad": lambda n, v: np.pad(
        v[n.input_id], list(zip(n.pre_paddings, n.post_paddings, strict=True)), constant_values=n.padding_value
    ),
    "Ceiling": lambda n, v: np.ceil(v[n.input_id]),
    "Clamp": lambda n, v: v[n.input_id],
    "Softmax": lambda n, v: v[n.input_id].cumsum(-1),
    "Subtract": lambda n, v: v[n.input1_id] - v[n.input2_id],
    "Multiply": lambda n, v: v[n.input1_id] * v[n.input2_id],
    **{f"Concatenate{n}": _joined for n in range(2, 6)},
}


def checked(build: Build) -> dict[str, int]:
    """The operators of the rearranged graph, which computes what the other does, in as many bytes moved or fewer."""
    before, data = build.graph, dict(build.data)
    new = rearranged(before, data)
    assert moved(new) <= moved(before)
    assert new.num_externs == before.num_externs
    places = [
        [(numbers(graph.xvalues[key]).external_id, numbers(graph.xvalues[key]).dims) for key in keys]
        for graph in (before, new)
        for keys in (graph.input_ids, graph.output_ids)
    ]
    assert places[:2] == places[2:]
    assert sorted(names(new)) == sorted(set(names(new))) or new is before
    expected, actual = computed(before, build.data), computed(new, data)
    assert list(expected) == list(actual)
    for key, array in expected.items():
        np.testing.assert_array_equal(array, actual[key])
    return operators(new)


def test_a_transposition_and_back_goes() -> None:
    b = Build()
    y = b.transpose(b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW), NHWC)
    b.output(b.softmax(y))
    assert checked(b) == {"Softmax": 2}


def test_two_transpositions_become_one() -> None:
    b = Build()
    b.output(b.softmax(b.transpose(b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW), NCHW)))
    assert checked(b) == {"Softmax": 2, "StaticTranspose": 1}


def test_a_transposition_that_is_needed_stays() -> None:
    b = Build()
    b.output(b.softmax(b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW)))
    assert rearranged(b.graph, {}) is b.graph


def test_nothing_to_gain_changes_nothing() -> None:
    b = Build()
    x = b.softmax(b.input(2, 3, 4, 5))
    b.output(b.binary(x, b.clamp(x)))
    b.output(b.transpose(x, NCHW))
    assert rearranged(b.graph, {}) is b.graph


def test_unpooling_as_executorch_writes_it() -> None:
    """Phases in the order of the view, between what reads and writes NHWC, with limits and a constant per channel."""
    b = Build()
    x = b.softmax(b.input(2, 4, 6, 5))
    pooled = b.transpose(b.transpose(x, NCHW), NHWC)
    lines = b.reshape(pooled, 2, 2, 6 * 2, 5)
    parts = []
    for start in (0, 6):
        part = b.transpose(b.slice(lines, 2, start, start + 6), NHWC)
        parts.append(b.clamp(b.binary(part, b.constant(1, 1, 5, 1), "Multiply")))
    whole = b.cat([b.transpose(part, NCHW) for part in parts], 2)
    b.output(b.softmax(b.transpose(b.transpose(b.reshape(whole, 2, 4, 6, 5), NCHW), NHWC)))
    found = checked(b)
    assert "StaticTranspose" not in found
    assert found["Clamp"] == 2


def test_through_each_operator_that_is_free() -> None:
    b = Build()
    x = b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW)
    y = b.pad(b.unary(x), (0, 1, 0, 2), (1, 0, 0, 0))
    y = b.slice(b.cat([y, b.binary(y, b.constant(1))], 1), 3, 1, 5)
    y = b.binary(y, b.constant(12, 1, 1), "Multiply")
    b.output(b.softmax(b.transpose(y, NHWC)))
    assert "StaticTranspose" not in checked(b)


def test_constants_are_written_in_the_order_in_which_they_are_read() -> None:
    b = Build()
    x = b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW)
    y = b.binary(x, b.constant(5, 3, 1))
    z = b.transpose(b.constant(1, 3, 4, 5), NCHW)
    b.output(b.softmax(b.transpose(b.binary(b.binary(y, z, "Multiply"), b.constant(1, 5, 1, 1)), NHWC)))
    assert checked(b) == {"Softmax": 2, "Subtract": 2, "Multiply": 1}
    data = dict(b.data)
    new = rearranged(b.graph, data)
    assert len(names(new)) == 3 < len(data) == 4


def test_a_constant_whose_numbers_are_not_known_holds_an_operator() -> None:
    b = Build()
    x = b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW)
    b.output(b.softmax(b.transpose(b.binary(x, b.constant(5, 3, 1)), NHWC)))
    assert rearranged(b.graph, {}) is b.graph


def test_reshapes_that_keep_axes_together() -> None:
    b = Build()
    x = b.transpose(b.softmax(b.input(2, 3, 4, 6)), NCHW)
    y = b.unary(b.reshape(x, 2, 3, 2, 12))
    b.output(b.softmax(b.transpose(y, [0, 3, 1, 2])))
    assert checked(b) == {"Softmax": 2, "Ceiling": 1, "StaticReshape": 1}


def test_reshapes_that_mix_axes_hold() -> None:
    b = Build()
    y = b.reshape(b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW), 2, 20, 3)
    b.output(b.softmax(b.transpose(y, [0, 2, 1])))
    assert rearranged(b.graph, {}) is b.graph


def test_two_transpositions_around_a_reshape_become_one() -> None:
    b = Build()
    y = b.reshape(b.transpose(b.softmax(b.input(2, 3, 4, 5)), NCHW), 2, 15, 4)
    b.output(b.softmax(b.transpose(y, [0, 2, 1])))
    assert checked(b) == {"Softmax": 2, "StaticReshape": 1, "StaticTranspose": 1}


def test_axes_of_one_element_are_nowhere_in_memory() -> None:
    b = Build()
    x = b.softmax(b.input(1, 1, 4, 5))
    b.output(b.softmax(b.reshape(b.transpose(x, [1, 2, 0, 3]), 2, 2, 5)))
    assert checked(b) == {"Softmax": 2, "StaticReshape": 1}


def test_chains_of_slices_and_reshapes_become_one() -> None:
    b = Build()
    x = b.input(2, 6, 4, 5)
    y = b.slice(b.slice(x, 1, 2, 5), 3, 1, 4)
    b.output(b.softmax(b.reshape(b.reshape(b.softmax(y), 6, 4, 3), 2, 12, 3)))
    assert checked(b) == {"Softmax": 2, "StaticReshape": 1, "StaticSlice": 1}


def test_one_transposition_for_all_that_read_it() -> None:
    b = Build()
    x = b.softmax(b.input(2, 3, 4, 5))
    for _ in range(2):
        b.output(b.softmax(b.unary(b.transpose(x, NCHW))))
    assert checked(b) == {"Softmax": 3, "Ceiling": 2, "StaticTranspose": 1}


def test_outputs_in_the_middle_and_outputs_that_are_the_same() -> None:
    b = Build()
    x = b.input(2, 3, 4, 5)
    y = b.transpose(b.unary(b.transpose(x, NCHW)), NHWC)
    z = b.transpose(y, NCHW)
    for key in (y, z, b.transpose(z, NHWC), b.transpose(y, NCHW), b.softmax(b.transpose(z, NHWC))):
        b.output(key)
    assert checked(b)["StaticTranspose"] == 1


def test_quantized_values_keep_their_parameters() -> None:
    b = Build()
    x = b.input(2, 3, 4, 5)
    q = b.value((2, 3, 4, 5), scale=0.25)
    b.node(schema.XNNConvert(x, q, 0))
    y = b.transpose(b.unary(b.transpose(q, NCHW)), NHWC)
    b.output(b.softmax(y))
    new = rearranged(b.graph, {})
    assert operators(new) == {"Ceiling": 1, "Convert": 1, "Softmax": 1}
    (ceiling,) = (node.xnode_union for node in new.xnodes if isinstance(node.xnode_union, schema.XNNCeiling))
    union = new.xvalues[ceiling.output_id].xvalue_union
    assert (union.quant_params.scale, union.tensor_value.dims) == (0.25, [2, 3, 4, 5])


def test_what_nobody_reads_goes() -> None:
    b = Build()
    x = b.softmax(b.input(2, 3, 4, 5))
    y = b.transpose(x, NCHW)
    b.unary(y)
    b.output(b.softmax(b.transpose(y, NHWC)))
    assert checked(b) == {"Softmax": 2}


@st.composite
def graphs(draw: st.DrawFn) -> Build:
    """Up to 14 operators on values of three or four short axes, some of one element; any value may be an output."""
    b = Build()
    sizes = st.sampled_from([1, 2, 2, 3, 4])
    found = [b.input(*draw(st.tuples(sizes, sizes, sizes, sizes))) for _ in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(1, 14))):
        x = draw(st.sampled_from(found))
        dims = b.dims(x)
        axis = draw(st.integers(0, len(dims) - 1))
        alike = [key for key in found if b.dims(key) == dims]
        kind = draw(
            st.sampled_from(["T", "T", "T", "T", "unary", "clamp", "sub", "mul", "cat", "slice", "pad", "view", "hold"])
        )
        if kind == "T":
            new = b.transpose(x, draw(st.permutations(range(len(dims)))))
        elif kind == "sub":
            new = b.binary(x, draw(st.sampled_from(alike)))
        elif kind == "mul":
            new = b.binary(x, b.constant(*(n if a >= axis else 1 for a, n in enumerate(dims))), "Multiply")
        elif kind == "cat":
            new = b.cat([x, draw(st.sampled_from(alike))], axis)
        elif kind == "slice":
            start = draw(st.integers(0, dims[axis] - 1))
            new = b.slice(x, axis, start, draw(st.integers(start + 1, dims[axis])))
        elif kind == "pad":
            new = b.pad(x, [int(a == axis) for a in range(len(dims))], [0] * len(dims))
        elif kind == "view":
            new = b.reshape(x, *draw(st.sampled_from(list(views(dims)))))
        else:
            new = {"unary": b.unary, "clamp": b.clamp, "hold": b.softmax}[kind](x)
        found.append(new)
    made = found[len(b.graph.input_ids) :]
    for key in draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True)):
        b.output(key)
    return b


def views(dims: Sequence[int]) -> Any:
    """The shape itself, with two axes made one, and with one made two."""
    yield dims
    for axis in range(len(dims) - 1):
        yield [*dims[:axis], dims[axis] * dims[axis + 1], *dims[axis + 2 :]]
    for axis, part in itertools.product(range(len(dims)), (1, 2)):
        if dims[axis] % part == 0 and len(dims) < 6:
            yield [*dims[:axis], part, dims[axis] // part, *dims[axis + 1 :]]


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_any_graph_computes_the_same(build: Build) -> None:
    checked(build)
