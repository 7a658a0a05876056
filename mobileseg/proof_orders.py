"""Validation of some of the pictures, by whoever is there: this process, its workers, the machines of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mobileseg import resources, workers
from mobileseg.errors import MobilesegError, UnavailableError
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
            return found_on(self.opening.open(), self.source, self.numbers, self.void, lambda: tell(_DONE, None))
        except MobilesegError as error:
            return error


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
    return [ProofOrder(opening, source.part(numbers), numbers, void) for numbers in dealt]


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


def by_cluster(orders: Sequence[ProofOrder], address: str, done: Done) -> Found:
    """Each order as a task of a Dask cluster; those of workers that are lost are done again by others.

    The cluster's machines must find the artifact, the checkpoint and the pictures under the same paths, and have this
    package. Raises `UnavailableError` where the cluster does not answer or loses a task's workers again and again, and
    what a task met.
    """
    from mobileseg.errors import MissingExtraError

    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingExtraError("cluster", error.name or "distributed") from error
    remedy = "Check --cluster HOST:PORT, its scheduler and its workers."
    try:
        client = distributed.Client(address, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnavailableError(f"The Dask cluster at '{address}' does not answer: {error}. {remedy}") from error
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise UnavailableError(f"The Dask cluster at '{address}' has no workers. {remedy}")
        tasks = [client.submit(_work, order, pure=False, retries=_RETRIES) for order in orders]
        results, pictures = [], 0
        try:
            for task, result in distributed.as_completed(tasks, with_results=True):
                results.append(result)
                pictures += len(orders[tasks.index(task)].numbers)
                done(pictures)
        except distributed.KilledWorker as error:
            raise UnavailableError(
                f"The Dask cluster lost the workers of one task too often: {error}. {remedy}"
            ) from error
    return merged(results)


_PATIENCE = "10s"
_RETRIES = 3


def _work(order: ProofOrder) -> Found | MobilesegError:
    return order.work(lambda word, value: None)
