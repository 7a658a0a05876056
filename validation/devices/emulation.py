"""ARM64 programs on a machine of another kind: qemu's user mode, and a /proc/cpuinfo that is an ARM's.

The runtimes choose their kernels by what /proc/cpuinfo says, and crash where that is another architecture's. Since
version 8.2 qemu shows programs one of its own; before, ours is mounted over the machine's, for the program alone.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mobileseg.errors import UnavailableError

CPU = "cortex-a76"
CPU_NAME = "Cortex-A76"
"""What phones have had since 2018: half precision and the dot products of int8 (ARMv8.2-A)."""

PROGRAMS = ("qemu-aarch64-static", "qemu-aarch64")
SHOWS_CPUINFO = (8, 2)
"""The first version of qemu whose programs see an ARM's /proc/cpuinfo. Tried: 7.2 with a mount, 10.0 without."""

CPUINFO = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""

# A file system's view of its own, as root, or as a user who is root in it.
_NAMESPACES = (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount"))
_MOUNTED = ("sh", "-c", 'mount --bind "$0" /proc/cpuinfo && exec "$@"')


@dataclass(frozen=True)
class Emulator:
    """``program``: qemu's path; ``version``: for example "7.2.22"."""

    program: str
    version: str

    def command(self, root: Path, cpuinfo: Path, arguments: Sequence[str]) -> list[str]:
        """Runs ``arguments``, the first of which is a program below ``root``. ``cpuinfo``: a file with `CPUINFO`.

        Raises `UnavailableError` where an ARM's /proc/cpuinfo is needed, and mounting it is not permitted.
        """
        emulated = [self.program, "-cpu", CPU, "-L", str(root), *arguments]
        numbers = tuple(int(number) for number in self.version.split("."))
        return emulated if numbers >= SHOWS_CPUINFO else [*mounting(cpuinfo), *emulated]


def find_emulator() -> Emulator:
    """Raises `UnavailableError` on a machine that has none, and on one that is an ARM64 itself."""
    if sys.platform != "linux":
        raise UnavailableError("qemu's user mode exists on Linux alone. Run it there, in a container for example.")
    if platform.machine() == "aarch64":
        raise UnavailableError("This machine is an ARM64 itself: leave out --device, and its runtimes are the phone's.")
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise UnavailableError(
            f"qemu's user mode for ARM64 is not installed ({' or '.join(PROGRAMS)}). "
            "Install the package qemu-user-static (or qemu-user): apt-get install qemu-user-static"
        )
    said = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.search(r"version (\d+(?:\.\d+)+)", said.stdout)
    if version is None:
        raise UnavailableError(f"'{program} --version' does not say its version. Install qemu-user-static again.")
    return Emulator(program, version[1])


def mounting(cpuinfo: Path) -> list[str]:
    """The words before a command that make it see ``cpuinfo`` as /proc/cpuinfo. Raises `UnavailableError`."""
    if shutil.which("unshare") is None:
        raise UnavailableError("The program unshare is not installed. Install the package util-linux.")
    refusals = []
    for namespace in _NAMESPACES:
        words = [*namespace, *_MOUNTED, str(cpuinfo)]
        tried = subprocess.run(
            [*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        if tried.returncode == 0:
            return words
        refusals.append(f"'{' '.join(namespace)}': {tried.stderr.strip() or f'status {tried.returncode}'}")
    raise UnavailableError(
        "The runtimes need an ARM's /proc/cpuinfo, and mounting one is refused here "
        f"({'; '.join(refusals)}). Run as root (in a container with the capability SYS_ADMIN), permit user namespaces, "
        f"or install qemu {'.'.join(map(str, SHOWS_CPUINFO))} or newer, which needs no mount."
    )
