"""A process that has loaded a file, somewhere else, and answers tensor after tensor (`arm64_worker`)."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from mobileseg.errors import UnavailableError, UsageError
from mobileseg.validation.devices import arm64_worker

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TAIL_BYTES = 4096
"""Of what a worker said on stderr, which is enough for its last line."""


@dataclass(frozen=True)
class Worker:
    """``what``: the file and the device, as a sentence's subject; ``said``: the process's stderr, a file."""

    what: str
    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def answer(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The file's first output for an input tensor. Raises as `receive` does."""
        try:
            arm64_worker.send(_pipe(self.process.stdin), tensor)
        except BrokenPipeError:
            raise self.fault() from None
        return self.receive()

    def receive(self) -> NDArray[Any]:
        """The next message. Raises `UsageError` where the runtime refuses the file or the tensor, `UnavailableError`
        where its process was ended."""
        answer: NDArray[Any] | None = arm64_worker.receive(_pipe(self.process.stdout))
        if answer is None:
            raise self.fault()
        return answer

    def fault(self) -> UsageError | UnavailableError:
        """Why there is no answer."""
        status = self.process.wait()
        self.said.seek(-min(self.said.seek(0, 2), _TAIL_BYTES), 2)
        lines = [line.strip() for line in self.said.read().decode(errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1].rstrip('.')}" if lines else ""
        if status < 0:
            return UnavailableError(f"{self.what} was ended by {signal.Signals(-status).name}{last}.")
        return UsageError(f"{self.what} failed with status {status}{last}.")


def start(what: str, command: Sequence[str], environment: Mapping[str, str]) -> Worker:
    """The process that ``command`` starts, once it has loaded its file; it ends with the `Worker`. Raises as
    `Worker.receive` does."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 closed with the worker
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=dict(environment),
        # Ctrl-C in a terminal reaches all processes of a group: this one ends the worker itself.
        start_new_session=True,
    )
    worker = Worker(what, process, said)
    weakref.finalize(worker, _end, process, said)
    worker.receive()
    return worker


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    process.kill()
    process.communicate()
    said.close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:  # both are pipes, see `start`
        raise TypeError("the worker has no pipes")
    return stream
