"""Compressed constants of the Core ML executor, operator by operator, against NumPy and coremltools' decompression.

An example is ``(kind, parameters, wanted)``; the results are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.errors import UsageError  # noqa: E402
from mobileseg.validation.coreml import load  # noqa: E402
from mobileseg.validation.coreml.operators import OPERATORS, compression  # noqa: E402

BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8}
FLOATS = (np.float16, np.float32)


def element(kind: str) -> Any:
    """coremltools' dtype of elements that NumPy has not."""
    from coremltools.converters.mil.mil import types

    return types.nptype_from_builtin(types.string_to_builtin(kind))


def integers(draw: Any, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    low = -(1 << (BITS[kind] - 1)) if kind.startswith("int") else 0
    return draw.whole(shape, low, low + (1 << BITS[kind]) - 1)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    stream = sum(int(n) << (bits * k) for k, n in enumerate(values.ravel()))
    return np.frombuffer(stream.to_bytes(-(-bits * values.size // 8), "little"), np.uint8)


def scales(draw: Any, shape: tuple[int, ...]) -> np.ndarray:
    return draw.array(shape, 0.015625, 0.5).astype(draw.one(*FLOATS))


def product(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """In float32, then in the scale's precision."""
    return (values.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype)


def affine(draw: Any) -> Any:
    kind = draw.one("int8", "uint8")
    data = integers(draw, kind, draw.shape())
    axis = draw.axis(data)
    along = [n if k == axis % data.ndim else 1 for k, n in enumerate(data.shape)]
    scale, zero = (scales(draw, s) for s in (draw.one((), (data.shape[axis],)), ()))
    zero = integers(draw, kind, draw.one((), (data.shape[axis],)))
    told = {"quantized_data": data.astype(kind), "scale": scale, "axis": np.int32(axis)}
    told["zero_point"] = zero.astype(draw.one(kind, np.float32))
    told = {name: value if np.ndim(value) else value.dtype.type(value) for name, value in told.items()}
    spread = [p.reshape(along) if p.ndim else p for p in (zero, scale)]
    return "constexpr_affine_dequantize", told, [product(data - spread[0], spread[1])]


def widened(draw: Any) -> Any:
    value = draw.array(draw.shape()).astype(np.float16)
    return "constexpr_cast", {"source_val": value, "output_dtype": "fp32"}, [value.astype(np.float32)]


def palettes(draw: Any, shape: tuple[int, ...]) -> np.ndarray:
    kind = draw.one(np.float16, np.float32, np.int8, np.uint8)
    return draw.array(shape, 0, 100).astype(kind)


def flat_palette(draw: Any) -> Any:
    bits = draw.one(1, 2, 4, 6, 8)
    lut, indices = palettes(draw, (1 << bits,)), draw.whole(draw.shape(), 0, (1 << bits) - 1)
    told = {"indices": packed(indices, bits), "lut": lut, "shape": np.array(indices.shape, np.uint32)}
    return "constexpr_lut_to_dense", told, [lut[indices]]


def flat_sparse(draw: Any) -> Any:
    mask = draw.whole(draw.shape(), 0, 1)
    mask.flat[0] = 1
    values = palettes(draw, (int(mask.sum()),))
    wanted = np.zeros(mask.shape, values.dtype)
    wanted[mask != 0] = values
    told = {"nonzero_data": values, "mask": packed(mask, 1), "shape": np.array(mask.shape, np.uint32)}
    return "constexpr_sparse_to_dense", told, [wanted]


def blocked(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The number of blocks along each axis, and how long they are."""
    blocks = draw.shape(longest=3)
    return blocks, tuple(draw.number(1, 3) for _ in blocks)


def spread(values: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    return np.kron(values, np.ones(sizes, np.int8)).astype(values.dtype)


def shift_scale(draw: Any) -> tuple[Callable[..., Any], dict[str, Any], tuple[int, ...], str]:
    """How numbers of a kind and shape are scaled block by block, and what says so. Offsets that are no integers are
    eighths: float16 holds what is left of integers."""
    blocks, sizes = blocked(draw)
    kind, scale = draw.one(*BITS), scales(draw, blocks)
    offset = draw.one(
        None, integers(draw, kind, blocks).astype(element(kind)), (draw.whole(blocks, -8, 8) / 8).astype(scale.dtype)
    )
    told = {"scale": scale} | ({} if offset is None else {"offset": offset})

    def scaled(data: np.ndarray) -> np.ndarray:
        left = data if offset is None else data - spread(offset.astype(np.float32), sizes)
        return product(left, spread(scale, sizes))

    return scaled, told, tuple(np.multiply(blocks, sizes)), kind


def blockwise(draw: Any) -> Any:
    scaled, told, shape, kind = shift_scale(draw)
    data = integers(draw, kind, shape)
    return "constexpr_blockwise_shift_scale", {"data": data.astype(element(kind)), **told}, [scaled(data)]


def sparse_blockwise(draw: Any) -> Any:
    scaled, told, shape, kind = shift_scale(draw)
    mask = draw.whole(shape, 0, 1)
    mask.flat[0] = 1
    data = integers(draw, kind, shape) * mask
    told |= {"data_mask": mask.astype(element("uint1")), "nonzero_data": data[mask != 0].astype(element(kind))}
    return "constexpr_sparse_blockwise_shift_scale", told, [mask, scaled(data)[mask != 0]]


def grouped(draw: Any) -> tuple[Callable[..., Any], dict[str, Any], tuple[int, ...], int]:
    """How indices of a shape become numbers: each block has its palette, of numbers or of vectors along an axis."""
    blocks, sizes = blocked(draw)
    bits, vector = draw.one(1, 2, 3, 4, 6, 8), draw.number(1, 3)
    lut, shape = palettes(draw, (*blocks, 1 << bits, vector)), tuple(np.multiply(blocks, sizes))
    told: dict[str, Any] = {"lut": lut}
    axis = draw.number(0, len(blocks) - 1)
    if vector > 1 or draw.flag():
        told["vector_axis"] = np.int32(axis - draw.one(0, len(blocks)))

    def dense(indices: np.ndarray) -> np.ndarray:
        wanted = np.zeros([n * (vector if k == axis else 1) for k, n in enumerate(shape)], lut.dtype)
        for place in np.ndindex(*shape):
            found = lut[(*np.floor_divide(place, sizes), indices[place])]
            for k, value in enumerate(found):
                at = list(place)
                at[axis] = at[axis] * vector + k
                wanted[tuple(at)] = value
        return wanted

    return dense, told, shape, bits


def palette(draw: Any) -> Any:
    dense, told, shape, bits = grouped(draw)
    indices = draw.whole(shape, 0, (1 << bits) - 1)
    return "constexpr_lut_to_dense", {"indices": indices.astype(element(f"uint{bits}")), **told}, [dense(indices)]


def sparse_palette(draw: Any) -> Any:
    dense, told, shape, bits = grouped(draw)
    mask = draw.whole(shape, 0, 1)
    mask.flat[0] = 1
    indices = draw.whole(shape, 0, (1 << bits) - 1) * mask
    wanted = dense(indices)
    axis = int(told.get("vector_axis", 0)) % mask.ndim
    wide = mask.repeat(wanted.shape[axis] // mask.shape[axis], axis)
    told |= {"indices_mask": mask.astype(element("uint1"))}
    told |= {"indices_nonzero_data": indices[mask != 0].astype(element(f"uint{bits}"))}
    return "constexpr_lut_to_sparse", told, [wide, wanted[wide != 0]]


def sparse(draw: Any) -> Any:
    mask = draw.whole(draw.shape(), 0, 1)
    mask.flat[0] = 1
    values = palettes(draw, (int(mask.sum()),))
    wanted = np.zeros(mask.shape, values.dtype)
    wanted[mask != 0] = values
    return "constexpr_sparse_to_dense", {"nonzero_data": values, "mask": mask.astype(element("uint1"))}, [wanted]


CASES: dict[str, tuple[str, Callable[..., Any]]] = {
    "affine": ("iOS16", affine),
    "widened": ("iOS16", widened),
    "flat palette": ("iOS16", flat_palette),
    "flat sparse": ("iOS16", flat_sparse),
    "blockwise": ("iOS18", blockwise),
    "palette": ("iOS18", palette),
    "sparse": ("iOS18", sparse),
    "sparse blockwise": ("iOS18", sparse_blockwise),
    "sparse palette": ("iOS18", sparse_palette),
}
ran: dict[str, set[str]] = {}


@pytest.mark.parametrize("name", sorted(CASES))
@settings(settings.get_profile("operators"))
@given(data=st.data())
def test_compressed_constants_are_what_they_stand_for(name: str, make_draw: Any, make_package: Any, data: Any) -> None:
    target, case = CASES[name]
    examples = [case(make_draw(data, int(target[3:]))) for _ in range(4)]
    theirs: list[Any] = []

    def build(mb: Any, x: Any) -> Any:
        for k, (kind, told, _) in enumerate(examples):
            made = getattr(mb, kind)(**told, name=f"w{k}")
            made = made if isinstance(made, list) else [made]
            values = made[0].op.materialized_val_inference()
            theirs.append(([v.name for v in made], values if isinstance(values, tuple) else (values,)))
        return mb.identity(x=x)

    executor = load(make_package([np.zeros(1, np.float32)], build, target))
    assert executor.unsupported == ()
    for (kind, told, wanted), (names, values) in zip(examples, theirs, strict=True):
        ran.setdefault(kind, set()).update(told)
        for key, ours, value in zip(names, wanted, values, strict=True):
            got = executor.constants[key].numpy().astype(np.float64)
            np.testing.assert_array_equal(got, ours.astype(np.float64))
            np.testing.assert_array_equal(got, np.asarray(value).astype(np.float64))


def test_every_operator_and_parameter_of_this_family_is_tested(request: pytest.FixtureRequest) -> None:
    """With the examples above; alone, it has nothing to say."""
    chosen = [item for item in request.session.items if "are_what_they_stand_for" in item.name]
    if len(chosen) < len(CASES):
        pytest.skip("not all compressions were run")
    assert ran == {kind: set(OPERATORS[kind].conversions) for kind in compression.OPERATORS}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"lut": np.arange(3, dtype=np.float32)}, "a palette of 3"),
        ({"indices": np.zeros(3, np.uint8)}, "3 bytes for 4 elements of 2 bits"),
    ],
)
def test_flat_palettes_that_do_not_fit(
    parameters: dict[str, Any], said: str, make_package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops

    monkeypatch.setattr(
        constexpr_ops.constexpr_lut_to_dense, "type_inference", lambda self: types.tensor(types.fp32, (4,))
    )
    told = {"indices": np.zeros(1, np.uint8), "lut": np.arange(4, dtype=np.float32), "shape": np.array([4], np.uint32)}

    def build(mb: Any, x: Any) -> Any:
        mb.constexpr_lut_to_dense(**(told | parameters))
        return mb.identity(x=x)

    with pytest.raises(UsageError, match=rf"'constexpr_lut_to_dense'.*{said}"):
        load(make_package([np.zeros(1, np.float32)], build, "iOS16"))
