"""Signal-to-noise ratios in decibels."""

from __future__ import annotations

import math


def power_ratio_db(signal: float, noise: float) -> float:
    """10 log10 of their ratio; infinite where there is no noise, and -infinite where there is nothing but noise."""
    if noise == 0.0:
        return math.inf
    if signal == 0.0 or not math.isfinite(noise):
        return -math.inf
    return 10.0 * math.log10(signal / noise)


def as_plain(decibels: float) -> float | str:
    """JSON has no infinity: ``"infinite"``, and ``"no signal"`` where there is nothing but noise."""
    return decibels if abs(decibels) != math.inf else "infinite" if decibels > 0 else "no signal"


def own_share(own: float | str, accumulated: float | str) -> float | None:
    """Of the noise in a value: what its operator adds, 0 to 1, by the SQNR of the operator alone and of all up to it,
    in dB or as `as_plain` has them. None where it cannot be told.

    The two noises need not add up, so that this is cut off at 1.
    """
    if own == "infinite":
        return 0.0
    if isinstance(own, str) or accumulated == "infinite":
        return None
    return 0.0 if isinstance(accumulated, str) else min(1.0, 10.0 ** ((accumulated - own) / 10.0))
