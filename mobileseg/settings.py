"""What a user says about a network that its weights cannot: the preprocessing, by name, file or single figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mobileseg import registry
from mobileseg.errors import OptionError, unknown_option
from mobileseg.types import Preprocessing

_FIELDS = tuple(f.name for f in fields(Preprocessing))


def resolve_preprocessing(
    asked: Preprocessing | str | Path | None, default: Preprocessing, overrides: Mapping[str, Any]
) -> Preprocessing:
    """The preprocessing asked for (a name of the registry or a JSON file with its fields), else the default, with
    single fields overridden.

    Raises `OptionError` for an unknown name, an unreadable file, or figures that do not fit (three means, three
    positive deviations, a positive scale).
    """
    chosen = asked if isinstance(asked, Preprocessing) else default if asked is None else _named(asked)
    given = {k: v for k, v in overrides.items() if v is not None}
    if given:
        chosen = _checked({**{f: getattr(chosen, f) for f in _FIELDS}, **given, "name": "custom"}, "the options")
    return chosen


def _named(asked: str | Path) -> Preprocessing:
    if str(asked) in registry.PREPROCESSINGS:
        return registry.PREPROCESSINGS[str(asked)]
    path = Path(asked)
    if path.suffix != ".json":
        raise unknown_option("preprocessing", str(asked), [*registry.PREPROCESSINGS, "FILE.json"])
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OptionError(
            f"The preprocessing file '{path}' cannot be read: {error}. "
            f"Expected JSON with the fields {', '.join(_FIELDS)}."
        ) from error
    if not isinstance(loaded, dict) or not set(loaded) <= set(_FIELDS):
        raise OptionError(
            f"The preprocessing file '{path}' must be a JSON object with fields among {', '.join(_FIELDS)}."
        )
    return _checked({"name": path.stem, **loaded}, f"'{path}'")


def _checked(values: Mapping[str, Any], where: str) -> Preprocessing:
    fitting: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
    result = replace(Preprocessing("custom"), **fitting)
    faults = []
    if result.channel_order not in ("RGB", "BGR"):
        faults.append(f"channel_order is '{result.channel_order}', not RGB or BGR")
    for name in ("mean", "std"):
        triple = getattr(result, name)
        if not isinstance(triple, tuple) or len(triple) != 3 or not all(_is_number(v) for v in triple):
            faults.append(f"{name} must be three numbers")
    if not faults and not all(s > 0 for s in result.std):
        faults.append("std must be positive")
    if not all(_is_number(s) and s > 0 for s in (result.scale, result.post_scale)):
        faults.append("scale and post_scale must be positive numbers")
    if faults:
        raise OptionError(f"The preprocessing of {where} does not fit: {'; '.join(faults)}.")
    return result


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
