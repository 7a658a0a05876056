"""Where else than on this machine's CPU files can be run: whether that works here, and what it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mobileseg import registry
from mobileseg.errors import OptionError, UnavailableError
from mobileseg.making import Progress, silent

if TYPE_CHECKING:
    from mobileseg.validation.devices.arm64_root import Installation


@dataclass(frozen=True)
class DeviceState:
    """``fault``: why it cannot be used, with what mends it; None where it can."""

    name: str
    summary: str
    fault: str | None


def states() -> tuple[DeviceState, ...]:
    """All devices that are not this machine's CPU."""
    return tuple(_state(name) for name in registry.DEVICES)


def _state(name: str) -> DeviceState:
    module = registry.device(name)
    try:
        module.check()
    except UnavailableError as error:
        return DeviceState(name, module.SUMMARY, str(error))
    return DeviceState(name, module.SUMMARY, None)


def set_up(device: str, *, sources: str | Path | None = None, progress: Progress = silent) -> Installation:
    """Install what a device needs, once, in the user's cache; where that has been done, find it.

    ``sources``: a list of package sources, as apt has them, where those of this machine do not serve. ``progress`` is
    told each stage by name. Raises `OptionError` for an unknown device, `UnavailableError` where it cannot be set up
    here, with what is missing.
    """
    if device == registry.HOST:
        raise OptionError(f"The device {device}, this machine's CPU, needs no set-up.")
    installed: Installation = registry.device(device).set_up(None if sources is None else Path(sources), progress)
    return installed
