"""Memory of `mobileseg.validate` over many pictures: MiB after so many, and how long the first one took.

    python benchmarks/streaming.py [ARTIFACT CHECKPOINT] [--pictures 10000] [--jobs 1]

Without names: the demo ENet as a 64x96 ONNX file, converted first. The pictures are demo scenes with label maps, PNG
files of a size that the file does not take, in a temporary folder. Validation runs in a process of its own. After each
of the numbers in ``STOPS`` its memory is asked for, and that of its children: what it wrote itself, be it in memory or
swapped out ("own"), and all that is in memory, with the pages of libraries, which the system may drop ("resident").
Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from mobileseg import convert, validate
from mobileseg.mobile_assets.demo import scene

SIZE, PICTURE_SIZE = (64, 96), (96, 144)
STOPS = (1, 100, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


def write_pictures(folder: Path, count: int) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(count):
        made = scene(10_000 + number, PICTURE_SIZE)
        Image.fromarray(made.picture).save(folder / "images" / f"{number:05}.png", compress_level=1)
        Image.fromarray(made.labels).save(folder / "labels" / f"{number:05}.png", compress_level=1)


def memory(process: int | str, *fields: str) -> float:
    """MiB, the sum of these fields of the process's status."""
    lines = (line.partition(":") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    found = {name: value for name, _, value in lines}
    return round(sum(int(found[field].split()[0]) for field in fields) / 1024, 1)


def children(process: int) -> Iterator[int]:
    yield from map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())


def child(artifact: str, checkpoint: str, folder: str, jobs: int) -> None:
    """Prints one JSON object: seconds to the first picture and in all, and MiB by the number of pictures done."""
    own: dict[int, list[float]] = {}
    resident: dict[int, list[float]] = {}
    start, first = time.perf_counter(), 0.0

    def progress(path: Path, done: int, total: int | None) -> None:
        nonlocal first
        first = first or time.perf_counter() - start
        if done in STOPS or done == total:
            processes = (os.getpid(), *children(os.getpid()))
            own[done] = [memory(number, "RssAnon", "VmSwap") for number in processes]
            resident[done] = [memory(number, "VmRSS") for number in processes]

    images, labels = Path(folder, "images"), Path(folder, "labels")
    found = validate(artifact, against=checkpoint, images=images, labels=labels, jobs=jobs, progress=progress)
    told = {
        "first_picture_s": round(first, 2),
        "seconds": round(time.perf_counter() - start, 1),
        "pictures": found.report["parity"]["images"],
        "miou_reference": found.report["parity"]["miou_reference"],
        "own_mib": own,
        "resident_mib": resident,
        "peak_mib": memory("self", "VmHWM"),
    }
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", nargs="?")
    parser.add_argument("checkpoint", nargs="?", default="demo")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.artifact, options.checkpoint, options.child, options.jobs)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = options.artifact
        if artifact is None:
            artifact = str(
                convert(to="onnx", size=SIZE, image_count=1, output=folder / "made").artifacts[0].artifact.path
            )
        write_pictures(folder, options.pictures)
        more = [artifact, options.checkpoint, "--jobs", str(options.jobs), "--child", name]
        subprocess.run([sys.executable, __file__, *more], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
