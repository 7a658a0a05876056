"""What a conversion was asked for, checked as far as it can be before anything is loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mobileseg import registry
from mobileseg.errors import MissingExtraError, OptionError, SizeError, UsageError, unknown_option
from mobileseg.types import (
    INT8,
    OUTPUT_NAMES,
    Checkpoint,
    GateLimits,
    Head,
    Int8Recipe,
    OutputSize,
    Size,
)

if TYPE_CHECKING:
    from mobileseg.converters.target import Target

DEFAULT_OUTPUT = Path("mobileseg-out")
DEFAULT_PREDICTIONS = Path("mobileseg-predictions")
DEFAULT_PICTURES = 8
DEFAULT_CALIBRATION = 16
SYNTHETIC = Path("synthetic")


@dataclass(frozen=True)
class Job:
    """Everything that one conversion was asked for, checked as far as it can be without the network.

    ``missing``: targets asked for beside others, whose packages are not installed. ``options``: by target.
    ``workers``: processes at most; None for as many as there is room for. ``recipe``: of int8, aimed at the gates.
    """

    targets: tuple[Target, ...]
    missing: Mapping[str, MissingExtraError]
    precision: str
    head: Head
    output_size: OutputSize
    raw_input: bool
    output: Path
    options: Mapping[str, Mapping[str, Any]]
    workers: int | None
    gates: GateLimits
    calibration: Path | None
    calibration_size: int
    calibration_labels: Path | None
    recipe: Int8Recipe
    images: Path | None
    labels: Path | None
    image_count: int
    seed: int


def prepare(
    *,
    to: str | Sequence[str],
    precision: str,
    head: str,
    output_size: str,
    raw_input: bool,
    output: str | Path,
    options: Mapping[str, Any],
    workers: int | None,
    gates: GateLimits | None,
    calibration: str | Path | None,
    calibration_size: int,
    calibration_labels: str | Path | None,
    recipe: Int8Recipe,
    images: str | Path | None,
    labels: str | Path | None,
    image_count: int,
    seed: int,
    demo: bool,
) -> Job:
    """Check what can be checked before anything is loaded."""
    targets, missing = resolve_targets(to, precision)
    if head not in OUTPUT_NAMES:
        raise unknown_option("head", head, OUTPUT_NAMES)
    if output_size not in get_args(OutputSize):
        raise unknown_option("output size", output_size, get_args(OutputSize))
    counts = {"--calibration-size": calibration_size, "--image-count": image_count, "--jobs": workers}
    for name, number in counts.items():
        if number is not None and number < 1:
            raise OptionError(f"{name} must be at least 1; got {number}.")
    quantizers = [recipe for (_, p), recipe in registry.QUANTIZERS.items() if p == precision]
    calibrated, planned = any(q.calibrated for q in quantizers), any(q.planned for q in quantizers)
    if calibrated and calibration is None and not demo:
        raise UsageError(
            f"{precision} needs pictures like those your network was trained on, to measure the ranges of its "
            "activations: give a folder with --calibration DIR. (--calibration synthetic uses generated street scenes "
            "knowingly; on the wrong pictures accuracy is lost silently.)"
        )
    if calibrated and raw_input:
        raise UsageError(
            f"{precision} measures its ranges on pictures of 0 to 255, which a file of --raw-input does not take. "
            "Leave out --raw-input, or choose --precision fp32 or fp16."
        )
    if head == "argmax" and options.get("output_dtype") is not None:
        raise OptionError("--output-dtype is of scores, and --head argmax gives classes. Leave one of the two out.")
    _check_recipe(recipe, calibration_labels, precision, planned)
    return Job(
        targets=targets,
        missing=missing,
        precision=precision,
        head=head,  # type: ignore[arg-type]  # one of OUTPUT_NAMES, checked above
        output_size=output_size,  # type: ignore[arg-type]  # checked above
        raw_input=raw_input,
        output=Path(output),
        options=options_by_target(targets, options, precision),
        workers=workers,
        gates=gates or GateLimits(),
        calibration=Path(calibration) if calibration is not None else None,
        calibration_size=calibration_size,
        calibration_labels=Path(calibration_labels) if calibration_labels is not None else None,
        recipe=aimed(recipe, gates or GateLimits()),
        images=Path(images) if images is not None else None,
        labels=Path(labels) if labels is not None else None,
        image_count=image_count,
        seed=seed,
    )


def _check_recipe(recipe: Int8Recipe, labels: str | Path | None, precision: str, planned: bool) -> None:
    from mobileseg.quantization.ranges import range_method

    if not planned and (recipe != INT8 or labels is not None):
        raise OptionError(
            f"--ranges, --no-equalize, --max-evaluations and --calibration-labels say how int8 is made, "
            f"and {precision} was asked for. Leave them out, or choose --int8."
        )
    if recipe.ranges != "auto":
        range_method(recipe.ranges)
    if recipe.max_evaluations < 1:
        raise OptionError(f"--max-evaluations must be at least 1; got {recipe.max_evaluations}.")


def aimed(recipe: Int8Recipe, gates: GateLimits) -> Int8Recipe:
    """The recipe that seeks what the gates ask for."""
    least = recipe.min_agreement if gates.min_agreement is None else gates.min_agreement
    lost = recipe.max_miou_drop if gates.max_miou_drop is None else gates.max_miou_drop
    return replace(recipe, min_agreement=least, max_miou_drop=lost)


def options_by_target(
    targets: Sequence[Target], options: Mapping[str, Any], precision: str
) -> dict[str, dict[str, Any]]:
    """Each target's own of the options that were given a value, for files of ``precision``.

    Raises `OptionError` for one that none of the targets has, or a value that its target cannot honour in that
    precision.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if not any(name in target.options for target in targets):
            known = {o: t for t in registry.TARGETS for o in registry.target(t).options}
            if name not in known:
                raise unknown_option("option of a target", name, known)
            raise OptionError(
                f"--{name.replace('_', '-')} is an option of {known[name]}, which is not among the targets "
                f"({', '.join(t.name for t in targets)}). Add it to --to, or leave the option out."
            )
    own = {t.name: {n: v for n, v in given.items() if n in t.options} for t in targets}
    for target in targets:
        for name in (n for n in own[target.name] if precision not in target.only.get(n, (precision,))):
            raise OptionError(
                f"--{name.replace('_', '-')} is for {target.name} files of {', '.join(target.only[name])}, and "
                f"{precision} was asked for. Choose that precision, or leave the option out."
            )
        target.check(own[target.name], precision)
    return own


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


def resolve_targets(to: str | Sequence[str], precision: str) -> tuple[tuple[Target, ...], dict[str, MissingExtraError]]:
    """The targets of ``--to`` that can be made here, and those of several whose packages are not installed.

    ``all`` means all that can make the precision. Raises `OptionError` for a name or precision that does not exist or
    fit, `MissingExtraError` where no target is left.
    """
    names, words = target_names(to), to.split(",") if isinstance(to, str) else to
    if precision not in registry.PRECISIONS:
        raise unknown_option("precision", precision, registry.PRECISIONS)
    named = (registry.target(name) for name in names)
    everything = "all" in (word.strip() for word in words)
    targets = tuple(t for t in named if not everything or precision in t.precisions)
    missing: dict[str, MissingExtraError] = {}
    for target in targets:
        if precision not in target.precisions:
            raise OptionError(
                f"Target '{target.name}' has no precision '{precision}'; it has {', '.join(target.precisions)}."
            )
        absent = next((m for m in target.modules if importlib.util.find_spec(m) is None), None)
        if absent is not None:
            missing[target.name] = MissingExtraError(target.extra, absent)
    if len(missing) == len(targets):
        raise next(iter(missing.values()))
    return tuple(t for t in targets if t.name not in missing), missing


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
