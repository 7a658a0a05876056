"""What the tests of the passes share, handed out as fixtures: test files import nothing from one another."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobileseg.converters.forms import TABLE, Forms
from mobileseg.converters.passes.base import Outcome, Pass

_LINES = {forms: f"{target}-{precision}" for (target, precision), forms in reversed(TABLE.items())}


@dataclass(frozen=True)
class Rewritten:
    """A network after one pass: the module to run, what the pass said, how often each operator is left."""

    module: Callable[..., Any]
    outcome: Outcome
    operators: Counter[str]
    dtypes: frozenset[torch.dtype]

    def __call__(self, *inputs: Tensor) -> Any:
        with torch.no_grad():
            return self.module(*inputs)


class _Program:
    """A network exported once, to be rewritten as often as there are forms."""

    def __init__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(network.eval(), inputs, strict=False)
            self.program = exported.run_decompositions({})

    def rewrite(self, item: Pass, forms: Forms) -> Rewritten:
        """Apply one pass to a copy."""
        module: Any = self.program.module(check_guards=False)
        outcome = item.apply(module, forms)
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
        calls = [n for n in module.graph.nodes if n.op == "call_function"]
        values = [n.meta["val"] for n in calls]
        return Rewritten(
            module,
            outcome,
            Counter(n.target.__name__.split(".")[0] for n in calls),
            frozenset(v.dtype for v in values if isinstance(v, Tensor)),
        )


class _Several(nn.Module):
    """Several networks on the same inputs, so that many cases cost one export."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(*inputs) for network in self.networks)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors are tiny; threads only cost time, and torch's own unpooling races where windows overlap."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def exported() -> Callable[..., _Program]:
    """``exported(network, *inputs)``: the network in canonical form, with ``rewrite(pass, forms)``."""
    return lambda network, *inputs: _Program(network, inputs)


@pytest.fixture(scope="session")
def several() -> Callable[[Sequence[nn.Module]], nn.Module]:
    return _Several


@pytest.fixture(params=_LINES, ids=_LINES.get)
def forms(request: pytest.FixtureRequest) -> Forms:
    """Each different line of the table of forms."""
    line: Forms = request.param
    return line


@pytest.fixture(scope="session")
def lines() -> tuple[Forms, ...]:
    """All different lines of the table, for tests that loop over them inside one example."""
    return tuple(_LINES)
