"""The orders in which the operators of XNNPACK's graph compute so that transpositions move the fewest bytes.

No transposition is an operator here: a value is a permutation of the value behind all transpositions, its root. Each
operator asks for its inputs in some order of their roots, and gives its output in one; operators that are free to
(`xnnpack_orders.freedom`) may change theirs. What is asked for and is not what is given is a transposition. At first
all compute in the order in which the graph has them. Then one operator after the other, alone or with those that follow
from it, is tried in an order that spares it a transposition, until no such change makes the whole cheaper.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobileseg.converters.executorch.delegates.xnnpack_constants import Constants
from mobileseg.converters.executorch.delegates.xnnpack_orders import (
    ABSENT,
    TRANSPOSITION,
    Freedom,
    Order,
    compose,
    freedom,
    identity,
    in_memory,
    inputs,
    inverse,
    is_constant,
    kind,
    outputs,
    tensor,
)

# A transposition takes about four times as long as a copy in the same order, both measured in XNNPACK.
_COPY, _TRANSPOSITION = 1, 4
_BYTES = {"xnn_datatype_fp16": 2, "xnn_datatype_bf16": 2, "xnn_datatype_qint8": 1, "xnn_datatype_quint8": 1}


@dataclass(frozen=True)
class Source:
    """What a value is: ``root``, permuted by ``order``."""

    root: int
    order: Order


@dataclass(frozen=True)
class Use:
    """``node``: its number in the graph; None for an output of the graph."""

    node: int | None
    order: Order


def size(value: Any) -> int:
    """In bytes."""
    elements: int = math.prod(tensor(value).dims)
    return elements * _BYTES.get(tensor(value).datatype.name, 4)


def moved(graph: Any) -> int:
    """What a graph's transpositions and copies cost."""
    values = by_number(graph)
    prices = {"XNNStaticTranspose": _TRANSPOSITION, "XNNStaticReshape": _COPY, "XNNStaticSlice": _COPY}
    return sum(
        prices[kind(node)] * size(values[node.xnode_union.output_id]) for node in graph.xnodes if kind(node) in prices
    )


def by_number(graph: Any) -> dict[int, Any]:
    return {tensor(value).id_out: value for value in graph.xvalues}


@dataclass
class Orders:
    """A graph without its transpositions. ``blocks``: of each free operator, the order of its blocks now."""

    graph: Any
    values: Mapping[int, Any]
    sources: dict[int, Source] = field(default_factory=dict)
    free: dict[int, Freedom] = field(default_factory=dict)
    blocks: dict[int, Order] = field(default_factory=dict)
    makers: dict[int, int] = field(default_factory=dict)
    uses: dict[int, list[Use]] = field(default_factory=lambda: defaultdict(list))
    dissolved: set[int] = field(default_factory=set)

    def dims(self, root: int) -> list[int]:
        found: list[int] = tensor(self.values[root]).dims
        return found

    def source(self, key: int) -> Source:
        return self.sources.get(key) or Source(key, identity(len(self.dims(key))))

    def stored(self, root: int) -> Order:
        """The order in which a root is given."""
        return self.given_by(self.makers.get(root), self.blocks, root)

    def given_by(self, node: int | None, blocks: Mapping[int, Order], root: int) -> Order:
        return self.free[node].of_output(blocks[node]) if node in self.free else identity(len(self.dims(root)))

    def asked(self, use: Use, blocks: Mapping[int, Order]) -> Order:
        """The order in which a use reads its root."""
        if use.node not in self.free:
            return use.order
        return compose(use.order, self.free[use.node].of_inputs(blocks[use.node]))

    def cost(self, roots: Iterable[int], blocks: Mapping[int, Order]) -> int:
        return sum(self._cost(root, blocks) for root in roots)

    def _cost(self, root: int, blocks: Mapping[int, Order]) -> int:
        orders = {self.asked(use, blocks) for use in self.uses[root]} | {
            self.given_by(self.makers.get(root), blocks, root)
        }
        memories = {in_memory(order, self.dims(root)) for order in orders}
        price = _COPY * (len(orders) - len(memories)) + _TRANSPOSITION * (len(memories) - 1)
        return price * size(self.values[root])


def orders_of(graph: Any, constants: Constants) -> Orders:
    """As the graph has them."""
    values = by_number(graph)
    turning = {key for key, value in values.items() if is_constant(value) and constants.turns(value)}
    found = Orders(graph, values)
    for number, node in enumerate(graph.xnodes):
        if _dissolves(node, values, turning):
            found.dissolved.add(number)
            before = found.source(node.xnode_union.input_id)
            order = compose(before.order, tuple(node.xnode_union.perm))
            found.sources[node.xnode_union.output_id] = Source(before.root, order)
            continue
        allowed = freedom(node, values, turning)
        if allowed is not None:
            found.free[number], found.blocks[number] = allowed, allowed.rest
        found.makers.update({key: number for _, key in outputs(node)})
        for _, key in inputs(node):
            source = found.source(key)
            if not is_constant(values[source.root]):
                found.uses[source.root].append(Use(number, source.order))
    for key in graph.output_ids:
        source = found.source(key)
        found.uses[source.root].append(Use(None, source.order))
    return found


def _dissolves(node: Any, values: Mapping[int, Any], turning: Container[int]) -> bool:
    if kind(node) != TRANSPOSITION or node.xnode_union.flags:
        return False
    before, after = values[node.xnode_union.input_id], values[node.xnode_union.output_id]
    alike = tensor(before).datatype == tensor(after).datatype and _parameters(before) == _parameters(after)
    if is_constant(before):
        alike = alike and node.xnode_union.input_id in turning and tensor(after).external_id == ABSENT
    return bool(alike)


def _parameters(value: Any) -> Any:
    return getattr(value.xvalue_union, "quant_params", None)


def improve(orders: Orders) -> None:
    """Change ``orders.blocks`` until no single change makes the whole cheaper."""
    while any(_improve_at(orders, root) for root in list(orders.uses)):
        pass


def _improve_at(orders: Orders, root: int) -> bool:
    before = orders.cost([root], orders.blocks)
    if not before:
        return False
    for change in _changes(orders, root):
        after = {**orders.blocks, **change}
        touched = _touched(orders, change)
        if orders.cost(touched, after) < orders.cost(touched, orders.blocks):
            orders.blocks = after
            return True
    return False


def _touched(orders: Orders, change: Mapping[int, Order]) -> list[int]:
    found: dict[int, None] = {}
    for number in change:
        node = orders.graph.xnodes[number]
        found.update({key: None for _, key in outputs(node)})
        found.update({orders.source(key).root: None for _, key in inputs(node)})
    return list(found)


def _changes(orders: Orders, root: int) -> Iterator[dict[int, Order]]:
    """Orders of the operators around a root that would make its maker and one of its uses, or two uses, agree."""
    maker, given = orders.makers.get(root), orders.stored(root)
    asked = {use: orders.asked(use, orders.blocks) for use in orders.uses[root]}
    wanted = list(dict.fromkeys([given, *asked.values()]))
    for order in wanted:
        seeds = [(use.node, _reading(orders, use, order, root)) for use in asked if asked[use] != order]
        if order != given and maker in orders.free:
            seeds.append((maker, orders.free[maker].from_output(order, orders.dims(root))))
        for number, blocks in seeds:
            if number is not None and blocks is not None:
                yield {number: blocks}
                for down, up in ((True, True), (True, False), (False, True)):
                    yield _followed(orders, number, blocks, down=down, up=up)


def _reading(orders: Orders, use: Use, order: Order, root: int) -> Order | None:
    """The blocks of an operator that reads a root in this order."""
    if use.node not in orders.free:
        return None
    own = compose(inverse(use.order), order)
    return orders.free[use.node].from_inputs(own, _permuted(orders.dims(root), use.order))


def _permuted(dims: list[int], order: Order) -> list[int]:
    return [dims[axis] for axis in order]


def _followed(orders: Orders, start: int, blocks: Order, *, down: bool, up: bool) -> dict[int, Order]:
    """A change of one operator, and what must change for its users (``down``), for those that make its inputs and the
    others that read them (``up``), and so on, to need no transposition for it."""
    change, waiting = {start: blocks}, [start]

    def add(number: int | None, found: Order | None) -> None:
        if number is not None and found is not None and number not in change:
            change[number] = found
            waiting.append(number)

    def to_users(root: int, order: Order) -> None:
        for use in orders.uses[root]:
            if use.node not in change:
                add(use.node, _reading(orders, use, order, root))

    while waiting:
        number = waiting.pop(0)
        node, own = orders.graph.xnodes[number], orders.free[number]
        if down:
            for _, key in outputs(node):
                to_users(key, own.of_output(change[number]))
        if up:
            for _, key in inputs(node):
                source = orders.source(key)
                if is_constant(orders.values[source.root]):
                    continue
                order = compose(source.order, own.of_inputs(change[number]))
                maker = orders.makers.get(source.root)
                if maker in orders.free and maker not in change:
                    add(maker, orders.free[maker].from_output(order, orders.dims(source.root)))
                to_users(source.root, order)
    return change
