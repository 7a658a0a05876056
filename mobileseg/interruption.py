"""Ctrl-C and the system's request to end, so that both unwind the program and leave nothing half-written."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

KEYBOARD_INTERRUPT = 128 + signal.SIGINT
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 5.0
"""Seconds after a signal in which another one is not heard, so that an impatient Ctrl-C does not cut off the tidying
up."""


@dataclass
class Interruption:
    """Which signal came first, if any, and when. Remembered, since libraries turn the exception into others of their
    own."""

    received: int | None = None
    when: float = 0.0

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + (self.received or signal.SIGINT)

    def raise_for(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is not None and now - self.when < PATIENCE:
            return
        self.received, self.when = self.received or number, now
        raise KeyboardInterrupt


@contextmanager
def watched() -> Iterator[Interruption]:
    """Both signals raise `KeyboardInterrupt` in the main thread, from which this must be called."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.raise_for) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if interruption.received is not None:
            # CPython remembers that a KeyboardInterrupt left a text that was run, as torch runs what it generates, and
            # then ends `python -m` by SIGINT whatever the program returns. Running another text makes it forget.
            exec("")
