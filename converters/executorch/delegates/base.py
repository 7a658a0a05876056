"""What a delegate is: whom the program is handed to, and how to learn what was left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

Reason = tuple[str, str]
"""An operator, ``"aten.avg_pool2d.default"``, and why it is left."""


Removed = Mapping[bytes, Mapping[str, int]]
"""For each payload that was compiled, how many operators of each kind were removed from what ExecuTorch would have
written, as the delegate names them."""


@dataclass(frozen=True)
class Delegate:
    """``partitioners`` makes ExecuTorch's partitioners anew for each program; none of them: portable kernels alone.

    ``loggers`` are those to which the partitioner tells, at ``level``, what it leaves; ``reason`` reads one of their
    records, ``otherwise`` is the reason where they say none, and empty where nothing is meant to be taken. ``prepare``
    returns the program's module as the delegate reads it. ``compiling`` surrounds the lowering to a precision, with
    `Lowering.float32_share`, and its value says what it removed; ``narrows``: it makes float16 of a float32
    program itself. ``finish`` gets the payload (the bytes that the delegate is called with) and returns it in a form
    that depends on the program alone. ``rounded``: the weights of an operator that it makes int8 in dynamic files.
    ``modules`` and ``extra``: what it needs beyond ExecuTorch.
    """

    name: str
    partitioners: Callable[[], list[Any]]
    otherwise: str
    loggers: Sequence[str] = ()
    level: int = logging.INFO
    reason: Callable[[logging.LogRecord], Reason | None] = lambda record: None
    narrows: bool = False
    prepare: Callable[[GraphModule], GraphModule] = lambda module: module
    compiling: Callable[[str, float], AbstractContextManager[Removed]] = lambda precision, share: nullcontext({})
    finish: Callable[[bytes], bytes] = lambda payload: payload
    rounded: Callable[[Node], Node | None] = lambda node: None
    modules: Sequence[str] = ()
    extra: str = "executorch"


class _Listener(logging.Handler):
    def __init__(self, reason: Callable[[logging.LogRecord], Reason | None]) -> None:
        super().__init__(logging.DEBUG)
        self.reason = reason
        self.reasons: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        found = self.reason(record)
        if found is not None:
            self.reasons.setdefault(*found)


@contextmanager
def listening(delegate: Delegate) -> Iterator[dict[str, str]]:
    """What the delegate's partitioner says of operators that it leaves, filled while the context lasts; nothing of it
    is printed."""
    listener = _Listener(delegate.reason)
    loggers = [logging.getLogger(name) for name in delegate.loggers]
    before = [(logger.level, logger.propagate, logger.handlers) for logger in loggers]
    for logger in loggers:
        logger.handlers = [listener]
        logger.setLevel(delegate.level)
        logger.propagate = False
    try:
        yield listener.reasons
    finally:
        for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagate
