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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from latency_table import Subject, measured, undisturbed
from numpy.typing import NDArray
from torch import Tensor, nn

from mobileseg.converters.export import RewrittenProgram
from mobileseg.converters.passes.separable import FORMS as PRODUCTS
from mobileseg.converters.target import Lowering
from mobileseg.quantization.tflite import quantize_static
from mobileseg.quantization.tflite.operators import RULES
from mobileseg.quick_graphs import quick_graphs
from mobileseg.registry import target
from mobileseg.types import NotRun
from mobileseg.validation.graphs import read_graph

Shape = tuple[int, int, int]
Step = Callable[[Tensor, int], Tensor]
"""One form of the chain's i-th member: (1, C, H, W) to the same."""

LENGTH = 10


@dataclass(frozen=True)
class Form:
    """``left``: operators that stay float."""

    step: Step
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """``forms``: all compute the same. ``before``: what stands in front of each: a gain and offset per channel, a
    LEAKY_RELU where the converter would fold the form into these, or nothing."""

    operator: str
    shape: Shape
    forms: dict[str, Form]
    before: Literal["affine", "leaky", "nothing"] = "affine"


# The forms


def _depthwise(x: Tensor, gain: Tensor, offset: Tensor | None = None) -> Tensor:
    return F.conv2d(x, gain.reshape(-1, 1, 1, 1), offset, groups=x.shape[1])


def _vectors(shape: Shape, low: float, high: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(shape[2], generator=generator) * (high - low) + low for _ in range(LENGTH)]


def _rows(vectors: Sequence[Tensor], shape: Shape) -> list[Tensor]:
    return [v.reshape(1, -1, 1, 1).expand(-1, -1, -1, shape[1]).contiguous() for v in vectors]


def prelu(shape: Shape) -> Case:
    a = _vectors(shape, 0.05, 0.55)
    rows, columns = _rows(a, shape), [v.reshape(1, -1, 1, 1) for v in a]
    return Case(
        "PReLU, slopes <= 1",
        shape,
        {
            "PRELU": Form(lambda x, i: F.prelu(x, a[i])),
            "PRELU, left in float": Form(lambda x, i: F.prelu(x, a[i]), ("PRELU",)),
            "MAXIMUM(x, MUL by channel)": Form(lambda x, i: torch.maximum(x, x * columns[i])),
            "MAXIMUM(x, MUL by row)": Form(lambda x, i: torch.maximum(x, x * rows[i])),
            "MAXIMUM(x, depthwise 1x1)": Form(lambda x, i: torch.maximum(x, _depthwise(x, a[i]))),
            "x + RELU(depthwise 1x1)": Form(lambda x, i: x + F.relu(_depthwise(x, a[i] - 1))),
            "LEAKY_RELU (one slope)": Form(lambda x, i: F.leaky_relu(x, 0.25)),
        },
    )


def mixed_prelu(shape: Shape) -> Case:
    a = _vectors(shape, 0.1, 1.6)
    rest, turned = _rows([1 - v for v in a], shape), _rows([-torch.ones(shape[2])] * LENGTH, shape)
    low = _rows([v.clamp(max=1) for v in a], shape)
    above = _rows([(1 - v).clamp(max=0) for v in a], shape)
    return Case(
        "PReLU, slopes on both sides of 1",
        shape,
        {
            "PRELU, left in float": Form(lambda x, i: F.prelu(x, a[i]), ("PRELU",)),
            "MAXIMUM(x, 0) + MUL(MINIMUM(x, 0))": Form(
                lambda x, i: F.relu(x) + torch.minimum(x, x.new_zeros(1, 1, 1, 1)) * a[i].reshape(1, -1, 1, 1)
            ),
            "x + MUL(RELU(MUL)), rows": Form(lambda x, i: x + F.relu(x * turned[i]) * rest[i]),
            "MAXIMUM(x, MUL) - RELU(MUL), rows": Form(lambda x, i: torch.maximum(x, x * low[i]) - F.relu(x * above[i])),
            "depthwise(x) + depthwise(|x|)": Form(
                lambda x, i: _depthwise(x, (1 + a[i]) / 2) + _depthwise(F.leaky_relu(x, -1.0), (1 - a[i]) / 2)
            ),
            "MAXIMUM of turned signs (turn_signs)": Form(lambda x, i: torch.maximum(x, x * low[i])),
        },
    )


def relu(shape: Shape) -> Case:
    ones, half = torch.ones(shape[2]), shape[2] // 2
    (row,) = _rows([ones * 0.99], shape)

    def apart(x: Tensor) -> Tensor:
        # A concatenation, into which no limit is fused.
        return torch.cat([x[:, half:], x[:, :half]], 1)

    return Case(
        "ReLU behind a concatenation",
        shape,
        {
            "without (the concatenation alone)": Form(lambda x, _: apart(x)),
            "RELU (the quantizer's MUL by 1)": Form(lambda x, _: F.relu(apart(x))),
            "RELU, left in float": Form(lambda x, _: F.relu(apart(x)), ("RELU",)),
            "in the depthwise 1x1 before": Form(lambda x, _: apart(F.relu(x))),
            "depthwise 1x1 with RELU": Form(lambda x, _: F.relu(_depthwise(apart(x), ones))),
            "MUL by row, with RELU": Form(lambda x, _: F.relu(apart(x) * row)),
        },
    )


def affine(shape: Shape) -> Case:
    g, t = _vectors(shape, 0.5, 1.1), _vectors(shape, -0.1, 0.1)
    g_rows, t_rows = _rows(g, shape), _rows(t, shape)
    diagonal = [torch.diag(v)[:, :, None, None] for v in g]
    return Case(
        "gain and offset per channel",
        shape,
        {
            "MUL, ADD by channel": Form(lambda x, i: x * g[i].reshape(1, -1, 1, 1) + t[i].reshape(1, -1, 1, 1)),
            "MUL, ADD by row": Form(lambda x, i: x * g_rows[i] + t_rows[i]),
            "depthwise 1x1": Form(lambda x, i: _depthwise(x, g[i], t[i])),
            "1x1 with zeros": Form(lambda x, i: F.conv2d(x, diagonal[i], t[i])),
        },
        before="leaky",
    )


def average(shape: Shape) -> Case:
    weights = torch.full((shape[2], 1, 3, 3), 1 / 9)
    pooled: Step = lambda x, _: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)  # noqa: E731
    return Case(
        "average pooling 3x3",
        shape,
        {
            "AVERAGE_POOL_2D": Form(pooled),
            "AVERAGE_POOL_2D, left in float": Form(pooled, ("AVERAGE_POOL_2D",)),
            "depthwise 3x3": Form(lambda x, _: F.conv2d(x, weights, padding=1, groups=x.shape[1])),
        },
    )


def depthwise(shape: Shape, dilation: int) -> Case:
    channels, generator = shape[2], torch.Generator().manual_seed(0)
    own = [torch.randn(channels, 1, 3, 3, generator=generator) * 0.4 for _ in range(LENGTH)]
    full = [torch.einsum("oi,ohw->oihw", torch.eye(channels), w[:, 0]) for w in own]
    return Case(
        f"depthwise 3x3, dilation {dilation}",
        shape,
        {
            "DEPTHWISE_CONV_2D": Form(
                lambda x, i: F.conv2d(x, own[i], None, 1, dilation, dilation, x.shape[1]),
            ),
            "CONV_2D with zeros": Form(lambda x, i: F.conv2d(x, full[i], None, 1, dilation, dilation)),
        },
        before="nothing",
    )


def grouped(shape: Shape, outputs: int, groups: int, kernel: int) -> Case:
    inputs, generator = shape[2], torch.Generator().manual_seed(0)
    own = [torch.randn(outputs, inputs // groups, kernel, kernel, generator=generator) / inputs for _ in range(LENGTH)]
    blocks = torch.eye(groups).repeat_interleave(outputs // groups, 0)
    full = [torch.einsum("og,oihw->ogihw", blocks, w).flatten(1, 2).contiguous() * 4 for w in own]
    own = [w * 4 for w in own]

    def back(x: Tensor) -> Tensor:
        copies = -(-inputs // outputs)
        return torch.cat([x] * copies, 1)[:, :inputs] if inputs != outputs else x

    def few(x: Tensor, _: int) -> Tensor:
        return back(x[:, :outputs])

    forms = {
        "CONV_2D in groups": Form(lambda x, i: back(F.conv2d(x, own[i], None, 1, kernel // 2, 1, groups))),
        "CONV_2D with zeros": Form(lambda x, i: back(F.conv2d(x, full[i], None, 1, kernel // 2))),
    }
    if outputs < inputs:
        forms = {"without (back to as many channels)": Form(few), **forms}
    title = f"{inputs} to {outputs} channels in {groups} groups, {kernel}x{kernel}"
    return Case(title, shape, forms, before="nothing")


def products(shape: Shape) -> Case:
    """Both axes to a tenth and back: averages, then copies."""
    height, width, _ = shape
    down = [torch.eye(n // 10).repeat_interleave(10, 1) / 10 for n in (height, width)]
    down = [F.pad(m, (0, n - m.shape[1])) for m, n in zip(down, (height, width), strict=True)]

    def there_and_back(form: str) -> Step:
        def step(x: Tensor, _: int) -> Tensor:
            x = PRODUCTS[form](x, rows=down[0], columns=down[1])
            return PRODUCTS[form](x, rows=down[0].T * 10, columns=down[1].T * 10)

        return step

    forms = {form: Form(there_and_back(form)) for form in ("channels_last", "linear_channels_last")}
    return Case("constant matrix products, to a tenth and back", shape, forms)


def shuffle(shape: Shape) -> Case:
    channels = shape[2]

    def of_rank_5(x: Tensor, _: int) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    def flat(x: Tensor, _: int) -> Tensor:
        n, c, h, w = x.shape
        lines = x.permute(0, 2, 3, 1).reshape(n * h * w, 2, c // 2).transpose(1, 2)
        return lines.reshape(n, h, w, c).permute(0, 3, 1, 2)

    permutation = torch.eye(channels)[torch.arange(channels).reshape(2, -1).T.reshape(-1)][:, :, None, None]
    return Case(
        "channel shuffle",
        shape,
        {
            "TRANSPOSE, 3 axes": Form(flat),
            "TRANSPOSE, 5 axes": Form(of_rank_5),
            "CONV_2D 1x1 of ones": Form(lambda x, _: F.conv2d(x, permutation)),
        },
    )


def resizing(shape: Shape) -> Case:
    def twice(x: Tensor, align: bool) -> Tensor:
        return F.max_pool2d(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=align), 2)

    return Case(
        "bilinear x2, and MAX_POOL_2D back",
        shape,
        {
            "RESIZE_BILINEAR, half pixel centres": Form(lambda x, _: twice(x, False)),
            "RESIZE_BILINEAR, aligned corners": Form(lambda x, _: twice(x, True)),
            "RESIZE_BILINEAR, left in float": Form(lambda x, _: twice(x, True), ("RESIZE_BILINEAR",)),
        },
    )


def elementwise(shape: Shape) -> Case:
    v, r = _vectors(shape, 0.5, 1.1), _rows(_vectors(shape, 0.5, 1.1), shape)
    return Case(
        "elementwise",
        shape,
        {
            "ADD, and a LEAKY_RELU": Form(lambda x, i: x + F.leaky_relu(x, 0.1 + i / 20)),
            "SUB, and a LEAKY_RELU": Form(lambda x, i: x - F.leaky_relu(x, 0.1 + i / 20)),
            "MAXIMUM, and a LEAKY_RELU": Form(lambda x, i: torch.maximum(x, F.leaky_relu(x, 0.1 + i / 20))),
            "MUL by channel": Form(lambda x, i: x * v[i].reshape(1, -1, 1, 1)),
            "MUL by row": Form(lambda x, i: x * r[i]),
        },
        before="leaky",
    )


def cases() -> Iterator[Case]:
    wide, middle, deep = (128, 256, 16), (64, 128, 64), (32, 64, 128)
    for shape in (wide, middle, deep):
        yield prelu(shape)
    for shape in (wide, middle):
        yield mixed_prelu(shape)
        yield relu(shape)
        yield elementwise(shape)
    for shape in ((128, 256, 4), wide, middle):
        yield affine(shape)
        yield depthwise(shape, 1)
    yield depthwise((64, 128, 8), 2)
    yield depthwise(deep, 2)
    yield average(wide)
    yield grouped(wide, 4, 4, 1)
    yield grouped((64, 128, 32), 32, 4, 1)
    yield grouped((32, 64, 64), 64, 4, 1)
    yield grouped((64, 128, 32), 48, 16, 3)
    yield products((128, 256, 10))
    yield shuffle((64, 128, 50))
    yield resizing((128, 256, 10))


# Files


class Chain(nn.Module):
    """``before`` each of ``count`` steps, behind a first gain and offset that bring bytes around zero."""

    def __init__(self, case: Case, step: Step | None, count: int) -> None:
        super().__init__()
        channels = case.shape[2]
        self.case, self.step, self.count = case, step, count
        self.register_buffer("gain", torch.linspace(0.3, 1, channels) / 64)
        self.register_buffer("centre", torch.linspace(-127, -129, channels) * torch.linspace(0.3, 1, channels) / 64)
        self.gains, self.offsets = _vectors(case.shape, 0.8, 1.2), _vectors(case.shape, -0.2, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = _depthwise(x, self.gain, self.centre)
        for i in range(self.count):
            if self.case.before == "affine":
                x = _depthwise(x, self.gains[i], self.offsets[i])
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
