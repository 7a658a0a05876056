"""From a network to an ExportedProgram whose input is the camera's picture, and its rewriting for one target."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from mobileseg.converters.forms import forms_for
from mobileseg.converters.passes import PASSES
from mobileseg.errors import RewriteError
from mobileseg.types import Rewrite

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from mobileseg.types import Head, OutputSize, Preprocessing, Size

aten = torch.ops.aten


class Deployed(nn.Module):
    """The network as a phone calls it: an RGB picture (N, 3, H, W) float32 in 0..255 in, logits, probabilities or a
    class map out; ``output_size`` ``"input"`` resizes the logits bilinearly (half-pixel centres) before them.

    The preprocessing is one gain and one offset per channel, applied before the network's own padding, so that its
    padded borders see the zeros they were trained with. A BGR network gets a 1x1 convolution that also exchanges the
    channels.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing | None,
        head: Head,
        output_size: OutputSize = "network",
    ) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.resized = output_size == "input"
        self.exchange = preprocessing is not None and preprocessing.channel_order == "BGR"
        self.has_offset = False
        if preprocessing is None:
            self.gain = None
            return
        gain, offset = (torch.tensor(t, dtype=torch.float64) for t in preprocessing.affine())
        if self.exchange:
            self.register_buffer("gain", torch.diag(gain).flip(1)[:, :, None, None].float())
            self.register_buffer("offset", offset.float())
        else:
            self.register_buffer("gain", gain[None, :, None, None].float())
            self.register_buffer("offset", offset[None, :, None, None].float())
            self.has_offset = bool((offset != 0).any())

    def forward(self, picture: Tensor) -> Tensor:
        x = picture
        if self.gain is not None:
            if self.exchange:
                x = torch.nn.functional.conv2d(x, self.gain, self.offset)
            else:
                x = x * self.gain
                x = x + self.offset if self.has_offset else x
        logits = cast("Tensor", self.network(x))
        if self.resized and logits.shape[2:] != picture.shape[2:]:
            logits = torch.nn.functional.interpolate(logits, picture.shape[2:], mode="bilinear", align_corners=False)
        if self.head == "softmax":
            return torch.softmax(logits, dim=1)
        if self.head == "argmax":
            return torch.argmax(logits, dim=1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)
        return logits


@dataclass(frozen=True)
class Exported:
    """A program in canonical form, and what tracing already resolved."""

    program: ExportedProgram
    rewrites: tuple[Rewrite, ...]


@dataclass(frozen=True)
class RewrittenProgram:
    """A program that one target can lower, as an unlifted module, and what was done to get there.

    ``example_inputs``: the picture (N, 3, H, W) float32 it was traced with.
    """

    module: GraphModule
    example_inputs: tuple[Tensor, ...]
    rewrites: tuple[Rewrite, ...]

    @functools.cached_property
    def program(self) -> ExportedProgram:
        """The module as an ExportedProgram in canonical form, for the targets that take one."""
        return _canonical(_traced(self.module, self.example_inputs))


def _traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, inputs, strict=False)


def _canonical(program: ExportedProgram) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        canonical: ExportedProgram = program.run_decompositions(_taken_apart())
        return canonical


def _taken_apart() -> dict[Any, Any]:
    """Torch's decompositions of operators that some target does not have, and none needs whole."""
    table = torch.export.default_decompositions()
    lacking = (aten.celu.default, aten.log_sigmoid.default, aten.log_sigmoid_forward.default)
    return {operator: table[operator] for operator in lacking}


def export(module: nn.Module, size: Size, *, batch: int = 1) -> Exported:
    """Trace a module for pictures of one size into canonical form: functional ATen, no dropout, sizes as numbers.

    Python-side size arithmetic and loops on sizes are resolved by tracing; in-place operators and dropout by the
    functional form. Pooling, resizing and PReLU keep their own operators, which the passes look for.
    """
    traced = _traced(module.eval(), (torch.zeros(batch, 3, *size),))
    names = [name for name in map(operator_name, traced.graph.nodes) if name is not None]
    resolved = (
        Rewrite("remove_dropout", sum("dropout" in n for n in names), "bit-exact", "it does nothing in inference"),
        Rewrite(
            "make_functional",
            sum(n.endswith("_") for n in names),
            "bit-exact",
            "no target writes into a tensor that others read",
        ),
    )
    return Exported(_canonical(traced), resolved)


def rewrite(exported: Exported, target: str, precision: str) -> RewrittenProgram:
    """Run all passes in the forms that the target and precision want."""
    module = exported.program.module(check_guards=False)
    forms = forms_for(target, precision)
    rewrites = list(exported.rewrites)
    for item in PASSES:
        outcome = item.apply(module, forms)
        rewrites.append(Rewrite(item.name, outcome.count, item.exact, item.why, outcome.left))
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    (inputs, _) = cast("tuple[tuple[Tensor, ...], dict[str, Tensor]]", exported.program.example_inputs)
    return RewrittenProgram(module, inputs, tuple(rewrites))


def operator_name(node: Node) -> str | None:
    """An ATen operator's bare name (``"conv2d"``); None for a node that calls none."""
    return node.target._schema.name.split("::")[1] if isinstance(node.target, torch._ops.OpOverload) else None


def refuse_what_is_left(rewritten: RewrittenProgram, forbidden: frozenset[str]) -> None:
    """Raise `RewriteError` that names each node whose operator the target cannot run, with the reason that a pass gave
    for leaving it."""
    reasons = {reason.partition(":")[0]: reason for r in rewritten.rewrites for reason in r.left}
    nodes = [n for n in rewritten.module.graph.nodes if operator_name(n) in forbidden]
    if nodes:
        named = "; ".join(reasons.get(n.name, f"{n.name}: no rewrite covers {operator_name(n)}") for n in nodes)
        raise RewriteError(
            f"This network cannot be rewritten exactly for the target: {named}. "
            "`mobileseg doctor CHECKPOINT` lists every operator it rewrites and leaves."
        )
