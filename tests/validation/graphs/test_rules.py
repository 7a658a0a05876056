"""The tables of operators: what they name is an operator of its format, and they have what our networks are made of."""

from __future__ import annotations

import pytest

from mobileseg.validation.graphs.rules import coreml, executorch, onnx, tflite


def test_tflites_names() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    known = {name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    assert set(tflite.RULES) <= known


def test_onnxs_names() -> None:
    """Those of ONNX Runtime's own domain cannot be asked of its package."""
    defs = pytest.importorskip("onnx").defs
    known = {schema.name for schema in defs.get_all_schemas()}
    own = {name for name in onnx.RULES if name.startswith(("QLinear", "Fused", "QGemm"))}
    assert set(onnx.RULES) - own <= known


def test_coremls_names() -> None:
    """Every operator that the reference executor runs, but for those that only stand for constants or are not known."""
    from mobileseg.validation.coreml.operators import OPERATORS

    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    known = {name for name in OPERATORS if not name.startswith("constexpr_")}
    assert known - set(coreml.RULES) == {"einsum", "scaled_dot_product_attention"}
    assert set(coreml.RULES) <= set(SSAOpRegistry.core_ops)


def test_executorchs_names() -> None:
    import torch

    for name in executorch.ATEN:
        namespace, _, operator = name.partition(".")
        if namespace == "aten":
            assert hasattr(torch.ops.aten, operator), name


def test_xnnpacks_names() -> None:
    pytest.importorskip("executorch.exir")
    from mobileseg.validation.traces import xnnpack

    union = vars(xnnpack._tables().XNodeUnion)
    known = {name.removeprefix("XNN") for name, number in union.items() if isinstance(number, int)}
    assert known - set(executorch.XNNPACK) == {"NONE", "ScaledDotProductAttention"}
    assert set(executorch.XNNPACK) <= known
