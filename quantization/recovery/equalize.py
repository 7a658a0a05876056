"""Channels of one tensor brought to like ranges, so that one int8 scale serves all of them.

Every value becomes what it was times its channel's factor, a power of two from 1 to ``limit``; no operator is added.
Because scaling by a power of two rounds nothing, the network's outputs are bit for bit the same, sums, maxima and their
positions included, as long as nothing becomes subnormal (below 2^-126). Factors of any other kind are not exact where
maxima are unpooled: the values of a window that were equal, or nearly, are so no more, or become so, and the maximum is
found at another position (measured on iArunava's ENet: outputs differ by 6 % of the largest).

How much: the channels of a tensor that lag behind its widest one want to be raised to it; all tensors in which a class
of channels (`find_channels`) appears are asked, and it gets the geometric mean of what they want, to the power
``strength``. What an activation gains in steps the weights that read it lose, which is why less than all may be best.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter

from mobileseg.errors import OptionError, PictureError
from mobileseg.quantization.recovery.channels import HUGE, Channels, find_channels, names_of
from mobileseg.quantization.recovery.classes import PINNED
from mobileseg.quantization.recovery.rules import CONVOLUTIONS, LIMITS, MOVES, NORMALIZATION, RULES

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

LARGEST_LIMIT = 1024.0


@dataclass(frozen=True)
class Equalized:
    """``program``: of the same nodes and outputs, with other weights. ``groups``: sets of channels that must share a
    factor and may have one; ``scaled``: how many have one; ``largest``: the largest factor.

    ``before``, ``after``: how uneven ranges are, the mean over all tensors of the largest magnitude in the tensor by
    the mean over its channels of the largest in each (1: all alike). ``pictures``: how many were looked at.
    """

    program: ExportedProgram
    groups: int
    scaled: int
    largest: float
    before: float
    after: float
    pictures: int


def equalize(
    program: ExportedProgram, pictures: Iterable[Tensor], *, strength: float = 0.5, limit: float = 64.0
) -> Equalized:
    """Scale the channels of a program in canonical form (`mobileseg.converters.export`), before it is rewritten.

    ``pictures``: (1, 3, H, W) float32 in 0..255, of the size that the program was traced for, taken one at a time.
    ``strength``: 0 (nothing is scaled) to 1 (channels are raised to the widest one), ``limit``: the largest factor,
    1 to 1024. Dead channels, all zero in all pictures, have no factor of their own.
    Raises `OptionError` for a strength or a limit outside, `PictureError` for no picture or one of another size.
    """
    if not 0.0 <= strength <= 1.0:
        raise OptionError(f"The strength of an equalization is {strength}; expected 0 to 1.")
    if not 1.0 <= limit <= LARGEST_LIMIT:
        raise OptionError(f"The largest factor of an equalization is {limit}; expected 1 to {LARGEST_LIMIT:g}.")
    channels = find_channels(program, RULES)
    ranges, count = _observe(program, channels, pictures)
    factors = _factors(ranges, strength, limit)
    return Equalized(
        program=_scaled(program, channels, factors),
        groups=len(factors),
        scaled=sum(factor != 1.0 for factor in factors.values()),
        largest=max(factors.values(), default=1.0),
        before=_unevenness(ranges, {}),
        after=_unevenness(ranges, factors),
        pictures=count,
    )


@dataclass
class _Ranges:
    """The largest finite magnitudes (n,) of a tensor in float64, one for each channel; ``roots``: the classes."""

    roots: Tensor
    largest: Tensor


def _observe(program: ExportedProgram, channels: Channels, pictures: Iterable[Tensor]) -> tuple[list[_Ranges], int]:
    """Ranges of the tensors that quantization rounds, over all pictures, and the number of pictures."""
    (sample,), _ = program.example_inputs
    (name,) = program.graph_signature.user_inputs
    rounded = {node: channels.values[node] for node in program.graph.nodes if _is_rounded(node)}
    ids = {n: i for n, i in rounded.items() if isinstance(i, Tensor) and not channels.classes.are_pinned(i)}
    largest = {node: torch.zeros(i.shape, dtype=torch.float64) for node, i in ids.items()}
    observer = _Observer(program.graph_module, largest)
    held = {node.name: tensor for node, tensor in channels.constants.items()}
    count = 0
    for picture in pictures:
        if picture.shape[-3:] != sample.shape[-3:]:
            raise PictureError(
                f"Calibration picture {count + 1} is {tuple(picture.shape)}; the model takes {tuple(sample.shape)}. "
                "Resize the pictures to the size given by --size."
            )
        values = {**held, name: picture.expand(sample.shape)}
        with torch.no_grad():
            observer.run(*(values[n.name] for n in program.graph.nodes if n.op == "placeholder"))
        count += 1
    if count == 0:
        raise PictureError("There is no calibration picture; int8 needs some. Name their folder with --calibration.")
    roots = {node: channels.classes.roots(i).flatten() for node, i in ids.items()}
    return [_Ranges(roots[node], largest[node].flatten()) for node in ids], count


class _Observer(Interpreter):
    """Runs a graph and raises each of ``largest`` to the largest magnitude of what its node gives, over the dimensions
    along which it has size one."""

    def __init__(self, module: torch.fx.GraphModule, largest: dict[Node, Tensor]) -> None:
        super().__init__(module)
        self.largest = largest

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        known = self.largest.get(n)
        if known is not None:
            # Borders of minus infinity are no range.
            magnitudes = result.abs().nan_to_num(nan=0.0, posinf=0.0)
            alike = [d for d, size in enumerate(known.shape) if size == 1]
            self.largest[n] = torch.maximum(
                known, magnitudes.amax(alike, keepdim=True).double() if alike else magnitudes
            )
        return result


def _is_rounded(node: Node) -> bool:
    """Whether an int8 file has this tensor: it is neither only moved nor read by what is fused into its operator."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return node.target not in MOVES and not all(_is_fused(node, user) for user in node.users)


def _is_fused(node: Node, user: Node) -> bool:
    return (user.target is NORMALIZATION and node.target in CONVOLUTIONS) or user.target in LIMITS


def _factors(ranges: Iterable[_Ranges], strength: float, limit: float) -> dict[int, float]:
    """The factor of each class that may have one, by its root."""
    wanted: dict[int, list[float]] = defaultdict(list)
    left_alone = {PINNED}
    for r in ranges:
        widest = float(r.largest.max())
        for root, largest in zip(r.roots.tolist(), r.largest.tolist(), strict=True):
            if widest >= HUGE:
                left_alone.add(root)
            if largest > 0.0:
                wanted[root].append(min(math.log2(widest / largest), math.log2(limit)))
            else:
                wanted[root]
    highest = math.floor(math.log2(limit))
    return {
        root: 2.0 ** min(round(strength * sum(logs) / len(logs)), highest) if logs else 1.0
        for root, logs in wanted.items()
        if root not in left_alone
    }


def _unevenness(ranges: Iterable[_Ranges], factors: Mapping[int, float]) -> float:
    """The mean over tensors of the widest channel's range by the mean channel's; 1 where nothing can be scaled."""
    ratios = []
    for r in ranges:
        scaled = r.largest * torch.tensor([factors.get(root, 1.0) for root in r.roots.tolist()], dtype=torch.float64)
        if scaled.max() > 0:
            ratios.append(float(scaled.max() / scaled.mean()))
    return sum(ratios) / len(ratios) if ratios else 1.0


def _scaled(program: ExportedProgram, channels: Channels, factors: Mapping[int, float]) -> ExportedProgram:
    """The program with its weights scaled; nothing of the given one is shared that either could change."""
    from torch.export import ExportedProgram

    names = names_of(program)
    tensors: dict[str, Tensor] = {}
    for node, (gains, losses) in channels.weights.items():
        gain = _of(channels, gains, factors) / _of(channels, losses, factors)
        if bool((gain != 1.0).any()):
            weight = channels.constants[node]
            tensors[names[node.name]] = (weight.double() * gain).to(weight.dtype)
    state = {name: _held(tensors.get(name), old) for name, old in program.state_dict.items()}
    constants = {name: tensors.get(name, old) for name, old in program.constants.items()}
    return ExportedProgram(
        root=program.graph_module,
        graph=copy.deepcopy(program.graph),
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict=state,
        range_constraints=dict(program.range_constraints),
        module_call_graph=list(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants=constants,
        verifiers=program.verifiers,
    )


def _of(channels: Channels, ids: Tensor, factors: Mapping[int, float]) -> Tensor:
    """The factors of classes, float64, in their shape."""
    roots = channels.classes.roots(ids)
    return torch.tensor([factors.get(root, 1.0) for root in roots.flatten().tolist()], dtype=torch.float64).reshape(
        roots.shape
    )


def _held(new: Tensor | None, old: Tensor) -> Tensor:
    if new is None:
        return old
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
