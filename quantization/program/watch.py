"""What is odd about calibration pictures and what a network makes of them: told while they are observed.

Scales are finite whatever is seen (`params.params_of`); what is warned of is that they may not be what was meant. Only
values that are no numbers have no range at all: they are an error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from mobileseg.errors import CheckpointError
from mobileseg.quantization.program.names import layers_of
from mobileseg.quantization.program.values import CONVOLUTIONS, SHARED, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.quantization.calibration import About
    from mobileseg.quantization.program.values import Values
    from mobileseg.quantization.ranges import Statistics

TINY, HUGE = 1e-6, 1e6
"""Greatest magnitudes that no activation of a network in order has."""

DEAD_SHARE = 1e-6
"""Of a convolution's range: a channel that varies by less over all pictures is dead."""

NAMED = 3
"""How many pictures a warning names."""


class Watch:
    """Looks at pictures and values as they pass. ``about``: what the pictures are called."""

    def __init__(self, module: GraphModule, values: Values, about: About) -> None:
        self._about, self._layers = about, layers_of(module)
        limits = {limit: node for node, limit in values.fused.items()}
        self._convolutions = {n for n in values.rounded if name_of(limits.get(n, n)) in CONVOLUTIONS}
        self._channels: dict[Node, tuple[Tensor, Tensor]] = {}
        self._plain: list[str] = []
        self._seen = 0

    def picture(self, picture: NDArray[np.uint8]) -> None:
        """(H, W, 3) uint8, before the network runs on it."""
        if bool((picture == picture[:1, :1]).all()):
            self._plain.append(self._about.name(self._seen))
        self._seen += 1

    def value(self, node: Node, value: Tensor) -> None:
        """A rounded value of the last picture. Raises `CheckpointError` where it is not finite."""
        if node in self._convolutions and value.ndim == 4:
            ends = value.amin((0, 2, 3)), value.amax((0, 2, 3))
            low, high = float(ends[0].min()), float(ends[1].max())
            self._take(node, *ends)
        else:
            low, high = (float(end) for end in value.aminmax())
        border = low == -math.inf and name_of(node) in SHARED  # of a padded maximum pooling
        if not math.isfinite(high) or not (border or math.isfinite(low)):
            raise CheckpointError(
                f"On calibration picture {self._about.name(self._seen - 1)} the network computes values that are NaN "
                f"or infinite, first in {self._called(node)}: int8 has no range for them. Check the weights and what "
                "the network is fed (--preprocessing), or take the picture out of the --calibration folder."
            )

    def _take(self, node: Node, lows: Tensor, highs: Tensor) -> None:
        before_low, before_high = self._channels.get(node, (lows, highs))
        self._channels[node] = torch.minimum(lows, before_low), torch.maximum(highs, before_high)

    def warnings(self, statistics: Mapping[Node, Statistics]) -> tuple[str, ...]:
        """One sentence each, those about pictures first."""
        return (*self._about_pictures(), *self._about_values(statistics), *self._about_channels())

    def _about_pictures(self) -> Iterator[str]:
        if self._seen == 1:
            yield "There is one calibration picture alone: the ranges of others may be wider (--calibration-size)."
        if self._plain:
            more = f" and {len(self._plain) - NAMED} more" if len(self._plain) > NAMED else ""
            yield (
                f"{len(self._plain)} of {self._seen} calibration pictures have one colour throughout: "
                f"{', '.join(self._plain[:NAMED])}{more}."
            )

    def _about_values(self, statistics: Mapping[Node, Statistics]) -> Iterator[str]:
        for node, seen in statistics.items():
            if node.op == "placeholder" or not seen.pictures:
                continue
            greatest = max(abs(seen.low), abs(seen.high))
            if seen.low == seen.high:
                yield f"{self._called(node)} is {seen.low:.6g} throughout, on every picture."
            elif greatest > HUGE:
                yield f"{self._called(node)} has huge values, up to {greatest:.3g}."
            elif greatest < TINY:
                yield f"{self._called(node)} has tiny values alone, up to {greatest:.3g}."

    def _about_channels(self) -> Iterator[str]:
        """One sentence for all: trained networks have such channels, and they cost nothing but the size of the file."""
        found = []
        for node, (lows, highs) in self._channels.items():
            extent = float(highs.max()) - float(lows.min())
            dead = [i for i, width in enumerate((highs - lows).tolist()) if width <= DEAD_SHARE * extent]
            if dead and extent > 0.0:
                found.append(f"{len(dead)} of {len(lows)} in {self._called(node)}")
        if found:
            yield f"Channels are dead, the same on every picture: {', '.join(found)}."

    def _called(self, node: Node) -> str:
        layer = self._layers[node]
        return f"{layer} ({node.name})" if layer else node.name
