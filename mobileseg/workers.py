"""Several orders at once, each in a process of its own, so that one that fails, or takes its process down, loses
nothing of the others.

A worker is ``python -m mobileseg.workers``: not a fork (torch's and the converters' threads do not survive one) and not
multiprocessing's spawn (which would run the caller's script again). It gets its order pickled on stdin and tells what
happens and its result, pickled, on stdout; what libraries print goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from mobileseg import resources

Tell = Callable[[str, Any], None]
"""Called with a word and a value that can be pickled."""

_RESULT = "result"


class Order(Protocol):
    """What a worker does. Can be pickled."""

    def work(self, tell: Tell) -> Any:
        """The result, which can be pickled; ``tell`` reaches the caller of `run` at once."""


@dataclass(frozen=True)
class Death:
    """A worker that ended without a result. ``how``: "was ended by SIGKILL"; ``killed``: by the system, for want of
    memory most likely."""

    how: str
    killed: bool


def how_many(tasks: int, memory: int) -> int:
    """Workers for so many tasks, of so many bytes each, within the cores and the memory that are free."""
    available = resources.available_memory()
    fitting = tasks if available is None else available // memory
    return max(1, min(tasks, resources.cores(), fitting))


def run(orders: Sequence[Order], workers: int, heard: Callable[[int, str, Any], None]) -> list[Any]:
    """The result of each order or its `Death`, in their order. ``heard``: what order number so many tells, from threads
    of its own. An exception here (Ctrl-C) ends the workers."""
    processes: list[subprocess.Popen[bytes]] = []

    def work(number: int) -> Any:
        process = subprocess.Popen(
            # -P: the current folder is no place to import from, a user's onnx.py would be found there.
            [sys.executable, "-P", "-m", "mobileseg.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(workers),
            # Ctrl-C in a terminal reaches all processes of a group: the first one ends the others itself.
            start_new_session=True,
        )
        processes.append(process)
        return _told(process, orders[number], lambda word, value: heard(number, word, value))

    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(work, range(len(orders))))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        pool.shutdown()
        for process in processes:
            process.wait()


def _environment(workers: int) -> dict[str, str]:
    """Each worker has its share of the cores, and finds the packages that this process finds."""
    threads = str(max(1, resources.cores() // workers))
    return {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _told(process: subprocess.Popen[bytes], order: Order, heard: Tell) -> Any:
    """Send the order, pass on what is told, return the result."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:  # both are pipes, see `run`
        raise TypeError("the worker has no pipes")
    with process:
        try:
            pickle.dump(order, stdin)
            stdin.close()
            while True:
                word, value = pickle.load(stdout)
                if word == _RESULT:
                    return value
                heard(word, value)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return _death(process.wait())


def _death(status: int) -> Death:
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return Death(how, status == -signal.SIGKILL)


def _main() -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def tell(word: str, value: Any) -> None:
        pickle.dump((word, value), answer)
        answer.flush()

    order: Order = pickle.load(sys.stdin.buffer)
    tell(_RESULT, order.work(tell))


if __name__ == "__main__":
    _main()
