"""Every error that a user can meet, each with the exit code of the command line.

MobilesegError                      1  a fault of ours
├── UsageError                      2  wrong usage or bad input
│   ├── OptionError                    an option's value is not one that exists or fits
│   ├── SizeError                      a picture size that the network cannot take
│   ├── CheckpointError                the file is missing, unreadable, unsafe, or not one network's
│   │   ├── UnsafeCheckpointError      would have to run code of the file's own to be unpickled
│   │   └── UnknownArchitectureError   no known network, or more than one, has these keys and shapes
│   ├── PictureError                   pictures or labels that are missing, unreadable or too few
│   ├── OutputError                    the output directory cannot be written
│   └── RewriteError                   an operator that no exact rewrite covers
├── GateError                       3  parity or accuracy gate not met
└── UnavailableError                4  a backend, runtime or device is not available here
    └── MissingExtraError              an extra of this package is not installed

A message says what was wrong, what was expected, and the command or option that mends it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MobilesegError(Exception):
    """Base of all; raised itself only for a fault of ours."""

    exit_code = 1


class UsageError(MobilesegError):
    """Wrong usage or bad input."""

    exit_code = 2


class OptionError(UsageError):
    """An option's value is not one that exists or fits."""


class SizeError(UsageError):
    """A picture size that the network cannot take."""


class CheckpointError(UsageError):
    """The checkpoint file is missing, unreadable, or does not hold one network's weights."""


class UnsafeCheckpointError(CheckpointError):
    """The checkpoint would have to run code of its own to be unpickled."""


class UnknownArchitectureError(CheckpointError):
    """No known network, or more than one, has these keys and shapes."""


class PictureError(UsageError):
    """Pictures or labels that are missing, unreadable or too few."""


class OutputError(UsageError):
    """The output directory cannot be written."""


class RewriteError(UsageError):
    """An operator that the target cannot run and that no exact rewrite covers."""


class GateError(MobilesegError):
    """A parity, accuracy or latency gate was not met."""

    exit_code = 3


class UnavailableError(MobilesegError):
    """A backend, runtime or device is not available on this machine."""

    exit_code = 4


class MissingExtraError(UnavailableError):
    """An extra of this package is not installed."""

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(
            f"This needs the Python package that provides '{module}', which is not installed. "
            f"Install it with: pip install 'mobileseg[{extra}]'"
        )
        self.extra = extra


def suggest(word: str, options: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest of ``options``, or nothing."""
    near = difflib.get_close_matches(word.lower(), list(options), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def cannot_convert(converter: str, error: BaseException, others: str = "other targets") -> RewriteError:
    """What a backend's own converter refuses, on one line; ``others`` may not."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return RewriteError(
        f"{converter} cannot convert this network: {said.rstrip('.')}. "
        f"`mobileseg doctor CHECKPOINT` lists what is rewritten and left; {others} may take it."
    )


def unknown_option(kind: str, word: str, options: Iterable[str]) -> OptionError:
    """The error for a word that is none of ``options``, with the nearest one."""
    names = sorted(options)
    return OptionError(f"There is no {kind} '{word}'.{suggest(word, names)} Known: {', '.join(names)}.")
