"""The runtimes' ARM64 builds under qemu's user mode: a phone's instruction set on any Linux.

For parity alone. What a file takes under emulation says nothing of what it takes on a phone.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobileseg.errors import MissingExtraError, UnavailableError, UsageError
from mobileseg.types import Placement
from mobileseg.validation.devices import arm64_root, arm64_worker
from mobileseg.validation.devices.arm64_root import RUNTIMES, Installation, Stage
from mobileseg.validation.devices.emulation import CPU_NAME, Emulator, find_emulator
from mobileseg.validation.devices.worker import Worker, start
from mobileseg.validation.runners import Runner, open_artifact

NAME = "qemu-arm64"
SUMMARY = "the runtimes' ARM64 builds under qemu, on this Linux machine: for parity, not for latency"


def set_up(sources: Path | None, stage: Stage) -> Installation:
    """Installs what the device needs, where that has not been done. Raises as `arm64_root.install` does, and
    `UnavailableError` where qemu is missing or may not do what it must."""
    emulator = find_emulator()
    # What is refused is refused before anything is fetched.
    emulator.command(Path("/"), Path("/proc/cpuinfo"), ())
    suffixes = [suffix for suffix, name in RUNTIMES.items() if name in arm64_root.wanted()]

    def load(made: Installation) -> None:
        try:
            _start("Loading the runtimes under emulation", emulator, made, suffixes)
        except UsageError as error:
            raise UnavailableError(str(error)) from error

    return arm64_root.install(NAME, sources, load, stage)


def check() -> None:
    """Raises `UnavailableError` where the device cannot be used, with what mends it."""
    found = arm64_root.find(NAME)
    find_emulator().command(found.root, found.cpuinfo, ())


def open_runner(path: Path, placement: Placement) -> Runner:
    """The runner of this machine, with the runtime's ARM64 build in the runtime's place.

    Raises as `open_artifact` does, and `UnavailableError` where the device is not set up, or has no runtime for the
    file.
    """
    if path.suffix not in RUNTIMES:
        raise UnavailableError(
            f"{NAME} has no runtime for '{path}': the reference executor's arithmetic is the same on every machine. "
            "Leave out --device."
        )
    emulator, installation = find_emulator(), arm64_root.find(NAME)
    here = open_artifact(path, replace(placement, device="host"))
    if here.cannot_run:
        return here
    name = RUNTIMES[path.suffix]
    if name not in installation.packages:  # tflite-runtime is what is installed here
        raise MissingExtraError("tflite", "ai_edge_litert")
    words = str(path.resolve()), str(placement.threads)
    worker = _start(f"Running '{path}' on {NAME}", emulator, installation, words)
    runtime = f"{name} {installation.packages[name]} on emulated ARM64 (qemu-aarch64 {emulator.version}, {CPU_NAME})"
    note = f"Emulated. What it is held against is computed by this machine's own CPU ({platform.machine()})."
    return replace(
        here,
        runtime=f"{runtime}: for parity, not for latency",
        notes=(*here.notes, note),
        invoke=worker.answer,
    )


def _start(what: str, emulator: Emulator, installation: Installation, words: Sequence[str]) -> Worker:
    # -S: the packages of this machine's Python, which are not ARM64's, stay out of sight.
    program = (str(installation.interpreter), "-P", "-S", arm64_worker.__file__, *words)
    command = emulator.command(installation.root, installation.cpuinfo, program)
    return start(what, command, installation.environment)
