"""The oldest runtime of a file is that of its newest operator."""

from __future__ import annotations

from mobileseg.types import NotRun
from mobileseg.validation.graphs.tflite_versions import SINCE, oldest_runtime


def test_the_newest_operator_decides() -> None:
    found = oldest_runtime([("CONV_2D", 3), ("DEPTH_TO_SPACE", 2), ("FULLY_CONNECTED", 2), ("RESIZE_BILINEAR", 4)])
    assert found == "TensorFlow Lite 2.5 (DEPTH_TO_SPACE, version 2; RESIZE_BILINEAR, version 4)"


def test_releases_are_compared_as_numbers() -> None:
    assert oldest_runtime([("FULLY_CONNECTED", 2), ("PRELU", 1)]) == "TensorFlow Lite 1.10 (FULLY_CONNECTED, version 2)"


def test_a_version_that_no_release_first_had_is_that_of_the_next() -> None:
    assert oldest_runtime([("FULLY_CONNECTED", 3)]) == "TensorFlow Lite 1.14 (FULLY_CONNECTED, version 3)"


def test_what_the_table_has_not_is_named() -> None:
    for asked in (("CUSTOM", 1), ("CONV_2D", 99)):
        found = oldest_runtime([("ADD", 1), asked])
        assert isinstance(found, NotRun)
        assert f"{asked[0]}, version {asked[1]}" in found.why
    assert isinstance(oldest_runtime([]), NotRun)


def test_the_table_is_in_order() -> None:
    for versions in SINCE.values():
        numbers = [version for version, _ in versions]
        releases = [tuple(map(int, release.split("."))) for _, release in versions]
        assert numbers == sorted(numbers)
        assert releases == sorted(releases)
