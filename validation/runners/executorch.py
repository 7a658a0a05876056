"""ExecuTorch files on the runtime of ExecuTorch's Python package, which has XNNPACK and the portable kernels.

The runtime checks the program's own structure, and no delegate's payload: damage there ends the process. A file of ours
carries the digest of its bytes in the method ``sha256`` (`mobileseg.converters.executorch.lower`), which is held
against them before anything is handed to a delegate. A file of others, without one, is first run in a process of its
own, which it may end (`mobileseg.validation.runners.trial`).

A file for Core ML, away from it, is run by the reference executor (`executorch_coreml`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobileseg.errors import MissingExtraError
from mobileseg.types import Placement, TensorSpec
from mobileseg.validation.runners import executorch_coreml
from mobileseg.validation.runners.base import METADATA_KEY, Opened, Runner, does_not_load, does_not_run, make_runner
from mobileseg.validation.runners.trial import tried

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORWARD = "forward"
DIGEST_METHOD = "sha256"
_UNSIGNED = "mobileseg:".ljust(64, "-")
_KIND = "an ExecuTorch file"
_IDENTIFIER, _IDENTIFIED = slice(4, 8), b"ET12"

# A backend's identifier -> its name, and what runs it where the Python package has it not.
BACKENDS = {
    "XnnpackBackend": ("XNNPACK", "any phone or computer"),
    "CoreMLBackend": ("Core ML", "an iPhone, an iPad or a Mac"),
    "VulkanBackend": ("Vulkan", "an Android phone"),
}
# ExecuTorch's numbers of element types (runtime/core/portable_type/scalar_type.h).
_DTYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64"}


def open_runner(path: Path, placement: Placement) -> Runner:
    """Loads a ``.pte`` file. The threads are those of the runtime's one pool, which all files of this process share.

    Raises `UsageError` where it does not load, `MissingExtraError` without ExecuTorch.
    """
    content = path.read_bytes()
    # Of other bytes the runtime prints four characters, and does not survive those that are not text.
    if content[_IDENTIFIER] != _IDENTIFIED:
        raise does_not_load(path, _KIND, "it is not an ExecuTorch program")
    with captured_stderr():
        runtime = _runtime(placement.threads)
    with captured_stderr() as said:
        try:
            program = runtime.load_program(content)
            constants = _constants(program)
            signed = _signed(content, constants, path)
            backends = backends_of(content)
            missing = [name for name in backends if not runtime.backend_registry.is_available(name)]
            if not missing and not signed:
                tried(path)
            if not missing:
                program.load_method(FORWARD)
            described = program.metadata(FORWARD)
        # ValueError: of the package's own deserializer.
        except (RuntimeError, KeyError, ValueError) as error:
            raise does_not_load(path, _KIND, said() or error) from error

    def invoke(tensor: NDArray[Any]) -> NDArray[Any]:
        import torch

        # Asked of the program each time: it owns the bytes, and a method alone does not keep them.
        with captured_stderr() as said:
            try:
                result, *_ = program.load_method(FORWARD).execute([torch.from_numpy(tensor)])
            except (RuntimeError, ValueError) as error:
                raise does_not_run(path, _KIND, said() or error) from error
        return np.asarray(result.numpy())

    names = _tensor_names(constants)
    ran_by = ", ".join(_name(backend) for backend in backends) or "portable kernels"
    opened = Opened(
        f"executorch {installed.version('executorch')} ({ran_by})", invoke, (), _cannot_run(missing) if missing else ""
    )
    outputs = _tensor_specs(described.num_outputs(), described.output_tensor_meta, names["output"])
    if missing == [executorch_coreml.BACKEND] and outputs:
        package = executorch_coreml.open_package(path, content, FORWARD, outputs[0].dtype, placement)
        opened = package or opened
    return make_runner(
        path=path,
        runtime=opened.runtime,
        inputs=_tensor_specs(described.num_inputs(), described.input_tensor_meta, names["input"]),
        outputs=outputs,
        metadata_json=constants.get(METADATA_KEY),
        invoke=opened.invoke,
        notes=opened.notes,
        cannot_run=opened.cannot_run,
    )


def run_untried(path: Path) -> None:
    """Load and run a program once, on zeros, whatever becomes of this process."""
    import torch

    # Not `executorch.runtime`, which imports the whole compiler: three seconds of a process that lives for one run.
    try:
        library = import_module("executorch.extension.pybindings._C")
    except ModuleNotFoundError:
        library = import_module("executorch.extension.pybindings.portable_lib")
    library._unsafe_reset_threadpool(1)
    content = path.read_bytes()
    program = library._load_program_from_buffer(content, program_verification=library.Verification.InternalConsistency)
    method, declared = program.load_method(FORWARD), program.method_meta(FORWARD)
    tensors = (declared.input_tensor_meta(i) for i in range(declared.num_inputs()))
    method([torch.zeros(tensor.sizes(), dtype=getattr(torch, _DTYPES[tensor.dtype()])) for tensor in tensors])


def _runtime(threads: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime
    except ModuleNotFoundError as error:
        raise MissingExtraError("executorch", error.name or "executorch") from error
    portable_lib._unsafe_reset_threadpool(threads)
    return Runtime.get()


def _constants(program: Any) -> dict[str, Any]:
    """What the methods of ours return: our metadata and the digest."""
    wanted = program.method_names & {METADATA_KEY, DIGEST_METHOD}
    return {name: program.load_method(name).execute([])[0] for name in sorted(wanted)}


def _signed(content: bytes, constants: Mapping[str, Any], path: Path) -> bool:
    """Whether the file carries its digest. Raises `UsageError` for another one than that of its bytes."""
    digest = constants.get(DIGEST_METHOD)
    if digest is None:
        return False
    unsigned = content.replace(str(digest).encode(), _UNSIGNED.encode(), 1)
    if hashlib.sha256(unsigned).hexdigest() != digest:
        raise does_not_load(path, _KIND, "its bytes are not those it was written with")
    return True


def backends_of(content: bytes) -> list[str]:
    """Identifiers of the delegates that a loadable program calls, each once."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    plans = deserialize_pte_binary(content).program.execution_plan
    found = (delegate.id for plan in plans for delegate in plan.delegates)
    return list(dict.fromkeys(found))


def _name(backend: str) -> str:
    return BACKENDS.get(backend, (backend, ""))[0]


def _cannot_run(missing: Sequence[str]) -> str:
    names = ", ".join(_name(backend) for backend in missing)
    places = " or ".join(dict.fromkeys(BACKENDS.get(backend, ("", "its own device"))[1] for backend in missing))
    return (
        f"ExecuTorch's Python package has no {names} backend on this system. Run it on {places}, or convert with "
        "--delegate xnnpack, which runs here."
    )


def _tensor_names(constants: Mapping[str, Any]) -> dict[str, str]:
    """What our metadata calls the first input and output; a file of others has no names."""
    names = {"input": "input", "output": "output"}
    with contextlib.suppress(ValueError, TypeError):
        described = json.loads(constants.get(METADATA_KEY, "{}"))
        names |= {side: str(described[side]["name"]) for side in names if "name" in described.get(side, {})}
    return names


def _tensor_specs(count: int, info: Callable[[int], Any], name: str) -> tuple[TensorSpec, ...]:
    """The layout is not known yet."""
    tensors = [info(i) for i in range(count)]
    return tuple(
        TensorSpec(
            name=name if i == 0 else f"{name}_{i}",
            shape=tuple(int(n) for n in tensor.sizes()),
            dtype=_DTYPES.get(tensor.dtype(), f"type {tensor.dtype()}"),
            layout="",
        )
        for i, tensor in enumerate(tensors)
    )


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """The runtime says on Python's stderr why it refuses a file, and how it reads the processor's description.

    Yields a function that returns the first refusal so far, without the place in the source that wrote it.
    """
    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        yield lambda: log.getvalue().partition("\n")[0].partition("] ")[2].rstrip(".")
