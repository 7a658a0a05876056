"""Files in the runtimes' ARM64 builds under emulation, beside the same files on this machine's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileseg import convert, set_up, validate
from mobileseg.devices import states
from mobileseg.errors import MissingExtraError, OptionError, UnavailableError, UsageError
from mobileseg.types import Placement
from mobileseg.validation.devices import arm64_root, emulation, qemu_arm64
from mobileseg.validation.devices.arm64_root import Installation
from mobileseg.validation.runners import open_artifact

EMULATED = Placement(device="qemu-arm64")
SIZE = (64, 96)
NETWORK = Path(__file__).parents[2] / "networks" / "segnet.py"


def test_a_device_that_there_is_not(make_onnx: Any) -> None:
    with pytest.raises(
        OptionError, match=r"no device 'qemu-arm'\. Did you mean 'qemu-arm64'\? Known: host, qemu-arm64"
    ):
        open_artifact(make_onnx(), Placement(device="qemu-arm"))


def test_core_ml_needs_no_emulation(tmp_path: Path) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    with pytest.raises(UnavailableError, match="the reference executor's arithmetic is the same"):
        open_artifact(tmp_path / "net.mlpackage", EMULATED)


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As though it were there, in a version that needs no mount."""
    monkeypatch.setattr(qemu_arm64, "find_emulator", lambda: emulation.Emulator("qemu-aarch64", "8.2.0"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("qemu", "empty_cache")
def test_what_is_not_set_up_names_the_command(make_onnx: Any) -> None:
    with pytest.raises(UnavailableError, match="Set it up with: mobileseg setup qemu-arm64"):
        open_artifact(make_onnx(), EMULATED)
    (state,) = states()
    assert state.name == "qemu-arm64"
    assert "mobileseg setup qemu-arm64" in str(state.fault)


def test_without_qemu_nothing_is_fetched(programs: Any, empty_cache: Path) -> None:
    programs()
    with pytest.raises(UnavailableError, match=r"apt-get install qemu-user-static|an ARM64 itself|Linux alone"):
        set_up("qemu-arm64")
    assert not empty_cache.exists()


@pytest.mark.usefixtures("qemu")
def test_a_runtime_that_was_not_installed(make_onnx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = Installation("qemu-arm64", Path("folder"), "3.11", {"numpy": "2"}, 1)
    monkeypatch.setattr(arm64_root, "find", lambda device: installation)
    with pytest.raises(MissingExtraError):
        open_artifact(make_onnx(), EMULATED)


@pytest.mark.usefixtures("qemu")
def test_runtimes_that_do_not_load_are_not_set_up(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(device: str, sources: object, check: Any, stage: object) -> None:
        check(Installation(device, Path("folder"), "3.11", {"numpy": "2"}, 1))

    def fails(*given: object) -> None:
        raise UsageError("Loading failed with status 1: no such symbol.")

    monkeypatch.setattr(arm64_root, "install", install)
    monkeypatch.setattr(qemu_arm64, "start", fails)
    with pytest.raises(UnavailableError, match="no such symbol"):
        set_up("qemu-arm64")


@pytest.fixture(scope="module")
def emulated() -> Installation:
    """The real set-up, in the cache of whoever runs the tests: half a minute the first time, and a network."""
    try:
        installation = set_up("qemu-arm64")
    except UnavailableError as error:
        pytest.skip(str(error))
    return installation


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small network with unpooling, as each kind of file."""
    for module in ("ai_edge_litert", "litert_torch", "executorch"):
        pytest.importorskip(module, reason="install the extras: pip install 'mobileseg[all]'")
    folder, model = tmp_path_factory.mktemp("arm64"), f"{NETWORK}:build"
    options: dict[str, Any] = {"model": model, "size": SIZE, "image_count": 1, "jobs": 1, "output": folder}
    made = [
        *convert(to="tflite,executorch", **options).artifacts,
        *convert(to="tflite", precision="int8", calibration="synthetic", calibration_size=2, **options).artifacts,
    ]
    return {f"{file.artifact.target} {file.artifact.precision}": file.artifact.path for file in made}


@pytest.mark.parametrize("kind", ["tflite fp32", "tflite int8", "executorch fp32"])
def test_a_worker_of_this_machine_gives_the_runners_bits(files: dict[str, Path], kind: str, start_here: Any) -> None:
    """What the emulated program does, without emulation; of ExecuTorch that it calls the C++ class rightly."""
    runner, worker = open_artifact(files[kind]), start_here(str(files[kind]), "1")
    for seed in (0, 1):
        tensor = runner.encoded(np.random.default_rng(seed).integers(0, 256, (1, *SIZE, 3), np.uint8))
        np.testing.assert_array_equal(worker.answer(tensor), runner.invoke(tensor))


def test_a_tensor_that_executorch_refuses(files: dict[str, Path], start_here: Any) -> None:
    worker = start_here(str(files["executorch fp32"]), "1")
    with pytest.raises(UsageError, match=r"status 1: RuntimeError: ExecuTorch's error 0x10\."):
        worker.answer(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("kind", ["tflite fp32", "executorch fp32"])
def test_floating_point_is_equal_but_for_the_order_of_sums(files: dict[str, Path], kind: str) -> None:
    here, there = both(files[kind])
    assert not np.array_equal(here, there), "the same bits: was it emulated?"
    assert np.abs(here - there).max() <= 1e-5 * np.abs(here).max()
    assert (here.argmax(1) == there.argmax(1)).mean() >= 0.9999


@pytest.mark.usefixtures("emulated")
def test_int8_is_equal(files: dict[str, Path]) -> None:
    here, there = both(files["tflite int8"])
    assert (here.argmax(1) == there.argmax(1)).mean() >= 0.9999


def both(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(2, C, H, W) of this machine's runtime and of ARM64's."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    here, there = open_artifact(path), open_artifact(path, EMULATED)
    assert there.artifact == here.artifact
    assert "on emulated ARM64 (qemu-aarch64 " in there.runtime
    assert there.runtime.endswith("Cortex-A76): for parity, not for latency")
    return here.run(pictures), there.run(pictures)


def test_onnx_too(emulated: Installation, make_onnx: Any, pictures: np.ndarray) -> None:
    path = make_onnx()
    there = open_artifact(path, EMULATED)
    np.testing.assert_allclose(there.run(pictures), open_artifact(path).run(pictures), rtol=1e-5, atol=1e-5)
    assert there.runtime.startswith(f"onnxruntime {emulated.packages['onnxruntime']} on emulated ARM64")


@pytest.mark.usefixtures("emulated")
def test_a_file_against_itself_on_the_two_machines_in_two_processes(files: dict[str, Path]) -> None:
    path = files["tflite int8"]
    found = validate(path, against=path, device="qemu-arm64", random=3, jobs=2)
    parity = found.report["parity"]
    assert found.passed
    assert parity["images"] == 3
    assert parity["pixel_agreement"] == 1.0
    assert "for parity, not for latency" in parity["runner"]
    assert any(note.startswith("Emulated. What it is held against") for note in parity["notes"])
    assert set(found.report["latency"]) == {"not_run"}


@pytest.mark.usefixtures("emulated")
def test_a_truncated_file(files: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.pte"
    cut.write_bytes(files["executorch fp32"].read_bytes()[:-64])
    with pytest.raises(UsageError, match=r"cut\.pte"):
        open_artifact(cut, EMULATED)
