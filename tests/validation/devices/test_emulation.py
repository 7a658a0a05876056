"""Which qemu is found, and how an ARM's /proc/cpuinfo comes before the program that needs it."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mobileseg.errors import UnavailableError
from mobileseg.validation.devices.emulation import CPUINFO, Emulator, find_emulator, mounting

Programs = Callable[..., Path]
SAYS_7_2 = "echo 'qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)'"
REFUSES = 'echo "unshare: unshare failed: Operation not permitted" >&2; exit 1'

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() == "aarch64", reason="emulation is for Linux on other processors"
)


@pytest.mark.parametrize("name", ["qemu_aarch64_static", "qemu_aarch64"])
def test_the_version_is_read(programs: Programs, name: str) -> None:
    folder = programs(**{name: SAYS_7_2})
    assert find_emulator() == Emulator(str(folder / name.replace("_", "-")), "7.2.22")


def test_no_qemu(programs: Programs) -> None:
    programs()
    with pytest.raises(UnavailableError, match="apt-get install qemu-user-static"):
        find_emulator()


def test_a_qemu_without_a_version(programs: Programs) -> None:
    programs(qemu_aarch64="exit 1")
    with pytest.raises(UnavailableError, match="does not say its version"):
        find_emulator()


def test_a_machine_that_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UnavailableError, match="an ARM64 itself: leave out --device"):
        find_emulator()


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnavailableError, match="Linux alone"):
        find_emulator()


def test_a_newer_qemu_needs_no_mount(programs: Programs) -> None:
    programs()  # no unshare
    command = Emulator("qemu", "10.0.2").command(Path("root"), Path("cpuinfo"), ("python3", "x.py"))
    assert command == ["qemu", "-cpu", "cortex-a76", "-L", "root", "python3", "x.py"]


def test_an_older_one_does(programs: Programs) -> None:
    programs(unshare="exit 0")
    command = Emulator("qemu", "8.1.5").command(Path("root"), Path("cpuinfo"), ("python3", "x.py"))
    assert command[:2] == ["unshare", "--mount"]
    assert command[-7:] == ["qemu", "-cpu", "cortex-a76", "-L", "root", "python3", "x.py"]


def test_a_user_who_is_not_root(programs: Programs) -> None:
    programs(unshare=f'if [ "$1" = --mount ]; then {REFUSES}; fi')
    assert mounting(Path("cpuinfo"))[:3] == ["unshare", "--map-root-user", "--mount"]


def test_mounting_is_refused(programs: Programs) -> None:
    programs(unshare=REFUSES)
    with pytest.raises(UnavailableError, match=r"--map-root-user --mount': unshare: unshare failed: Operation not"):
        mounting(Path("cpuinfo"))


def test_no_unshare(programs: Programs) -> None:
    programs()
    with pytest.raises(UnavailableError, match="util-linux"):
        mounting(Path("cpuinfo"))


def test_the_program_and_it_alone_sees_the_other_file(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    try:
        words = mounting(tmp_path / "cpuinfo")
    except UnavailableError as error:
        pytest.skip(str(error))
    seen = subprocess.run([*words, "cat", "/proc/cpuinfo"], capture_output=True, text=True, check=True)
    assert seen.stdout == CPUINFO
    assert Path("/proc/cpuinfo").read_text() != CPUINFO
