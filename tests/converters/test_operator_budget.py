"""No file has an operator more than the committed budget allows, none that cancels another, and none that only moves
numbers without a reason.

`benchmarks/operator_budget.py` measures the budget and writes it anew. Some files are counted by default: each network
and each kind of file at least once; the others with ``-m slow``.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobileseg import registry
from mobileseg.validation.wiring import read_wiring
from mobileseg.validation.wiring.needless import MOVERS, needless

SCRIPT = "benchmarks/operator_budget.py"


def _script() -> Any:
    path = Path(__file__).resolve().parents[2] / SCRIPT
    spec = importlib.util.spec_from_file_location("operator_budget", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    __import__("sys").modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = _script()
BUDGET: dict[str, Any] = json.loads(script.BUDGET.read_text(encoding="utf-8"))
ROWS, REASONS = BUDGET["networks"], BUDGET["reasons"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"

QUICK = {
    "enet": ("tflite fp32", "onnx fp16", "coreml fp32", "executorch fp32"),
    "enet-2018": ("coreml fp16",),
    "erfnet": ("tflite fp16", "onnx fp32", "executorch fp16", "executorch-portable fp32"),
    "espnet": ("executorch-vulkan fp32",),
    "espnet-c": ("tflite int8", "executorch-coreml fp32"),
    "espnetv2-2018": ("onnx fp32",),
    "espnetv2-edgenets": ("onnx fp32",),
    "segnet": ("onnx fp32",),
}


def files() -> Iterator[Any]:
    for name in script.NETWORKS:
        for kind in script.KINDS:
            marks = [] if kind.name in QUICK[name] else [pytest.mark.slow]
            yield pytest.param(name, kind, marks=marks, id=f"{name}-{kind.name}")


def rewriting(name: str, kind: Any) -> str:
    return f"python {SCRIPT} --networks {name} --artifacts '{kind.name}'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], Path]:
    """The file of a network, made once."""
    folder = tmp_path_factory.mktemp("budget")
    done: dict[tuple[str, str], Path] = {}

    def make(name: str, kind: Any) -> Path:
        target = registry.target(kind.target)
        for module in target.modules:
            pytest.importorskip(module, reason=f"install the extra: pip install 'mobileseg[{target.extra}]'")
        if (name, kind.name) not in done:
            done[name, kind.name] = script.made(name, kind, folder)
        return done[name, kind.name]

    return make


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two rows, one number each."""
    flat = [{f"{key} {name}".strip(): count for key, name, count in _numbers(row)} for row in (before, after)]
    names = sorted(flat[0].keys() | flat[1].keys())
    return [f"{n}: {flat[0].get(n, 0)} -> {flat[1].get(n, 0)}" for n in names if flat[0].get(n, 0) != flat[1].get(n, 0)]


def _numbers(row: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    for key, held in row.items():
        yield from ((key, name, count) for name, count in (held if isinstance(held, dict) else {"": held}).items())


@pytest.mark.parametrize(("name", "kind"), list(files()))
def test_the_file_has_the_operators_of_its_budget(made: Callable[[str, Any], Path], name: str, kind: Any) -> None:
    """Not one more; and not one less, or it could come back unseen: then the budget is written anew."""
    found = changes(ROWS[name][kind.name], script.counted(made(name, kind)))
    assert not found, f"the budget is {', '.join(found)}. If that is meant: {rewriting(name, kind)}"


@pytest.mark.parametrize(("name", "kind"), list(files()))
def test_no_operators_that_cancel_beyond_those_known(made: Callable[[str, Any], Path], name: str, kind: Any) -> None:
    found = needless(read_wiring(made(name, kind)))
    assert len(found) <= ROWS[name][kind.name].get("needless", 0), "\n".join(found)


def test_the_budget_is_of_these_files() -> None:
    assert list(ROWS) == list(script.NETWORKS)
    for rows in ROWS.values():
        assert list(rows) == [kind.name for kind in script.KINDS]
    assert script.written(BUDGET) == script.BUDGET.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", script.NETWORKS)
def test_every_operator_that_only_moves_numbers_has_a_reason_that_the_page_explains(name: str) -> None:
    """And no reason is left of operators that are gone."""
    moving: dict[str, set[str]] = {}
    for kind, row in ROWS[name].items():
        moving.setdefault(kind.rpartition(" ")[0], set()).update(MOVERS & row["operators"].keys())
    assert {backend: set(reasons) for backend, reasons in REASONS[name].items()} == moving
    given = {word for reasons in REASONS[name].values() for words in reasons.values() for word in words.split(", ")}
    assert given <= set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_network_and_every_kind_of_file_is_counted_by_default() -> None:
    assert list(QUICK) == list(script.NETWORKS)
    assert {kind for kinds in QUICK.values() for kind in kinds} == {kind.name for kind in script.KINDS}


def test_what_differs_is_named() -> None:
    before = {"calls": 1, "left": {"PADV2": 1}, "operators": {"ADD": 3, "RESHAPE": 2}}
    after = {"calls": 2, "left": {}, "operators": {"ADD": 3, "RESHAPE": 1, "TRANSPOSE": 1}}
    assert changes(before, before) == []
    assert changes(before, after) == [
        "calls: 1 -> 2",
        "left PADV2: 1 -> 0",
        "operators RESHAPE: 2 -> 1",
        "operators TRANSPOSE: 0 -> 1",
    ]
