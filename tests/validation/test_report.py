"""Reports keep their schema, say what was not measured, and departures from the schema are found."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from mobileseg.errors import MissingExtraError, OutputError
from mobileseg.types import (
    INT8,
    Artifact,
    Checkpoint,
    Equalization,
    GateLimits,
    Int8Findings,
    KeptUnit,
    NotRun,
    Preprocessing,
    Rewrite,
    TensorSpec,
)
from mobileseg.validation.gates import apply_gates
from mobileseg.validation.metrics import Agreement, ClassAgreement, LabelCounts, LogitErrors
from mobileseg.validation.parity import ParityResult
from mobileseg.validation.report import (
    QuantizationRecord,
    build_report,
    dumps,
    environment,
    schema,
    schema_faults,
    size_and_digest,
    write_report,
)

NAMES = ["road", "car", "void"]
LATENCY = {
    "device": "host",
    "runtime": "ai-edge-litert 2.3.0",
    "threads": 1,
    "warmup": 5,
    "runs": 50,
    "ms_p50": 30.0,
    "ms_p90": 31.0,
    "ms_p99": 35.5,
    "ms_min": 29.0,
    "load_ms": 4.0,
    "peak_memory_mb": {"not_run": "the host does not tell"},
    "delegated_share": 0.98,
    "per_op": {"not_run": "not asked for"},
}


def scores():
    counts = LabelCounts(3, void=2)
    counts.add(np.array([[0, 0, 0, 0]], np.uint8), np.array([[0, 0, 0, 0]]), np.array([[0, 0, 0, 1]]))
    return counts.result()


def parity(**changes) -> ParityResult:
    fields = {
        "runner": "ai-edge-litert 2.3.0 (XNNPACK)",
        "notes": (),
        "head": "logits",
        "images": 4,
        "errors": LogitErrors(0.5, 0.1, 40.0, 0.999),
        "agreement": Agreement(0.98, 0.9, 0.001),
        "classes": ClassAgreement((1.0, 0.9, None), np.zeros((3, 4), np.int64)),
        "scores": scores(),
    }
    return ParityResult(**(fields | changes))


@pytest.fixture
def artifact(tmp_path) -> Artifact:
    path = tmp_path / "net.int8.tflite"
    path.write_bytes(b"TFL3 and more")
    return Artifact(
        path,
        "tflite",
        "int8",
        (TensorSpec("image", (1, 6, 10, 3), "uint8", "NHWC", (0.0, 255.0), 1.0, 0),),
        (TensorSpec("logits", (1, 6, 10, 3), "float32", "NHWC"),),
        {"classes": {"names": NAMES}},
    )


@pytest.fixture
def make(artifact):
    """A factory of reports; a full one where nothing is changed."""
    import torch

    checkpoint = Checkpoint(
        network=torch.nn.Identity(),
        architecture="enet",
        variant="davidtvs",
        num_classes=3,
        hyperparameters={},
        preprocessing=Preprocessing("unit"),
        size=(6, 10),
        size_multiple=8,
        min_size=32,
        parameters=351804,
        sha256="0" * 64,
        path=artifact.path.with_suffix(".pth"),
    )

    def build(result=None, limits=None, **changes):
        result = result or parity()
        fields = {
            "checkpoint": checkpoint,
            "artifact": artifact,
            "rewrites": [Rewrite("unpooling", 2, "bit-exact", "phones have no max-unpooling", ("pool9: no partner",))],
            "quantization": QuantizationRecord("static int8, per channel", "pictures", 12, ("head",)),
            "parity": result,
            "gates": () if isinstance(result, NotRun) else apply_gates(result, "int8", limits or GateLimits()),
            "latency": [LATENCY],
            "created": datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
        }
        return build_report(**(fields | changes))

    return build


def test_a_full_report_keeps_the_schema(make, artifact):
    pytest.importorskip("jsonschema")
    report = make()
    assert schema_faults(json.loads(dumps(report))) == []
    assert report["created"] == "2025-01-02T03:04:05+00:00"
    assert report["artifact"]["bytes"] == 13
    assert report["artifact"]["sha256"] == hashlib.sha256(b"TFL3 and more").hexdigest()
    assert report["artifact"]["inputs"][0]["shape"] == [1, 6, 10, 3]
    assert report["rewrites"][0]["pass"] == "unpooling"
    assert report["quantization"]["calibration"] == {"source": "pictures", "images": 12}


def test_scores_and_gates_are_told(make):
    report = make()["parity"]
    assert (report["miou_reference"], report["miou_artifact"]) == (1.0, 0.75)
    absent = {"not_run": "the class does not occur in the labels"}
    assert report["per_class_iou_change"] == {"road": -0.25, "car": absent, "void": absent}
    assert report["gates"] == [
        {"name": "pixel_agreement", "limit": 0.97, "value": 0.98, "passed": True},
        {"name": "miou_drop_points", "limit": 1.0, "value": 25.0, "passed": False},
    ]
    assert report["passed"] is False


def test_classes_without_names_are_numbered(make, artifact):
    from dataclasses import replace

    report = make(artifact=replace(artifact, metadata={}))
    assert list(report["parity"]["per_class_iou_change"]) == ["0", "1", "2"]


def test_nothing_measured_is_said_everywhere(make):
    pytest.importorskip("jsonschema")
    reason = NotRun("not asked for")
    parts = ("checkpoint", "rewrites", "quantization", "latency")
    report = make(result=reason, **dict.fromkeys(parts, reason))
    assert schema_faults(report) == []
    for part in (*parts, "parity"):
        assert report[part] == {"not_run": "not asked for"}


def test_a_class_map_and_no_labels(make):
    pytest.importorskip("jsonschema")
    result = parity(head="argmax", errors=NotRun("classes only"), scores=NotRun("no labels were given"))
    report = make(result, GateLimits(min_sqnr_db=20.0, max_miou_drop=1.0))
    assert schema_faults(report) == []
    assert report["parity"]["sqnr_db"] == {"not_run": "classes only"}
    assert report["parity"]["miou_artifact"] == {"not_run": "no labels were given"}
    assert [gate["value"] for gate in report["parity"]["gates"]] == [
        0.98,
        {"not_run": "classes only"},
        {"not_run": "no labels were given"},
    ]
    assert report["parity"]["passed"] is False


def test_infinity_is_a_word(make):
    pytest.importorskip("jsonschema")
    result = parity(errors=LogitErrors(0.0, 0.0, math.inf, 1.0), scores=NotRun("no labels were given"))
    report = make(result, GateLimits(min_sqnr_db=60.0))
    assert report["parity"]["sqnr_db"] == "infinite"
    assert report["parity"]["gates"][1] == {"name": "sqnr_db", "limit": 60.0, "value": "infinite", "passed": True}
    assert report["parity"]["passed"] is True
    assert schema_faults(json.loads(dumps(report))) == []


def put(report, keys, value):
    """A copy with one value changed, or removed where ``value`` is `KeyError`."""
    changed = copy.deepcopy(report)
    place = changed
    for key in keys[:-1]:
        place = place[key]
    if value is KeyError:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return changed


CORRUPTIONS = [
    (["schema_version"], 2),
    (["created"], "yesterday"),
    (["surplus"], 1),
    (["latency"], KeyError),
    (["latency"], []),
    (["latency", 0, "ms_p50"], None),
    (["latency", 0, "threads"], 0),
    (["parity"], {}),
    (["parity"], {"not_run": ""}),
    (["parity"], {"not_run": "because", "sqnr_db": 3.0}),
    (["parity", "boundary_agreement"], KeyError),
    (["parity", "pixel_agreement"], 1.01),
    (["parity", "sqnr_db"], "Infinity"),
    (["parity", "sqnr_db"], None),
    (["parity", "images"], 0),
    (["parity", "max_abs_err"], -0.1),
    (["parity", "per_class_iou_change", "road"], None),
    (["parity", "gates", 0, "value"], {"not_run": "a pass without a value"}),
    (["parity", "passed"], True),
    (["artifact", "sha256"], "abc"),
    (["artifact", "bytes"], 0),
    (["artifact", "inputs"], []),
    (["artifact", "inputs", 0, "layout"], KeyError),
    (["checkpoint", "num_classes"], "3"),
    (["rewrites", 0, "exact"], KeyError),
    (["quantization", "calibration"], {"source": "x"}),
    (["environment", "packages", "torch"], 2),
]


@pytest.mark.parametrize(("keys", "value"), CORRUPTIONS, ids=[".".join(map(str, k)) for k, _ in CORRUPTIONS])
def test_corruptions_are_found(make, keys, value):
    pytest.importorskip("jsonschema")
    assert schema_faults(put(make(), keys, value))


def test_a_pass_needs_a_gate(make):
    pytest.importorskip("jsonschema")
    report = put(put(make(), ["parity", "gates"], []), ["parity", "passed"], True)
    assert schema_faults(report)
    assert make(gates=())["parity"]["passed"] is False


def test_the_schema_is_itself_valid():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())


def test_text_is_stable_and_strict(make):
    report = make()
    assert dumps(report) == dumps(dict(reversed(report.items())))
    with pytest.raises(ValueError, match="JSON"):
        dumps({"x": math.nan})


def test_writing_leaves_a_whole_file_or_none(make, tmp_path):
    path = tmp_path / "out.report.json"
    write_report(make(), path)
    assert json.loads(path.read_text())["tool"]["name"] == "mobileseg"
    for place in (tmp_path / "absent", path):
        with pytest.raises(OutputError, match="--report"):
            write_report(make(), place / "r.json")
    with pytest.raises(ValueError, match="JSON"):
        write_report({"x": math.inf}, path)
    assert json.loads(path.read_text())["tool"]["name"] == "mobileseg"
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_a_folder_has_a_size_and_a_digest_of_names_and_contents(tmp_path):
    package = tmp_path / "net.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data/weights.bin").write_bytes(b"12345")
    (package / "Manifest.json").write_bytes(b"{}")
    size, digest = size_and_digest(package)
    assert size == 7
    (package / "Data/weights.bin").write_bytes(b"12346")
    changed = size_and_digest(package)[1]
    (package / "Data/weights.bin").rename(package / "Data/weight.bin")
    assert len({digest, changed, size_and_digest(package)[1]}) == 3


def test_environment_names_what_is_installed():
    found = environment()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"] == np.__version__
    assert "pytest" not in found["packages"]
    assert found["cpu"]


def test_without_jsonschema_the_extra_is_named(make, monkeypatch):
    report = make()
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingExtraError, match=r"mobileseg\[report\]"):
        schema_faults(report)


def test_classes_that_lost_more_than_five_points_are_named_the_worst_first(make):
    given = replace(scores(), iou_reference=(0.9, 0.5, 0.4), iou_artifact=(0.86, 0.44, 0.2))
    report = make(parity(scores=given))["parity"]
    assert report["classes_lost"] == [
        {"class": "void", "iou_reference": 0.4, "iou_artifact": 0.2},
        {"class": "car", "iou_reference": 0.5, "iou_artifact": 0.44},
    ]
    assert report["classes_vanished"] == []


def test_a_class_that_the_file_never_gives_is_named_without_labels(make):
    confusion = np.asarray([[5, 0, 0, 0], [3, 0, 0, 1], [0, 0, 0, 0]])
    report = make(parity(classes=ClassAgreement((1.0, 0.0, None), confusion), scores=NotRun("no labels")))["parity"]
    assert report["classes_vanished"] == [{"class": "car", "pixels": 4}]
    assert report["classes_lost"] == {"not_run": "no labels"}


def test_an_int8_plan_is_told_whole(make):
    pytest.importorskip("jsonschema")
    unit = KeptUnit("encoder.conv", "conv2d", 0.5, 0.1)
    found = Int8Findings(
        recipe=INT8,
        ranges="mse",
        ranges_tried={"mse": 0.99, "min-max": 0.98},
        probes=4,
        novelty=1.5,
        sought=0.987,
        int8=0.97,
        agreement=0.99,
        miou_drop=NotRun("no labels"),
        held=True,
        evaluations=3,
        units=10,
        kept=(unit,),
        cost_share=0.1,
        float_operators=2,
        file_agreement=0.98,
        equalization=Equalization(12, 1.5, 0.96),
        warnings=("encoder.conv is 0 throughout.",),
    )
    report = make(quantization=QuantizationRecord("static int8", "pictures", 12, ("conv2d: encoder.conv",), found))
    assert schema_faults(json.loads(dumps(report))) == []
    told = report["quantization"]
    assert told["plan"]["kept"] == [
        {"name": "encoder.conv", "operator": "conv2d", "error_share": 0.5, "cost_share": 0.1}
    ]
    assert told["plan"]["equalization"]["agreement_without"] == 0.96
    assert told["plan"]["budget"]["min_agreement"] == 0.987
    assert told["plan"]["novelty"] == 1.5
    assert told["warnings"] == ["encoder.conv is 0 throughout."]
    assert make()["quantization"]["plan"] == {"not_run": "this precision needs no int8 plan"}
