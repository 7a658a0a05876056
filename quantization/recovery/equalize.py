"""Channels scaled so that one int8 scale for each tensor serves all of them better.

Every value becomes what it was times its channel's factor, a power of two; no operator is added. Because scaling by a
power of two rounds nothing, the network's outputs are bit for bit the same, sums, maxima and their positions included,
as long as nothing becomes subnormal (below 2^-126). Factors of any other kind are not exact where maxima are unpooled:
values of a window that were equal, or nearly, are so no more, or become so, and the maximum is found elsewhere
(measured on iArunava's ENet: outputs differ by 6 % of the largest).

Which factors: those with which rounding all tensors adds least to the output's error (`noise`). A channel with small
numbers and large gradients is raised, one whose outliers alone set the scale of a tensor is lowered, and channels that
must be scaled alike in many tensors (`channels`) are scaled by what all of these say together. One factor is doubled or
halved at a time, as long as that makes the sum less.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mobileseg.errors import OptionError
from mobileseg.quantization.recovery.channels import HUGE, Channels, find_channels, names_of
from mobileseg.quantization.recovery.classes import PINNED
from mobileseg.quantization.recovery.noise import Rounded, observe
from mobileseg.quantization.recovery.rules import RULES

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LARGEST_LIMIT = 1024.0
_ROUNDS = 50
_WORTHWHILE = 1e-6
"""What a step must take off the noise of the tensors that it changes, as a share."""


@dataclass(frozen=True)
class Equalized:
    """``program``: of the same nodes and outputs as the given one, with other weights. ``groups``: sets of channels
    that must be scaled alike and can be; ``scaled``: how many are; ``largest``: the largest factor, or one by the
    smallest. ``gain_db``: by how much less the output's error is expected to be, in decibels. ``pictures``: how many
    were looked at."""

    program: ExportedProgram
    groups: int
    scaled: int
    largest: float
    gain_db: float
    pictures: int


def equalize(program: ExportedProgram, pictures: Iterable[Tensor], *, limit: float = 16.0) -> Equalized:
    """Scale the channels of a program in canonical form (`mobileseg.converters.export`), before it is rewritten.

    ``pictures``: (1, 3, H, W) float32 in 0..255, of the size that the program was traced for, taken one at a time; each
    is run forwards and backwards, and few are enough. ``limit``: the largest factor, and one by the smallest, 1 to
    1024. Channels that are all zero in all pictures have no say. The given program is not changed.
    Raises `OptionError` for a limit outside, `PictureError` for no picture or one of another size.
    """
    if not 1.0 <= limit <= LARGEST_LIMIT:
        raise OptionError(f"The largest factor of an equalization is {limit}; expected 1 to {LARGEST_LIMIT:g}.")
    channels = find_channels(program, RULES)
    tensors, count = observe(program, channels, pictures)
    factors, gain = best_factors(tensors, limit)
    return Equalized(
        program=scaled(program, channels, factors),
        groups=len(factors),
        scaled=sum(factor != 1.0 for factor in factors.values()),
        largest=max((max(factor, 1.0 / factor) for factor in factors.values()), default=1.0),
        gain_db=gain,
        pictures=count,
    )


def best_factors(tensors: Sequence[Rounded], limit: float) -> tuple[dict[int, float], float]:
    """The factor of each class that may have one, by its root, and what they gain in decibels.

    Tensors that are not of moderate numbers alone keep what they are.
    """
    moderate = [t for t in tensors if _is_moderate(t)]
    kept = {PINNED}.union(*(t.roots.tolist() for t in tensors if not _is_moderate(t)))
    places: dict[int, list[tuple[int, NDArray[np.bool_]]]] = defaultdict(list)
    for i, t in enumerate(moderate):
        for root in np.unique(t.roots).tolist():
            places[root].append((i, t.roots == root))
    factors = [np.ones(len(t.roots)) for t in moderate]
    noise = [t.noise(f) for t, f in zip(moderate, factors, strict=True)]
    before = sum(noise)
    best = {root: 1.0 for root in places if root not in kept}
    for _ in range(_ROUNDS):
        moved = False
        for root, factor in best.items():
            least = sum(noise[i] for i, _ in places[root]) * (1.0 - _WORTHWHILE)
            for step in (2.0, 0.5):
                if not 1.0 / limit <= factor * step <= limit:
                    continue
                tried = [np.where(own, factors[i] * step, factors[i]) for i, own in places[root]]
                found = [moderate[i].noise(f) for (i, _), f in zip(places[root], tried, strict=True)]
                if sum(found) < least:
                    best[root], moved = factor * step, True
                    for (i, _), f, n in zip(places[root], tried, found, strict=True):
                        factors[i], noise[i] = f, n
                    break
        if not moved:
            break
    after = sum(noise)
    return best, 10.0 * math.log10(before / after) if after > 0.0 else 0.0


def _is_moderate(t: Rounded) -> bool:
    return all(bool((np.abs(a) < HUGE).all()) for a in (t.low, t.high, t.weight))


def scaled(program: ExportedProgram, channels: Channels, factors: Mapping[int, float]) -> ExportedProgram:
    """The program with its weights scaled; nothing of the given one is shared that either could change."""
    from torch.export import ExportedProgram

    names = names_of(program)
    tensors: dict[str, Tensor] = {}
    for node, (gains, losses) in channels.weights.items():
        gain = _of(channels, gains, factors) / _of(channels, losses, factors)
        if bool((gain != 1.0).any()):
            weight = channels.constants[node]
            tensors[names[node.name]] = (weight.double() * gain).to(weight.dtype)
    return ExportedProgram(
        root=program.graph_module,
        graph=copy.deepcopy(program.graph),
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict={name: _held(tensors.get(name), old) for name, old in program.state_dict.items()},
        range_constraints=dict(program.range_constraints),
        module_call_graph=list(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants={name: tensors.get(name, old) for name, old in program.constants.items()},
        verifiers=program.verifiers,
    )


def _of(channels: Channels, ids: Tensor, factors: Mapping[int, float]) -> Tensor:
    """The factors of classes, float64, in their shape."""
    roots = channels.classes.roots(ids)
    numbers = [factors.get(root, 1.0) for root in roots.flatten().tolist()]
    return torch.tensor(numbers, dtype=torch.float64).reshape(roots.shape)


def _held(new: Tensor | None, old: Tensor) -> Tensor:
    if new is None:
        return old
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
