"""Which values of a file could be a value of torch's graph, told from samples of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mobileseg.validation.bisect.factors import channel_at, factors, factors_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobileseg.validation.traces import Step, Trace

SAMPLES = 8192
"""Numbers of a value that stand for all of it when candidates are compared."""

_NCHW = (0, 3, 1, 2)


@dataclass(frozen=True)
class Candidate:
    """A value of a file. ``channels_last``: it is to be read as NHWC."""

    key: str
    channels_last: bool


@dataclass(frozen=True)
class Candidates:
    """All values of a trace, by the shapes that they can have in torch. ``scaled``: their channels may be torch's times
    factors (`factors`), all but those of the file's inputs."""

    trace: Trace
    scaled: bool = False

    def nearest(self, expected: NDArray[np.float32], among: frozenset[str] | None = None) -> list[Candidate]:
        """Those of the value's shape, the nearest first. ``among``: the keys that are asked about; None for all."""
        shape = _squeezed(expected.shape)
        found = [(c, s) for c, s in self._by_shape.get(shape, ()) if among is None or c.key in among]
        if not found:
            return []
        own = expected.reshape(-1)[positions(expected.size)].astype(np.float64)
        channels = channel_at(positions(expected.size), expected.shape)
        errors = []
        for candidate, sample in found:
            if self.scaled and candidate.key not in self.trace.inputs:
                sample = sample / factors_of(channels, own, sample)
            errors.append(float(np.square(sample - own).sum()))
        # Of equals the first: an operator's own result, and then its copies.
        order = sorted(range(len(found)), key=lambda i: (_number(errors[i]), i))
        return [found[i][0] for i in order]

    def factors(self, candidate: Candidate, expected: NDArray[np.float32]) -> NDArray[np.float32]:
        """What torch's value is to be multiplied by, channel by channel, to be the file's; broadcasts to its shape."""
        if not self.scaled or candidate.key in self.trace.inputs:
            return np.ones((1,) * expected.ndim, np.float32)
        return factors(expected, self.read(candidate, expected.shape))

    def fits(self, candidate: Candidate, shape: Sequence[int]) -> bool:
        """Whether the value can be read as one of ``shape``."""
        own = self.trace.specs[candidate.key].shape
        if candidate.channels_last:
            own = tuple(own[axis] for axis in _NCHW)
        return _squeezed(own) == _squeezed(shape)

    def read(self, candidate: Candidate, shape: Sequence[int]) -> NDArray[np.float32]:
        """The value as torch has it, of ``shape``."""
        return self._laid(candidate).reshape(shape)

    def _laid(self, candidate: Candidate) -> NDArray[np.float32]:
        value = self.trace.value(candidate.key)
        return np.ascontiguousarray(value.transpose(_NCHW) if candidate.channels_last else value)

    @cached_property
    def _by_shape(self) -> dict[tuple[int, ...], list[tuple[Candidate, NDArray[np.float64]]]]:
        found: dict[tuple[int, ...], list[tuple[Candidate, NDArray[np.float64]]]] = {}
        for candidate in self._all():
            laid = self._laid(candidate)
            sample = laid.reshape(-1)[positions(laid.size)].astype(np.float64)
            found.setdefault(_squeezed(laid.shape), []).append((candidate, sample))
        return found

    def _all(self) -> Iterator[Candidate]:
        whole = only_read_rounded(self.trace)
        for key in ordered_keys(self.trace):
            if key in whole:
                continue
            rank = len(self.trace.specs[key].shape)
            yield Candidate(key, channels_last=False)
            if rank == len(_NCHW):
                yield Candidate(key, channels_last=True)


def ordered_keys(trace: Trace) -> Iterable[str]:
    """Inputs, then what the steps give, each once."""
    return dict.fromkeys([*trace.inputs, *(key for step in trace.steps for key in step.outputs if key in trace.specs)])


def only_read_rounded(trace: Trace) -> frozenset[str]:
    """Floating-point values that nothing but their rounding to a scale reads: to all that follows, the rounded one is
    the value. First maxima, for one, are at other places of it."""
    readers: dict[str, list[Step]] = {}
    for step in trace.steps:
        for key in step.inputs:
            readers.setdefault(key, []).append(step)
    kept = {*trace.inputs, *trace.outputs}
    return frozenset(
        key
        for key, steps in readers.items()
        if key not in kept and all(_is_rounding(trace, key, step) for step in steps)
    )


def _is_rounding(trace: Trace, key: str, step: Step) -> bool:
    """Whether the step gives the value on a scale's steps, which it is not on itself."""
    own = trace.specs.get(key)
    if own is None or own.scale is not None or step.inputs != (key,) or len(step.outputs) != 1:
        return False
    given = trace.specs.get(step.outputs[0])
    return given is not None and given.scale is not None and given.shape == own.shape


def positions(count: int) -> NDArray[np.int64]:
    """Where a value of ``count`` numbers is sampled: the same places for all of this size."""
    if count <= SAMPLES:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).choice(count, SAMPLES, replace=False))


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _number(error: float) -> float:
    return error if np.isfinite(error) else np.inf
