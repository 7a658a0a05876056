"""Every checkpoint of a folder through every target and precision: the table of docs/measurements.md.

    python benchmarks/parity_table.py SHARED --targets tflite,onnx --precisions fp32,fp16,int8 --json rows.json

SHARED holds `checkpoints/manifest.json` (file, size, data set of each) and `images/<data
set>/{calibration,test,test_labels}`. Each checkpoint is converted at its own training size; float files are compared
on 8 pictures, int8 files on labelled ones; a checkpoint whose data set has no pictures there is compared on another's,
without labels. Rows are printed as Markdown and added to the JSON file as they come.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from mobileseg import convert
from mobileseg.registry import TARGETS, target

VARIANTS = {"enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021"}
"""What the keys cannot tell."""


def row(shared: Path, entry: dict[str, Any], target_name: str, precision: str, output: Path) -> dict[str, Any]:
    pictures = shared / "images" / (entry["dataset"] or "camvid")
    # The float files are compared on 8 pictures, labelled or not; int8's accuracy needs the labels.
    labelled = precision == "int8" and entry["dataset"]
    start = time.perf_counter()
    result = convert(
        shared / "checkpoints" / entry["file"],
        to=target_name,
        precision=precision,
        size=(entry["size"][0], entry["size"][1]),
        variant=VARIANTS.get(entry["name"]),
        images=pictures / "test" if labelled else eight_of(pictures, output),
        labels=pictures / "test_labels" if labelled else None,
        calibration=pictures / "calibration" if precision == "int8" else None,
        output=output,
    )
    (made,) = result.artifacts
    parity = made.report["parity"]
    return {
        "checkpoint": entry["name"],
        "size": "x".join(map(str, entry["size"])),
        "target": target_name,
        "precision": precision,
        "max_abs_err": parity["max_abs_err"],
        "sqnr_db": parity["sqnr_db"],
        "pixel_agreement": parity["pixel_agreement"],
        "miou_reference": parity["miou_reference"],
        "miou_artifact": parity["miou_artifact"],
        "images": parity["images"],
        "passed": made.passed,
        "bytes": made.report["artifact"]["bytes"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def eight_of(pictures: Path, output: Path) -> Path:
    """A folder with links to the test pictures, filled up to 8 with calibration pictures."""
    folder = output / f"eight-{pictures.name}"
    folder.mkdir(parents=True, exist_ok=True)
    found = [p for part in ("test", "calibration") for p in sorted((pictures / part).iterdir())][:8]
    for path in found:
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    return folder


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--precisions", default="fp32,fp16,int8")
    parser.add_argument("--only", default="", help="part of the checkpoints' names")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("parity_table.json"))
    options = parser.parse_args()
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    for entry in (e for e in manifest if options.only in e["name"]):
        for name in options.targets.split(","):
            for precision in (p for p in options.precisions.split(",") if p in target(name).precisions):
                rows.append(row(options.shared, entry, name, precision, options.output))
                print("| " + " | ".join(shown(v) for v in rows[-1].values()) + " |", flush=True)
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
