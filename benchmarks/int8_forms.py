"""Which form of each operator TFLite runs fastest in int8, and what it loses: the measurements behind the int8 line of
`converters/forms.py` and `quantization/tflite/operators.py`. To be run again when the runtime is upgraded.

    python benchmarks/int8_forms.py --realtime
    python benchmarks/int8_forms.py --only PReLU --rounds 9 --json rows.json

Each form is a chain of ten, lowered and quantized as `mobileseg convert` does it, without any rewriting, on the
quantizer's own rules; "left in float" names an operator that the quantizer is told to leave between DEQUANTIZE and
QUANTIZE. XNNPACK merges neighbouring operators of one input, and the converter constants, so that something stands
before each form; what it takes alone ("base") is subtracted. Files run in one process in turn, on one thread; ms are of
one form, medians of the rounds' medians, and the ratio is theirs. SQNR: of the int8 file with one form in it, base
included, to the float file. "left": the operators outside the delegate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from int8_form_cases import LENGTH, Case, Form, Shape, Step, cases, depthwise_affine, vectors
from latency_table import Subject, measured, undisturbed
from numpy.typing import NDArray
from torch import Tensor, nn

from mobileseg.converters.export import RewrittenProgram
from mobileseg.converters.target import Lowering
from mobileseg.quantization.tflite import quantize_static
from mobileseg.quantization.tflite.operators import RULES
from mobileseg.quick_graphs import quick_graphs
from mobileseg.registry import target
from mobileseg.types import NotRun
from mobileseg.validation.graphs import read_graph


class Chain(nn.Module):
    """``before`` each of ``count`` steps, behind a first gain and offset that bring bytes around zero."""

    def __init__(self, case: Case, step: Step | None, count: int) -> None:
        super().__init__()
        channels = case.shape[2]
        self.case, self.step, self.count = case, step, count
        self.register_buffer("gain", torch.linspace(0.3, 1, channels) / 64)
        self.register_buffer("centre", torch.linspace(-127, -129, channels) * torch.linspace(0.3, 1, channels) / 64)
        self.gains, self.offsets = vectors(case.shape, 0.8, 1.2), vectors(case.shape, -0.2, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = depthwise_affine(x, self.gain, self.centre)
        for i in range(self.count):
            if self.case.before == "affine":
                x = depthwise_affine(x, self.gains[i], self.offsets[i])
            elif self.case.before == "leaky":
                x = F.leaky_relu(x, 0.7 + i / 50)
            if self.step is not None:
                x = self.step(x, i)
        return x


@contextmanager
def without_rules(operators: tuple[str, ...]) -> Iterator[None]:
    with mock.patch.dict(RULES):
        for operator in operators:
            del RULES[operator]
        yield


def picture_of(shape: Shape) -> NDArray[np.uint8]:
    return np.clip(np.random.default_rng(0).normal(128, 40, shape), 0, 255).astype(np.uint8)


def files(case: Case, form: Form | None, count: int, folder: Path) -> tuple[Path, Path]:
    """The float file and the int8 file, int8 at both ends."""
    height, width, channels = case.shape
    x = torch.zeros(1, channels, height, width)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.export(Chain(case, form and form.step, count).eval(), (x,), strict=False).module()
    exact, quantized = folder / "float.tflite", folder / "int8.tflite"
    with quick_graphs():
        target("tflite").lower(RewrittenProgram(module, (x,), ()), Lowering("fp32", "logits", {}), exact)
    with without_rules(form.left if form else ()):
        pictures = iter([picture_of(case.shape)])
        result = quantize_static(exact.read_bytes(), pictures, input_dtype="int8", output_dtype="int8")
    quantized.write_bytes(result.content)
    return exact, quantized


def opened(path: Path, shape: Shape) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    declared = interpreter.get_input_details()[0]
    picture = picture_of(shape)[None].astype(np.float32)
    given = picture if declared["dtype"] is np.float32 else (picture - 128).astype(np.int8)
    interpreter.set_tensor(declared["index"], given)
    return interpreter


def numbers(path: Path, shape: Shape) -> NDArray[np.float64]:
    interpreter = opened(path, shape)
    interpreter.invoke()
    declared = interpreter.get_output_details()[0]
    found: NDArray[np.float64] = interpreter.get_tensor(declared["index"]).astype(np.float64)
    scale, zero_point = declared["quantization"]
    return (found - zero_point) * scale if scale else found


def sqnr(exact: Path, quantized: Path, shape: Shape) -> float:
    expected, found = numbers(exact, shape), numbers(quantized, shape)
    return float(10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum()))


def left(path: Path) -> str:
    delegation = read_graph(path).delegation
    if isinstance(delegation, NotRun):
        return str(delegation.why)
    return ", ".join(sorted(delegation.left)) or "-"


def rows(case: Case, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as made:
        subjects, found = [], {}
        for k, (name, form) in enumerate({"base": None, **case.forms}.items()):
            folders = [Path(made) / f"{k}-{count}" for count in (1, LENGTH)]
            for folder in folders:
                folder.mkdir()
            one = files(case, form, 1, folders[0])
            chain = files(case, form, LENGTH, folders[1])
            found[name] = (sqnr(*one, case.shape), left(chain[1]))
            subjects += [Subject(p, p, name, opened(Path(made) / p, case.shape).invoke) for p in map(str, chain)]
        with undisturbed(options.realtime):
            times = [statistics.median(row) for row in measured(subjects, options.rounds, options.seconds)]
    for name, exact, quantized in zip(found, times[::2], times[1::2], strict=True):
        of_base = (0.0, 0.0) if name == "base" else (times[0], times[1])
        float_ms, int8_ms = (exact - of_base[0]) / LENGTH, (quantized - of_base[1]) / LENGTH
        yield {
            "operator": case.operator,
            "shape": "x".join(map(str, case.shape)),
            "form": name,
            "fp32_ms": round(float_ms, 4),
            "int8_ms": round(int8_ms, 4),
            "ratio": round(int8_ms / float_ms, 2) if float_ms > 0.0005 else None,
            "sqnr_db": round(found[name][0], 1),
            "left": found[name][1],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the operators' names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each file in each round")
    parser.add_argument("--realtime", action="store_true", help="rounds at real-time priority")
    parser.add_argument("--json", type=Path, default=Path("int8_forms.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = []
    print("| operator | plane | form | fp32 ms | int8 ms | ratio | SQNR dB | left |\n|---|---|---|---|---|---|---|---|")
    for case in (c for c in cases() if options.only in c.operator):
        for row in rows(case, options):
            kept.append(row)
            print("| " + " | ".join("-" if v is None else str(v) for v in row.values()) + " |", flush=True)
        options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
