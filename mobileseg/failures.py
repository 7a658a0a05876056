"""How a command says that it did not get done: one paragraph on stderr, and with ``--json`` one object on stdout."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobileseg.errors import MobilesegError

if TYPE_CHECKING:
    from mobileseg.interruption import Interruption
    from mobileseg.noise import Log


@dataclass(frozen=True)
class Failures:
    """``as_json`` and ``verbose``: whether these options were given. Each method returns the exit code."""

    as_json: bool
    verbose: bool

    def told(self, error: MobilesegError, exit_code: int) -> int:
        """An error whose message says all."""
        if self.verbose:
            traceback.print_exception(error)
        return self._say(type(error).__name__, str(error), exit_code)

    def interrupted(self, interruption: Interruption) -> int:
        """Ctrl-C, or the system's request to end."""
        return self._say("Interrupted", "Interrupted. Nothing unfinished was left behind.", interruption.exit_code)

    def fault(self, error: Exception, log: Log) -> int:
        """A defect of ours or of a library: the traceback goes to the log, which is to be kept."""
        log.keep("".join(traceback.format_exception(error)))
        if self.verbose:
            traceback.print_exception(error)
        name = type(error).__name__
        cause = f"{name}: {error}".splitlines()[0]
        return self._say(
            name,
            f"mobileseg failed where it should not have ({cause}). Please report this as a bug, with the command and "
            f"the log, which is kept in '{log.path}'; --verbose shows the traceback.",
            MobilesegError.exit_code,
        )

    def _say(self, kind: str, message: str, exit_code: int) -> int:
        print(f"Error: {message}" if kind != "Interrupted" else message, file=sys.stderr)
        if self.as_json:
            print(json.dumps({"error": {"type": kind, "message": message, "exit_code": exit_code}}))
        return exit_code
