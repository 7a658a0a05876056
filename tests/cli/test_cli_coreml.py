"""Core ML files from the command line, on a machine that is no Mac: made, compared, drawn, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobileseg.errors import UnavailableError
from mobileseg.mobile_assets.demo import scene
from mobileseg.types import ConvertResult, NotRun

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import convert  # noqa: E402  after the package that it needs
from mobileseg.validation.coreml.operators import OPERATORS  # noqa: E402
from mobileseg.validation.report import schema_faults  # noqa: E402
from mobileseg.validation.runners import coreml  # noqa: E402

PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(autouse=True)
def _not_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml, "is_here", lambda: False)


def to_coreml(checkpoint: Path, output: Path, **options: Any) -> ConvertResult:
    return convert(checkpoint, to="coreml", size=(64, 64), image_count=1, output=output, **options)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ConvertResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreml, "is_here", lambda: False)
        return to_coreml(checkpoint, tmp_path_factory.mktemp("coreml"))


@pytest.fixture(scope="module")
def file(made: ConvertResult) -> Path:
    return made.artifacts[0].artifact.path


def test_a_conversion_is_compared_and_says_by_what(made: ConvertResult) -> None:
    (artifact,) = made.artifacts
    assert (made.passed, made.exit_code) == (True, 0)
    parity = artifact.report["parity"]
    assert [gate["name"] for gate in parity["gates"]] == ["pixel_agreement", "sqnr_db"]
    assert (parity["pixel_agreement"], parity["sqnr_db"] > 100) == (1.0, True)
    assert parity["runner"].startswith("mobileseg reference executor for Core ML (not Core ML itself")
    assert any("Neural Engine" in note for note in parity["notes"])


@pytest.fixture
def without_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPERATORS, "relu")  # type: ignore[arg-type]  # a dict


@pytest.mark.usefixtures("without_relu")
def test_an_operator_that_the_executor_has_not_is_a_reason_and_no_pass(checkpoint: Path, tmp_path: Path) -> None:
    result = to_coreml(checkpoint, tmp_path)
    assert isinstance(result.passed, NotRun)
    assert result.exit_code == 0
    report = json.loads((tmp_path / "small.fp32.mlpackage.report.json").read_text())
    assert schema_faults(report) == []
    assert "has not: main: op " in report["parity"]["not_run"]
    assert "'relu'" in report["parity"]["not_run"]


def test_what_only_running_it_tells_is_a_reason_too(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(x: Any) -> Any:
        raise UnavailableError("no such form of it")

    monkeypatch.setitem(OPERATORS, "relu", replace(OPERATORS["relu"], function=lacking))  # type: ignore[arg-type]
    result = to_coreml(checkpoint, tmp_path)
    assert isinstance(result.passed, NotRun)
    assert "'relu'" in result.passed.why
    assert "no such form of it" in result.passed.why


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in (10_000, 10_001):
        Image.fromarray(scene(seed, (48, 80)).picture).save(folder / f"{seed}.png")
    return folder


def test_validate(run: Any, file: Path, checkpoint: Path, pictures: Path) -> None:
    ended = run("validate", file, "--against", checkpoint, "--images", pictures, "--json", "--html", "x.html")
    assert ended.code == 0, ended.err
    assert schema_faults(ended.json) == []
    assert ended.json["parity"]["images"] == 2
    assert "reference executor for Core ML" in ended.json["parity"]["runner"]
    assert "reference executor for Core ML (not Core ML itself" in Path("x.html").read_text()
    assert "Neural Engine" in ended.err


@pytest.mark.slow
def test_processes_find_the_same_to_the_last_bit(run: Any, file: Path, checkpoint: Path) -> None:
    parities = []
    for jobs in ("1", "2"):
        ended = run("validate", file, "--against", checkpoint, "--random", "3", "--jobs", jobs, "--json")
        assert ended.code == 0, ended.err
        parities.append(ended.json["parity"])
    assert parities[0] == parities[1]


def test_predict_draws_what_the_checkpoint_draws(run: Any, file: Path, checkpoint: Path, pictures: Path) -> None:
    drawn = run("predict", file, pictures, "--output", "a", "--json")
    assert drawn.code == 0, drawn.err
    assert "not Core ML itself" in drawn.json["runtime"]
    assert coreml.NOTE in drawn.json["notes"]
    assert run("predict", checkpoint, pictures, "--size", "64x64", "--output", "b").code == 0
    for name in ("10000.png", "10001.png"):
        one, other = (np.asarray(Image.open(f"{folder}/masks/{name}")) for folder in "ab")
        assert one.shape == (48, 80)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_compute_units(run: Any, file: Path, checkpoint: Path, pictures: Path, command: str) -> None:
    rest = (pictures,) if command == "predict" else ("--against", checkpoint, "--random", "1")
    ended = run(command, file, *rest, "--compute-units", "cpu_only", "--json")
    assert ended.code == 0, ended.err
    assert "compute units cpu_only exist on macOS alone" in ended.out
    ended = run(command, file, *rest, "--compute-units", "cpu-only", "--json")
    assert ended.code == 2
    assert "Did you mean 'cpu_only'?" in ended.error["message"]
    ended = run(command, checkpoint, *rest, "--compute-units", "cpu_only", "--json")
    assert ended.code == 2


def test_inspect_says_what_runs_it(run: Any, file: Path) -> None:
    ended = run("inspect", file, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["runtime"].startswith("mobileseg reference executor")


def test_inspect_says_why_core_ml_is_not_timed(run: Any, file: Path) -> None:
    assert "Xcode" in run("inspect", file, "--time", "--json").json["measured"]["not_run"]
    shown = run("inspect", file, "--time").out
    assert "not measured: Core ML runs on Apple's systems alone" in " ".join(shown.split())
    assert "The costliest:" in shown.splitlines()


# What is refused, or does not pass


@pytest.fixture
def package(file: Path, tmp_path: Path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(file, tmp_path / "x.mlpackage"))


def cut(part: str) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        file = package / part
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def edited(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        spec = coremltools.proto.Model_pb2.Model.FromString((package / PROGRAM).read_bytes())
        change(spec)
        (package / PROGRAM).write_bytes(spec.SerializeToString())

    return damage


def operations_of(spec: Any) -> Any:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return block.operations


def unknown_operator(spec: Any) -> None:
    next(o for o in operations_of(spec) if o.type == "relu").type = "relu_of_tomorrow"


def wider_layer(spec: Any) -> None:
    """Its output is declared wider than it can be: what only running it tells."""
    layer = next(o for o in operations_of(spec) if o.type == "relu")
    layer.outputs[0].type.tensorType.dimensions[3].constant.size += 1


def swapped(package: Path) -> None:
    (package / PROGRAM).write_bytes((package / WEIGHTS).read_bytes())


def no_numbers(package: Path) -> None:
    """All weights NaN, all in their places."""
    content = np.fromfile(package / WEIGHTS, np.uint8)
    floats = content[: content.size // 4 * 4].view(np.float32)
    floats[(np.abs(floats) > 1e-3) & (np.abs(floats) < 10)] = np.nan
    content.tofile(package / WEIGHTS)
    edited(lambda spec: spec.description.metadata.userDefined.pop("weights_sha256"))(package)


DAMAGES: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "half a program": (cut(PROGRAM), 2, "Convert it again"),
    "half the weights": (cut(WEIGHTS), 2, "its weights are not those it was written with"),
    "weights as the program": (swapped, 2, "Convert it again"),
    "no manifest": (lambda package: (package / "Manifest.json").unlink(), 2, "manifest"),
    "an empty folder": (lambda package: (shutil.rmtree(package), package.mkdir())[1], 2, "manifest"),
    "a layer that does not fit": (edited(wider_layer), 2, "'relu' output"),
    "an operator of tomorrow": (edited(unknown_operator), 4, "'relu_of_tomorrow'"),
}


@pytest.mark.parametrize("command", ["validate", "predict"])
@pytest.mark.parametrize("what", DAMAGES)
def test_damage(run: Any, package: Path, checkpoint: Path, pictures: Path, what: str, command: str) -> None:
    damage, code, said = DAMAGES[what]
    damage(package)
    rest = (pictures,) if command == "predict" else ("--against", checkpoint, "--random", "1")
    ended = run(command, package, *rest, "--json")
    assert ended.code == code, ended
    assert said in ended.error["message"]
    assert "Traceback" not in ended.err
    assert list(Path().iterdir()) == []


def test_values_that_are_not_numbers_do_not_pass(run: Any, package: Path, checkpoint: Path, pictures: Path) -> None:
    no_numbers(package)
    ended = run("validate", package, "--against", checkpoint, "--random", "1", "--json")
    assert (ended.code, ended.json["parity"]["passed"]) == (3, False)
    assert run("predict", package, pictures).code == 2


def test_another_network_does_not_pass(
    run: Any, file: Path, small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({name: value * 1.5 for name, value in small_state.items()}, tmp_path / "other.pth")
    ended = run("validate", file, "--against", tmp_path / "other.pth", "--random", "1", "--json")
    assert (ended.code, ended.json["parity"]["passed"]) == (3, False)
