"""What runs inside the emulation: loads one file and answers tensor after tensor, until its stdin ends.

    python3 arm64_worker.py FILE THREADS      # a .tflite, .pte or .onnx
    python3 arm64_worker.py .tflite .pte      # loads the runtimes of these suffixes, and ends

Stand-alone: the Python that runs it has NumPy and the runtimes, and nothing of mobileseg. A message, either way, is the
length of what follows (eight bytes, the lowest first) and a .npy file. The first, which says that all is loaded, is the
name of the machine that this Python sees. An error is the last line on stderr.
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import os
import platform
import sys
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_bool, c_byte, c_char_p, c_int8, c_int32, c_size_t, c_ssize_t, c_uint8
from pathlib import Path
from typing import IO, Any

import numpy as np

Invoke = Callable[[Any], Any]
"""The input tensor to the first output tensor."""

LENGTH_BYTES = 8


def load_tflite(path: str, threads: int) -> Invoke:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def invoke(tensor: Any) -> Any:
        interpreter.set_tensor(source, tensor)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return invoke


def load_onnx(path: str, threads: int) -> Invoke:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source, result = session.get_inputs()[0].name, session.get_outputs()[0].name
    return lambda tensor: session.run([result], {source: tensor})[0]


# ExecuTorch's Python binding needs the whole of PyTorch, which takes twenty seconds to import under emulation and is
# published for ARM64 with a gigabyte of CUDA only. The C++ class behind it, `extension::Module`, needs neither; what
# follows calls that as the C++ ABI (Itanium's) has it, with the layouts of ExecuTorch's headers of these names.
class _String(Structure):  # std::string, of libstdc++
    _fields_ = (("data", c_char_p), ("size", c_size_t), ("local", c_byte * 16))


class _TensorImpl(Structure):
    _fields_ = (
        ("sizes", POINTER(c_int32)),
        ("dim_order", POINTER(c_uint8)),
        ("strides", POINTER(c_int32)),
        ("data", ctypes.c_void_p),
        ("dim", c_ssize_t),
        ("numel", c_ssize_t),
        ("numel_bound", c_size_t),
        ("type", c_int8),
        ("dynamism", c_uint8),
        ("device", c_int8 * 2),
    )


class _EValue(Structure):
    _fields_ = (("tensor", POINTER(_TensorImpl)), ("tag", ctypes.c_uint32))


class _Vector(Structure):  # std::vector<EValue>
    _fields_ = (("first", POINTER(_EValue)), ("last", ctypes.c_void_p), ("end", ctypes.c_void_p))


class _Result(Structure):  # Result<std::vector<EValue>>: where it is not ok, the number of the error in its first bytes
    _fields_ = (("values", _Vector), ("ok", c_bool))


_TENSOR = 1
_MODULE_BYTES = 2**16
"""More than a `Module` has."""
_DTYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64"}
_MODULE = "_ZN10executorch9extension6module6Module"
_TEXT = "RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
_CONSTRUCT = (
    f"{_MODULE}C1E{_TEXT}NS2_8LoadModeESt10unique_ptrINS_7runtime11EventTracerESt14default_deleteISE_EE"
    "SC_INSD_15MemoryAllocatorESF_ISI_EESK_b"
)
_EXECUTE = f"{_MODULE}7executeE{_TEXT}RKSt6vectorINS_7runtime6EValueESaISD_EE"
_GET_POOL = "_ZN10executorch9extension10threadpool14get_threadpoolEv"
_RESET_POOL = "_ZN10executorch9extension10threadpool10ThreadPool24_unsafe_reset_threadpoolEj"


def load_executorch(path: str, threads: int) -> Invoke:
    core, pool = _executorch_libraries()
    construct, execute, get_pool, reset_pool = core[_CONSTRUCT], core[_EXECUTE], pool[_GET_POOL], pool[_RESET_POOL]
    construct.restype, execute.restype, get_pool.restype, reset_pool.restype = None, _Result, ctypes.c_void_p, c_bool
    reset_pool(ctypes.c_void_p(get_pool()), ctypes.c_uint32(threads))
    module, name = ctypes.create_string_buffer(_MODULE_BYTES), _text(path)
    # Three empty unique_ptr, which C++ passes by address.
    nothing = [byref(ctypes.c_void_p()) for _ in range(3)]
    construct(byref(module), byref(name), ctypes.c_int(0), *nothing, c_bool(False))
    method = _text("forward")

    def invoke(tensor: Any) -> Any:
        given = _tensor(tensor)
        values = (_EValue * 1)(_EValue(ctypes.pointer(given), _TENSOR))
        end = ctypes.addressof(values) + ctypes.sizeof(values)
        result = execute(byref(module), byref(method), byref(_Vector(values, end, end)))
        if not result.ok:
            raise RuntimeError(f"ExecuTorch's error {ctypes.cast(byref(result), POINTER(ctypes.c_uint32))[0]:#x}")
        return _array(result.values.first[0].tensor.contents)

    return invoke


def _executorch_libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """The core and the thread pool; beside them, what registers itself: the operators and XNNPACK."""
    spec = importlib.util.find_spec("executorch")
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise ModuleNotFoundError("No module named 'executorch'")
    parts = ("", "_threadpool", "_kernels_optimized", "_backend_xnnpack")
    core, pool, *_ = (
        ctypes.CDLL(str(Path(places[0]) / "lib" / f"libexecutorch{part}.so"), ctypes.RTLD_GLOBAL) for part in parts
    )
    return core, pool


def _text(text: str) -> _String:
    encoded = os.fsencode(text)
    return _String(encoded, len(encoded))


def _tensor(array: Any) -> _TensorImpl:
    """A tensor over the memory of a contiguous array, which must outlive it."""
    axes = array.ndim
    number = next(number for number, name in _DTYPES.items() if name == array.dtype.name)
    return _TensorImpl(
        (c_int32 * axes)(*array.shape),
        (c_uint8 * axes)(*range(axes)),
        (c_int32 * axes)(*(stride // array.itemsize for stride in array.strides)),
        array.ctypes.data,
        axes,
        array.size,
        array.size,
        number,
    )


def _array(tensor: _TensorImpl) -> Any:
    """A copy, in C's order whatever the tensor's."""
    dtype = np.dtype(_DTYPES[tensor.type])
    memory = (c_byte * (tensor.numel * dtype.itemsize)).from_address(tensor.data or 0)
    strides = [stride * dtype.itemsize for stride in tensor.strides[: tensor.dim]]
    return np.ndarray(tensor.sizes[: tensor.dim], dtype, memory, 0, strides).copy(order="C")


LOADERS: dict[str, Callable[[str, int], Invoke]] = {
    ".onnx": load_onnx,
    ".pte": load_executorch,
    ".tflite": load_tflite,
}


def import_runtime(suffix: str) -> None:
    """Raises what loading the runtime raises."""
    if suffix == ".pte":
        _executorch_libraries()
    else:
        __import__({".onnx": "onnxruntime", ".tflite": "ai_edge_litert.interpreter"}[suffix])


def send(stream: IO[bytes], array: Any) -> None:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    stream.write(content.getbuffer().nbytes.to_bytes(LENGTH_BYTES, "little"))
    stream.write(content.getbuffer())
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next array; None where the stream has ended, within a message too."""
    length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    content = stream.read(length)
    return np.load(io.BytesIO(content), allow_pickle=False) if length and len(content) == length else None


def main(arguments: list[str]) -> None:
    # Runtimes print; what they print must not get between the messages.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if platform.machine() == "aarch64" and "CPU implementer" not in Path("/proc/cpuinfo").read_text():
        sys.exit("/proc/cpuinfo does not describe an ARM processor, and the runtimes would crash")
    if arguments[0] in LOADERS:
        for suffix in arguments:
            import_runtime(suffix)
        send(answers, np.array(platform.machine()))
        return
    path, threads = arguments
    invoke = LOADERS[Path(path).suffix](path, int(threads))
    send(answers, np.array(platform.machine()))
    while (tensor := receive(sys.stdin.buffer)) is not None:
        send(answers, invoke(tensor))


if __name__ == "__main__":
    main(sys.argv[1:])
