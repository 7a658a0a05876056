"""What a conversion was asked for, checked as far as it can be before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import registry
from mobileseg.errors import MissingExtraError, OptionError, SizeError, UsageError, unknown_option
from mobileseg.types import OUTPUT_NAMES, Checkpoint, GateLimits, Head, Size

if TYPE_CHECKING:
    from mobileseg.converters.target import Target

DEFAULT_OUTPUT = Path("mobileseg-out")
DEFAULT_PICTURES = 8
DEFAULT_CALIBRATION = 16
SYNTHETIC = Path("synthetic")


@dataclass(frozen=True)
class Job:
    """Everything that one conversion was asked for, checked as far as it can be without the network."""

    targets: tuple[Target, ...]
    precision: str
    head: Head
    raw_input: bool
    output: Path
    options: dict[str, Any]
    gates: GateLimits
    calibration: Path | None
    calibration_size: int
    images: Path | None
    labels: Path | None
    image_count: int
    seed: int


def prepare(
    *,
    to: str | Sequence[str],
    precision: str,
    head: str,
    raw_input: bool,
    output: str | Path,
    opset: int | None,
    gates: GateLimits | None,
    calibration: str | Path | None,
    calibration_size: int,
    images: str | Path | None,
    labels: str | Path | None,
    image_count: int,
    seed: int,
    demo: bool,
) -> Job:
    """Check what can be checked before anything is loaded."""
    targets = resolve_targets(to, precision)
    if head not in OUTPUT_NAMES:
        raise unknown_option("head", head, OUTPUT_NAMES)
    for name, number in (("--calibration-size", calibration_size), ("--image-count", image_count)):
        if number < 1:
            raise OptionError(f"{name} must be at least 1; got {number}.")
    if precision == "int8" and calibration is None and not demo:
        raise UsageError(
            "int8 needs pictures like those your network was trained on, to measure the ranges of its activations: "
            "give a folder with --calibration DIR. (--calibration synthetic uses generated street scenes knowingly; "
            "on the wrong pictures accuracy is lost silently.)"
        )
    if precision == "int8" and raw_input:
        raise UsageError(
            "int8 measures its ranges on pictures of 0 to 255, which a file of --raw-input does not take. "
            "Leave out --raw-input, or choose --precision fp32 or fp16."
        )
    options = {} if opset is None else {"opset": opset}
    for target in targets:
        target.check(options)
    return Job(
        targets=targets,
        precision=precision,
        head=head,  # type: ignore[arg-type]  # one of OUTPUT_NAMES, checked above
        raw_input=raw_input,
        output=Path(output),
        options=options,
        gates=gates or GateLimits(),
        calibration=Path(calibration) if calibration is not None else None,
        calibration_size=calibration_size,
        images=Path(images) if images is not None else None,
        labels=Path(labels) if labels is not None else None,
        image_count=image_count,
        seed=seed,
    )


def target_names(to: str | Sequence[str]) -> list[str]:
    """The names of ``--to``, ``all`` spelled out. Raises `OptionError` where there is none or one is unknown."""
    words = to.split(",") if isinstance(to, str) else list(to)
    names = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not names:
        raise OptionError(f"No target was named. Use --to with one or more of {', '.join(registry.TARGETS)}, or all.")
    for name in names:
        if name not in registry.TARGETS and name != "all":
            raise unknown_option("target", name, [*registry.TARGETS, "all"])
    return list(registry.TARGETS) if "all" in names else names


def resolve_targets(to: str | Sequence[str], precision: str) -> tuple[Target, ...]:
    """The targets of ``--to``, each with what it needs installed and able to make the precision.

    ``all`` means all that can make it. Raises `OptionError` for a name or precision that does not exist or fit,
    `MissingExtraError` for a package that is not installed.
    """
    names, words = target_names(to), to.split(",") if isinstance(to, str) else to
    if precision not in registry.PRECISIONS:
        raise unknown_option("precision", precision, registry.PRECISIONS)
    named = (registry.target(name) for name in names)
    everything = "all" in (word.strip() for word in words)
    targets = tuple(t for t in named if not everything or precision in t.precisions)
    for target in targets:
        if precision not in target.precisions:
            raise OptionError(
                f"Target '{target.name}' has no precision '{precision}'; it has {', '.join(target.precisions)}."
            )
        missing = next((m for m in target.modules if importlib.util.find_spec(m) is None), None)
        if missing is not None:
            raise MissingExtraError(target.extra, missing)
    return targets


def check_size(checkpoint: Checkpoint, size: Size) -> Size:
    """The size, where the network takes it. Raises `SizeError` that names the nearest sizes it does."""
    multiple, least = checkpoint.size_multiple, checkpoint.min_size
    if all(side % multiple == 0 and side >= least for side in size):
        return size
    smallest = -(-least // multiple) * multiple
    below, above = (
        "x".join(str(max(rounding(side / multiple) * multiple, smallest)) for side in size)
        for rounding in (int, lambda quotient: -int(-quotient // 1))
    )
    nearest = f"{below} or {above}" if below != above else below
    rule = f"multiples of {multiple}, at least {smallest}" if multiple > 1 else f"at least {least}"
    raise SizeError(
        f"{checkpoint.architecture} ({checkpoint.variant}) cannot take pictures of {size[0]}x{size[1]} "
        f"(height x width): height and width must be {rule}. Nearest: --size {nearest}."
    )
