"""What `validate --bisect` finds in sound files: the lowest SQNR of an operator, by checkpoint, target and precision.

    python benchmarks/bisect_table.py SHARED --size 128x256 --json rows.json

SHARED is laid out as for parity_table.py. Each checkpoint is converted at one small size, and held against itself on
one picture. A fault in a row is a false alarm; the distance from the lowest SQNR to the tolerance
(`mobileseg.validation.bisect.differences`) is the room that a wrong operator has to be told from rounding.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobileseg import convert, validate
from mobileseg.errors import MobilesegError
from mobileseg.registry import target
from mobileseg.validation.bisect.differences import TOLERANCE_DB

VARIANTS = {"enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021"}
"""What the keys cannot tell."""


def rows_of(entry: dict[str, Any], precision: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a target."""
    height, _, width = options.size.partition("x")
    checkpoint = options.shared / "checkpoints" / entry["file"]
    pictures = options.shared / "images" / (entry["dataset"] or "camvid")
    variant = VARIANTS.get(entry["name"])
    made = convert(
        checkpoint,
        to=[name for name in options.targets.split(",") if precision in target(name).precisions],
        precision=precision,
        size=(int(height), int(width)),
        variant=variant,
        images=pictures / "test",
        image_count=1,
        calibration=pictures / "calibration" if precision == "int8" else None,
        output=options.output,
        jobs=1,
    )
    for failure in made.failures:
        print(failure.target, failure.message)
    for item in made.artifacts:
        try:
            report = validate(
                item.artifact.path,
                against=checkpoint,
                variant=variant,
                images=pictures / "test",
                image_count=1,
                bisect=True,
            ).report["operators"]
        except MobilesegError as error:
            print(item.artifact.path.name, error)
            continue
        own = [value["sqnr_db"] for value in report["values"] if isinstance(value["sqnr_db"], float)]
        bias = [abs(value["bias_steps"]) for value in report["values"] if value["bias_steps"] is not None]
        yield {
            "checkpoint": entry["name"],
            "target": item.artifact.target,
            "precision": precision,
            "torch_values": report["torch_values"],
            "shared_values": len(report["values"]),
            "lowest_db": min(own),
            "tolerance_db": TOLERANCE_DB[precision],
            "largest_bias_steps": max(bias, default=None),
            "faults": [f"{fault['operator']} {fault['module']} {fault['sqnr_db']}" for fault in report["faults"]],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--size", default="128x256")
    parser.add_argument("--targets", default="tflite,onnx,coreml,executorch")
    parser.add_argument("--precisions", default="fp32,fp16,int8,w8")
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("bisect_table.json"))
    options = parser.parse_args()
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for entry in (e for e in manifest if options.only in e["name"]):
        for precision in options.precisions.split(","):
            for row in rows_of(entry, precision, options):
                rows.append(row)
                print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
