"""What a network that is none of ours says of itself, and what is measured or assumed where it does not.

A network may carry one attribute, ``mobileseg``, a mapping with any of `ATTRIBUTES`. Plain attributes are not read:
``classes`` or ``size`` mean something else in many networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mobileseg import registry
from mobileseg.architectures.blocks import OTHER, default_size
from mobileseg.errors import OptionError, SizeError, unknown_option
from mobileseg.factories import Built, Folder, blaming
from mobileseg.settings import resolve_preprocessing
from mobileseg.types import Classes, Notice, Preprocessing, Size

if TYPE_CHECKING:
    from collections.abc import Callable

MAIN_OUTPUTS = ("out", "logits", "output", "pred", "seg")
"""Names under which networks return their main output among others."""

RETURN_LOGITS = "Return the logits, a float tensor (N, classes, H, W): wrap the network in a module that does."

OutputPath = tuple[str | int, ...]
"""Keys and indices that lead from what a network returns to its logits."""


@dataclass(frozen=True)
class Declared:
    """The attribute ``mobileseg`` of a network. ``classes``: a data set's name, or names with a palette, which is empty
    where none was given."""

    size: Size | None = None
    size_multiple: int = 1
    min_size: int = 1
    preprocessing: Preprocessing | None = None
    classes: Classes | str | None = None


ATTRIBUTES = tuple(f.name for f in fields(Declared))


@dataclass(frozen=True)
class Foreign:
    """A network of any origin, ready to convert. ``network``: (N, 3, H, W) float32 in, logits (N, C, H', W') float32
    out."""

    network: nn.Module
    num_classes: int
    size: Size
    declared: Declared
    preprocessing: Preprocessing
    notices: tuple[Notice, ...]


class Logits(nn.Module):
    """A network reduced to its main output. Its code may import from its own folder while it runs."""

    def __init__(self, network: nn.Module, output: OutputPath, folder: Folder) -> None:
        super().__init__()
        self.network, self.output, self.folder = network, output, folder

    def forward(self, x: Tensor) -> Tensor:
        with self.folder.importable():
            result = self.network(x)
        for step in self.output:
            result = result[step]
        logits: Tensor = result
        return logits


def path_in_deployed(network: nn.Module) -> str:
    """With what the paths of a network's own modules begin in `converters.export.Deployed`."""
    return "network.network." if isinstance(network, Logits) else "network."


def examine(built: Built, num_classes: int | None = None, size: Size | None = None) -> Foreign:
    """Run the network once on zeros (1, 3, H, W), at ``size`` or else the size it declares or the usual one, and read
    its attributes.

    Raises `SizeError` where the network raises at that size, and `OptionError` for outputs that are no logits, another
    number of classes than ``num_classes``, or attributes that do not fit.
    """
    declared = declarations(built.network, built.code)
    known = size or declared.size
    output, channels, told = _measure(built, known or _rounded(OTHER, declared.size_multiple))
    if num_classes not in (None, channels):
        cause = "" if built.takes_classes else " The factory has no parameter of a usual name for it (num_classes)."
        raise OptionError(
            f"{built.code} gives {channels} classes, not {num_classes}.{cause} Leave --num-classes out, or name a "
            f"factory that makes {num_classes}."
        )
    notices = [] if told is None else [Notice(told, "--model")]
    if known is None:
        known = default_size(declared.size_multiple)(channels)
        notices.append(Notice(f"The network does not say its size; {known[0]}x{known[1]} was assumed.", "--size"))
        if known != _rounded(OTHER, declared.size_multiple):
            _measure(built, known)
    if declared.preprocessing is None:
        notices.append(Notice("The network does not say its preprocessing; RGB / 255 was assumed.", "--preprocessing"))
    if channels == 1:
        notices.append(Notice("The network has one output: its class map is class 0 everywhere.", "--head logits"))
    if isinstance(declared.classes, Classes) and len(declared.classes.names) != channels:
        raise OptionError(
            f"The attribute 'mobileseg' of {built.code} names {len(declared.classes.names)} classes; the network gives "
            f"{channels}. Make 'classes' in it fit, or leave it out."
        )
    return Foreign(
        network=Logits(built.network, output, built.folder).eval(),
        num_classes=channels,
        size=known,
        declared=declared,
        preprocessing=declared.preprocessing or registry.preprocessing("unit"),
        notices=tuple(notices),
    )


def _rounded(size: Size, multiple: int) -> Size:
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


# Outputs


def _measure(built: Built, size: Size) -> tuple[OutputPath, int, str | None]:
    """Where the logits are in what the network returns, how many classes they have, and what was chosen of several."""
    remedy = "Say a size that it takes, --size HxW, or mend its forward()."
    what = f"Running {built.code} on a picture of {size[0]}x{size[1]} (height x width)"
    with torch.no_grad(), built.folder.importable(), blaming(what, remedy, SizeError):
        result = built.network(torch.zeros(1, 3, *size))
    path = logits_in(result)
    if path is None:
        raise OptionError(f"{built.code} returns {_described(result)}. {RETURN_LOGITS}")
    logits = result
    for step in path:
        logits = logits[step]
    if logits.dtype is not torch.float32:
        raise OptionError(
            f"{built.code} returns {_described(logits)}. Take autocast and casts out of its forward(), or end it with "
            ".float(): expected are logits in float32."
        )
    if logits.shape[0] != 1 or logits.shape[1] < 1:
        raise OptionError(f"{built.code} returns {_described(logits)} for one picture. {RETURN_LOGITS}")
    if not bool(logits.isfinite().all()):
        raise OptionError(
            f"{built.code} returns numbers that are not finite (NaN or infinite) for a picture of zeros. Check its "
            "weights."
        )
    told = f"The network returns {_described(result)}; {_named(path)} was taken for its logits." if path else None
    return path, int(logits.shape[1]), told


def logits_in(result: Any) -> OutputPath | None:
    """The way to the main output: a floating-point tensor of four axes, the first of a sequence, a mapping's entry of a
    usual name or its only one. None where there is none."""
    if isinstance(result, Tensor):
        return () if result.ndim == 4 and result.is_floating_point() else None
    if isinstance(result, Mapping):
        found = {key: path for key, value in result.items() if (path := logits_in(value)) is not None}
        named = [key for key in MAIN_OUTPUTS if key in found] or (list(found) if len(found) == 1 else [])
        return (named[0], *found[named[0]]) if named else None
    if isinstance(result, (tuple, list)):
        return next(((i, *path) for i, value in enumerate(result) if (path := logits_in(value)) is not None), None)
    return None


def _described(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor {tuple(result.shape)} of {str(result.dtype).removeprefix('torch.')}"
    if isinstance(result, Mapping):
        return f"a mapping with {', '.join(map(str, result)) or 'nothing'}"
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)} ({'; '.join(_described(part) for part in result[:6])})"
    return f"a {type(result).__name__}"


def _named(path: OutputPath) -> str:
    return " of ".join(f"'{step}'" if isinstance(step, str) else f"number {step + 1}" for step in reversed(path))


# Attributes


def declarations(network: nn.Module, code: str) -> Declared:
    """The attribute ``mobileseg`` of a network. Raises `OptionError` for one that does not fit."""
    value = getattr(network, "mobileseg", {})
    if not isinstance(value, Mapping):
        raise OptionError(
            f"The attribute 'mobileseg' of {code} is {type(value).__name__}. Make it a dictionary with any of: "
            f"{', '.join(ATTRIBUTES)}."
        )
    try:
        for key in value:
            if key not in ATTRIBUTES:
                raise unknown_option("entry", str(key), ATTRIBUTES)
        return Declared(**{key: _READERS[key](entry) for key, entry in value.items() if entry is not None})
    except OptionError as error:
        raise OptionError(f"The attribute 'mobileseg' of {code} does not fit: {error}") from error


def _size(value: Any) -> Size:
    if not _is_sequence(value) or len(value) != 2:
        raise OptionError(f"'size' is {value!r}; expected (height, width) in pixels.")
    return _count(value[0]), _count(value[1])


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"{value!r} is no number of pixels; expected a whole number from 1 on.")
    return value


def _preprocessing(value: Any) -> Preprocessing:
    unit = registry.preprocessing("unit")
    if isinstance(value, (str, Preprocessing)):
        return resolve_preprocessing(value, unit, {})
    known = [f.name for f in fields(Preprocessing)]
    if not isinstance(value, Mapping):
        raise OptionError(
            f"'preprocessing' is {type(value).__name__}; expected a name ({', '.join(registry.PREPROCESSINGS)}) or a "
            f"dictionary with any of: {', '.join(known)}."
        )
    for key in value:
        if key not in known:
            raise unknown_option("field of a preprocessing", str(key), known)
    return resolve_preprocessing(None, unit, {key: entry for key, entry in value.items() if key != "name"})


def _classes(value: Any) -> Classes | str:
    if isinstance(value, (str, Classes)):
        return value
    entries = value if isinstance(value, Mapping) else {"names": value}
    names, palette, void = entries.get("names"), entries.get("palette") or (), entries.get("void")
    if set(entries) - {"names", "palette", "void"} or not names or not _is_sequence(names) or not _all(names, str):
        raise OptionError(
            "'classes' must be a data set's name, a list of names, or a dictionary with 'names' and, if wished, "
            "'palette' (red, green, blue of each, 0 to 255) and 'void' (the index of the class that is none)."
        )
    if palette and (len(palette) != len(names) or not all(_is_colour(colour) for colour in palette)):
        raise OptionError(f"'palette' must hold red, green, blue (0 to 255) for each of the {len(names)} classes.")
    if void is not None and not (isinstance(void, int) and 0 <= void < len(names)):
        raise OptionError(f"'void' is {void!r}; expected the index of one of the {len(names)} classes.")
    return Classes("custom", tuple(names), tuple((int(r), int(g), int(b)) for r, g, b in palette), void)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _all(values: Iterable[Any], kind: type) -> bool:
    return all(isinstance(value, kind) and not isinstance(value, bool) for value in values)


def _is_colour(value: Any) -> bool:
    return _is_sequence(value) and len(value) == 3 and _all(value, int) and all(0 <= v <= 255 for v in value)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "size": _size,
    "size_multiple": _count,
    "min_size": _count,
    "preprocessing": _preprocessing,
    "classes": _classes,
}
