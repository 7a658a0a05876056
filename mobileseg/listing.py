"""What there is to choose from, as the registry has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mobileseg import registry
from mobileseg.errors import unknown_option


@dataclass(frozen=True)
class Listing:
    """A table: ``rows`` of one text for each of ``columns``."""

    kind: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def listing(kind: str) -> Listing:
    """All architectures with their variants, targets, precisions or devices. Raises `OptionError` for another word."""
    if kind not in _LISTINGS:
        raise unknown_option("list of", kind, _LISTINGS)
    columns, rows = _LISTINGS[kind]
    return Listing(kind, columns, rows())


def _architectures() -> list[tuple[str, ...]]:
    return [(v.architecture, v.name, v.summary, v.source) for v in registry.variants()]


def _targets() -> list[tuple[str, ...]]:
    targets = [registry.target(name) for name in registry.TARGETS]
    return [(t.name, t.suffix, ", ".join(t.precisions), t.input_layout, f"mobileseg[{t.extra}]") for t in targets]


def _precisions() -> list[tuple[str, ...]]:
    targets = [registry.target(name) for name in registry.TARGETS]
    return [
        (name, summary, ", ".join(t.name for t in targets if name in t.precisions))
        for name, summary in registry.PRECISIONS.items()
    ]


def _devices() -> list[tuple[str, ...]]:
    return [
        (registry.HOST, "this machine's CPU"),
        *((name, registry.device(name).SUMMARY) for name in registry.DEVICES),
    ]


_LISTINGS: Mapping[str, tuple[tuple[str, ...], Callable[[], list[tuple[str, ...]]]]] = {
    "architectures": (("architecture", "variant", "summary", "source"), _architectures),
    "targets": (("target", "suffix", "precisions", "input", "needs"), _targets),
    "precisions": (("precision", "summary", "targets"), _precisions),
    "devices": (("device", "summary"), _devices),
}
