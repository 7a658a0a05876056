"""Packages of single operators, built with coremltools, and held against what they should give.

A case makes an example of an operator from what a `Draw` draws: ``(arrays, build, expected)``. ``build(mb, *values)``
makes the operator of values that are inputs (or, for coremltools' own evaluation, constants) and returns one result or
several; ``expected`` are these, by torch or NumPy. A fourth item says why coremltools' evaluation is not the example's.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

Example = tuple[Any, ...]

settings.register_profile(
    "operators",
    settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    ),
)

EXAMPLES = 8
"""Of one operator, in one package."""

ODD = (np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5, 1.5, 2.5, 65504.0, -65504.0, 2.0**-24)


@dataclass(frozen=True)
class Draw:
    """What hypothesis draws for one example. ``ios``: the operator set that it is built for, 15 to 18.

    Numbers that are not whole are exact in float16, so that one example serves both precisions.
    """

    data: Any
    ios: int

    def number(self, low: int, high: int) -> int:
        return int(self.data.draw(st.integers(low, high)))

    def one(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def flag(self) -> bool:
        return bool(self.data.draw(st.booleans()))

    def some(self, count: int) -> list[int]:
        """A few of ``count`` axes, at least one, from the front."""
        return sorted(self.data.draw(st.sets(st.integers(0, count - 1), min_size=1)))

    def order(self, count: int) -> list[int]:
        return list(self.data.draw(st.permutations(range(count))))

    def shape(self, least: int = 1, most: int = 4, longest: int = 5) -> tuple[int, ...]:
        return tuple(self.number(1, longest) for _ in range(self.number(least, most)))

    def axis(self, x: np.ndarray) -> int:
        """From the front or from the end."""
        return self.number(-x.ndim, x.ndim - 1)

    def either(self, axes: Sequence[int], rank: int) -> list[int]:
        """Each of the axes from the front or from the end."""
        return [axis - self.one(0, rank) for axis in axes]

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.number(0, 1 << 16))

    def array(self, shape: Sequence[int], low: float = -3, high: float = 3, odd: bool = False) -> np.ndarray:
        """float32. ``odd``: in one of three, some are infinite, no number, halves, zeros or the ends of float16."""
        rng = self.rng()
        values = rng.uniform(low, high, tuple(shape)).astype(np.float16).astype(np.float32)
        if odd and self.number(0, 2) == 0:
            values = np.where(rng.random(values.shape) < 0.5, rng.choice(ODD, values.shape), values)
        return values.astype(np.float32)

    def whole(self, shape: Sequence[int], low: int, high: int) -> np.ndarray:
        """int32, ``high`` included."""
        return self.rng().integers(low, high, tuple(shape), endpoint=True).astype(np.int32)

    def distinct(self, shape: Sequence[int]) -> np.ndarray:
        return self.rng().permutation(int(np.prod(shape))).reshape(tuple(shape)).astype(np.float32)

    def scalar(self, low: float, high: float) -> np.float32:
        return np.float32(self.array((), low, high))


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make(arrays, build, target)``: a package with an input for each array, every result an output, no passes."""
    coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")
    from coremltools.converters.mil.backend.mil.load import load as serialize
    from coremltools.converters.mil.mil import Builder, Function, Placeholder, Program, types

    from mobileseg import mlpackage

    folder, numbers = tmp_path_factory.mktemp("mil"), itertools.count()
    kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}

    def as_output(value: Any) -> Any:
        if value.dtype in (types.fp32, types.fp16, types.int32):
            return Builder.identity(x=value)
        return Builder.cast(x=value, dtype="int32")

    def make(arrays: Sequence[np.ndarray], build: Callable[..., Any], target: str = "iOS17") -> Path:
        holders = {
            f"in_{i}": Placeholder(sym_shape=array.shape, dtype=kinds[str(array.dtype)])
            for i, array in enumerate(arrays)
        }
        with mlpackage.quietly():
            system = coremltools.target[target]
            with Function(holders, opset_version=system) as function:
                results = build(Builder, *function.inputs.values())
                results = results if isinstance(results, (list, tuple)) else [results]
                function.set_outputs([as_output(result) for result in results])
            program = Program()
            program.add_function("main", function)
            number = next(numbers)
            weights = folder / f"{number}.weights"
            weights.mkdir()
            # The serializer alone: what `convert` does around it takes half a second.
            spec = serialize(program, str(weights), specification_version=system.value)
        path = folder / f"{number}.mlpackage"
        mlpackage.write(spec, weights, path)
        return path

    return make


@dataclass(frozen=True)
class Halved:
    """coremltools' builder whose operators get their numbers as float16."""

    builder: Any

    def __getattr__(self, name: str) -> Callable[..., Any]:
        make = getattr(self.builder, name)
        return lambda **how: make(**{parameter: halved(value) for parameter, value in how.items()})


def halved(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.float32)) and value.dtype == np.float32:
        return value.astype(np.float16)
    return value


class Check:
    """Runs examples of one operator in one package, in float32 and in float16, and holds each against what is expected
    and against coremltools' own evaluation, where it has one.

    ``varied``: by operator and parameter, the values that were run. ``evaluated``: what coremltools evaluated, too.
    """

    def __init__(self, make_package: Callable[..., Path]) -> None:
        self.make_package = make_package
        self.varied: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.evaluated: set[str] = set()

    def __call__(
        self, kind: str, case: Callable[[Draw], Example], data: Any, rtol: float = 2e-5, half: bool = True
    ) -> None:
        """``half``: float16, too."""
        ios = data.draw(st.sampled_from(systems(kind)))
        draw = Draw(data, ios)
        as_half = half and draw.flag()
        self.hold(kind, [case(draw) for _ in range(EXAMPLES)], f"iOS{ios}", rtol, as_half)

    def hold(
        self, kind: str, examples: Sequence[Example], target: str = "iOS17", rtol: float = 2e-5, half: bool = False
    ) -> None:
        from mobileseg.validation.coreml import load

        arrays = [halved(array) if half else array for example in examples for array in example[0]]

        def build(mb: Any, *values: Any) -> list[Any]:
            rest, results = list(values), list[Any]()
            for own, make, *_ in examples:
                made = make(Halved(mb) if half else mb, *rest[: len(own)])
                rest = rest[len(own) :]
                results += made if isinstance(made, (list, tuple)) else [made]
            return results

        executor = load(self.make_package(arrays, build, target))
        assert executor.unsupported == ()
        self.note(executor, kind)
        got = list(executor.run({f"in_{i}": array for i, array in enumerate(arrays)}).values())
        for example in examples:
            own, got = got[: len(example[2])], got[len(example[2]) :]
            others = [] if half or len(example) > 3 else evaluated(example, target)
            for index, (actual, wanted) in enumerate(zip(own, example[2], strict=True)):
                if half and actual.dtype == np.float16:
                    compare(actual, np.asarray(wanted), 1.1e-3, np.float16)
                    continue
                compare(actual, np.asarray(wanted), rtol)
                if index < len(others) and others[index] is not None:
                    self.evaluated.add(kind)
                    compare(actual, np.asarray(others[index]), max(rtol, 1e-4))
        assert not got

    def note(self, executor: Any, kind: str) -> None:
        constants = executor.constants
        operations = [o for o in executor.program.operations if o.kind == kind]
        assert operations
        for operation in operations:
            for parameter, values in operation.arguments.items():
                known = [constants.get(getattr(v, "name", ""), getattr(v, "value", None)) for v in values]
                told = tuple(getattr(k, "tolist", lambda k=k: k)() for k in known)
                self.varied[kind][parameter].add(repr(told) if None not in told else repr(values))

    def has_varied(self, kinds: set[str], fixed: set[tuple[str, str]]) -> None:
        """Every parameter of these operators was given several values, except those ``fixed``, and every text that it
        can be; coremltools evaluated them all, where it can.

        Skips where not all of the tests that come before were run.
        """
        from mobileseg.validation.coreml import OPERATORS

        if not kinds <= set(self.varied):
            pytest.skip("not all operators of this family were run")
        once = {
            (kind, parameter)
            for kind in kinds
            for parameter in OPERATORS[kind].conversions
            if len(self.varied[kind][parameter]) < 2
        }
        assert once == fixed
        unasked = {kind for kind in kinds - self.evaluated if can_evaluate(kind)}
        assert not unasked
        unread = {
            (kind, parameter, text)
            for kind in kinds
            for parameter, texts in OPERATORS[kind].texts.items()
            for text in texts
            if repr((text,)) not in self.varied[kind][parameter]
        }
        assert not unread


@pytest.fixture(scope="session")
def make_draw() -> type[Draw]:
    return Draw


@pytest.fixture(scope="session")
def check(make_package: Callable[..., Path]) -> Check:
    return Check(make_package)


def systems(kind: str) -> list[int]:
    """Those whose operator sets have the operator."""
    import coremltools
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    first = min(target.value for target in SSAOpRegistry.core_ops[kind])
    return [ios for ios in (15, 16, 17, 18) if coremltools.target[f"iOS{ios}"].value >= first]


def can_evaluate(kind: str) -> bool:
    from coremltools.converters.mil.mil import Operation
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    return any(
        found.value_inference is not Operation.value_inference for found in SSAOpRegistry.core_ops[kind].values()
    )


def evaluated(example: Example, target: str) -> list[Any]:
    import coremltools
    from coremltools.converters.mil.mil import Builder, Function

    from mobileseg import mlpackage

    arrays, build, _ = example
    with (
        mlpackage.quietly(),
        np.errstate(all="ignore"),
        Function({}, opset_version=coremltools.target[target]),
    ):
        results = build(Builder, *[array.copy() for array in arrays])
    results = results if isinstance(results, (list, tuple)) else [results]
    return [result.val for result in results]


def compare(actual: np.ndarray, wanted: np.ndarray, rtol: float, dtype: Any = np.float32) -> None:
    """In the precision of ``dtype``, in which what is too large is infinite."""
    assert actual.shape == wanted.shape
    if wanted.dtype.kind == "f":
        with np.errstate(all="ignore"):
            wanted = wanted.astype(dtype)
    np.testing.assert_allclose(actual.astype(np.float64), wanted.astype(np.float64), rtol, rtol)
