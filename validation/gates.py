"""Gates: the limits that a file must keep for its precision, and whether it keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobileseg.errors import OptionError
from mobileseg.types import Gate, GateLimits, NotRun

if TYPE_CHECKING:
    from mobileseg.validation.parity import ParityResult

DEFAULTS = {
    "fp32": GateLimits(min_agreement=0.9999, min_sqnr_db=60.0),
    "fp16": GateLimits(min_agreement=0.995),
    **dict.fromkeys(
        ("int8", "w8a16", "w8", "dynamic", "w4", "palette4", "palette6", "palette8"),
        GateLimits(min_agreement=0.97, max_miou_drop=1.0),
    ),
}
"""Limits by precision: shares of pixels from 0 to 1, dB, points of mIoU (hundredths)."""

OWN_NOISE_DB = 3.0
"""Where float32 itself determines the checkpoint's logits to no more than the default SQNR, the file may add as much
noise again: twice the power is 3 dB."""


@dataclass(frozen=True)
class _Rule:
    """``upper``: the limit is the largest value allowed, not the smallest."""

    name: str
    limit: Callable[[GateLimits], float | None]
    value: Callable[[ParityResult], float | NotRun]
    upper: bool
    applies: Callable[[ParityResult], bool]
    attainable: Callable[[float, ParityResult], float] = lambda default, result: default
    """The default limit, or what the checkpoint itself makes possible where that is less."""


def apply_gates(result: ParityResult, precision: str, limits: GateLimits | None = None) -> tuple[Gate, ...]:
    """The gates of a file of ``precision``: each limit given, and the default where none is.

    A default does not apply to what a file cannot show: SQNR where it returns classes, mIoU without labels. A limit
    that the caller gave applies always. A value that was not measured does not pass.
    Raises `OptionError` for a precision without defaults when no least agreement is given.
    """
    given = limits or GateLimits()
    if precision not in DEFAULTS and given.min_agreement is None:
        raise OptionError(
            f"There are no default gates for precision '{precision}' (known: {', '.join(sorted(DEFAULTS))}). "
            "Give a least pixel agreement from 0 to 1: --min-agreement."
        )
    defaults = DEFAULTS.get(precision, GateLimits())
    chosen = ((rule, _limit(rule, given, defaults, result)) for rule in _RULES)
    return tuple(_gate(rule, limit, rule.value(result)) for rule, limit in chosen if limit is not None)


def all_passed(gates: tuple[Gate, ...]) -> bool:
    """Whether there is a gate at all and every one passed."""
    return bool(gates) and all(gate.passed for gate in gates)


def _limit(rule: _Rule, given: GateLimits, defaults: GateLimits, result: ParityResult) -> float | None:
    asked = rule.limit(given)
    if asked is not None or not rule.applies(result):
        return asked
    default = rule.limit(defaults)
    return None if default is None else rule.attainable(default, result)


def _gate(rule: _Rule, limit: float, value: float | NotRun) -> Gate:
    if isinstance(value, NotRun):
        return Gate(rule.name, limit, None, passed=False)
    return Gate(rule.name, limit, value, passed=value <= limit if rule.upper else value >= limit)


def _sqnr(result: ParityResult) -> float | NotRun:
    return result.errors if isinstance(result.errors, NotRun) else result.errors.sqnr_db


def _attainable_sqnr(default: float, result: ParityResult) -> float:
    own = result.reference_sqnr_db
    return default if isinstance(own, NotRun) else min(default, own - OWN_NOISE_DB)


def _miou_drop(result: ParityResult) -> float | NotRun:
    if isinstance(result.scores, NotRun):
        return result.scores
    # Rounded to a millionth of a point, so that a drop of exactly the limit is not lost to binary fractions.
    return round(100.0 * (result.scores.miou_reference - result.scores.miou_artifact), 6)


_RULES = (
    _Rule(
        name="pixel_agreement",
        limit=lambda limits: limits.min_agreement,
        value=lambda result: result.agreement.pixels,
        upper=False,
        applies=lambda result: True,
    ),
    _Rule(
        name="sqnr_db",
        limit=lambda limits: limits.min_sqnr_db,
        value=_sqnr,
        upper=False,
        applies=lambda result: result.head != "argmax",
        attainable=_attainable_sqnr,
    ),
    _Rule(
        name="miou_drop_points",
        limit=lambda limits: limits.max_miou_drop,
        value=_miou_drop,
        upper=True,
        applies=lambda result: not isinstance(result.scores, NotRun),
    ),
)
