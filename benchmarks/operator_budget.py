"""How many operators of each kind the file of each network has: the committed budget, measured and written anew.

    python benchmarks/operator_budget.py                                # all: 25 minutes
    python benchmarks/operator_budget.py --networks enet,segnet --artifacts tflite
    python benchmarks/operator_budget.py --networks espnet --artifacts "tflite fp32"

Whoever changes a pass, a form or a lowering runs it, and the change of `tests/converters/operator_budget.json` is part
of the review; `tests/converters/test_operator_budget.py` fails where a file differs from it. The networks have each
kind of block of the authors' once or twice (a repeated block repeats its operators, nothing more), at small sizes, with
random weights. A file is made as `mobileseg convert` makes it, without running it.

``operators``: those of the file, for ExecuTorch those inside the delegate's calls, in the delegate's words. ``calls``:
of the delegate. ``left``: the operators that it leaves to the runtime's own kernels. ``needless``: the operators that
cancel one another or do nothing (`mobileseg.validation.wiring.needless`). Under ``reasons`` stands, by hand, why the
operators that only move or retype numbers are there; docs/operators.md has it in sentences.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mobileseg import registry
from mobileseg.architectures.enet_network import BLOCKS
from mobileseg.converters.export import Deployed, Exported, export
from mobileseg.converters.target import Lowering
from mobileseg.making import rewritten_for, write
from mobileseg.quick_graphs import quick_graphs
from mobileseg.sources import PictureSource
from mobileseg.types import Int8Recipe, NotRun
from mobileseg.validation.graphs import read_graph
from mobileseg.validation.wiring import read_wiring
from mobileseg.validation.wiring.needless import needless

BUDGET = Path(__file__).resolve().parents[1] / "tests" / "converters" / "operator_budget.json"
SIZE = (64, 96)
CLASSES = 20


@dataclass(frozen=True)
class Network:
    """``options``: of the variant's ``build``. ``kept``: the blocks that an ENet keeps; the others, each like one of
    these, are taken out."""

    architecture: str
    variant: str
    options: Mapping[str, Any] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()


_ENET_WIDTHS = {"channels": (16, 32, 48)}
_ENET_BLOCKS = frozenset(
    {*("downsample1_0", "regular1_1", "downsample2_0", "dilated2_2", "asymmetric2_3")}
    | {*("upsample4_0", "regular4_1", "upsample5_0", "regular5_1")}
)
NETWORKS = {
    "enet": Network("enet", "davidtvs", _ENET_WIDTHS, _ENET_BLOCKS),
    "enet-2018": Network("enet", "davidtvs-2018", _ENET_WIDTHS, _ENET_BLOCKS),
    "erfnet": Network("erfnet", "eromera", {"blocks": (1, 1), "decoder_blocks": (1, 1)}),
    "espnet": Network("espnet", "sacmehta", {"p": 1, "q": 1}),
    "espnet-c": Network("espnet", "sacmehta-encoder", {"p": 1, "q": 1}),
    "espnetv2-2018": Network("espnetv2", "2018", {"depths": (1, 1)}),
    "espnetv2-edgenets": Network("espnetv2", "edgenets", {"depths": (1, 1)}),
    "segnet": Network("segnet", "flat", {"channels": (8, 8, 8, 8, 8), "depths": (1, 1, 1, 1, 1)}),
}


@dataclass(frozen=True)
class Kind:
    """Of a file: what is chosen with ``--to``, ``--precision`` and the target's own options."""

    target: str
    precision: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``"tflite fp32"``, ``"executorch-vulkan fp32"``."""
        return f"{registry.target(self.target).backend(self.options)} {self.precision}"


KINDS = (
    *(Kind("tflite", precision) for precision in ("fp32", "fp16", "int8")),
    *(Kind("onnx", precision) for precision in ("fp32", "fp16")),
    *(Kind("coreml", precision) for precision in ("fp32", "fp16")),
    *(Kind("executorch", precision) for precision in ("fp32", "fp16")),
    *(Kind("executorch", "fp32", {"delegate": delegate}) for delegate in ("coreml", "vulkan", "portable")),
)


def build(network: Network) -> nn.Module:
    """In eval mode, the same weights on every call, none of them such that an operator could be left out."""
    torch.manual_seed(0)
    variant = registry.variant(network.architecture, network.variant)
    made = variant.build(num_classes=CLASSES, **network.options)
    for name in BLOCKS if network.kept else ():
        if name not in network.kept:
            setattr(made, name, nn.Identity())
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0, 0.2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.9)
    return made.eval()


@functools.cache
def exported(name: str) -> Exported:
    network = NETWORKS[name]
    variant = registry.variant(network.architecture, network.variant)
    preprocessing = registry.preprocessing(variant.preprocessing(CLASSES))
    return export(Deployed(build(network), preprocessing, "logits"), SIZE)


def made(name: str, kind: Kind, folder: Path) -> Path:
    """The file of a network; int8 is calibrated on one picture of noise."""
    target = registry.target(kind.target)
    path = folder / target.file_name(name, kind.precision, kind.options)
    rewritten = rewritten_for(target, kind.precision, kind.options, exported(name))
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    pictures = PictureSource("noise", 1, lambda: iter([noise]))
    # Int8 throughout, whatever it does to the result of noise.
    recipe = Int8Recipe(min_agreement=0.0)
    write(target, rewritten, Lowering(kind.precision, "logits", {}, kind.options), pictures, path, recipe)
    return path


def counted(path: Path) -> dict[str, Any]:
    """A file's row of the budget."""
    graph, wiring = read_graph(path), read_wiring(path)
    delegation, cancelling = graph.delegation, len(needless(wiring))
    row: dict[str, Any] = {"operators": _sorted(Counter(o.kind for o in wiring.operators))}
    row |= {"needless": cancelling} if cancelling else {}
    if isinstance(delegation, NotRun):
        return row
    inside = Counter(delegation.operators) if path.suffix == ".tflite" else Counter()
    calls = {name for name in graph.operators if name.endswith("Backend")}
    left = Counter({name: count for name, count in graph.operators.items() if name not in calls})
    return {"calls": delegation.partitions, "left": _sorted(left - inside), **row}


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def measured(names: list[str], kinds: list[Kind]) -> Iterator[tuple[str, Kind, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder, quick_graphs():
        for name in names:
            for kind in kinds:
                yield name, kind, counted(made(name, kind, Path(folder)))


def written(budget: Mapping[str, Any]) -> str:
    """The file's text: a line a row, so that a review shows what changed."""
    parts = []
    for title, networks in budget.items():
        lines = []
        for name, rows in networks.items():
            told = ",\n".join(f"   {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
            lines.append(f"  {json.dumps(name)}: {{\n{told}\n  }}")
        parts.append(f" {json.dumps(title)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--artifacts", default="", help="beginnings of their names, with commas between: tflite,onnx")
    options = parser.parse_args()
    budget = json.loads(BUDGET.read_text(encoding="utf-8"))
    kinds = [kind for kind in KINDS if kind.name.startswith(tuple(options.artifacts.split(",")))]
    for name, kind, row in measured(options.networks.split(","), kinds):
        rows = budget["networks"].setdefault(name, {})
        print(f"{name}, {kind.name}: {'unchanged' if row == rows.get(kind.name) else json.dumps(row)}", flush=True)
        rows[kind.name] = row
        BUDGET.write_text(written(budget), encoding="utf-8")


if __name__ == "__main__":
    main()
