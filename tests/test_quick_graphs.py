"""Graphs without what torch and Python spend beside the work on them: the same graphs, with the same histories."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.fx.traceback
from torch import Tensor, nn

from mobileseg.quick_graphs import quick_graphs


@pytest.fixture(autouse=True)
def _as_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo for each test what `conftest.py` does for all."""
    before = gc.get_threshold()
    monkeypatch.setattr(torch.fx.traceback, "copy", copy)
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
