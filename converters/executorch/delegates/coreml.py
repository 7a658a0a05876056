"""Core ML inside ExecuTorch: Apple's Neural Engine, GPU and CPU, compiled ahead of time with coremltools."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg.converters.coreml import DEFAULT_DEPLOYMENT_TARGET
from mobileseg.converters.coreml.half import chooser
from mobileseg.converters.executorch.delegates.base import Delegate, Reason, Removed
from mobileseg.errors import MobilesegError

if TYPE_CHECKING:
    from torch.fx import GraphModule

_DAY = "com.github.apple.coremltools.conversion_date"
_SKIPPED = re.compile(r"Skipping op for CoreML delegation because it is (?P<reason>.*): (?P<operator>\S+)$")


def _partitioners() -> list[Any]:
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    from mobileseg.converters.coreml.lower import INEXACT_PASSES

    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=coremltools.target[DEFAULT_DEPLOYMENT_TARGET],
        compute_precision=coremltools.precision.FLOAT32,
        pass_names=[name for name in coremltools.PassPipeline.DEFAULT.passes if name not in INEXACT_PASSES],
    )
    return [CoreMLPartitioner(compile_specs=specs)]


def _prepare(module: GraphModule) -> GraphModule:
    from mobileseg.converters.coreml.lower import as_coremltools_reads_it

    return as_coremltools_reads_it(module)


@contextmanager
def _in_precision(precision: str, float32_share: float) -> Iterator[Removed]:
    """ExecuTorch hands coremltools one precision for the whole program. Of float16 the preprocessing, among others, is
    exempt (`mobileseg.converters.coreml.half`), and coremltools takes such a choice in the same place."""
    if precision == "fp32":
        yield {}
        return
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend

    name = "model_compute_precision_from_compile_specs"
    chosen = coremltools.transform.FP16ComputePrecision(op_selector=_chooser(float32_share))
    original = vars(CoreMLBackend)[name]
    setattr(CoreMLBackend, name, staticmethod(lambda specs: chosen))
    try:
        yield {}
    finally:
        setattr(CoreMLBackend, name, original)


def _chooser(float32_share: float) -> Callable[[Any], bool]:
    # The preprocessing is in the part that gets the picture, and that part gets nothing else.
    chosen = chooser(float32_share)
    return lambda operation: len(operation.enclosing_block.inputs) != 1 or chosen(operation)


def _finish(payload: bytes) -> bytes:
    """The payload's package without the day it was made on, its maps in order, its identifiers by what it holds."""
    from executorch.backends.apple.coreml import executorchcoreml

    with tempfile.TemporaryDirectory() as folder:
        if not executorchcoreml.unflatten_directory_contents(payload, folder):
            raise MobilesegError("ExecuTorch wrote a Core ML payload that it does not read.")
        (module,) = Path(folder).iterdir()
        _order(module)
        return bytes(executorchcoreml.flatten_directory_contents(str(module)))


def _order(folder: Path) -> None:
    import coremltools

    package = folder / "model.mlpackage"
    manifest = json.loads((package / "Manifest.json").read_bytes())
    items = {entry["path"]: entry for entry in manifest["itemInfoEntries"].values()}
    names = {path: str(uuid.uuid5(uuid.NAMESPACE_OID, path)) for path in sorted(items)}
    (root,) = (p for p in items if p.endswith(".mlmodel"))
    ordered = {
        "fileFormatVersion": manifest["fileFormatVersion"],
        "itemInfoEntries": {names[path]: items[path] for path in names},
        "rootModelIdentifier": names[root],
    }
    (package / "Manifest.json").write_text(json.dumps(ordered, sort_keys=True), encoding="utf-8")
    program = package / "Data" / root
    spec = coremltools.proto.Model_pb2.Model.FromString(program.read_bytes())
    spec.description.metadata.userDefined.pop(_DAY, None)
    program.write_bytes(spec.SerializeToString(deterministic=True))
    # The runtime keeps a compiled model under this identifier: another model must get another.
    content = b"".join(f.read_bytes() for f in sorted(package.rglob("*")) if f.is_file())
    metadata = json.loads((folder / "metadata.json").read_bytes())
    metadata["identifier"] = f"executorch_{uuid.UUID(bytes=hashlib.sha256(content).digest()[:16])}"
    (folder / "metadata.json").write_text(json.dumps(metadata, sort_keys=True), encoding="utf-8")


def _reason(record: logging.LogRecord) -> Reason | None:
    found = _SKIPPED.search(record.getMessage())
    return (found["operator"], found["reason"]) if found else None


DELEGATE = Delegate(
    name="coreml",
    partitioners=_partitioners,
    otherwise="coremltools does not convert it",
    loggers=("executorch.backends.apple.coreml.partition.coreml_partitioner",),
    reason=_reason,
    narrows=True,
    prepare=_prepare,
    compiling=_in_precision,
    finish=_finish,
    modules=("coremltools",),
    extra="coreml",
)
