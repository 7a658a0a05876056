"""How much of a network's error each rounded tensor makes, channel by channel, on pictures.

int8 rounds a tensor to steps of its span (from its lowest to its highest number) by 255. The error of that reaches the
output through the output's gradient by that tensor: its expected square there is ``span^2 / 255^2 / 12`` times the sum
of the squared gradients. That sum is taken for a random sign at each of the output's numbers, one backward pass a
picture: its expectation is the sum over all of them.

Left out: a maximum whose position rounding changes, and whose value an unpooling then puts elsewhere. No gradient tells
of it, so that networks with unpoolings gain less than is said here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Interpreter

from mobileseg.errors import PictureError
from mobileseg.quantization.recovery.channels import Channels
from mobileseg.quantization.recovery.rules import CONVOLUTIONS, LIMITS, MOVES, NORMALIZATION, SELECTIONS

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

aten = torch.ops.aten

CONCATENATION = aten.cat.default

SEED = 0


@dataclass(frozen=True)
class Rounded:
    """One tensor that int8 rounds, float64 arrays of a number for each channel, means over the pictures. ``roots``:
    the class of each. ``low`` (<= 0), ``high`` (>= 0): its extremes. ``weight``: the squared gradients of its numbers,
    summed; 0 for a channel that is all zero, which is not rounded."""

    roots: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    weight: NDArray[np.float64]

    def noise(self, factors: NDArray[np.float64]) -> float:
        """What it adds to the output's squared error once its channels are scaled, up to a constant."""
        span = (self.high * factors).max() - (self.low * factors).min()
        return float(span**2 * (self.weight / factors**2).sum())


def observe(program: ExportedProgram, channels: Channels, pictures: Iterable[Tensor]) -> tuple[list[Rounded], int]:
    """All tensors that int8 rounds and of which some channel can be scaled, and the number of pictures.

    ``pictures``: (1, 3, H, W) float32, taken one at a time. Raises `PictureError` for none or one of another size.
    """
    (sample,), _ = program.example_inputs
    (name,) = program.graph_signature.user_inputs
    values = {n: channels.values[n] for n in program.graph.nodes if _is_rounded(n)}
    ids = {n: i for n, i in values.items() if isinstance(i, Tensor) and not channels.classes.are_pinned(i)}
    sums = {node: _Sums(i.shape) for node, i in ids.items()}
    observer = _Observer(program.graph_module, sums, _scores(program))
    held = {node.name: tensor for node, tensor in channels.constants.items()}
    signs = torch.Generator().manual_seed(SEED)
    count = 0
    for picture in pictures:
        if picture.shape[-3:] != sample.shape[-3:]:
            raise PictureError(
                f"Calibration picture {count + 1} is {tuple(picture.shape)}; the model takes {tuple(sample.shape)}. "
                "Resize the pictures to the size given by --size."
            )
        observer.look({**held, name: picture.expand(sample.shape).clone().requires_grad_()}, signs)
        count += 1
    if count == 0:
        raise PictureError("There is no calibration picture; int8 needs some. Name their folder with --calibration.")
    return [sums[node].mean(channels.classes.roots(i), count) for node, i in ids.items()], count


class _Sums:
    """Extremes and squared gradients of one tensor, added up over pictures; ``shape``: one where channels are alike."""

    def __init__(self, shape: torch.Size) -> None:
        # A dimension in front, so that there is one to reduce.
        self._alike = [0, *(d + 1 for d, size in enumerate(shape) if size == 1)]
        self._low, self._high, self._weight = (torch.zeros(1, *shape, dtype=torch.float64) for _ in range(3))

    def add(self, values: Tensor) -> None:
        # Borders of minus infinity are no range.
        finite = values.detach()[None].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self._low += finite.amin(self._alike, keepdim=True).clamp(max=0.0)
        self._high += finite.amax(self._alike, keepdim=True).clamp(min=0.0)
        if values.requires_grad:
            values.register_hook(self._add_gradient)

    def _add_gradient(self, gradient: Tensor) -> None:
        self._weight += gradient[None].double().square().sum(self._alike, keepdim=True)

    def mean(self, roots: Tensor, count: int) -> Rounded:
        low, high, weight = (t.flatten().numpy() / count for t in (self._low, self._high, self._weight))
        return Rounded(roots.flatten().numpy(), low, high, np.where(high > low, weight, 0.0))


class _Observer(Interpreter):
    """Runs a graph forwards and backwards."""

    def __init__(self, module: GraphModule, sums: Mapping[Node, _Sums], scores: frozenset[Node]) -> None:
        super().__init__(module)
        self._sums, self._scores = sums, scores
        self._found: list[Tensor] = []

    def look(self, inputs: Mapping[str, Tensor], signs: torch.Generator) -> None:
        """Add up what one picture gives. ``inputs``: by the placeholders' names."""
        self._found.clear()
        with torch.enable_grad():
            self.run(*(inputs[node.name] for node in self.graph.nodes if node.op == "placeholder"))
            found = [s for s in self._found if s.requires_grad]
            seeds = [torch.randint(0, 2, s.shape, generator=signs).to(s.dtype) * 2 - 1 for s in found]
        torch.autograd.backward(found, seeds)
        self._found.clear()

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self._sums:
            self._sums[n].add(result)
        if n in self._scores:
            self._found.append(result)
        return result


def _scores(program: ExportedProgram) -> frozenset[Node]:
    """The last tensors that have gradients of use: logits, where classes or probabilities are given out."""
    found = set()
    for node in program.graph.output_node().all_input_nodes:
        while node.all_input_nodes and (not _is_float(node) or node.target is aten.softmax.int):
            node = node.all_input_nodes[0]
        found.add(node)
    return frozenset(found)


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_rounded(node: Node) -> bool:
    """Whether an int8 file rounds this tensor with a scale of its own: it is more than a selection of another one's
    numbers, and not read by what is fused into its operator alone, or by a concatenation alone, whose scale it has."""
    if node.op != "call_function" or not _is_float(node):
        return False
    if node.target is not CONCATENATION and (node.target in MOVES or node.target in SELECTIONS):
        return False
    return not all(_is_fused(node, user) or user.target is CONCATENATION for user in node.users)


def _is_fused(node: Node, user: Node) -> bool:
    return (user.target is NORMALIZATION and node.target in CONVOLUTIONS) or user.target in LIMITS
