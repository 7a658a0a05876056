"""From a rewritten program to the bytes of a .pte file.

Beside ``forward`` the file has methods that take nothing and return constants: ``mobileseg`` is the JSON object of
metadata; `plain_methods` are the parts of it that an app reads without a JSON parser; ``delegation`` says in JSON what
the delegate took and what it left, and why; ``sha256`` is the digest of the file's bytes with that digest itself
written as `UNSIGNED`: the runtime does not check a delegate's payload, and a damaged one ends the process.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mobileseg.converters.executorch import record
from mobileseg.converters.executorch.delegates import Delegate, delegate_named
from mobileseg.converters.executorch.delegates.base import listening
from mobileseg.converters.executorch.half import to_half
from mobileseg.converters.executorch.memory_order import contiguous_everywhere
from mobileseg.errors import MissingExtraError, MobilesegError, cannot_convert

if TYPE_CHECKING:
    from pathlib import Path

    from torch.fx import GraphModule

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering

METADATA_METHOD = "mobileseg"
DELEGATION_METHOD = "delegation"
DIGEST_METHOD = "sha256"
UNSIGNED = "mobileseg:".ljust(64, "-")
"""What stands in place of the digest while the digest is taken."""

ETRECORD_SUFFIX = ".etrecord"
_TALKATIVE = ("coremltools", "executorch", "root", "torch.utils._pytree", "torchao")


def lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    """Write the float32, float16, dynamic or (of a program with a plan in it) int8 .pte at ``path``; option
    ``etrecord``: and its ETRecord (what ExecuTorch's profiler needs to name operators) beside it, with the suffix
    ``.etrecord``.

    In: (N, 3, H, W) float32. Out, by the head: logits or probabilities (N, C, H', W') float32, or classes (N, H', W')
    uint8 (int32 beyond 256 classes, and with the delegate ``coreml``, which has no bytes).

    Raises `OptionError` for an unknown ``delegate``, `RewriteError` for a network that the delegate's compiler does not
    survive, `MissingExtraError` where executorch, or what the delegate needs,
    is not installed.
    """
    delegate = delegate_named(lowering.options.get("delegate"))
    with _quiet():
        try:
            import executorch.exir  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("executorch", error.name or "executorch") from error
        program = _own_copy(rewritten, lowering, delegate)
        from torch._export.verifier import SpecViolationError

        try:
            content, etrecord = _lowered(program, delegate, lowering)
        # What ExecuTorch's and the delegates' compilers raise where they meet what they do not expect.
        except (
            AssertionError,
            AttributeError,
            KeyError,
            NotImplementedError,
            RuntimeError,
            SpecViolationError,
            ValueError,
        ) as error:
            others = "--delegate portable, or another target,"
            raise cannot_convert(f"ExecuTorch's {delegate.name} delegate", error, others) from error
    path.write_bytes(_signed(content))
    if etrecord is not None:
        path.with_suffix(ETRECORD_SUFFIX).write_bytes(etrecord)


def _own_copy(rewritten: RewrittenProgram, lowering: Lowering, delegate: Delegate) -> RewrittenProgram:
    """The program in its precision and as the delegate reads it, in a module that holds only what it uses: ExecuTorch
    writes unused constants (the normalizations that were folded) into the file."""
    module = _with_used_constants(rewritten.module)
    if lowering.precision == "fp16" and not delegate.narrows:
        to_half(module, lowering.float32_share)
        module = _with_used_constants(module)
    return replace(rewritten, module=delegate.prepare(module))


def _with_used_constants(module: GraphModule) -> GraphModule:
    from torch.fx import GraphModule

    used = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    return GraphModule({name: operator.attrgetter(name)(module) for name in used}, copy.deepcopy(module.graph))


def _lowered(rewritten: RewrittenProgram, delegate: Delegate, lowering: Lowering) -> tuple[bytes, bytes | None]:
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    traced = bool(lowering.options.get("etrecord"))
    constants = {
        **plain_methods(lowering.metadata),
        METADATA_METHOD: json.dumps(lowering.metadata, sort_keys=True),
        DIGEST_METHOD: UNSIGNED,
    }
    with listening(delegate) as reasons, delegate.compiling(lowering.precision, lowering.float32_share) as removed:
        edge = to_edge_transform_and_lower(
            rewritten.program,
            transform_passes=[contiguous_everywhere()],
            partitioner=delegate.partitioners(),
            constant_methods=constants,
            generate_etrecord=traced,
        )
    rounded = delegate.rounded if lowering.precision == "dynamic" else (lambda node: None)
    described = record.describe(edge.exported_program(), delegate, reasons, removed, rounded)
    for module in record.lowered_modules(edge.exported_program()):
        module._processed_bytes = delegate.finish(module.processed_bytes)
    # What the delegate took is known only now, and ExecuTorch takes constant methods only at the start.
    edge._config_methods[DELEGATION_METHOD] = json.dumps(described, sort_keys=True)
    # The input is read where the app holds it: no copy, and no place for it in the arena.
    planning = MemoryPlanningPass(alloc_graph_input=False)
    program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    etrecord = io.BytesIO()
    if traced:
        program.get_etrecord().save(etrecord)
    return bytes(program.buffer), etrecord.getvalue() if traced else None


def plain_methods(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Constant methods that an app reads by themselves: ``input_size`` (height, width), ``input_range`` (of the
    picture's numbers; not where the file takes the network's own input), ``labels``, ``palette`` (red, green, blue of
    each class in turn, 0..255), ``num_classes``, ``head``. What the metadata does not have is left out."""
    source, classes = metadata.get("input", {}), metadata.get("classes", {})
    names = list(classes.get("names", ())) if isinstance(classes, dict) else []
    palette = classes.get("palette", ()) if isinstance(classes, dict) else ()
    found = {
        "input_size": [int(n) for n in source.get("size") or ()],
        "input_range": [float(n) for n in source.get("range") or ()],
        "labels": names,
        "palette": [int(n) for colour in palette for n in colour],
        "num_classes": len(names) or None,
        "head": metadata.get("head"),
    }
    return {name: value for name, value in found.items() if value}


def _signed(content: bytes) -> bytes:
    unsigned = UNSIGNED.encode()
    if content.count(unsigned) != 1:
        raise MobilesegError(f"ExecuTorch wrote the method '{DIGEST_METHOD}' {content.count(unsigned)} times.")
    return content.replace(unsigned, hashlib.sha256(content).hexdigest().encode())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the compilers print and log concerns their own development and their untested companions."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
