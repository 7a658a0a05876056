"""XNNPACK: the CPU, on phones and computers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mobileseg.converters.executorch.delegates.base import Delegate, Reason

_CONVOLUTION = "aten.convolution.default"
_CONFIGURATIONS = "executorch.backends.xnnpack.partition.config"


def _partitioners() -> list[Any]:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.node_configs import MaxDimConfig
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    # It takes a maximum over any axis, and then fails to write one over the channels.
    return [XnnpackPartitioner(configs=[c for c in ALL_PARTITIONER_CONFIGS if c is not MaxDimConfig])]


@contextmanager
def _keeping_float16(precision: str) -> Iterator[None]:
    """ExecuTorch writes the weights of every convolution in float32. XNNPACK takes float16 ones where the convolution
    itself is float16, all but transposed ones: half the bytes, and the same numbers."""
    import torch
    from executorch.backends.xnnpack.operators import node_visitor

    visitors = node_visitor._node_visitor_dict
    writer: Any = visitors[_CONVOLUTION]

    class Float16Convolution(writer):
        def define_node(self, node: Any, *arguments: Any) -> None:
            is_transposed = node.args[6]
            self.keeps_float16 = not is_transposed
            super().define_node(node, *arguments)

        def define_tensor(self, tensor: Any, *arguments: Any, force_fp32: bool = False, **options: Any) -> None:
            kept = self.keeps_float16 and tensor.meta["val"].dtype == torch.float16
            super().define_tensor(tensor, *arguments, force_fp32=force_fp32 and not kept, **options)

    visitors[_CONVOLUTION] = Float16Convolution
    try:
        yield
    finally:
        visitors[_CONVOLUTION] = writer


def _reason(record: logging.LogRecord) -> Reason | None:
    # The message is ExecuTorch's WhyNoPartition, an object that the next record will change.
    node, reason = getattr(record.msg, "node", None), getattr(record.msg, "reason", "")
    return None if node is None else (node.target.__name__, reason)


DELEGATE = Delegate(
    name="xnnpack",
    partitioners=_partitioners,
    otherwise="XNNPACK has no such operator",
    loggers=tuple(
        f"{_CONFIGURATIONS}.{module}"
        for module in ("gemm_configs", "generic_node_configs", "node_configs", "xnnpack_config")
    ),
    level=logging.DEBUG,
    reason=_reason,
    compiling=_keeping_float16,
)
