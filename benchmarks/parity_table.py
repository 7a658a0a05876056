"""Every checkpoint of a folder through every target and precision: the table of docs/measurements.md.

    python benchmarks/parity_table.py SHARED --precisions fp32,fp16 --json rows.json

SHARED holds `checkpoints/manifest.json` (file, size, data set of each) and `images/<data
set>/{calibration,test,test_labels}`. Each checkpoint is converted at its own training size; float files are compared
on 8 pictures, int8 files on labelled ones; a checkpoint whose data set has no pictures there is compared on another's,
without labels. `--own` adds how far the checkpoint's own float32 arithmetic is from float64 on the same pictures, above
which no file can be held. Rows are printed as Markdown and added to the JSON file as they come.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobileseg import convert, load_checkpoint
from mobileseg.pictures import find_pictures, iter_pictures
from mobileseg.registry import TARGETS, target
from mobileseg.types import NotRun
from mobileseg.validation.graphs import read_graph
from mobileseg.validation.parity import reference_precision

PARITY = ("max_abs_err", "sqnr_db", "pixel_agreement", "miou_reference", "miou_artifact", "images")
VARIANTS = {"enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021"}
"""What the keys cannot tell."""


def rows_of(
    entry: dict[str, Any], targets: list[str], precision: str, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One conversion to all targets, a row for each."""
    shared, pictures = options.shared, pictures_of(entry, options)
    # The float files are compared on a few pictures, labelled or not; int8's accuracy needs the labels.
    labelled = precision == "int8" and entry["dataset"]
    result = convert(
        shared / "checkpoints" / entry["file"],
        to=targets,
        precision=precision,
        size=(entry["size"][0], entry["size"][1]),
        variant=VARIANTS.get(entry["name"]),
        images=pictures / "test" if labelled else first_of(pictures, options),
        labels=pictures / "test_labels" if labelled else None,
        calibration=pictures / "calibration" if precision == "int8" else None,
        image_count=options.pictures,
        output=options.output,
    )
    for failure in result.failures:
        raise SystemExit(f"{entry['name']} {failure.target}: {failure.message}\n{failure.traceback}")
    for made in result.artifacts:
        parity = made.report["parity"]
        measured = {name: parity.get(name, parity) for name in PARITY}
        graph = read_graph(made.artifact.path)
        calls = None if isinstance(graph.delegation, NotRun) else graph.delegation.partitions
        yield {
            "checkpoint": entry["name"],
            "size": "x".join(map(str, entry["size"])),
            "target": made.artifact.target,
            "precision": precision,
            **measured,
            "passed": "not run" if isinstance(made.passed, NotRun) else made.passed,
            "operators": sum(graph.operators.values()),
            "delegate_calls": calls,
            "bytes": made.report["artifact"]["bytes"],
            "seconds": round(sum(made.seconds.values()), 1),
        }


def pictures_of(entry: dict[str, Any], options: argparse.Namespace) -> Path:
    folder: Path = options.shared / "images" / (entry["dataset"] or "camvid")
    return folder


def first_of(pictures: Path, options: argparse.Namespace) -> Path:
    """A folder with links to the first test pictures, filled up with calibration pictures."""
    folder: Path = options.output / f"first-{options.pictures}-{pictures.name}"
    folder.mkdir(parents=True, exist_ok=True)
    found = [p for part in ("test", "calibration") for p in sorted((pictures / part).iterdir())]
    for path in found[: options.pictures]:
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    return folder


def own_precision(entry: dict[str, Any], options: argparse.Namespace) -> float | NotRun:
    """The checkpoint in float32 against itself in float64, SQNR in dB."""
    path = options.shared / "checkpoints" / entry["file"]
    checkpoint = load_checkpoint(path, variant=VARIANTS.get(entry["name"]))
    found = find_pictures(first_of(pictures_of(entry, options), options))
    return reference_precision(checkpoint, iter_pictures(found, (entry["size"][0], entry["size"][1])))


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
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--own", action="store_true", help="the checkpoint's own SQNR, too")
    parser.add_argument("--output", type=Path, default=Path("mobileseg-out"))
    parser.add_argument("--json", type=Path, default=Path("parity_table.json"))
    options = parser.parse_args()
    manifest = json.loads((options.shared / "checkpoints" / "manifest.json").read_text())
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    options.output.mkdir(parents=True, exist_ok=True)
    for entry in (e for e in manifest if options.only in e["name"]):
        own = {"own_sqnr_db": own_precision(entry, options)} if options.own else {}
        for precision in options.precisions.split(","):
            targets = [name for name in options.targets.split(",") if precision in target(name).precisions]
            for row in rows_of(entry, targets, precision, options):
                row |= own
                rows.append(row)
                print("| " + " | ".join(shown(v) for v in row.values()) + " |", flush=True)
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
