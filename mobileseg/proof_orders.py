"""Validation of some of the pictures, by whoever is there: this process, its workers, the machines of a cluster
(`mobileseg.proof_cluster`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mobileseg import resources, workers
from mobileseg.errors import MobilesegError
from mobileseg.strips import Worst

if TYPE_CHECKING:
    from mobileseg.sources import PictureSource
    from mobileseg.types import Preprocessing
    from mobileseg.validation.parity import Compared, Reference, Tally
    from mobileseg.validation.runners import Runner

MEMORY = 2 * resources.GIB
"""What one worker may take: two networks with the activations of a 1024x2048 picture."""

WORTH_A_WORKER = 16
"""Pictures; with fewer, a worker's start takes longer than they do."""

_DONE = "done"
Done = Callable[[int], None]
"""Told how many pictures are done."""


@dataclass(frozen=True)
class Sides:
    """Both sides, opened. ``preprocessing``: of the checkpoint; None where the other side is a file. ``threads``: of
    both; with another number the last bits of their sums are others."""

    runner: Runner
    reference: Reference
    preprocessing: Preprocessing | None
    threads: int


class Opening(Protocol):
    """Opens both sides, wherever it is sent."""

    def open(self) -> Sides: ...


@dataclass(frozen=True)
class Found:
    """On some of the pictures."""

    tally: Tally
    worst: Worst


@dataclass(frozen=True)
class ProofOrder:
    """Some of the pictures; ``numbers``: theirs among all. An error of ours is returned, not raised."""

    opening: Opening
    source: PictureSource
    numbers: range
    void: int | None

    def work(self, tell: workers.Tell) -> Found | MobilesegError:
        try:
            return self.found(self.opening.open(), lambda: tell(_DONE, None))
        except MobilesegError as error:
            return error

    def found(self, sides: Sides, one_done: Callable[[], None] = lambda: None) -> Found:
        """By sides that are open."""
        return found_on(sides, self.source, self.numbers, self.void, one_done)

    def found_on_one(self, sides: Sides, number: int) -> Compared:
        """On one picture of these."""
        from mobileseg.validation.parity import compared

        position, labels = self.numbers.index(number), self.source.labels
        with resources.torch_threads(sides.threads):
            return compared(
                sides.reference,
                sides.runner,
                number,
                next(itertools.islice(self.source.pictures(), position, None)),
                None if labels is None else next(itertools.islice(labels(), position, None)),
                void=self.void,
                preprocessing=sides.preprocessing,
            )


def found_on(
    sides: Sides, source: PictureSource, numbers: range, void: int | None, one_done: Callable[[], None]
) -> Found:
    """Run both sides on all pictures of the source, one at a time."""
    from mobileseg.validation.parity import tallied

    worst = Worst()

    def seen(found: Compared) -> None:
        worst.see(found)
        one_done()

    labels = source.labels() if source.labels is not None else None
    with resources.torch_threads(sides.threads):
        tally = tallied(
            sides.reference,
            sides.runner,
            source.pictures(),
            labels,
            void=void,
            preprocessing=sides.preprocessing,
            numbers=numbers,
            seen=seen,
        )
    return Found(tally, worst)


def orders_for(opening: Opening, source: PictureSource, void: int | None, parts: int) -> list[ProofOrder]:
    """The pictures dealt out like cards."""
    if source.part is None:
        return [ProofOrder(opening, source, range(source.count), void)]
    dealt = [range(first, source.count, parts) for first in range(min(parts, source.count))]
    # Parts are not parted again: what that takes are the paths of all.
    return [ProofOrder(opening, replace(source.part(numbers), part=None), numbers, void) for numbers in dealt]


def by_workers(orders: Sequence[ProofOrder], done: Done) -> Found:
    """Each order by a worker of this machine. Raises what a worker met, `MobilesegError` for one that died."""
    counted = _Counter(done)
    results = workers.run(orders, len(orders), lambda number, word, value: counted.one())
    for result in results:
        if isinstance(result, workers.Death):
            hint = " Likely there was too little memory: try --jobs 1." if result.killed else ""
            raise MobilesegError(f"A process that compared pictures {result.how}.{hint}")
    return merged(results)


def merged(results: Sequence[Found | MobilesegError]) -> Found:
    """What was found in all; the same in any order. Raises the first error."""
    for result in results:
        if isinstance(result, MobilesegError):
            raise result
    first, *others = (result for result in results if isinstance(result, Found))
    for other in others:
        first.tally.merge(other.tally)
        first.worst.merge(other.worst)
    return first


class _Counter:
    """Adds up what threads tell."""

    def __init__(self, done: Done) -> None:
        self.count, self.done = 0, done

    def one(self) -> None:
        self.count += 1
        self.done(self.count)
