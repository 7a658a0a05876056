"""Trained weights from a file to a network: which architecture, variant and widths they are of is read from their keys,
or the user names the network's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import registry
from mobileseg.errors import CheckpointError, OptionError, UnknownArchitectureError, UsageError, unknown_option
from mobileseg.types import Checkpoint, Variant
from mobileseg.weights import (
    Comparison,
    State,
    check_finite,
    compared,
    few,
    load_into,
    read_states,
    sha256,
    sha256_of,
    stripped,
)

if TYPE_CHECKING:
    from torch import nn

    from mobileseg.factories import Model
    from mobileseg.types import Size


def load_checkpoint(
    path: str | Path | None,
    *,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    model: Model | None = None,
    size: Size | None = None,
) -> Checkpoint:
    """The network of a ``.pth``, ``.pt``, ``.pth.tar`` or ``.safetensors`` file, in eval mode, on the CPU, in float32.

    ``architecture`` and ``variant`` limit what is looked for (names: `mobileseg.registry`); ``num_classes`` must be
    the file's own.

    ``model`` takes any other network (`mobileseg.factories`): ``num_classes`` is handed to its factory, ``path`` may be
    None for the factory's own weights, and ``size`` (H, W) is what it is tried at instead of the size it says.

    Raises `OptionError` for an override that does not exist or fit, or for code of ``model`` that gives no network;
    `UnsafeCheckpointError` for a file that needs code to be unpickled; `UnknownArchitectureError` for weights of none
    or of several known networks; `CheckpointError` for a file that is missing, unreadable, of another network than
    ``model``, or holds no or non-finite weights; `SizeError` where ``model`` fails at the size.
    """
    path = None if path is None else Path(path).expanduser()
    if model is not None:
        if (architecture, variant) != (None, None):
            raise OptionError(
                "--arch and --variant name a network that mobileseg knows, --model one that it does not. Leave one out."
            )
        return load_model(path, model, num_classes, size)
    if path is None:
        raise OptionError("No checkpoint was named. Name its file, or a network's code with --model FILE.py:FACTORY.")
    variants = candidates(architecture, variant)
    fit = choose(path, read_states(path), variants)
    classes = int(fit.hyperparameters["num_classes"])
    if classes < 1:
        raise CheckpointError(f"'{path}' has no classes: its last layer has no outputs. Take another checkpoint.")
    if num_classes not in (None, classes):
        raise OptionError(
            f"'{path}' has {classes} classes, not {num_classes}: its last layer has {classes} outputs. "
            f"Leave --num-classes out, or say --num-classes {classes}."
        )
    check_finite(f"'{path}'", fit.weights.state)
    network = load_into(fit.variant.build(**fit.hyperparameters), fit.weights.state)
    return Checkpoint(
        network=network,
        architecture=fit.variant.architecture,
        variant=fit.variant.name,
        num_classes=classes,
        hyperparameters=fit.hyperparameters,
        preprocessing=registry.preprocessing(fit.variant.preprocessing(classes)),
        size=default_size(fit.variant, classes),
        size_multiple=fit.variant.size_multiple,
        min_size=fit.variant.min_size,
        parameters=sum(p.numel() for p in network.parameters()),
        sha256=sha256(path),
        path=path,
        notices=tuple(n for n in fit.variant.notices if n.num_classes in (None, classes)),
    )


def candidates(architecture: str | None, variant: str | None) -> Sequence[Variant]:
    """The variants that the overrides leave. Raises `OptionError` where there is none."""
    known = registry.variants(architecture)
    chosen = [v for v in known if variant in (None, v.name)]
    if variant is not None and not chosen:
        raise unknown_option(f"variant of {architecture or 'any architecture'}", variant, {v.name for v in known})
    return chosen


# Any other network


def load_model(path: Path | None, model: Model, num_classes: int | None, size: Size | None) -> Checkpoint:
    """The network that ``model`` names with the weights of ``path``, or with its own."""
    from mobileseg.factories import build
    from mobileseg.foreign import examine

    built = build(model, num_classes)
    if path is not None:
        with built.folder.importable():
            load_into(built.network, fitting(path, built.network, built.code))
    own = built.network.state_dict()
    check_finite(f"'{path}'" if path else f"The network of {built.code}", own)
    foreign = examine(built, num_classes, size)
    return Checkpoint(
        network=foreign.network,
        architecture=type(built.network).__name__,
        variant=built.factory,
        num_classes=foreign.num_classes,
        hyperparameters={"num_classes": foreign.num_classes},
        preprocessing=foreign.preprocessing,
        size=foreign.size,
        size_multiple=foreign.declared.size_multiple,
        min_size=foreign.declared.min_size,
        parameters=sum(p.numel() for p in built.network.parameters()),
        sha256=sha256(path) if path else sha256_of(own),
        path=path or Path(built.stem),
        notices=foreign.notices,
        classes=foreign.declared.classes,
    )


def fitting(path: Path, network: nn.Module, code: str) -> State:
    """The weights of ``path`` in the network's keys. Raises `CheckpointError` that names the differences."""
    tried: list[Comparison] = []
    for state in read_states(path):
        for level in stripped(state):
            for prefix in prefixes(network):
                tried.append(compared(network, {prefix + key: tensor for key, tensor in level.items()}))
                if tried[-1].distance == 0:
                    return tried[-1].state
    nearest = min(tried, key=lambda comparison: comparison.distance)
    raise CheckpointError(
        f"'{path}' does not fit the network of {code}: {nearest}. Expected are the network's own tensors, all and no "
        "others: name the factory that builds the network as it was trained, with --num-classes where it takes that."
    )


def prefixes(network: nn.Module) -> Iterator[str]:
    """Nothing, then the names that all keys of the network begin with: of a wrapper around the one that was trained."""
    keys, prefix = list(network.state_dict()), ""
    while True:
        yield prefix
        heads = {key.removeprefix(prefix).partition(".")[0] for key in keys}
        if len(heads) != 1 or not all("." in key.removeprefix(prefix) for key in keys):
            return
        prefix += heads.pop() + "."


# Finding the network that the weights are of


@dataclass(frozen=True)
class Fit:
    """How well a variant's network fits: ``weights`` in its keys."""

    variant: Variant
    hyperparameters: dict[str, Any]
    weights: Comparison

    @property
    def distance(self) -> int:
        return self.weights.distance


def match(variant: Variant, state: State) -> Fit | None:
    """The comparison of ``state`` with the variant's network, or None where its tell-tale keys are absent."""
    import torch

    hyperparameters = variant.infer(state)
    if hyperparameters is None:
        return None
    try:
        with torch.device("meta"):
            network = variant.build(**hyperparameters)
    except (ValueError, RuntimeError, UsageError):  # widths of which no such network can be made
        return None
    return Fit(variant, hyperparameters, compared(network, variant.rename(state) if variant.rename else state))


def choose(path: Path, states: Sequence[State], variants: Sequence[Variant]) -> Fit:
    """The one variant that fits the first of ``states`` that any fits. Raises `UnknownArchitectureError`."""
    tried: list[Fit] = []
    for state in states:
        for level in stripped(state):
            fits = [fit for variant in variants if (fit := match(variant, level)) is not None]
            exact = [fit for fit in fits if fit.distance == 0]
            names = {(fit.variant.architecture, fit.variant.name) for fit in exact}
            chosen = [fit for fit in exact if (fit.variant.architecture, fit.variant.twin_of) not in names]
            if len(chosen) == 1:
                return chosen[0]
            if chosen:
                named = ", ".join(f"--arch {f.variant.architecture} --variant {f.variant.name}" for f in chosen)
                raise UnknownArchitectureError(f"'{path}' fits more than one known network. Say which: {named}.")
            tried += fits
    nearest = min(tried, key=lambda fit: fit.distance, default=None)
    raise UnknownArchitectureError(unknown(path, states[0], variants, nearest))


def unknown(path: Path, state: State, variants: Sequence[Variant], nearest: Fit | None) -> str:
    """The message for weights that fit none of ``variants``."""
    looked = ", ".join(f"{v.architecture} {v.name}" for v in variants)
    if nearest is None:
        found = f"Its {len(state)} tensors begin with {few(list(state))}, which are no key of these networks."
    else:
        found = f"Nearest is {nearest.variant.architecture} {nearest.variant.name}: {nearest.weights}."
    return (
        f"'{path}' is of no known network; looked for: {looked}. {found} Look for others with --arch and --variant "
        "(mobileseg list architectures), or name the code of this network: --model FILE.py:FACTORY."
    )


def default_size(variant: Variant, num_classes: int) -> tuple[int, int]:
    from mobileseg.architectures.blocks import default_size as usual

    return (variant.default_size or usual(variant.size_multiple))(num_classes)
