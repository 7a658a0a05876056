"""Every checkpoint against the logits that its authors' own code gives: the table of docs/measurements.md.

    python benchmarks/golden_table.py SHARED

SHARED holds `checkpoints/manifest.json` and, for each checkpoint, `NAME.golden.npz` with `input_HxW` and `logits_HxW`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from mobileseg import load_checkpoint

VARIANTS = {"enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021"}
"""What the keys cannot tell."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    folder = parser.parse_args().shared / "checkpoints"
    for entry in json.loads((folder / "manifest.json").read_text()):
        golden = np.load(folder / entry["golden"])
        network = load_checkpoint(folder / entry["file"], variant=VARIANTS.get(entry["name"])).network
        for key in (k for k in golden.files if k.startswith("input_")):
            size = key.removeprefix("input_")
            expected = golden[f"logits_{size}"]
            with torch.inference_mode():
                logits = network(torch.from_numpy(golden[key])).numpy()
            error = np.abs(logits - expected).max() / np.abs(expected).max()
            print(f"| {entry['name']} | {size} | {error:.1e} |")


if __name__ == "__main__":
    main()
