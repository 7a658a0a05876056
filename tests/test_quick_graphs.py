"""Graphs without what torch and Python spend beside the work on them: the same graphs, with the same histories."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._export.utils
import torch.export.decomp_utils
import torch.export.exported_program
import torch.fx.traceback
from torch import Tensor, nn

from mobileseg.quick_graphs import quick_graphs


@pytest.fixture(autouse=True)
def _as_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo for each test what `conftest.py` does for all."""
    before = gc.get_threshold()
    collect = torch._export.utils._collect_all_valid_cia_ops
    monkeypatch.setattr(torch.fx.traceback, "copy", copy)
    monkeypatch.setattr(torch._export.utils, "_materialize_cpp_cia_ops", torch._export._materialize_cpp_cia_ops)
    monkeypatch.setattr(torch.export.decomp_utils, "_collect_all_valid_cia_ops", collect)
    monkeypatch.setattr(torch.export.exported_program, "_collect_all_valid_cia_ops", collect)
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).mean((2, 3)) + 1


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Small().eval(), (torch.zeros(1, 3, 8, 8),))
        return program.run_decompositions().run_decompositions({})


def told(source: Any) -> Any:
    """A history without the numbers by which Python tells graphs apart."""
    return source.name, source.target, source.pass_name, [told(earlier) for earlier in source.from_node]


def histories(program: Any) -> list[Any]:
    return [(n.name, [told(source) for source in n.meta.get("from_node", [])]) for n in program.graph.nodes]


def test_every_node_has_the_history_that_torch_gives_it() -> None:
    expected = histories(traced())
    with quick_graphs():
        found = histories(traced())
    assert found == expected
    assert any(len(str(history)) > 200 for _, history in found)


def test_all_is_as_before_at_the_end() -> None:
    with quick_graphs(), quick_graphs():
        assert gc.get_threshold()[0] > 700
        assert torch.fx.traceback.copy is not copy
    with pytest.raises(RuntimeError, match="in between"), quick_graphs():
        raise RuntimeError("in between")
    assert gc.get_threshold() == (700, 10, 10)
    assert torch.fx.traceback.copy is copy


@pytest.mark.parametrize("operator", [torch.ops.aten.linear.default, torch.ops.aten.upsample_bilinear2d.vec])
def test_composite_operators_keep_their_kernels(operator: Any) -> None:
    before = dict(operator.py_kernels)
    with quick_graphs():
        traced()
        assert operator.py_kernels == before
    assert operator.py_kernels == before


def test_an_operator_registered_in_between_is_kept_whole() -> None:
    class Called(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = torch.ops.mobileseg_test_quick.twice(x)
            return result

    with quick_graphs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced()
        library = torch.library.Library("mobileseg_test_quick", "DEF")
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeImplicitAutograd")
        known = {str(o) for o in torch.export.exported_program._collect_all_valid_cia_ops()}
        program = torch.export.export(Called(), (torch.zeros(2),))
        whole = program.run_decompositions({})
        apart = program.run_decompositions()
    library._destroy()

    def called(graph: Any) -> list[str]:
        return [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]

    assert "mobileseg_test_quick.twice.default" in known
    assert called(whole) == ["mobileseg_test_quick.twice.default"]
    assert called(apart) == ["aten.mul.Tensor"]


def test_a_kernel_is_not_registered_twice() -> None:
    operator = torch.ops.aten.linear.default
    key = torch._C.DispatchKey.AutogradMPS
    with quick_graphs():
        operator.py_impl(key)(len)
        try:
            with pytest.raises(RuntimeError, match="override"):
                operator.py_impl(key)(len)
        finally:
            del operator.py_kernels[key]
            operator._dispatch_cache.clear()
