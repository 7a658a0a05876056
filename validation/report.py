"""The report of one artifact: what it is, what was done to it, and what was measured, as JSON that a schema describes.

Something not measured is ``{"not_run": "why"}``: never zero, never absent. A ratio with nothing in its denominator is
``"infinite"``, for which JSON has no number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from mobileseg import __version__
from mobileseg.errors import MissingExtraError, OutputError
from mobileseg.types import Artifact, Checkpoint, Gate, Int8Findings, NotRun, Rewrite, TensorSpec
from mobileseg.validation.gates import all_passed
from mobileseg.validation.metrics import LabelScores, LogitErrors
from mobileseg.validation.parity import LABEL_PROTOCOL, ParityResult
from mobileseg.validation.plain import not_run, number
from mobileseg.validation.report_int8 import plan_record

SCHEMA_VERSION = 1
SCHEMA_FILE = "report.schema.json"

NOT_BISECTED = NotRun("only mobileseg validate --bisect looks at each operator")

LOST = 0.05
"""Of IoU: a class that loses more is named."""

NO_PLAN = NotRun("this precision needs no int8 plan")

PACKAGES = (
    "ai-edge-litert",
    "coremltools",
    "executorch",
    "litert-torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "pillow",
    "safetensors",
    "tflite-runtime",
    "torch",
)
"""Distributions whose versions bear on what a file computes; those that are installed are reported."""

# Gate -> the field of ``parity`` that says why its value was not measured.
_FIELD_OF_GATE = {
    "pixel_agreement": "pixel_agreement",
    "sqnr_db": "sqnr_db",
    "miou_drop_points": "miou_artifact",
}


@dataclass(frozen=True)
class QuantizationRecord:
    """How a file was quantized."""

    recipe: str
    """Name of the recipe, e.g. ``"static int8, per channel"``."""
    calibration_source: str
    """Where the calibration pictures came from."""
    calibration_images: int
    """How many pictures the ranges were taken from."""
    kept_float: tuple[str, ...]
    """What is left in floating point."""
    int8: Int8Findings | None = None
    """What planning int8 found; None where no plan was made."""


def build_report(
    *,
    checkpoint: Checkpoint | NotRun,
    artifact: Artifact,
    rewrites: Sequence[Rewrite] | NotRun,
    quantization: QuantizationRecord | NotRun,
    parity: ParityResult | NotRun,
    gates: tuple[Gate, ...],
    latency: Sequence[Mapping[str, Any]] | NotRun,
    operators: Mapping[str, Any] | NotRun = NOT_BISECTED,
    created: datetime | None = None,
) -> dict[str, Any]:
    """The report as a JSON object that keeps `SCHEMA_FILE`. ``created``: now where None.

    ``latency``: one object a measurement, ``operators``: one object; both with the schema's fields. Reads
    ``artifact.path`` for its size and digest.
    """
    size, digest = size_and_digest(artifact.path)
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "mobileseg", "version": __version__},
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "checkpoint": _checkpoint(checkpoint),
        "artifact": {
            "path": artifact.path.as_posix(),
            "target": artifact.target,
            "precision": artifact.precision,
            "bytes": size,
            "sha256": digest,
            "inputs": [_tensor(spec) for spec in artifact.inputs],
            "outputs": [_tensor(spec) for spec in artifact.outputs],
        },
        "environment": environment(),
        "rewrites": not_run(rewrites) if isinstance(rewrites, NotRun) else [_rewrite(r) for r in rewrites],
        "quantization": _quantization(quantization),
        "parity": not_run(parity) if isinstance(parity, NotRun) else _parity(parity, gates, _class_names(artifact)),
        "latency": not_run(latency) if isinstance(latency, NotRun) else [dict(row) for row in latency],
        "operators": not_run(operators) if isinstance(operators, NotRun) else dict(operators),
    }


def environment() -> dict[str, Any]:
    """Python, operating system, CPU model, and the versions of what is installed of `PACKAGES`."""
    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in metadata.distributions()}
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": _cpu_model(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
    }


def size_and_digest(path: Path) -> tuple[int, str]:
    """Bytes and SHA-256 of a file; of a folder, the bytes of its files and the digest of their names and digests."""
    if path.is_file():
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    digest, size = hashlib.sha256(), 0
    for member in sorted(p for p in path.rglob("*") if p.is_file()):
        member_size, member_digest = size_and_digest(member)
        size += member_size
        digest.update(f"{member.relative_to(path).as_posix()}\0{member_digest}\n".encode())
    return size, digest.hexdigest()


def dumps(report: Mapping[str, Any]) -> str:
    """JSON with sorted keys, so that two reports of equal content are equal text."""
    return json.dumps(report, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Writes under a temporary name and renames. Raises `OutputError` where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(dumps(report), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"The report '{path}' cannot be written: {error}. Choose another place: --report.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def made_with(path: Path, digest: str) -> dict[str, Any]:
    """``rewrites`` and ``quantization`` of the report that `convert` left beside a file, where it is of this very file
    (its SHA-256 is ``digest``) and of this version; else nothing."""
    try:
        found = json.loads(path.with_name(f"{path.name}.report.json").read_text(encoding="utf-8"))
        if (found["schema_version"], found["artifact"]["sha256"]) == (SCHEMA_VERSION, digest):
            return {name: found[name] for name in ("rewrites", "quantization")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    text = resources.files("mobileseg.validation").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def schema_faults(report: Mapping[str, Any]) -> list[str]:
    """Where a report departs from the schema, each as ``place: what``; empty for a valid one.

    Raises `MissingExtraError` where jsonschema is not installed.
    """
    try:
        import jsonschema
    except ModuleNotFoundError as error:
        raise MissingExtraError("report", "jsonschema") from error
    faults = jsonschema.Draft202012Validator(schema()).iter_errors(report)
    return sorted(f"{fault.json_path}: {fault.message}" for fault in faults)


def _checkpoint(checkpoint: Checkpoint | NotRun) -> dict[str, Any]:
    if isinstance(checkpoint, NotRun):
        return not_run(checkpoint)
    return {
        "path": checkpoint.path.as_posix(),
        "sha256": checkpoint.sha256,
        "architecture": checkpoint.architecture,
        "variant": checkpoint.variant,
        "num_classes": checkpoint.num_classes,
        "parameters": checkpoint.parameters,
        "preprocessing": checkpoint.preprocessing.name,
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return asdict(spec) | {"shape": list(spec.shape), "range": None if spec.range is None else list(spec.range)}


def _rewrite(rewrite: Rewrite) -> dict[str, Any]:
    return {
        "pass": rewrite.name,
        "count": rewrite.count,
        "exact": rewrite.exact,
        "why": rewrite.why,
        "left": list(rewrite.left),
    }


def _quantization(record: QuantizationRecord | NotRun) -> dict[str, Any]:
    if isinstance(record, NotRun):
        return not_run(record)
    return {
        "recipe": record.recipe,
        "calibration": {"source": record.calibration_source, "images": record.calibration_images},
        "kept_float": list(record.kept_float),
        "plan": not_run(NO_PLAN) if record.int8 is None else plan_record(record.int8),
        "warnings": [] if record.int8 is None else list(record.int8.warnings),
    }


def _class_names(artifact: Artifact) -> Sequence[str]:
    """Names from the artifact's metadata, or none."""
    names: Sequence[str] = (artifact.metadata.get("classes") or {}).get("names", ())
    return names


def _parity(result: ParityResult, gates: tuple[Gate, ...], names: Sequence[str]) -> dict[str, Any]:
    values = result.errors
    errors = LogitErrors(values, values, values, values) if isinstance(values, NotRun) else values
    fields: dict[str, Any] = {
        "runner": result.runner,
        "notes": list(result.notes),
        "head": result.head,
        "images": result.images,
        "max_abs_err": number(errors.max_abs_err),
        "mean_abs_err": number(errors.mean_abs_err),
        "sqnr_db": number(errors.sqnr_db),
        "reference_sqnr_db": number(result.reference_sqnr_db),
        "cosine": number(errors.cosine),
        "error_histogram": _histogram(values),
        "pixel_agreement": result.agreement.pixels,
        "boundary_agreement": number(result.agreement.boundary),
        "confident_flips": result.agreement.confident_flips,
        "per_class_iou_against_reference": dict(_class_ious(result.classes.iou, names)),
        "confusion_against_reference": result.classes.confusion.tolist(),
        **_label_scores(result, names),
        "classes_lost": _classes_lost(result, names),
        "classes_vanished": _classes_vanished(result, names),
    }
    measured = [
        {
            "name": gate.name,
            "limit": gate.limit,
            "value": fields[_FIELD_OF_GATE[gate.name]] if gate.value is None else number(gate.value),
            "passed": gate.passed,
        }
        for gate in gates
    ]
    return fields | {"gates": measured, "passed": all_passed(gates)}


def _histogram(errors: LogitErrors | NotRun) -> list[list[int]] | dict[str, str]:
    if isinstance(errors, NotRun):
        return not_run(errors)
    if isinstance(errors.max_abs_err, NotRun):
        return not_run(errors.max_abs_err)
    return [list(pair) for pair in errors.histogram]


def _label_scores(result: ParityResult, names: Sequence[str]) -> dict[str, Any]:
    scores = result.scores
    if isinstance(scores, NotRun):
        fields = (
            "label_protocol",
            "miou_reference",
            "miou_artifact",
            "pixel_accuracy_reference",
            "pixel_accuracy_artifact",
            "per_class_iou_change",
            "confusion_against_labels",
        )
        return dict.fromkeys(fields, not_run(scores))
    return {
        "label_protocol": LABEL_PROTOCOL[result.head],
        "miou_reference": scores.miou_reference,
        "miou_artifact": scores.miou_artifact,
        "pixel_accuracy_reference": scores.pixel_accuracy_reference,
        "pixel_accuracy_artifact": scores.pixel_accuracy_artifact,
        "per_class_iou_change": dict(_iou_changes(scores, names)),
        "confusion_against_labels": scores.confusion_artifact.tolist(),
    }


def _class_keys(count: int, names: Sequence[str]) -> Sequence[str]:
    """The classes' names, or their indices where there are not as many names."""
    return names if len(names) == count else [str(i) for i in range(count)]


def _class_ious(ious: Sequence[float | None], names: Sequence[str]) -> Iterator[tuple[str, float | dict[str, str]]]:
    for key, iou in zip(_class_keys(len(ious), names), ious, strict=True):
        yield key, {"not_run": "the checkpoint gives this class to no pixel"} if iou is None else iou


def _iou_changes(scores: LabelScores, names: Sequence[str]) -> Iterator[tuple[str, float | dict[str, str]]]:
    """Artifact less reference."""
    keys = _class_keys(len(scores.iou_reference), names)
    for key, reference, artifact in zip(keys, scores.iou_reference, scores.iou_artifact, strict=True):
        if reference is None or artifact is None:
            yield key, {"not_run": "the class does not occur in the labels"}
        else:
            yield key, artifact - reference


def _classes_lost(result: ParityResult, names: Sequence[str]) -> list[dict[str, Any]] | dict[str, str]:
    """Classes whose IoU against labels is lower by more than `LOST`, the greatest loss first."""
    scores = result.scores
    if isinstance(scores, NotRun):
        return not_run(scores)
    keys = _class_keys(len(scores.iou_reference), names)
    both = zip(keys, scores.iou_reference, scores.iou_artifact, strict=True)
    found = [(key, a, b) for key, a, b in both if a is not None and b is not None and a - b > LOST]
    ordered = sorted(found, key=lambda item: item[2] - item[1])
    return [{"class": key, "iou_reference": a, "iou_artifact": b} for key, a, b in ordered]


def _classes_vanished(result: ParityResult, names: Sequence[str]) -> list[dict[str, Any]]:
    """Classes that the reference gives to some pixels, and the artifact to none."""
    confusion = result.classes.confusion
    given, found = confusion.sum(axis=1), confusion.sum(axis=0)
    keys = _class_keys(len(given), names)
    return [{"class": keys[i], "pixels": int(n)} for i, n in enumerate(given) if n and not found[i]]


def _cpu_model() -> str:
    """The CPU's model name as the operating system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines())
        names = [value.strip() for key, _, value in lines if key.strip() in {"model name", "Model"}]
        if names:
            return names[0]
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()
