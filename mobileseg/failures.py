"""How a command says that it did not get done: one paragraph on stderr, with ``--json`` one object on stdout too."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import dataclass

from mobileseg.errors import MobilesegError
from mobileseg.noise import Log


@dataclass(frozen=True)
class Failures:
    """``as_json`` and ``verbose``: whether these options were given."""

    as_json: bool
    verbose: bool

    def told(self, kind: str, message: str, exit_code: int) -> int:
        """Returns ``exit_code``."""
        print(f"Error: {message}", file=sys.stderr)
        if self.as_json:
            print(json.dumps({"error": {"type": kind, "message": message, "exit_code": exit_code}}))
        return exit_code

    def interrupted(self, exit_code: int) -> int:
        return self.told("Interrupted", "Interrupted; nothing half-written was left.", exit_code)

    def fault(self, error: Exception, log: Log) -> int:
        """A defect of ours or of a library: the traceback goes to the log, which is kept."""
        trace = "".join(traceback.format_exception(error))
        log.add(trace)
        if self.verbose:
            print(trace, file=sys.stderr)
        cause = str(error).strip().splitlines() or [""]
        return self.told(
            type(error).__name__,
            f"mobileseg failed where it should not have ({type(error).__name__}: {cause[0]}). "
            f"Please report this as a bug, with the command and the log '{log.path}'; --verbose shows the traceback.",
            MobilesegError.exit_code,
        )
