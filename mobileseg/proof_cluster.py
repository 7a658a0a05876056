"""Validation by the workers of a Dask cluster that is there already. Needs the extra ``cluster``."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobileseg.errors import MissingExtraError, MobilesegError, UnavailableError
from mobileseg.proof_orders import Done, Found, Opening, ProofOrder, Sides
from mobileseg.strips import MOST, Worst

try:
    import distributed
except ModuleNotFoundError as error:
    raise MissingExtraError("cluster", error.name or "distributed") from error

if TYPE_CHECKING:
    from mobileseg.validation.parity import Tally

_PATIENCE = "10s"
_RETRIES = 3
_REMEDY = "Check --cluster HOST:PORT, its scheduler and its workers."


@dataclass(frozen=True)
class _Told:
    """What a task sends back: ``worst`` are shares of agreement with their pictures' numbers, and not the pictures,
    which would be most of the traffic."""

    tally: Tally
    worst: list[tuple[float, int]]


class _Openings(distributed.WorkerPlugin):
    """Both sides, opened once on each worker (once for each of its threads) and closed when the validation ends."""

    def __init__(self, opening: Opening) -> None:
        self.opening, self.name = opening, f"mobileseg-{uuid.uuid4()}"
        self.idle: list[Sides] = []

    def teardown(self, worker: Any) -> None:
        self.idle.clear()

    @contextmanager
    def sides(self) -> Iterator[Sides]:
        """Those that no other task is using."""
        try:
            taken = self.idle.pop()
        except IndexError:
            taken = self.opening.open()
        yield taken
        self.idle.append(taken)


def by_cluster(orders: Sequence[ProofOrder], sides: Sides, address: str, done: Done) -> Found:
    """Each order as a task; those of workers that are lost are done again by others. ``sides``: opened here, for the
    pictures of least agreement, which are looked at again.

    The cluster's machines must find the artifact, the checkpoint and the pictures under the same paths, and have this
    package. Raises `UnavailableError` where the cluster does not answer or loses a task's workers again and again, and
    what a task met.
    """
    try:
        client = distributed.Client(address, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnavailableError(f"The Dask cluster at '{address}' does not answer: {error}. {_REMEDY}") from error
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise UnavailableError(f"The Dask cluster at '{address}' has no workers. {_REMEDY}")
        openings = _Openings(orders[0].opening)
        client.register_plugin(openings)
        try:
            tally, worst = _gathered(client, orders, openings.name, done)
        except distributed.KilledWorker as error:
            raise UnavailableError(
                f"The Dask cluster lost the workers of one task too often: {error}. {_REMEDY}"
            ) from error
        finally:
            client.unregister_worker_plugin(openings.name)
    shown = Worst()
    for _, number in worst:
        order = next(order for order in orders if number in order.numbers)
        shown.see(order.found_on_one(sides, number))
    return Found(tally, shown)


def _gathered(
    client: Any, orders: Sequence[ProofOrder], openings: str, done: Done
) -> tuple[Tally, list[tuple[float, int]]]:
    """What all tasks tell, added up as it comes: it takes no more memory for more of them."""
    tasks = {client.submit(_work, openings, order, pure=False, retries=_RETRIES): order for order in orders}
    total: Tally | None = None
    worst: list[tuple[float, int]] = []
    pictures = 0
    for task, told in distributed.as_completed(tasks, with_results=True):
        if isinstance(told, MobilesegError):
            raise told
        if total is None:
            total = told.tally
        else:
            total.merge(told.tally)
        worst = sorted([*worst, *told.worst])[:MOST]
        pictures += len(tasks.pop(task).numbers)
        done(pictures)
    if total is None:
        raise MobilesegError("The Dask cluster was given no pictures.")
    return total, worst


def _work(openings: str, order: ProofOrder) -> _Told | MobilesegError:
    """On a worker."""
    plugin: _Openings = distributed.get_worker().plugins[openings]
    try:
        with plugin.sides() as sides:
            found = order.found(sides)
    except MobilesegError as error:
        return error
    return _Told(found.tally, [(share, number) for share, number, _ in found.worst.kept])
