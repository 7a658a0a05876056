"""The Core ML executor's operators against coremltools' own list of them: parameters, defaults, choices."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.validation.coreml import OPERATORS

NOT_RUN = {
    "affine",
    "classify",
    "cond",
    "const",
    "conv_quantized",
    "crop_resize",
    "gru",
    "list_gather",
    "list_length",
    "list_read",
    "list_scatter",
    "list_write",
    "lstm",
    "make_list",
    "non_maximum_suppression",
    "non_zero",
    "random_bernoulli",
    "random_categorical",
    "random_normal",
    "random_uniform",
    "read_state",
    "reverse_sequence",
    "rnn",
    "while_loop",
}
"""Operators of MIL that are named as unsupported where a program has them; a constant is none that is run."""

COMPUTED = {
    "axes": "all",
    "bias": 0,
    "dilations": 1,
    "off_value": 0,
    "on_value": 1,
    "pad": 0,
    "strides": 1,
    "value": 0,
}
"""What an operator takes where its default is None and MIL's is not."""


def versions(kind: str) -> list[Any]:
    """coremltools' classes of an operator, of iOS 15 and later."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    return [found for target, found in SSAOpRegistry.core_ops[kind].items() if target.value >= 6]


def test_operators_are_mil_s() -> None:
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    named = {kind for kind in SSAOpRegistry.core_ops if not kind.startswith("_")}
    assert set(OPERATORS) == named - NOT_RUN


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_parameters_are_mil_s(kind: str) -> None:
    """All that it has in any operator set, and what may be left out there may be left out."""
    given = [found.input_spec.input_types for found in versions(kind)]
    assert set(OPERATORS[kind].conversions) == {name for parameters in given for name in parameters}
    for parameters in given:
        needed = {name for name, parameter in parameters.items() if not parameter.optional}
        assert OPERATORS[kind].required <= needed


def defaults(version: Any) -> dict[str, Any]:
    """Of an operator whose inputs have four axes."""
    from coremltools.converters.mil.mil import types

    operation = object.__new__(version)
    four = SimpleNamespace(rank=4, dtype=types.fp32, shape=(2, 3, 4, 5))
    operation.__dict__.update(x=four, weight=four, return_indices=None)
    return dict(version.default_inputs(operation).items())


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_defaults_are_mil_s(kind: str) -> None:
    parameters = inspect.signature(OPERATORS[kind].function).parameters
    for version in versions(kind):
        for name, theirs in defaults(version).items():
            ours = parameters[name].default
            if ours is None and theirs is not None:
                wanted = list(range(4)) if COMPUTED[name] == "all" else COMPUTED[name]
                assert np.all(np.asarray(theirs) == wanted)
            elif isinstance(ours, float):
                assert np.float32(ours) == np.float32(theirs)
            else:
                assert ours == theirs
