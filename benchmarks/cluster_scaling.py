"""`mobileseg.validate` on one Dask worker and on two, and in one process and in two: seconds and their ratios.

    python benchmarks/cluster_scaling.py [ARTIFACT CHECKPOINT] [--pictures 200] [--rounds 3] [--size 256x512]

Without names: the demo ENet as an ONNX file, converted first. Two schedulers with one and with two workers of one
thread each, processes of their own on 127.0.0.1, are started once and warmed up by a run; then runs over the same
pictures alternate. "ratio" is the seconds of two over half those of one: 1.00 is a perfect halving. "processor" is
the same of the time that the client and the busiest worker had the processor, which says what the structure costs on a
machine that has other work, too. "same" says whether all reports are equal to the last bit. First comes what the
machine itself gives: the processor's time for convolutions in each of two processes at once, over that in one alone.
Two cores that are one core's two threads give up to 2, and then no sharing out can halve anything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mobileseg import convert, validate
from mobileseg.mobile_assets.demo import scene

CONVOLUTIONS = """
import time, torch
torch.set_num_threads(1)
layer, picture = torch.nn.Conv2d(32, 32, 3, padding=1), torch.rand(1, 32, 128, 256)
with torch.inference_mode():
    layer(picture)
    start = time.process_time()
    for _ in range(200):
        layer(picture)
print(time.process_time() - start)
"""

KINDS = ("Dask", "Dask, processor", "processes")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cluster:
    address: str
    workers: tuple[subprocess.Popen[bytes], ...]

    def processor(self) -> list[float]:
        """Seconds that each worker had the processor so far."""
        stats = [Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split() for worker in self.workers]
        return [(int(stat[11]) + int(stat[12])) / TICKS for stat in stats]


@contextmanager
def started(count: int, folder: Path) -> Iterator[Cluster]:
    """A scheduler with ``count`` workers."""
    file = folder / f"scheduler-{count}.json"
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(module: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *common, *more]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    with ExitStack() as running:

        def end_with(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
            running.callback(process.wait)
            running.callback(process.terminate)
            return process

        end_with(start("dask_scheduler", "--port", "0"))
        while not file.exists():
            time.sleep(0.1)
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", str(folder))
        workers = tuple(end_with(start("dask_worker", *options)) for _ in range(count))
        address = json.loads(file.read_text())["address"]
        wait_for(address, count)
        yield Cluster(address, workers)


def wait_for(address: str, count: int) -> None:
    import distributed

    with distributed.Client(address) as client:
        client.wait_for_workers(count)


def of_the_machine() -> float:
    """Processor's time of one of two at once over that of one alone."""

    def seconds(count: int) -> float:
        command = [sys.executable, "-c", CONVOLUTIONS]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        return statistics.mean(float(process.communicate()[0]) for process in running)

    alone = seconds(1)
    return seconds(2) / alone


def measure(arguments: Mapping[str, Any], **how: Any) -> tuple[float, Any]:
    """Seconds, and what was measured."""
    start = time.perf_counter()
    found = validate(**arguments, **how)
    return time.perf_counter() - start, found.report["parity"]


def compare(name: str, one: list[float], two: list[float]) -> None:
    ratios = [pair / (single / 2) for single, pair in zip(one, two, strict=True)]
    print(
        f"{name}: one {statistics.median(one):.1f} s, two {statistics.median(two):.1f} s, "
        f"ratio {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", nargs="?")
    parser.add_argument("checkpoint", nargs="?", default="demo")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="256x512")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    print(f"the machine: {statistics.median(of_the_machine() for _ in range(3)):.2f}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        artifact = options.artifact
        if artifact is None:
            made = convert(to="onnx", size=(height, width), image_count=1, output=folder / "made")
            artifact = made.artifacts[0].artifact.path
        (folder / "images").mkdir()
        for number in range(options.pictures):
            picture = scene(10_000 + number, (height, width)).picture
            Image.fromarray(picture).save(folder / "images" / f"{number:05}.png", compress_level=1)
        arguments = {"artifact": artifact, "against": options.checkpoint, "images": folder / "images"}
        clusters = {count: stack.enter_context(started(count, folder)) for count in (1, 2)}
        for count, cluster in clusters.items():
            print(f"first run, {count} worker(s): {measure(arguments, cluster=cluster.address)[0]:.1f} s", flush=True)
        seconds: dict[tuple[str, int], list[float]] = {(kind, n): [] for kind in KINDS for n in (1, 2)}
        reports = []
        for _ in range(options.rounds):
            for count, cluster in clusters.items():
                before, client = cluster.processor(), time.process_time()
                taken, parity = measure(arguments, cluster=cluster.address)
                used = [after - first for after, first in zip(cluster.processor(), before, strict=True)]
                client = time.process_time() - client
                seconds["Dask", count].append(taken)
                seconds["Dask, processor", count].append(client + max(used))
                told = ", ".join(f"{part:.1f}" for part in used)
                print(f"{count} worker(s): {taken:.1f} s; processor: client {client:.1f} s, {told} s", flush=True)
                reports.append(parity)
            for count in clusters:
                taken, parity = measure(arguments, jobs=count)
                seconds["processes", count].append(taken)
                reports.append(parity)
        for kind in KINDS:
            compare(kind, seconds[kind, 1], seconds[kind, 2])
        print(f"same: {all(parity == reports[0] for parity in reports)}")


if __name__ == "__main__":
    main()
