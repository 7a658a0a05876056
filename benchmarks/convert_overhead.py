"""How long `mobileseg convert --to tflite` takes beside litert-torch alone on the same rewritten module.

Whole processes, alternating, medians and their ratio as JSON. The second process gets the rewritten program from a
file, so that it pays for litert-torch's import, conversion and writing only; ours pays for loading the checkpoint,
export, rewriting, conversion, running the file and comparing it on pictures.

    python benchmarks/convert_overhead.py CHECKPOINT --size 256x512 --runs 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALONE = """
import sys, torch, litert_torch
program = torch.export.load(sys.argv[1])
((picture,), _) = program.example_inputs
litert_torch.convert(program.module(check_guards=False), (picture,)).export(sys.argv[2])
"""

REWRITTEN = """
import sys, torch
from mobileseg import load_checkpoint
from mobileseg.converters.export import Deployed, export, rewrite
loaded = load_checkpoint(sys.argv[1])
height, width = map(int, sys.argv[2].split("x"))
exported = export(Deployed(loaded.network, loaded.preprocessing, "logits"), (height, width))
torch.export.save(rewrite(exported, "tflite", "fp32").program, sys.argv[3])
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--size", default="256x512")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program, alone = Path(folder, "rewritten.pt2"), Path(folder, "alone.tflite")
        subprocess.run([sys.executable, "-c", REWRITTEN, options.checkpoint, options.size, str(program)], check=True)
        ours = [sys.executable, "-m", "mobileseg", "convert", options.checkpoint, "--to", "tflite"]
        ours += ["--size", options.size, "--output", folder]
        stock = [sys.executable, "-c", ALONE, str(program), str(alone)]
        pairs = [(seconds(ours), seconds(stock)) for _ in range(options.runs)]
    result = {
        "ours_s": statistics.median(a for a, _ in pairs),
        "litert_torch_alone_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "runs": options.runs,
        "size": options.size,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
