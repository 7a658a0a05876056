"""Torch's graph, run node by node with values of a file put in the place of its own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

Replace = Callable[[str, "Tensor"], "Tensor"]
"""Is told a node's name and what it computed; returns what the nodes after it read."""


@dataclass(frozen=True)
class Network:
    """``module``: a graph of ATen operators of one picture ``(1, 3, H, W) float32``, as `torch.export` unlifts it.
    ``prefix``: of its modules' paths, to be left out where they are told."""

    module: GraphModule
    prefix: str = ""

    def run(self, picture: Tensor, replaced: Replace) -> None:
        """Compute all nodes in order. ``replaced`` is asked about every floating-point value, the picture first, and
        told the output whatever it is; what no node reads any more is freed."""
        values: dict[Node, Any] = {}
        with torch.inference_mode():
            for node in self.module.graph.nodes:
                if node.op == "placeholder":
                    values[node] = replaced(node.name, picture)
                elif node.op == "get_attr":
                    values[node] = operator.attrgetter(str(node.target))(self.module)
                elif node.op == "call_function":
                    values[node] = self._computed(node, values, replaced)
                for done in self._last_read.get(node, ()):
                    values.pop(done, None)

    def _computed(self, node: Node, values: Mapping[Node, Any], replaced: Replace) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
        value = cast("Callable[..., Any]", node.target)(*args, **kwargs)
        if not isinstance(value, torch.Tensor):
            return value
        if node.name == self.output and not value.is_floating_point():
            replaced(node.name, value.float())
            return value
        return replaced(node.name, value) if value.is_floating_point() and value.numel() > 1 else value

    @cached_property
    def _last_read(self) -> dict[Node, list[Node]]:
        last: dict[Node, Node] = {}
        for node in self.module.graph.nodes:
            for read in node.all_input_nodes:
                last[read] = node
        found: dict[Node, list[Node]] = {}
        for read, reader in last.items():
            found.setdefault(reader, []).append(read)
        return found

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Those that compute something, and the picture, in order."""
        return {n.name: n for n in self.module.graph.nodes if n.op in ("call_function", "placeholder")}

    @cached_property
    def picture(self) -> str:
        """The name of the node that is the picture."""
        return next(name for name, node in self.nodes.items() if node.op == "placeholder")

    @cached_property
    def output(self) -> str:
        """The name of the node that is returned."""
        (returned,) = self.module.graph.output_node().all_input_nodes
        return str(returned.name)

    def ancestors(self, name: str) -> Iterator[str]:
        """Of a node: all that it is computed from, the nearest first."""
        seen, waiting = set[str](), [self.nodes[name]]
        while waiting:
            for read in waiting.pop(0).all_input_nodes:
                if read.name in self.nodes and read.name not in seen:
                    seen.add(read.name)
                    waiting.append(read)
                    yield read.name

    def way_to(self, name: str, agreeing: Container[str]) -> tuple[str, ...]:
        """The nodes from those that agree on to this one, in order; at least itself."""
        found, waiting = {name}, [self.nodes[name]]
        while waiting:
            for read in waiting.pop().all_input_nodes:
                if read.name in self.nodes and read.name not in agreeing and read.name not in found:
                    found.add(read.name)
                    waiting.append(read)
        return tuple(node for node in self.nodes if node in found)

    def next_after(self, name: str, agreeing: Container[str]) -> Iterator[str]:
        """The first nodes computed from this one that agree."""
        seen, waiting = set[Node](), list(self.nodes[name].users)
        while waiting:
            user = waiting.pop()
            if user.name in agreeing:
                yield user.name
            elif user not in seen:
                seen.add(user)
                waiting += user.users

    def operator(self, name: str) -> str:
        """In torch's words: ``conv2d``. Of one result among several: of the operator that gives it."""
        node = self.nodes[name]
        if node.op == "placeholder":
            return "input"
        if node.target is operator.getitem:
            (node,) = node.all_input_nodes
        target = node.target
        return target._schema.name.split("::")[-1] if isinstance(target, torch._ops.OpOverload) else str(target)

    def module_of(self, name: str) -> str:
        """Which of the network's modules the node is of, ``"encoder.stage1.conv"``; empty where it is of none."""
        stack = self.nodes[name].meta.get("nn_module_stack") or {}
        path = next(iter(reversed(stack.values())), ("",))[0] if stack else ""
        return f"{path}.".removeprefix(self.prefix).rstrip(".")
