"""What works on this machine, and what would become of a network, without converting it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import devices, registry
from mobileseg.errors import RewriteError, unknown_option
from mobileseg.jobs import check_size, options_by_target, target_names
from mobileseg.pipeline import open_network
from mobileseg.types import Checkpoint, Rewrite, Size

if TYPE_CHECKING:
    from torch import nn

    from mobileseg.converters.export import Exported
    from mobileseg.converters.target import Target

IMPORT_SECONDS = 300
"""A cold import of a converter takes seconds, on a slow disk a minute."""


@dataclass(frozen=True)
class Backend:
    """What one target needs. ``packages``: version, or None where it is not installed; ``fault``: why it does not
    work, None where it does; ``remedy``: the command that mends it."""

    target: str
    packages: dict[str, str | None]
    fault: str | None
    remedy: str | None

    @property
    def works(self) -> bool:
        return self.fault is None


@dataclass(frozen=True)
class Prospect:
    """What would be done to a network for one target. ``refusal``: why it cannot be converted, None where it can."""

    target: str
    precision: str
    rewrites: tuple[Rewrite, ...]
    refusal: str | None


@dataclass(frozen=True)
class Diagnosis:
    """``devices``: all but this machine's CPU. ``checkpoint``, ``size`` and ``prospects`` are of the network, where one
    was named."""

    backends: tuple[Backend, ...]
    devices: tuple[devices.DeviceState, ...] = ()
    checkpoint: Checkpoint | None = None
    size: Size | None = None
    prospects: tuple[Prospect, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether any backend works."""
        return any(backend.works for backend in self.backends)

    @property
    def convertible(self) -> bool:
        """Whether the network, where one was named, can be rewritten for every target."""
        return all(prospect.refusal is None for prospect in self.prospects)


def doctor(
    checkpoint: str | Path | None = None,
    *,
    to: str | Sequence[str] = "all",
    precision: str = "fp32",
    size: Size | None = None,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    model: str | Callable[..., nn.Module] | nn.Module | None = None,
    options: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """Which backends load here and which devices can be used; what would be rewritten of a network for each target, and
    what cannot be.

    ``to`` ``"all"``: all targets that have the precision; the others are as `mobileseg.convert` has them.

    Raises what `mobileseg.load_checkpoint` raises, `SizeError` for a size that the network cannot take, and
    `OptionError` for an unknown target or precision.
    """
    if precision not in registry.PRECISIONS:
        raise unknown_option("precision", precision, registry.PRECISIONS)
    targets = [registry.target(name) for name in target_names(to)]
    backends, others = check_backends(targets), devices.states()
    if checkpoint is None and model is None:
        return Diagnosis(backends, others)
    network = open_network(
        checkpoint, architecture=architecture, variant=variant, num_classes=num_classes, model=model, size=size
    )
    chosen = check_size(network, size or network.size)
    if "all" in (to.split(",") if isinstance(to, str) else to):
        targets = [target for target in targets if precision in target.precisions]
    own = options_by_target(targets, options or {}, precision)
    return Diagnosis(backends, others, network, chosen, prospects(network, chosen, targets, precision, own))


def check_backends(targets: Sequence[Target]) -> tuple[Backend, ...]:
    """Each target's packages imported in a process of its own, all at once: a broken library may end its process."""
    missing = {t.name: [m for m in t.modules if importlib.util.find_spec(m) is None] for t in targets}
    started = {
        t.name: subprocess.Popen(
            [sys.executable, "-c", f"import {', '.join(t.modules)}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for t in targets
        if not missing[t.name]
    }
    try:
        faults = {name: import_fault(process) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    return tuple(_backend(t, missing[t.name], faults.get(t.name)) for t in targets)


def import_fault(process: subprocess.Popen[str]) -> str | None:
    """How an importing process ended, None where it went well."""
    try:
        _, said = process.communicate(timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"importing it took longer than {IMPORT_SECONDS} s"
    if process.returncode == 0:
        return None
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"importing it fails: {lines[-1]}" if lines else f"importing it ends Python with status {process.returncode}"


def _backend(target: Target, missing: Sequence[str], fault: str | None) -> Backend:
    install = f"pip install 'mobileseg[{target.extra}]'"
    packages = {module: _version(module) if module not in missing else None for module in target.modules}
    if missing:
        return Backend(target.name, packages, f"not installed: {', '.join(missing)}", install)
    if fault is not None:
        return Backend(target.name, packages, fault, f"pip install --force-reinstall 'mobileseg[{target.extra}]'")
    return Backend(target.name, packages, None, None)


def _version(module: str) -> str:
    distributions = metadata.packages_distributions().get(module, [module])
    return metadata.version(distributions[0])


def prospects(
    network: Checkpoint,
    size: Size,
    targets: Sequence[Target],
    precision: str,
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[Prospect, ...]:
    """The network exported once and rewritten for each target, with its options."""
    from mobileseg.converters.export import Deployed, export

    program = export(Deployed(network.network, network.preprocessing, "logits"), size)
    return tuple(_prospect(program, target, precision, options[target.name]) for target in targets)


def _prospect(program: Exported, target: Target, precision: str, options: Mapping[str, Any]) -> Prospect:
    from mobileseg.converters.export import refuse_what_is_left, rewrite

    if precision not in target.precisions:
        return Prospect(
            target.name, precision, (), f"it has no precision '{precision}': {', '.join(target.precisions)}"
        )
    rewritten = rewrite(program, target.backend(options), precision)
    try:
        refuse_what_is_left(rewritten, target.forbidden)
    except RewriteError as refusal:
        return Prospect(target.name, precision, rewritten.rewrites, str(refusal))
    return Prospect(target.name, precision, rewritten.rewrites, None)
