"""ExecuTorch's C++ class called through its ABI: what goes in and comes out is laid out as ExecuTorch has it."""

from __future__ import annotations

from ctypes import c_int32

import numpy as np
import pytest

from mobileseg.validation.devices import arm64_worker


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_an_array_as_a_tensor_and_back(dtype: str) -> None:
    array = np.arange(2 * 3 * 5).reshape(1, 2, 3, 5).astype(dtype)
    tensor = arm64_worker._tensor(array)
    assert tensor.sizes[:4] == [1, 2, 3, 5]
    assert tensor.strides[:4] == [30, 15, 5, 1]
    assert (tensor.dim, tensor.numel, tensor.dim_order[:4]) == (4, 30, [0, 1, 2, 3])
    back = arm64_worker._array(tensor)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_tensor_whose_channels_are_last_in_memory() -> None:
    memory = np.arange(2 * 3 * 5, dtype=np.float32).reshape(1, 3, 5, 2)
    tensor = arm64_worker._tensor(memory)
    tensor.sizes, tensor.strides = (c_int32 * 4)(1, 2, 3, 5), (c_int32 * 4)(30, 1, 10, 2)
    back = arm64_worker._array(tensor)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, memory.transpose(0, 3, 1, 2))


def test_a_program_that_has_no_executorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="executorch"):
        arm64_worker.load_executorch("any.pte", 1)
