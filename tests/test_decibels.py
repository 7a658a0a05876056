from __future__ import annotations

import math

import pytest

from mobileseg.decibels import as_plain, own_share, power_ratio_db


def test_ratios_of_powers() -> None:
    assert power_ratio_db(100.0, 1.0) == pytest.approx(20.0)
    assert power_ratio_db(0.0, 0.0) == power_ratio_db(1.0, 0.0) == math.inf
    assert power_ratio_db(0.0, 1.0) == power_ratio_db(1.0, math.nan) == power_ratio_db(1.0, math.inf) == -math.inf


def test_what_json_has_for_them() -> None:
    assert [as_plain(x) for x in (12.5, math.inf, -math.inf)] == [12.5, "infinite", "no signal"]


@pytest.mark.parametrize(
    ("own", "accumulated", "share"),
    [
        (40.0, 20.0, 0.01),
        (20.0, 20.0, 1.0),
        (20.0, 23.0, 1.0),
        ("infinite", 20.0, 0.0),
        (20.0, "no signal", 0.0),
        ("no signal", 20.0, None),
        (20.0, "infinite", None),
    ],
)
def test_whose_noise_it_is(own: float | str, accumulated: float | str, share: float | None) -> None:
    assert own_share(own, accumulated) == (None if share is None else pytest.approx(share))
