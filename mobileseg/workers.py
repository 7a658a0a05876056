"""Several tasks at once, each in a process of its own, so that one that fails, or takes its process down, loses
nothing of the others.

A worker is ``python -m mobileseg.workers``: not a fork (torch's and the converters' threads do not survive one) and not
multiprocessing's spawn (which would run the caller's script again). It gets its order pickled on stdin and tells its
stages and its result, pickled, on stdout; what libraries print goes to stderr.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mobileseg import resources
from mobileseg.making import Failure, Made, Progress, Task, attempt

if TYPE_CHECKING:
    from mobileseg.converters.export import Exported
    from mobileseg.types import Rewrite

MEMORY = 3 * resources.GIB
"""What one worker may take: the largest seen was 2.2 GiB (EdgeNets ESPNetV2 s=2.0 at 512x1024, TFLite)."""


@dataclass(frozen=True)
class Shared:
    """What all workers read: the exported program's file, what tracing resolved, the folder of recorded logits."""

    program: Path
    rewrites: tuple[Rewrite, ...]
    reference: Path


def how_many(tasks: int) -> int:
    """Workers for so many tasks within the cores and the memory that are free."""
    memory = resources.available_memory()
    fitting = tasks if memory is None else memory // MEMORY
    return max(1, min(tasks, resources.cores(), fitting))


def share(exported: Exported, folder: Path) -> Shared:
    """Write the program into ``folder``, where the reference's logits are to be recorded, too."""
    import torch

    path, reference = folder / "program.pt2", folder / "reference"
    reference.mkdir()
    torch.export.save(exported.program, path)
    return Shared(path, exported.rewrites, reference)


def run(tasks: Sequence[Task], shared: Shared, workers: int, progress: Progress) -> list[Made | Failure]:
    """The result of each task, in their order. An exception here (Ctrl-C) ends the workers."""
    processes: list[subprocess.Popen[bytes]] = []

    def work(task: Task) -> Made | Failure:
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
        return _told(process, task, shared, progress)

    pool = ThreadPoolExecutor(workers)
    try:
        return list(pool.map(work, tasks))
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


def _told(process: subprocess.Popen[bytes], task: Task, shared: Shared, progress: Progress) -> Made | Failure:
    """Send the order, show the stages, return the result."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:  # both are pipes, see `run`
        raise TypeError("the worker has no pipes")
    with ExitStack() as stage, process:
        try:
            pickle.dump((task, shared), stdin)
            stdin.close()
            while True:
                word, value = pickle.load(stdout)
                stage.close()
                if word == "result":
                    result: Made | Failure = value
                    return result
                if word == "begin":
                    stage.enter_context(progress(value))
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return _death(task, process.wait())


def _death(task: Task, status: int) -> Failure:
    """A worker that ended without a word."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    hint = (
        " Likely there was too little memory: try --jobs 1, or a smaller --size." if status == -signal.SIGKILL else ""
    )
    return Failure("WorkerError", f"The process that made {task.final.name} {how}.{hint}", 1, "")


def _main() -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task, shared = pickle.load(sys.stdin.buffer)
    _send(answer, "result", _work(task, shared, answer))


def _work(task: Task, shared: Shared, answer: IO[bytes]) -> Made | Failure:
    import torch

    from mobileseg.converters.export import Exported
    from mobileseg.validation.parity import recorded

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        _send(answer, "begin", name)
        yield
        _send(answer, "end", name)

    exported = Exported(torch.export.load(shared.program), shared.rewrites)
    return attempt(task, exported, recorded(shared.reference), stage)


def _send(answer: IO[bytes], word: str, value: Any) -> None:
    pickle.dump((word, value), answer)
    answer.flush()


if __name__ == "__main__":
    _main()
