"""`mobileseg setup`, and what `doctor`, `list` and `validate` say of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mobileseg import devices, diagnosis
from mobileseg.devices import DeviceState
from mobileseg.errors import UnavailableError
from mobileseg.validation.devices import qemu_arm64
from mobileseg.validation.devices.arm64_root import Installation

INSTALLED = Installation("qemu-arm64", Path("cache/5ed2"), "3.11", {"numpy": "2.4.6"}, 300 * 2**20, made=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the set-up is asked for; it does nothing."""
    heard = list[Any]()

    def set_up(sources: Path | None, stage: Any) -> Installation:
        with stage("Fetch"):
            heard.append(sources)
        return INSTALLED

    monkeypatch.setattr(qemu_arm64, "set_up", set_up)
    return heard


def test_what_was_set_up(run: Any, asked: list[Any]) -> None:
    ended = run("setup", "qemu-arm64", "--sources", "ports.list")
    assert ended.code == 0
    assert asked == [Path("ports.list")]
    assert "Fetch" in ended.err
    assert "is now set up: numpy 2.4.6 on Python 3.11, in 'cache/5ed2' (300.00 MiB)." in ended.out


def test_as_json(run: Any, asked: list[Any]) -> None:
    ended = run("setup", "qemu-arm64", "--json", "--quiet")
    assert asked == [None]
    assert ended.err == ""
    assert ended.json["device"] == "qemu-arm64"
    assert ended.json["packages"] == {"numpy": "2.4.6"}
    assert ended.json["made"] is True


def test_a_device_that_there_is_not(run: Any) -> None:
    ended = run("setup", "qemu-amr64")
    assert ended.code == 2
    assert "Did you mean 'qemu-arm64'?" in ended.err
    ended = run("setup", "host")
    assert ended.code == 2
    assert "needs no set-up" in ended.err


def test_what_is_missing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sources: Path | None, stage: Any) -> Installation:
        raise UnavailableError("qemu is not installed. Install it.")

    monkeypatch.setattr(qemu_arm64, "set_up", refuse)
    ended = run("setup", "qemu-arm64", "--json")
    assert ended.code == 4
    assert ended.error["message"] == "qemu is not installed. Install it."


def test_doctor_says_which_devices_work(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = DeviceState("qemu-arm64", "a summary", "qemu is not installed.")
    monkeypatch.setattr(devices, "states", lambda: (found, DeviceState("other", "another", None)))
    monkeypatch.setattr(diagnosis, "check_backends", lambda targets: (diagnosis.Backend("onnx", {}, None, None),))
    assert run("doctor", "--json").json["devices"][0] == {
        "name": "qemu-arm64",
        "summary": "a summary",
        "fault": "qemu is not installed.",
    }
    said = run("doctor").out
    assert "Device qemu-arm64: qemu is not installed." in said
    assert "Device other: works" in said


def test_validate_on_what_is_not_set_up(run: Any, converted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, placement: Any) -> None:
        raise UnavailableError(f"{placement.device} is not set up, with {placement.threads} threads.")

    monkeypatch.setattr(qemu_arm64, "open_runner", refuse)
    file = converted[1] / "small.fp32.onnx"
    ended = run("validate", file, "--against", file, "--device", "qemu-arm64", "--threads", "2")
    assert ended.code == 4
    assert "qemu-arm64 is not set up, with 2 threads." in ended.err
