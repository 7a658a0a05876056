"""What each ExecuTorch delegate takes of each checkpoint of a folder: the table of docs/measurements.md.

    python benchmarks/delegate_table.py SHARED --precisions fp32,fp16 --json rows.json

SHARED holds `checkpoints/manifest.json` (file and size of each). Nothing is run: the numbers are read from the files,
of which those for Core ML and Vulkan run on their devices alone. Rows are printed as Markdown and added to the JSON
file as they come.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from parity_table import VARIANTS, shown

from mobileseg import load_checkpoint
from mobileseg.converters.executorch import TARGET
from mobileseg.converters.executorch.delegates import DELEGATES
from mobileseg.converters.export import Deployed, Exported, export
from mobileseg.converters.target import Lowering
from mobileseg.making import rewritten_for
from mobileseg.types import NotRun
from mobileseg.validation.graphs import read_graph


def row_of(exported: Exported, delegate: str, precision: str) -> dict[str, Any]:
    """Delegate calls, operators inside them, and those left to portable kernels with their reasons."""
    start = time.perf_counter()
    rewritten = rewritten_for(TARGET, precision, {"delegate": delegate}, exported)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pte"
        TARGET.lower(rewritten, Lowering(precision, "logits", {}, {"delegate": delegate}), path)
        graph = read_graph(path)
    found = graph.delegation
    calls = 0 if isinstance(found, NotRun) else found.partitions
    left = {} if isinstance(found, NotRun) else found.left
    taken = 0 if isinstance(found, NotRun) else sum(found.operators.values())
    return {
        "delegate": delegate,
        "precision": precision,
        "calls": calls,
        "taken": taken,
        "left": sum(graph.operators.values()) - calls,
        "planned_bytes": graph.planned_bytes,
        "seconds": round(time.perf_counter() - start, 1),
        "why": "; ".join(f"{name}: {why}" for name, why in left.items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--delegates", default=",".join(DELEGATES))
    parser.add_argument("--precisions", default="fp32,fp16")
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--json", type=Path, default=Path("delegate_table.json"))
    options = parser.parse_args()
    folder = options.shared / "checkpoints"
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for entry in (e for e in manifest if options.only in e["name"]):
        checkpoint = load_checkpoint(folder / entry["file"], variant=VARIANTS.get(entry["name"]))
        deployed = Deployed(checkpoint.network, checkpoint.preprocessing, "logits")
        exported = export(deployed, (entry["size"][0], entry["size"][1]))
        for delegate in options.delegates.split(","):
            for precision in options.precisions.split(","):
                size = "x".join(map(str, entry["size"]))
                rows.append({"checkpoint": entry["name"], "size": size, **row_of(exported, delegate, precision)})
                print("| " + " | ".join(shown(v) for v in rows[-1].values()) + " |", flush=True)
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
