"""What coremltools itself makes of the blocks that segmentation networks are built from, run by the reference executor.

    python benchmarks/coreml_blocks.py --json rows.json
    python benchmarks/coreml_blocks.py --model tests/networks/deeplab.py:build --forms fp32,fp16

None of mobileseg's rewriting takes part: the network goes to coremltools as torch exports or traces it. fp32 and fp16
are held against torch. Files with compressed weights are held against the file that coremltools decompresses, weight by
weight and result by result, and their own result against torch. W8A8 is held against the network that
coremltools.optimize.torch quantizes, run in torch, quantizing as MIL does. Rows are printed as Markdown and added to
the JSON file.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobileseg import load_checkpoint, mlpackage
from mobileseg.mobile_assets.demo import EVALUATION_SEEDS, scene
from mobileseg.validation.coreml import Executor, load

NETWORKS = Path(__file__).parents[1] / "tests" / "networks"
BLOCKS = ("inverted_residual", "bottleneck", "unet", "aspp", "segformer", "segformer_fused")

Step = tuple[str, str, dict[str, Any]]

COMPRESSIONS: dict[str, tuple[str, tuple[Step, ...]]] = {
    "int8": ("iOS16", (("linear_quantize", "LinearQuantizer", {"dtype": "int8"}),)),
    "uint8": ("iOS16", (("linear_quantize", "LinearQuantizer", {"dtype": "uint8", "mode": "linear"}),)),
    "int4 block": (
        "iOS18",
        (("linear_quantize", "LinearQuantizer", {"dtype": "int4", "granularity": "per_block", "block_size": 8}),),
    ),
    **{
        f"palette{bits}": ("iOS16", (("palettize", "Palettizer", {"nbits": bits, "mode": "uniform"}),))
        for bits in (4, 6, 8)
    },
    "palette3 group": (
        "iOS18",
        (
            (
                "palettize",
                "Palettizer",
                {"nbits": 3, "mode": "uniform", "granularity": "per_grouped_channel", "group_size": 4},
            ),
        ),
    ),
    "sparse": ("iOS16", (("prune", "MagnitudePruner", {"target_sparsity": 0.5}),)),
    "sparse palette4": (
        "iOS18",
        (
            ("prune", "MagnitudePruner", {"target_sparsity": 0.5}),
            ("palettize", "Palettizer", {"nbits": 4, "mode": "uniform"}),
        ),
    ),
    "sparse int8": (
        "iOS18",
        (
            ("prune", "MagnitudePruner", {"target_sparsity": 0.5}),
            ("linear_quantize", "LinearQuantizer", {"dtype": "int8"}),
        ),
    ),
}
"""The system that a form needs, and how coremltools.optimize.coreml makes it of fp32, step by step."""

PLAIN = {"fp32": ("iOS16", "FLOAT32"), "fp32 iOS18": ("iOS18", "FLOAT32"), "fp16": ("iOS16", "FLOAT16")}
FORMS = (*PLAIN, *COMPRESSIONS, "W8A8")


@dataclass(frozen=True)
class Row:
    """``sqnr_db``: of the file against torch (W8A8: against the network that is quantized in torch). ``decoded``: None,
    or of how many compressed weights how many are those that coremltools decompresses, to the last bit."""

    network: str
    form: str
    made_of: str
    operators: int
    compressed: int
    max_abs_err: float
    sqnr_db: float
    decoded: str


def lowered(network: torch.nn.Module, x: torch.Tensor, system: str, precision: str, path: Path) -> tuple[Any, str]:
    """By coremltools alone: the model that was saved at ``path``, and of what it was made, the network as torch exports
    it or, where coremltools cannot take that, as torch traces it."""
    import coremltools

    def converted(source: Any, inputs: Any) -> Any:
        return coremltools.convert(
            source,
            inputs=inputs,
            minimum_deployment_target=coremltools.target[system],
            compute_precision=coremltools.precision[precision],
            skip_model_load=True,
        )

    with mlpackage.quietly(), torch.no_grad():
        try:
            model, made_of = converted(torch.export.export(network, (x,)).run_decompositions({}), None), "export"
        except (ValueError, NotImplementedError, RuntimeError):
            traced = torch.jit.trace(network, x)
            model, made_of = converted(traced, [coremltools.TensorType(name="x", shape=x.shape)]), "trace"
        model.save(str(path))
    return model, made_of


def compressed(model: Any, form: str, folder: Path) -> tuple[Path, Path]:
    """The file with compressed weights, and the same decompressed by coremltools."""
    from coremltools.optimize import coreml as optimize

    with mlpackage.quietly():
        for position, (function, kind, how) in enumerate(COMPRESSIONS[form][1]):
            chosen = getattr(optimize, f"Op{kind}Config")(weight_threshold=64, **how)
            joint = {"joint_compression": True} if position else {}
            config = optimize.OptimizationConfig(global_config=chosen)
            model = getattr(optimize, f"{function}_weights")(model, config, **joint)
        small, plain = folder / "small.mlpackage", folder / "plain.mlpackage"
        model.save(str(small))
        optimize.decompress_weights(model).save(str(plain))
    return small, plain


class Numbers(torch.fx.Interpreter):
    """Runs a graph and keeps what its nodes give that is no tensor: sizes, and what is computed from them."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.known: dict[Any, Any] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, (int, float, torch.Size)):
            self.known[n] = result
        return result


def sized(network: torch.nn.Module, x: torch.Tensor) -> torch.fx.GraphModule:
    """The network for one size of picture: coremltools does not take sizes that are computed while it is traced."""
    graph = torch.fx.symbolic_trace(network)
    numbers = Numbers(graph)
    numbers.run(x)
    for node in graph.graph.nodes:
        node.args = torch.fx.node.map_arg(node.args, lambda n: numbers.known.get(n, n))
        node.kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: numbers.known.get(n, n))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class Divided(torch.fx.Interpreter):
    """Quantizes as MIL does, by the quotient of value and scale. torch multiplies by the scale's reciprocal instead,
    and rounds some values that lie midway between two steps the other way."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is not torch.quantize_per_tensor:
            return super().call_function(target, args, kwargs)
        values, scale, zero, dtype = args
        ends = torch.iinfo(torch.uint8 if dtype == torch.quint8 else torch.int8)
        steps = (values / scale).round().add(zero).clamp(ends.min, ends.max)
        return (steps - zero) * scale

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[0] if target == "dequantize" else super().call_method(target, args, kwargs)


def quantized(network: torch.nn.Module, pictures: list[torch.Tensor]) -> torch.fx.GraphModule:
    """Weights and activations in 8 bits, calibrated on the pictures by coremltools.optimize.torch."""
    with mlpackage.quietly():
        from coremltools.optimize.torch.quantization import LinearQuantizer, LinearQuantizerConfig

        config = LinearQuantizerConfig.from_dict(
            {"global_config": {"quantization_scheme": "symmetric", "milestones": [0, 1, 8, 8]}}
        )
        with torch.no_grad():
            fixed = sized(copy.deepcopy(network).eval(), pictures[0])
        quantizer = LinearQuantizer(fixed, config)
        prepared = quantizer.prepare(example_inputs=(pictures[0],))
        with torch.no_grad():
            for picture in pictures:
                quantizer.step()
                prepared.eval()(picture)
        return quantizer.finalize().eval()  # type: ignore[no-any-return]


def weights_of(executor: Executor) -> list[NDArray[Any]]:
    """What the convolutions and products read that is constant, in order."""
    found = []
    for operation in executor.program.operations:
        if operation.kind in ("conv", "linear", "matmul", "conv_transpose"):
            for parameter in ("weight", "x", "y"):
                name = getattr(operation.arguments.get(parameter, (None,))[0], "name", "")
                value = executor.constants.get(name)
                if isinstance(value, torch.Tensor):
                    found.append(value.numpy())
    return found


def result_of(executor: Executor, x: torch.Tensor) -> NDArray[Any]:
    (source,) = executor.inputs
    (result,) = executor.run({source.name: x.numpy()}).values()
    return result


def compared(wanted: NDArray[Any], got: NDArray[Any]) -> tuple[float, float]:
    """The largest error, and the SQNR in dB."""
    error = wanted.astype(np.float64) - got
    noise, power = float(np.square(error).sum()), float(np.square(wanted.astype(np.float64)).sum())
    return float(np.abs(error).max()), 10 * np.log10(power / noise) if noise else float("inf")


def rows_of(name: str, network: torch.nn.Module, pictures: list[torch.Tensor], forms: list[str]) -> Iterator[Row]:
    """One row a form, each run on the first picture; the others calibrate."""
    x, models = pictures[0], dict[str, tuple[Any, str]]()
    with torch.no_grad():
        wanted = network(x).numpy()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def plain(system: str, precision: str) -> tuple[Any, str]:
            if system + precision not in models:
                path = folder / f"{system}{precision}.mlpackage"
                models[system + precision] = lowered(network, x, system, precision, path)
            return models[system + precision]

        for form in forms:
            reference, decoded = wanted, "-"
            if form in COMPRESSIONS:
                model, made_of = plain(COMPRESSIONS[form][0], "FLOAT32")
                path, other = compressed(model, form, folder)
                ours, theirs = load(path), load(other)
                pairs = list(zip(weights_of(ours), weights_of(theirs), strict=True))
                equal = sum(np.array_equal(a, b) for a, b in pairs)
                same = np.array_equal(result_of(ours, x), result_of(theirs, x))
                decoded = f"{equal}/{len(pairs)}{', result equal' if same else ''}"
            elif form == "W8A8":
                made = quantized(network, pictures)
                with torch.no_grad():
                    reference = Divided(made).run(x).numpy()
                path = folder / "w8a8.mlpackage"
                _, made_of = lowered(made, x, "iOS17", "FLOAT32", path)
            else:
                _, made_of = plain(*PLAIN[form])
                path = folder / f"{''.join(PLAIN[form])}.mlpackage"
            executor = load(path)
            kinds = [o.kind for o in executor.program.operations if o.kind != "const"]
            constants = sum(kind.startswith("constexpr_") for kind in kinds)
            error, sqnr = compared(reference, result_of(executor, x))
            yield Row(name, form, made_of, len(kinds) - constants, constants, error, sqnr, decoded)


def pictures_of(size: tuple[int, int], count: int) -> list[torch.Tensor]:
    """Scenes of the demo, 0 to 1."""
    scenes = [scene(seed, size).picture for seed in EVALUATION_SEEDS[:count]]
    return [torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous().float() / 255 for picture in scenes]


def network_of(model: str, size: tuple[int, int]) -> torch.nn.Module:
    return load_checkpoint(None, model=model, size=size).network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="FILE:FUNCTION; default: all blocks")
    parser.add_argument("--size", default="64x96", help="HxW")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--json", type=Path, default=Path("coreml_blocks.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    height, _, width = options.size.partition("x")
    size = (int(height), int(width))
    rows = json.loads(options.json.read_text()) if options.json.exists() else []
    shown: Callable[[Any], str] = lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)  # noqa: E731
    for model in options.model or [f"{NETWORKS / 'blocks.py'}:{block}" for block in BLOCKS]:
        name = Path(model).name
        for row in rows_of(name, network_of(model, size), pictures_of(size, 4), options.forms.split(",")):
            rows.append(asdict(row))
            print("| " + " | ".join(shown(value) for value in asdict(row).values()) + " |", flush=True)
            options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
