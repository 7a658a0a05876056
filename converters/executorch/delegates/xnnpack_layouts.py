"""XNNPACK's graph without the transpositions that cancel.

Before: conv -> T -> T' -> slice -> T" -> sub -> ... -> cat -> T"' -> reshape -> T"" -> conv
After:  conv -> slice -> sub -> ... -> cat -> reshape -> conv

ExecuTorch keeps what convolutions read and write as NHWC, and what is computed from it so too: a view of the rewriting
in channels-last order (`converters.passes.blocks`) becomes a transposition to NCHW, one to the view's order, and, since
its result is kept "channels-last" once more, operators in the order (n, w, c, h), with a transposition for each value
that comes from elsewhere. All of them move the same numbers back and forth.

Preconditions: none; every shape in the graph is the shape in memory. Which operators may compute in another order says
`xnnpack_orders.freedom`, which orders are best `xnnpack_search`. Constants are written in the order in which they are
read (`xnnpack_constants`). Slices of slices and reshapes of reshapes become one.
The inputs and outputs of the graph keep their numbers and shapes. Where nothing is gained the graph stays as it is.

Exactness: bit-exact, no operator computes anything else than it did. (Operators that sum, such as convolutions, keep
their order.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mobileseg.converters.executorch.delegates.xnnpack_constants import Constants, aligned, changed, without_unused
from mobileseg.converters.executorch.delegates.xnnpack_orders import (
    ABSENT,
    RESHAPE,
    SLICE,
    Order,
    compose,
    identity,
    in_memory,
    inputs,
    inverse,
    is_constant,
    kind,
    links,
    outputs,
    permuted,
    tensor,
    turned,
)
from mobileseg.converters.executorch.delegates.xnnpack_search import (
    Orders,
    Source,
    by_number,
    improve,
    moved,
    orders_of,
)

_NO_HANDLE = 65535


def rearranged(graph: Any, data: dict[str, bytes]) -> Any:
    """An ``XNNGraph`` that computes the same with fewer transpositions, or the one given, unchanged.

    ``data``: the bytes of its constants by their names. Those of constants in another order are added.
    """
    constants = Constants(list(graph.constant_data), data)
    orders = orders_of(graph, constants)
    improve(orders)
    new = without_unused(swept(_shortened(_Writer(orders, constants).write())))
    return new if moved(new) < moved(graph) else graph


def operators(graph: Any) -> dict[str, int]:
    """How many operators of each kind an ``XNNGraph`` has, as XNNPACK names them."""
    return dict(Counter(kind(node).removeprefix("XNN") for node in graph.xnodes))


@dataclass
class _Writer:
    """``held``: the number of the value that is a root in an order; ``targets``: outputs of the graph that are still
    to be written, by what they are."""

    orders: Orders
    constants: Constants
    nodes: list[Any] = field(default_factory=list)
    values: dict[int, Any] = field(default_factory=dict)
    held: dict[tuple[int, Order], int] = field(default_factory=dict)
    targets: dict[tuple[int, Order], list[int]] = field(default_factory=dict)

    def write(self) -> Any:
        graph = self.orders.graph
        self.values.update(self.orders.values)
        for key in graph.output_ids:
            source = self.orders.source(key)
            self.targets.setdefault((source.root, source.order), []).append(key)
        for root in self._given():
            self._hold(root, identity(len(self.orders.dims(root))), root)
        for number, node in enumerate(graph.xnodes):
            if number not in self.orders.dissolved:
                self._operator(number, node)
        values = list(self.values.values())
        return replace(graph, xnodes=self.nodes, xvalues=values, constant_data=self.constants.entries)

    def _given(self) -> list[int]:
        made = {key for node in self.orders.graph.xnodes for _, key in outputs(node)}
        return [key for key in self.orders.values if key not in made]

    def _operator(self, number: int, node: Any) -> None:
        own = self.orders.free.get(number)
        blocks = self.orders.blocks.get(number, ())
        new: dict[str, int] = {}
        for name, key in inputs(node):
            order = own.of_inputs(blocks) if own else identity(len(self.orders.dims(key)))
            new[name] = self._read(key, order)
        results = []
        union = node.xnode_union
        for name, key in outputs(node):
            order = self.orders.stored(key)
            new[name] = self._place(key, order)
            union = turned(node, order, tensor(self.values[new[name]]).dims) if own else union
            results.append((key, order, new[name]))
        self.nodes.append(replace(node, xnode_union=replace(union, **new)))
        for key, order, at in results:
            self._hold(key, order, at)

    def _read(self, key: int, order: Order) -> int:
        source = self.orders.source(key)
        if is_constant(self.orders.values[source.root]):
            return self._constant(source, order)
        return self._get(source.root, compose(source.order, order))

    def _constant(self, source: Source, order: Order) -> int:
        key, more = source.root, len(order) - len(source.order)
        whole = compose((*range(more), *(axis + more for axis in source.order)), order)
        if whole == identity(len(whole)):
            return key
        if (key, whole) not in self.held:
            value = self.values[key]
            new = self._new(key, permuted(aligned(tensor(value).dims, len(whole)), whole))
            self.values[new] = changed(self.values[new], constant_buffer_idx=self.constants.turned(value, whole))
            self.held[key, whole] = new
        return self.held[key, whole]

    def _place(self, root: int, order: Order) -> int:
        """Where the maker of a root writes it: into itself, into an output of the graph that is the same, or anew."""
        waiting = self.targets.get((root, order), [])
        if root in waiting or (order == identity(len(order)) and not waiting):
            return root
        return waiting.pop(0) if waiting else self._new(root, permuted(self.orders.dims(root), order))

    def _hold(self, root: int, order: Order, at: int) -> None:
        """A root is there; the outputs of the graph that are it in some order are made of it at once."""
        self.held[root, order] = at
        for (of, wanted), keys in self.targets.items():
            if of == root:
                for key in [key for key in keys if key != at]:
                    self._make(root, wanted, key)
                keys.clear()

    def _get(self, root: int, order: Order) -> int:
        if (root, order) not in self.held:
            self._make(root, order, self._new(root, permuted(self.orders.dims(root), order)))
        return self.held[root, order]

    def _make(self, root: int, order: Order, at: int) -> None:
        """Write a root in an order into a value: by a reshape of what lies so in memory already, or a transposition."""
        dims = self.orders.dims(root)
        there = [held for of, held in self.held if of == root]
        alike = next((held for held in there if in_memory(held, dims) == in_memory(order, dims)), None)
        if alike is None:
            stored = self.orders.stored(root)
            self._transposition(self.held[root, stored], compose(inverse(stored), order), at)
        else:
            self._reshape(self.held[root, alike], permuted(dims, order), at)
        self.held.setdefault((root, order), at)

    def _transposition(self, key: int, order: Order, at: int) -> None:
        from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNStaticTranspose, XNode

        union = XNNStaticTranspose(num_dims=len(order), perm=list(order), input_id=key, output_id=at, flags=0)
        self.nodes.append(XNode(xnode_union=union, debug_handle=_NO_HANDLE))

    def _reshape(self, key: int, dims: list[int], at: int) -> None:
        from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNStaticReshape, XNode

        union = XNNStaticReshape(num_dims=len(dims), new_shape=dims, input_id=key, output_id=at, flags=0)
        self.nodes.append(XNode(xnode_union=union, debug_handle=_NO_HANDLE))

    def _new(self, like: int, dims: list[int]) -> int:
        key = max(self.values) + 1
        self.values[key] = changed(
            self.values[like], num_dims=len(dims), dims=dims, external_id=ABSENT, flags=0, id_out=key
        )
        return key


def _shortened(graph: Any) -> Any:
    """Slices of slices and reshapes of reshapes read what the first of them reads; a reshape to the same shape goes."""
    values = by_number(graph)
    makers: dict[int, Any] = {}
    same: dict[int, int] = {}
    nodes = []
    for old in graph.xnodes:
        renamed = {name: same.get(key, key) for name, key in inputs(old)}
        node = replace(old, xnode_union=replace(old.xnode_union, **renamed))
        before = makers.get(renamed.get("input_id", ABSENT))
        if before is not None and kind(before) == kind(node) and before.output_min_max is None:
            node = _joined(before, node)
        union = node.xnode_union
        if kind(node) == RESHAPE and _is_inner(values[union.output_id]) and _alike(values, union):
            same[union.output_id] = union.input_id
            continue
        makers.update({key: node for _, key in outputs(node)})
        nodes.append(node)
    return replace(graph, xnodes=nodes)


def _joined(before: Any, node: Any) -> Any:
    first, second = before.xnode_union, node.xnode_union
    if kind(node) == RESHAPE:
        return replace(node, xnode_union=replace(second, input_id=first.input_id))
    if kind(node) == SLICE:
        offsets = [a + b for a, b in zip(first.offsets, second.offsets, strict=True)]
        return replace(node, xnode_union=replace(second, offsets=offsets, input_id=first.input_id))
    return node


def _alike(values: Mapping[int, Any], union: Any) -> bool:
    return bool(tensor(values[union.input_id]).dims == tensor(values[union.output_id]).dims)


def _is_inner(value: Any) -> bool:
    return bool(tensor(value).external_id == ABSENT)


def swept(graph: Any) -> Any:
    """Without what nothing reads, its values numbered in turn."""
    wanted, nodes = {*graph.output_ids}, []
    for node in reversed(graph.xnodes):
        if any(key in wanted for _, key in outputs(node)):
            wanted.update(key for _, key in links(node))
            nodes.append(node)
    kept = [v for v in graph.xvalues if tensor(v).id_out in wanted or not _is_inner(v)]
    numbers = {tensor(value).id_out: number for number, value in enumerate(kept)}
    return replace(
        graph,
        xnodes=[_renumbered(node, numbers) for node in reversed(nodes)],
        xvalues=[changed(value, id_out=numbers[tensor(value).id_out]) for value in kept],
        input_ids=[numbers[key] for key in graph.input_ids],
        output_ids=[numbers[key] for key in graph.output_ids],
    )


def _renumbered(node: Any, numbers: Mapping[int, int]) -> Any:
    # Through `inputs`, for a place that a concatenation has not may name a value that is there.
    used = {name: numbers[key] for name, key in (*inputs(node), *outputs(node))}
    return replace(node, xnode_union=replace(node.xnode_union, **used))
