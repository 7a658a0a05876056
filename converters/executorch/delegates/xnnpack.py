"""XNNPACK: the CPU, on phones and computers."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mobileseg.converters.executorch.delegates.base import Delegate, Reason, Removed
from mobileseg.converters.executorch.delegates.xnnpack_constants import names
from mobileseg.converters.executorch.delegates.xnnpack_dynamic import in_integers, rounded
from mobileseg.converters.executorch.delegates.xnnpack_int8 import in_int8
from mobileseg.converters.executorch.delegates.xnnpack_layouts import operators, rearranged
from mobileseg.converters.passes.base import aten, is_call

if TYPE_CHECKING:
    from torch.fx import GraphModule

_MOVES = (
    aten.permute.default,
    aten.reshape.default,
    aten.view.default,
    aten.slice.Tensor,
    aten.constant_pad_nd.default,
    aten.pad.default,
    aten.max_pool2d.default,
    aten.clone.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
)
_WEIGHTED = (aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input, aten.linear.default)
_CONVOLUTION = "aten.convolution.default"
_CONVERSION = "mobileseg.as_type.default"
_TAG = "delegation_tag"
_CONFIGURATIONS = "executorch.backends.xnnpack.partition.config"


@functools.cache
def _as_type() -> Any:
    """A conversion that is nothing else: ExecuTorch's passes for XNNPACK take ``aten._to_copy`` for a change of memory
    order, and remove it as one."""
    import torch

    schema = "(Tensor x, ScalarType dtype) -> Tensor"

    @torch.library.custom_op("mobileseg::as_type", mutates_args=(), schema=schema)
    def as_type(x: Any, dtype: Any) -> Any:
        return x.to(dtype, copy=True)

    as_type.register_fake(lambda x, dtype: torch.empty_like(x, dtype=dtype))
    return torch.ops.mobileseg.as_type.default


def _prepare(module: GraphModule) -> GraphModule:
    """Conversions between float32 and float16 as the operator that `_partitioners` hands to XNNPACK; of a program in
    int8 the conversions that are needed, one for each reader (`_alone`)."""
    import torch

    _alone(module)
    floats = (torch.float32, torch.float16)
    for node in module.graph.nodes:
        if node.target is torch.ops.aten._to_copy.default and set(node.kwargs) == {"dtype"}:
            (source,) = node.args
            if node.kwargs["dtype"] in floats and source.meta["val"].dtype in floats:
                node.target, node.args, node.kwargs = _as_type(), (source, node.kwargs["dtype"]), {}
    module.recompile()
    return module


def _alone(module: GraphModule) -> None:
    """A dequantization for each reader: ExecuTorch's passes change one in place for the reader at hand. Behind a move
    only a convolution has one, the others read the move: fewer operators for the passes, and `xnnpack_int8` computes in
    int8 what lies between two conversions anyway."""
    import torch
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the operators

    dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    for node in list(module.graph.nodes):
        if not is_call(node, dequantize):
            continue
        move = node.args[0].args[0]
        read = move.all_input_nodes if is_call(move, *_MOVES) else []
        moved = len(read) == 1 and is_call(read[0], dequantize) and read[0].args[1:] == node.args[1:]
        for reader in list(node.users):
            if moved and not is_call(reader, *_WEIGHTED):
                reader.replace_input_with(node, move)
            elif len(node.users) > 1:
                with module.graph.inserting_after(node):
                    own = module.graph.call_function(node.target, node.args)
                own.meta = dict(node.meta)
                reader.replace_input_with(node, own)
    module.graph.eliminate_dead_code()


def _partitioners() -> list[Any]:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.gemm_configs import GEMMConfig
    from executorch.backends.xnnpack.partition.config.generic_node_configs import (
        CatConfig,
        GenericNodePartitionerConfig,
    )
    from executorch.backends.xnnpack.partition.config.node_configs import MaxDimConfig
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.utils.utils import is_param_node

    class AsTypeConfig(GenericNodePartitionerConfig):
        target_name = _CONVERSION.partition(".")[2]

        def supported_precision_types(self) -> list[ConfigPrecisionType]:
            return [ConfigPrecisionType.FP32]

    class CopiesConfig(CatConfig):
        """ExecuTorch counts the tensors of a concatenation without repetition, and leaves copies side by side."""

        def check_constraints(self, node: Any, ep: Any) -> bool:
            if len(node.args[0]) > 1 and len(node.all_input_nodes) == 1:
                accepted: bool = self.check_common_constraints(node, ep)
                return accepted
            counted: bool = super().check_constraints(node, ep)
            return counted

    class WithConstants(XnnpackPartitioner):
        """ExecuTorch hands XNNPACK the constants of convolutions and the like; those of a sum or a product come with
        every call, as a picture does, are put into XNNPACK's order each time, and lie in memory twice."""

        def partition(self, exported_program: Any) -> Any:
            result = super().partition(exported_program)
            for node in exported_program.graph.nodes:
                tags = [user.meta.get(_TAG) for user in node.users]
                if is_param_node(exported_program, node) and len(tags) == 1 and tags[0] is not None:
                    node.meta.setdefault(_TAG, tags[0])
            return result

    # It takes a maximum over any axis, and then fails to write one over the channels.
    taken = [c for c in ALL_PARTITIONER_CONFIGS if c not in (MaxDimConfig, CatConfig)]
    partitioner = WithConstants(configs=[*taken, CopiesConfig, AsTypeConfig])
    # Of the others in int8 `xnnpack_int8` takes care.
    for config in partitioner.target_partitioner_configs.values():
        if ConfigPrecisionType.FP32 in config.enabled_precision_types and not isinstance(config, GEMMConfig):
            config.enabled_precision_types = [ConfigPrecisionType.FP32]
    return [partitioner]


@contextmanager
def _compiling(precision: str, float32_share: float) -> Iterator[Removed]:
    """What XNNPACK's runtime takes and ExecuTorch does not write: conversions between float32 and float16, and float16
    weights of a convolution that itself is float16. ExecuTorch writes all of them in float32; transposed ones must be
    so. And what it writes with needless transpositions, without them (`xnnpack_layouts`); for ``"dynamic"`` with
    convolutions in integers (`xnnpack_dynamic`)."""
    import torch
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.backends.xnnpack.operators import node_visitor
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNConvert, XNode
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import CONSTANT_TENSOR_ALIGNMENT
    from executorch.exir._serialize._named_data_store import NamedDataStore

    serialize = xnnpack_preprocess.serialize_xnnpack_binary
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

    class Conversion(node_visitor.NodeVisitor):
        def define_node(self, node: Any, graph: Any, ids: Any, debug_handle: int) -> None:
            self.define_nodes_tensor_inputs_outputs(node, graph, ids)
            convert = XNNConvert(input_id=ids[node.args[0]], output_id=ids[node], flags=0)
            graph.xnodes.append(XNode(xnode_union=convert, debug_handle=debug_handle))

    visitors[_CONVOLUTION], visitors[_CONVERSION] = Float16Convolution, Conversion
    removed: dict[bytes, dict[str, int]] = {}
    stores: list[Any] = []

    def store() -> Any:
        stores.append(NamedDataStore())
        return stores[-1]

    def serialized(graph: Any, constants: bytearray) -> bytes:
        own = stores[-1]
        data = {key: own.buffers[entry.buffer_index] for key, entry in own.pte_data.items()}
        new = rearranged(in_int8(graph, data), data)
        if precision == "dynamic":
            new = in_integers(new, data)
        left = NamedDataStore()
        for name in names(new):
            left.add_named_data(name, data[name], CONSTANT_TENSOR_ALIGNMENT)
        vars(own).update(vars(left))
        payload: bytes = serialize(new, constants)
        removed[payload] = dict(Counter(operators(graph)) - Counter(operators(new)))
        return payload

    xnnpack_preprocess.serialize_xnnpack_binary, xnnpack_preprocess.NamedDataStore = serialized, store
    try:
        yield removed
    finally:
        xnnpack_preprocess.serialize_xnnpack_binary, xnnpack_preprocess.NamedDataStore = serialize, NamedDataStore
        visitors[_CONVOLUTION] = writer
        del visitors[_CONVERSION]


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
    prepare=_prepare,
    compiling=_compiling,
    rounded=rounded,
)
