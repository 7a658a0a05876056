"""Sets of channels that must be scaled alike."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

PINNED = 0
"""The set of all that must stay as it is."""


class Classes:
    """A union-find over numbers, each of which stands for one channel of one value.

    What a value's channels are is a tensor of such numbers, int64, with as many dimensions as the value and of size one
    wherever the number does not change: (1, C, 1, 1) for a value (N, C, H, W).
    """

    def __init__(self) -> None:
        self._parents = [PINNED]

    def new(self, *shape: int) -> Tensor:
        """Numbers that are joined to no other."""
        start = len(self._parents)
        ids = torch.arange(start, start + torch.Size(shape).numel()).reshape(shape)
        self._parents.extend(ids.flatten().tolist())
        return ids

    def pinned(self, dimensions: int) -> Tensor:
        """What stands for a value all of which must stay as it is."""
        return torch.full((1,) * dimensions, PINNED)

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Make every pair alike, after broadcasting; the broadcast numbers."""
        first, second = torch.broadcast_tensors(first, second)
        pairs = torch.stack((first.flatten(), second.flatten()), dim=1).unique(dim=0)
        for a, b in pairs.tolist():
            a, b = self._root(a), self._root(b)
            # The smaller number is the root, so that the pinned set keeps its own.
            self._parents[max(a, b)] = min(a, b)
        return first

    def pin(self, ids: Tensor) -> None:
        self.join(ids, torch.tensor(PINNED))

    def merged(self, ids: Tensor, dimensions: Iterable[int]) -> Tensor:
        """The numbers after all along these dimensions were joined: of size one there."""
        for dimension in dimensions:
            first = ids.narrow(dimension, 0, 1)
            if ids.shape[dimension] > 1:
                self.join(ids, first)
            ids = first
        return ids

    def roots(self, ids: Tensor) -> Tensor:
        """The number that stands for the set of each."""
        values, places = ids.unique(return_inverse=True)
        return torch.tensor([self._root(i) for i in values.tolist()])[places]

    def are_pinned(self, ids: Tensor) -> bool:
        return bool((self.roots(ids) == PINNED).all())

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number


def compressed(ids: Tensor) -> Tensor:
    """Of size one along every dimension along which nothing changes."""
    for dimension in range(ids.ndim):
        first = ids.narrow(dimension, 0, 1)
        if bool((ids == first).all()):
            ids = first
    return ids
