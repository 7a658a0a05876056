"""A rewritten program through litert-torch, channels-last at both ends, with names and metadata."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from mobileseg.errors import MissingExtraError, cannot_convert
from mobileseg.types import OUTPUT_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from mobileseg.converters.export import RewrittenProgram
    from mobileseg.converters.target import Lowering


class _ChannelsLast(nn.Module):
    """The program with its picture and its planes channels-last, and with names."""

    def __init__(self, module: nn.Module, output: str) -> None:
        super().__init__()
        self.module = module
        self.output = output
        self.training = False

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        result = cast("Tensor", self.module(picture.permute(0, 3, 1, 2)))
        return {self.output: result.permute(0, 2, 3, 1) if result.ndim == 4 else result}


def lower(rewritten: RewrittenProgram, lowering: Lowering, path: Path) -> None:
    """Write the float .tflite at ``path``.

    Raises `MissingExtraError` without litert-torch, `RewriteError` for a network that it cannot convert.
    """
    from mobileseg.converters.tflite import flatbuffer, half, lowerings, naming

    try:
        import litert_torch
        from litert_torch import _config
    except ImportError as error:
        raise MissingExtraError("tflite", error.name or "litert_torch") from error
    _config.config.show_progress = False
    lowerings.register()
    module = copy.deepcopy(rewritten.module)
    lowerings.keep_builtins(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    (picture,) = rewritten.example_inputs
    wrapped = _ChannelsLast(module, OUTPUT_NAMES[lowering.head])
    with torch.no_grad(), warnings.catch_warnings(), lowerings.padding_channels_last():
        warnings.simplefilter("ignore")
        logging.getLogger("absl").setLevel(logging.ERROR)
        sample = {"picture": picture.permute(0, 2, 3, 1).contiguous()}
        try:
            converted = litert_torch.convert(wrapped, sample_kwargs=sample)
        # What it raises where it meets an operator that it does not know, or shapes that it did not expect.
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise cannot_convert("litert-torch", error) from error
    model = flatbuffer.read(converted.model_content())
    flatbuffer.count_from_corners(model)
    flatbuffer.unshare_paddings(model)
    naming.name_constants(model, module)
    naming.name_values(model, f"{_ChannelsLast.__module__}.{_ChannelsLast.__qualname__}")
    if lowering.precision == "fp16":
        half.halve_weights(model)
    flatbuffer.embed(model, lowering.metadata)
    path.write_bytes(flatbuffer.write(model))
