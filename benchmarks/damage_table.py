"""How `mobileseg validate` ends on damaged files, format by format: a table of exit codes.

    python benchmarks/damage_table.py [--cases 300] [--only PART]

The files are of a small ERFNet, converted first; "of others" is a file without the digest of its bytes. "cut off" at
each sixteenth, near both ends and at 40 random lengths; "one byte" is another byte at a random place; "zeros" are 4 to
400 in a row. Exit code 2 is a file that is refused, 3 one that misses its gates, 0 one that passes them: most bytes are
weights, whose last bits hardly matter. "died" counts cases that ended the whole process: there must be none.

Cases run one after the other in a process that is started again where one ends it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobileseg import convert
from mobileseg.architectures.erfnet import ERFNet
from mobileseg.cli import main as command_line

SIZE = (64, 64)
KINDS = ("cut off", "one byte", "zeros")
Case = tuple[str, str, int, int]
"""Kind, part of the file, position, and what is put there: the byte's change, or the number of zeros."""


def parts(file: Path) -> list[Path]:
    return sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]


def cases_of(kind: str, file: Path, count: int) -> Iterator[Case]:
    for part in parts(file):
        generator, size = np.random.default_rng(0), part.stat().st_size
        name = part.relative_to(file).as_posix()
        if kind == "cut off":
            ends = [n for n in (1, 2, 3, 4, 7, 8, 16, 32, 64, 100, 200) if n < size]
            lengths = {0, *ends, *(size - n for n in ends), *(size * i // 16 for i in range(1, 16))}
            yield from ((kind, name, n, 0) for n in sorted({*lengths, *generator.integers(0, size, 40).tolist()}))
        else:
            most = (1, 256) if kind == "one byte" else (4, 400)
            for position in sorted(generator.integers(0, size, count).tolist()):
                yield kind, name, position, int(generator.integers(*most))


def damaged(content: bytes, case: Case) -> bytes:
    kind, _, position, value = case
    if kind == "cut off":
        return content[:position]
    if kind == "one byte":
        return content[:position] + bytes([content[position] ^ value]) + content[position + 1 :]
    return (content[:position] + bytes(value) + content[position + value :])[: len(content)]


def child(file: Path, against: Path, folder: Path, first: int, more: list[str]) -> None:
    """Runs the cases from ``first`` on; a line when one begins and one with its exit code."""
    for number, case in enumerate(json.loads((folder / "cases.json").read_text())[first:], first):
        bad = folder / f"bad{file.suffix}"
        if file.is_dir():
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(file, bad)
        part, source = bad / case[1], file / case[1]
        part.write_bytes(damaged(source.read_bytes(), case))
        print(json.dumps([number, "died"]), flush=True)
        said, log = io.StringIO(), io.StringIO()
        arguments = ["validate", str(bad), "--against", str(against), "--random", "1", "--json", *more]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(log):
            code = command_line(arguments)
        ended = "traceback" if "Traceback" in log.getvalue() else str(code)
        print(json.dumps([number, ended]), flush=True)


def outcomes(file: Path, against: Path, cases: list[Case], more: list[str]) -> collections.Counter[str]:
    found: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps(cases))
        while len(found) < len(cases):
            command = [sys.executable, __file__, "--child", str(file), str(against), name, str(len(found)), *more]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
            before = len(found)
            found |= dict(json.loads(line) for line in done.stdout.splitlines())
            if len(found) == before:
                raise SystemExit(f"the process that damages files ended with {done.returncode}")
    return collections.Counter(found.values())


def made(folder: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Name, file, and options of `validate`."""
    torch.manual_seed(0)
    network = ERFNet(3, channels=(6, 8, 12), blocks=(1, 1), decoder_channels=(6, 6), decoder_blocks=(1, 1))
    torch.save(network.state_dict(), folder / "small.pth")
    options: dict[str, Any] = {"size": SIZE, "image_count": 1, "output": folder}
    for file in convert(folder / "small.pth", to="all", jobs=1, **options).artifacts:
        yield file.artifact.path.suffix[1:], file.artifact.path, []
    quantized = convert(folder / "small.pth", to="tflite", precision="int8", calibration="synthetic", **options)
    yield "tflite int8", quantized.artifacts[0].artifact.path, []
    yield "pte of others", foreign(network.eval(), folder / "foreign.pte"), ["--input-range", "0,1"]


def foreign(network: torch.nn.Module, path: Path) -> Path:
    """What ExecuTorch's own tools write."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(network, (torch.zeros(1, 3, *SIZE),))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)
    return path


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        file, against, folder, first, *more = sys.argv[2:]
        child(Path(file), Path(against), Path(folder), int(first), more)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--only", default="", help="part of the files' names")
    options = parser.parse_args()
    columns = ("2", "3", "0", "4", "1", "traceback", "died")
    print(f"| file | damage | cases | {' | '.join(columns)} |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        files = list(made(Path(name)))
        for title, file, more in (row for row in files if options.only in row[0]):
            for kind in KINDS:
                cases = list(cases_of(kind, file, options.cases))
                found = outcomes(file, Path(name, "small.pth"), cases, more)
                print(f"| {title} | {kind} | {len(cases)} | {' | '.join(str(found[c]) for c in columns)} |", flush=True)


if __name__ == "__main__":
    main()
