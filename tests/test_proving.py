"""`mobileseg.validate`: files of this tool and of others, held against networks and files; what fails, and how."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mobileseg import convert, validate
from mobileseg.errors import OptionError, SizeError, UsageError
from mobileseg.mobile_assets.demo import scene
from mobileseg.proving import FileDescription, Validation
from mobileseg.summaries import SUMMARY_VARIABLE, write_summaries
from mobileseg.testing import assert_parity
from mobileseg.types import GateLimits
from mobileseg.validation.parity import Tally, reference_of_file, tallied
from mobileseg.validation.report import schema_faults
from mobileseg.validation.runners import open_artifact

onnx = pytest.importorskip("onnx", reason="install the extra: pip install 'mobileseg[onnx]'")

SIZE = (32, 48)
CLASSES = 5


def network(classes: int = CLASSES, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    built = nn.Sequential(*layers, nn.Conv2d(16, classes, 1))
    for module in built.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return built.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network as ONNX, by head."""
    found = {}
    for head in ("logits", "softmax", "argmax"):
        folder = tmp_path_factory.mktemp(head)
        (made,) = convert(model=network(), to="onnx", size=SIZE, head=head, output=folder).artifacts
        found[head] = made.artifact.path
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six pictures of another size than the file takes, and label maps: by chance, with void pixels."""
    pictures, labels = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("labels")
    generator = np.random.default_rng(7)
    for seed in range(6):
        Image.fromarray(scene(10_000 + seed, (40, 64)).picture).save(pictures / f"{seed}.png")
        classes = generator.integers(0, CLASSES, (40, 64)).astype(np.uint8)
        classes[:3] = 255
        Image.fromarray(classes).save(labels / f"{seed}.png")
    return pictures, labels


def parity(found: Validation) -> dict[str, Any]:
    measured: dict[str, Any] = found.report["parity"]
    return measured


def held(found: Validation) -> dict[str, bool]:
    return {gate["name"]: gate["passed"] for gate in parity(found)["gates"]}


@pytest.mark.parametrize("head", ["logits", "softmax", "argmax"])
def test_a_file_against_its_network(files: dict[str, Path], head: str) -> None:
    told: list[tuple[int, int | None]] = []
    found = validate(
        files[head], model=network(), random=3, progress=lambda path, done, total: told.append((done, total))
    )
    assert (found.passed, found.exit_code) == (True, 0)
    assert schema_faults(found.report) == []
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert parity(found)["pixel_agreement"] == 1.0
    assert "compared on 3 random pictures, seed 0" in parity(found)["notes"]
    assert ("not_run" in parity(found)["sqnr_db"]) if head == "argmax" else parity(found)["sqnr_db"] > 100


@pytest.mark.parametrize(("head", "other"), [("logits", "logits"), ("softmax", "logits"), ("argmax", "argmax")])
def test_a_file_against_a_file(files: dict[str, Path], head: str, other: str) -> None:
    found = validate(files[head], against=files[other], random=2)
    assert found.passed
    assert found.report["checkpoint"]["not_run"].startswith(f"held against {files[other]}")


def test_files_whose_values_cannot_be_compared(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"returns argmax, .* logits: their values cannot be compared"):
        validate(files["logits"], against=files["argmax"], random=1)


def test_another_network_does_not_pass(files: dict[str, Path]) -> None:
    found = validate(files["logits"], model=network(seed=1), random=2)
    assert (found.passed, found.exit_code) == (False, 3)
    assert held(found) == {"pixel_agreement": False, "sqnr_db": False}


def test_a_network_of_other_classes_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"returns \(5, 32, 48\) for one picture, the checkpoint \(4, 32, 48\)"):
        validate(files["logits"], model=network(4), random=1)


def test_limits_of_one_s_own(files: dict[str, Path]) -> None:
    found = validate(files["logits"], model=network(), random=1, gates=GateLimits(min_sqnr_db=500))
    assert held(found) == {"pixel_agreement": True, "sqnr_db": False}


def test_labels_against_an_independent_count(files: dict[str, Path], folders: tuple[Path, Path]) -> None:
    pictures, labels = folders
    found = validate(files["logits"], model=network(), images=pictures, labels=labels)
    assert parity(found)["images"] == 6
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for path in sorted(pictures.iterdir()):
        small = np.asarray(Image.open(path).resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR))
        logits = network()(torch.from_numpy(small.copy()).permute(2, 0, 1)[None].float() / 255)
        classes = nn.functional.interpolate(logits, (40, 64), mode="bilinear").argmax(1)[0].numpy()
        truth = np.asarray(Image.open(labels / path.name))
        for t, c in zip(truth[truth != 255], classes[truth != 255], strict=True):
            counts[t, c] += 1
    iou = [counts[i, i] / (counts[i].sum() + counts[:, i].sum() - counts[i, i]) for i in range(CLASSES)]
    assert parity(found)["miou_reference"] == pytest.approx(np.mean(iou), abs=1e-9)
    assert np.array_equal(np.array(parity(found)["confusion_against_labels"])[:, :-1], counts)
    against_reference = parity(found)["per_class_iou_against_reference"].values()
    assert all(share == 1.0 or "not_run" in share for share in against_reference)


def test_how_many_of_the_folder(files: dict[str, Path], folders: tuple[Path, Path]) -> None:
    found = validate(files["logits"], model=network(), images=folders[0], image_count=4)
    assert parity(found)["images"] == 4


def test_tallies_in_any_order_are_the_whole_s(files: dict[str, Path]) -> None:
    """To the last bit: what lets the pictures be spread over processes and machines."""
    runner = open_artifact(files["logits"])
    reference = reference_of_file(open_artifact(files["softmax"]))
    pictures = [scene(seed, SIZE).picture for seed in range(10_000, 10_007)]
    parts: list[Tally] = []
    whole = tallied(reference, runner, pictures, seen=lambda found: parts.append(found.tally)).result(runner)
    for order in ((6, 0, 3, 1, 5, 2, 4), (1, 2, 6, 5, 4, 3, 0)):
        total = Tally(CLASSES, None)
        for number in order:
            total.merge(parts[number])
        result = total.result(runner)
        assert (result.images, result.errors, result.agreement) == (7, whole.errors, whole.agreement)
        assert np.array_equal(result.classes.confusion, whole.classes.confusion)


# Files of others


class Unit(nn.Module):
    """Takes 0 to 1, as many files do."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "theirs.onnx"
    torch.onnx.export(Unit().eval(), (torch.zeros(1, 3, *SIZE),), path, dynamo=True, external_data=False, verbose=False)
    return path


def test_a_file_that_takes_another_range(foreign: Path) -> None:
    told = FileDescription(input_range=(0.0, 1.0))
    found = validate(foreign, model=network(), random=2, description=told)
    assert found.passed
    assert "Its precision is not known; the gates are those of fp32." in parity(found)["notes"]
    assert not validate(foreign, model=network(), random=2).passed


def test_a_file_that_takes_what_the_network_was_fed(foreign: Path) -> None:
    assert validate(foreign, model=network(), random=2, description=FileDescription(raw_input=True)).passed


@pytest.mark.parametrize(
    ("told", "error", "said"),
    [
        (FileDescription(input_layout="NWHC"), OptionError, "no layout 'NWHC'"),
        (FileDescription(output_layout="NHW"), UsageError, "cannot be NHW; expected NCHW or NHWC"),
        (FileDescription(precision="fp12"), OptionError, "no precision 'fp12'"),
        (FileDescription(head="logit"), OptionError, "Did you mean 'logits'"),
        (FileDescription(input_range=(1.0, 0.0)), OptionError, "black and white, in this order"),
    ],
)
def test_descriptions_that_do_not_fit(foreign: Path, told: FileDescription, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        validate(foreign, model=network(), random=1, description=told)


# What cannot be held


def test_values_that_are_not_numbers_do_not_pass(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["logits"])
    bias = next(i for i in model.graph.initializer if list(i.dims) == [CLASSES])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(CLASSES, np.nan, np.float32), bias.name))
    onnx.save(model, tmp_path / "nan.onnx")
    found = validate(tmp_path / "nan.onnx", model=network(), random=1)
    assert (found.passed, found.exit_code) == (False, 3)
    assert "NaN or infinite" in parity(found)["sqnr_db"]["not_run"]
    assert schema_faults(found.report) == []


def test_bad_input(files: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path) -> None:
    short = tmp_path / "short.onnx"
    short.write_bytes(files["logits"].read_bytes()[:700])
    with pytest.raises(UsageError, match="does not load"):
        validate(short, model=network(), random=1)
    with pytest.raises(UsageError, match="Name a checkpoint or a file: --against"):
        validate(files["logits"], random=1)
    with pytest.raises(SizeError, match="takes 32x48 alone"):
        validate(files["logits"], model=network(), random=1, size=(64, 96))
    with pytest.raises(OptionError, match="--labels needs --images"):
        validate(files["logits"], model=network(), labels=folders[1])
    with pytest.raises(OptionError, match="leave out --images"):
        validate(files["logits"], model=network(), images=folders[0], random=2)


# What CI reads


@pytest.fixture(scope="module")
def good(files: dict[str, Path]) -> Validation:
    return validate(files["logits"], model=network(), random=2)


@pytest.fixture
def summaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(SUMMARY_VARIABLE, str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    return tmp_path


def test_summaries(good: Validation, files: dict[str, Path], summaries: Path) -> None:
    bad = validate(files["logits"], model=network(), random=1, gates=GateLimits(min_sqnr_db=500))
    for name, found in (("good", good), ("bad", bad)):
        write_summaries(
            found,
            report=summaries / f"{name}.json",
            junit=summaries / f"{name}.xml",
            markdown=summaries / f"{name}.md",
        )
    assert json.loads((summaries / "good.json").read_text()) == good.report
    suite = ElementTree.parse(summaries / "bad.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    (failure,) = suite.iter("failure")
    assert "asked for is >= 500 dB (--min-sqnr)" in str(failure.get("message"))
    assert ElementTree.parse(summaries / "good.xml").getroot().get("failures") == "0"
    assert "All gates met" in (summaries / "good.md").read_text()
    assert "**Gates not met**" in (summaries / "bad.md").read_text()
    page = (summaries / "summary.md").read_text()
    assert page.startswith("before\n")
    assert page.count("### ") == 2


def changed(report: Any, path: Path, **figures: Any) -> Path:
    path.write_text(json.dumps({**report, "parity": {**report["parity"], **figures}}))
    return path


def test_worse_than_the_baseline(good: Validation, files: dict[str, Path], tmp_path: Path) -> None:
    same = changed(good.report, tmp_path / "same.json")
    again = validate(files["logits"], model=network(), random=2, baseline=same)
    assert again.passed
    assert {name for name in held(again) if name.startswith("baseline")} == {
        "baseline_pixel_agreement",
        "baseline_sqnr_db",
        "baseline_bytes",
    }
    better = changed(good.report, tmp_path / "better.json", sqnr_db=parity(good)["sqnr_db"] + 10)
    worse = validate(files["logits"], model=network(), random=2, baseline=better)
    assert (worse.passed, worse.exit_code) == (False, 3)
    assert [name for name, passed in held(worse).items() if not passed] == ["baseline_sqnr_db"]
    assert schema_faults(worse.report) == []


def test_baselines_that_say_nothing(good: Validation, files: dict[str, Path], tmp_path: Path) -> None:
    same = changed(good.report, tmp_path / "same.json")
    with pytest.raises(UsageError, match="compared on 2 random pictures, seed 0, this file on 3 random pictures"):
        validate(files["logits"], model=network(), random=3, baseline=same)
    (tmp_path / "text.json").write_text("[]")
    with pytest.raises(UsageError, match="is not a report"):
        validate(files["logits"], model=network(), random=2, baseline=tmp_path / "text.json")
    with pytest.raises(UsageError, match="cannot be read"):
        validate(files["logits"], model=network(), random=2, baseline=tmp_path / "none.json")


def test_the_same_noise_every_time(files: dict[str, Path]) -> None:
    first, second = (validate(files["logits"], model=network(), random=2, seed=5).report for _ in range(2))
    assert first["parity"] == second["parity"]
    assert validate(files["logits"], model=network(), random=2, seed=6).report["parity"] != first["parity"]


def test_parity_in_a_test_of_one_s_own(files: dict[str, Path]) -> None:
    assert assert_parity(files["logits"], model=network(), random=1).passed
    with pytest.raises(AssertionError, match=r"is not equal.*agreement is .*--min-agreement.*SQNR"):
        assert_parity(files["logits"], model=network(seed=1), random=1)


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_needs_nothing_else(files: dict[str, Path], folders: tuple[Path, Path], tmp_path: Path) -> None:
    pictures, labels = folders
    found = validate(files["logits"], model=network(seed=1), images=pictures, labels=labels)
    write_summaries(found, html=tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert page.words.count("Gates not met") == 1
    assert [word for word in page.words if word in ("picture", "label", "reference", "file", "different")].count(
        "different"
    ) == 4
    shares = [float(w.split()[2]) for w in page.words if w.startswith("picture ") and "agree" in w]
    assert shares == sorted(shares)
    assert shares[0] < 100


def test_a_page_of_names_that_are_markup(files: dict[str, Path], tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"names": ["<b>sky</b>", "a&b", "c", "d", "e"]}))
    found = validate(files["logits"], model=network(), random=1, classes=names)
    write_summaries(found, html=tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<b>sky</b>" not in text
    assert "&lt;b&gt;sky&lt;/b&gt;" in text


def test_histogram_of_the_errors(files: dict[str, Path]) -> None:
    found = validate(files["logits"], model=network(seed=1), random=2)
    pairs = parity(found)["error_histogram"]
    assert sum(count for _, count in pairs) == 2 * CLASSES * SIZE[0] * SIZE[1]
    largest = max(exponent for exponent, _ in pairs)
    assert 2.0 ** (largest - 1) <= parity(found)["max_abs_err"] < 2.0**largest


WRONG = {
    "node": "prelu_2",
    "operator": "prelu",
    "module": "encoder.act",
    "torch_nodes": [{"node": "prelu_2", "operator": "prelu", "module": "encoder.act"}],
    "file_operators": [{"index": 28, "operator": "LEAKY_RELU", "name": "act;28"}],
    "sqnr_db": 34.31,
    "bias_steps": -1.02,
    "alone": True,
    "rewrites": ["rewrite_prelu"],
    "quantization": {"dtype": "int8", "scale": 0.05, "zero_point": -3},
}
VALUE = {
    **{key: WRONG[key] for key in ("node", "operator", "module", "sqnr_db", "bias_steps")},
    "file_operator": "LEAKY_RELU",
    "file_name": "act;28",
    "file_value": "28",
    "accumulated_sqnr_db": "infinite",
    "with_saturation": {"sqnr_db": 34.3, "accumulated_sqnr_db": 27.6},
}
TIMED = {"device": "host", "runtime": "LiteRT", "threads": 1, "warmup": 1, "runs": 5, "ms_p50": 30.04, "ms_p90": 31.5}
TIMED |= {"ms_p99": 40.0, "ms_min": 29.0, "load_ms": 4.0, "peak_memory_mb": 12.5}
TIMED |= {"delegated_share": {"not_run": "not asked"}, "per_op": {"not_run": "not asked"}}


def test_a_wrong_operator_and_a_latency_in_all_summaries(good: Validation, summaries: Path) -> None:
    operators = {"runner": "LiteRT", "picture": 1, "torch_values": 9, "file_operators": 40}
    operators |= {"values": [VALUE], "faults": [WRONG]}
    report = {**good.report, "operators": operators, "latency": [TIMED]}
    assert schema_faults(report) == []
    write_summaries(replace(good, report=report), markdown=summaries / "r.md", html=summaries / "r.html")
    said = (
        "torch's prelu of encoder.act (prelu_2) is LEAKY_RELU 28 'act;28' in the file, 34.3 dB from what the same "
        "inputs give, -1.02 quantization steps on average; everything behind it agrees; changed by rewrite_prelu; "
        "stored as int8, scale 0.05, zero point -3"
    )
    assert said in (summaries / "r.md").read_text()
    page = Page((summaries / "r.html").read_text())
    words = " ".join(page.words)
    assert said in words
    assert "30.0 ms" in words
    assert "12.5" in words
    assert "svg" in page.tags
    assert [word for word in page.words if word in ("27.6", "34.3", "21.4 %")] == ["27.6", "34.3", "21.4 %"]
    assert page.addresses == [address for address in page.addresses if address.startswith("data:")]
