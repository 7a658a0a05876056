"""Torch's graph run along a file: wherever the file has a value that equals torch's, the file's own goes on.

So each operator of torch computes from what the file computed from, and what differs then is that operator's own error,
not what it was handed. A value of torch that the file has not (a normalization folded into its convolution) is computed
and passed on; the next one that the file has shows whether both went the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from mobileseg.validation.bisect.candidates import Candidate, Candidates
from mobileseg.validation.bisect.differences import Difference, difference, tolerance_db

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mobileseg.validation.bisect.network import Network

PATIENCE = 8
"""Values of torch in a row that a file may not have: normalizations, activations, paddings that were folded."""

ENOUGH = 12
"""Values behind a supposed fault that agree: no chance."""


@dataclass(frozen=True)
class Match:
    """A value of torch's graph and the file's nearest. ``difference``: torch's computed from the file's own values."""

    candidate: Candidate
    difference: Difference


@dataclass(frozen=True)
class Followed:
    """``matches``: what agrees, by node, the supposed ones included; ``near``: of nodes that agree with nothing, the
    nearest value of the file; ``values``: those of the nodes that were asked for; ``agreed``: how many nodes behind a
    supposed one agree, up to `ENOUGH`."""

    matches: Mapping[str, Match]
    near: Mapping[str, Match]
    values: Mapping[str, NDArray[np.float32]]
    agreed: int


@dataclass(frozen=True)
class Comparison:
    """Both sides of one picture. ``picture``: what the file was fed, as torch's graph takes it; ``channels_last``: of
    the file's output."""

    network: Network
    candidates: Candidates
    precision: str
    picture: Tensor
    output: Candidate

    def follow(
        self,
        supposed: Mapping[str, Candidate],
        known: Mapping[str, Match] | None = None,
        behind: str | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> Followed:
        """One run. ``supposed``: nodes whose value is taken from the file although it differs; ``known``: matches of an
        earlier run, taken as they are; ``behind``: the node from which on the run may end early, as soon as it is
        clear whether what follows agrees; ``wanted``: nodes whose values are returned."""
        run = _Run(self, supposed, known or {}, behind, wanted)
        with contextlib.suppress(_ClearEnough):
            self.network.run(self.picture, run.replaced)
        return Followed(run.matches, run.near, run.values, run.agreed)

    def plainly(self, matches: Mapping[str, Match]) -> dict[str, Difference]:
        """What the file has against torch's own run, errors of all operators before included."""
        found: dict[str, Difference] = {}

        def compared(name: str, value: Tensor) -> Tensor:
            if name in matches:
                found[name] = self.difference(matches[name].candidate, value)
            return value

        self.network.run(self.picture, compared)
        return found

    def difference(self, candidate: Candidate, value: Tensor) -> Difference:
        """In the file's own units."""
        expected = value.float().numpy()
        actual = self.candidates.read(candidate, value.shape)
        expected = expected * self.factors(candidate, value)
        return difference(expected, actual, self.candidates.trace.specs[candidate.key])

    def in_place_of(self, value: Tensor, candidate: Candidate) -> Tensor:
        """The file's value in torch's units."""
        actual = np.array(self.candidates.read(candidate, value.shape), np.float32)
        return torch.from_numpy(actual / self.factors(candidate, value))

    def factors(self, candidate: Candidate, value: Tensor) -> NDArray[np.float32]:
        """The output is scaled by none."""
        expected = value.float().numpy()
        return np.ones(1, np.float32) if candidate == self.output else self.candidates.factors(candidate, expected)

    def agrees(self, match: Match) -> bool:
        """Whether the file's arithmetic explains the difference."""
        spec = self.candidates.trace.specs[match.candidate.key]
        return match.difference.within(tolerance_db(self.precision, spec))

    @cached_property
    def order(self) -> dict[str, int]:
        """Of torch's nodes."""
        return {name: i for i, name in enumerate(self.network.nodes)}


class _ClearEnough(Exception):  # noqa: N818  # no error: ends a run
    """Whether what follows a supposed value agrees is known."""


class _Run:
    def __init__(
        self,
        comparison: Comparison,
        supposed: Mapping[str, Candidate],
        known: Mapping[str, Match],
        behind: str | None,
        wanted: frozenset[str],
    ) -> None:
        self.comparison, self.supposed, self.known, self.wanted = comparison, supposed, known, wanted
        self.start = None if behind is None else comparison.order[behind]
        self.matches, self.near = dict[str, Match](), dict[str, Match]()
        self.values = dict[str, "NDArray[np.float32]"]()
        self.agreed = self.missed_in_a_row = 0

    def replaced(self, name: str, value: Tensor) -> Tensor:
        if name in self.wanted:
            self.values[name] = value.numpy().copy()
        if name in self.known:
            self.matches[name] = self.known[name]
            return self.comparison.in_place_of(value, self.known[name].candidate)
        if name in self.supposed:
            candidate = self.supposed[name]
            self.matches[name] = Match(candidate, self.comparison.difference(candidate, value))
            return self.comparison.in_place_of(value, candidate)
        match = self._nearest(name, value)
        agrees = match is not None and self.comparison.agrees(match)
        if match is not None:
            (self.matches if agrees else self.near)[name] = match
        self._count(name, agrees=agrees)
        return self.comparison.in_place_of(value, match.candidate) if match is not None and agrees else value

    def _nearest(self, name: str, value: Tensor) -> Match | None:
        network, candidates = self.comparison.network, self.comparison.candidates
        if name == network.picture:
            nearest = candidates.nearest(value.numpy(), frozenset(candidates.trace.inputs))
        elif name == network.output:
            fits = candidates.fits(self.comparison.output, value.shape)
            nearest = [self.comparison.output] if fits else []
        else:
            nearest = candidates.nearest(value.numpy())
        return Match(nearest[0], self.comparison.difference(nearest[0], value)) if nearest else None

    def _count(self, name: str, *, agrees: bool) -> None:
        if self.start is None or self.comparison.order[name] <= self.start:
            return
        self.agreed += agrees
        self.missed_in_a_row = 0 if agrees else self.missed_in_a_row + 1
        if self.agreed >= ENOUGH or self.missed_in_a_row >= PATIENCE:
            raise _ClearEnough
