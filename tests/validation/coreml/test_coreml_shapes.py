"""Operators of the Core ML executor that move elements, against NumPy, torch and coremltools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.errors import UsageError  # noqa: E402
from mobileseg.validation.coreml import load  # noqa: E402
from mobileseg.validation.coreml.operators import shape  # noqa: E402


def anything(draw: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Of fractions or of integers."""
    return draw.array(shape, odd=True) if draw.flag() else draw.whole(shape, -9, 9)


def factors(draw: Any, count: int) -> list[int]:
    """Lengths whose product is ``count``."""
    lengths = []
    while count > 1:
        n = draw.one(*[k for k in range(2, count + 1) if count % k == 0])
        lengths.append(n)
        count //= n
    for _ in range(draw.number(0, 2)):
        lengths.insert(draw.number(0, len(lengths)), 1)
    return lengths or [1]


def reshapes(draw: Any) -> Any:
    """-1 is what is left; 0 is x's length there, from iOS 17 on counted from the last axis."""
    x = anything(draw, draw.shape())
    wanted = factors(draw, x.size)
    told = list(wanted)
    offset = x.ndim - len(told)
    for axis, n in enumerate(wanted):
        same = 0 <= axis + offset < x.ndim and x.shape[axis + offset] == n
        if (draw.ios > 16 or offset == 0) and same and draw.flag():
            told[axis] = 0
    if draw.flag():
        told[draw.number(0, len(told) - 1)] = -1
    return [x], lambda mb, x: mb.reshape(x=x, shape=told), [x.reshape(wanted)]


def reshapes_like(draw: Any) -> Any:
    """Part of the first reference's shape and part of the second's."""
    references = [draw.array(draw.shape(2, 3, 3)) for _ in range(2)]
    begins, ends, masks, wanted = [], [], [], []
    for reference in references:
        begin, whole = draw.number(0, reference.ndim - 1), draw.flag()
        end = draw.number(begin + 1, reference.ndim)
        wanted += reference.shape[begin:] if whole else reference.shape[begin:end]
        begins.append(np.int32(begin)), ends.append(np.int32(end)), masks.append(whole)
    x = anything(draw, tuple(factors(draw, int(np.prod(wanted)))))
    return (
        [x, *references],
        lambda mb, x, a, b: mb.reshape_like(
            x=x, ref_tensors=(a, b), begins=tuple(begins), ends=tuple(ends), end_masks=tuple(masks)
        ),
        [x.reshape(wanted)],
    )


def flattened(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    axis = draw.number(-x.ndim, x.ndim)
    wanted = x.reshape(int(np.prod(x.shape[:axis])), -1)
    why = ("axis 0 ends in a TypeError",) if axis in (0, -x.ndim, x.ndim) else ()
    return [x], lambda mb, x: mb.flatten2d(x=x, axis=axis), [wanted], *why


def transposes(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    perm = draw.either(draw.order(x.ndim), x.ndim)
    return [x], lambda mb, x: mb.transpose(x=x, perm=perm), [x.transpose(perm)]


def expansions(draw: Any) -> Any:
    x = anything(draw, draw.shape(1, 3))
    count = draw.number(1, 2)
    axes = draw.either(draw.order(x.ndim + count)[:count], x.ndim + count)
    return [x], lambda mb, x: mb.expand_dims(x=x, axes=axes), [np.expand_dims(x, tuple(axes))]


def squeezes(draw: Any) -> Any:
    """Axes longer than 1 stay, also where they are named."""
    x = anything(draw, tuple(draw.one(1, n) for n in draw.shape(2, 4)))
    axes = None if draw.flag() else draw.some(x.ndim)
    kept = [n for axis, n in enumerate(x.shape) if n > 1 or (axes is not None and axis not in axes)]
    told = None if axes is None else draw.either(axes, x.ndim)
    named = axes is not None and any(x.shape[axis] > 1 for axis in axes)
    why = ("it ends in a ValueError",) if named or not kept else ()
    return [x], lambda mb, x: mb.squeeze(x=x, axes=told), [x.reshape(kept)], *why


def concats(draw: Any) -> Any:
    first = anything(draw, draw.shape())
    axis, together = draw.axis(first), draw.flag()
    values = [first]
    for _ in range(draw.number(0, 2)):
        lengths = [n if together or k != axis % first.ndim else draw.number(1, 3) for k, n in enumerate(first.shape)]
        values.append(draw.array(lengths) if first.dtype == np.float32 else draw.whole(lengths, -9, 9))
    wanted = np.concatenate(values, axis)
    if together:
        turned = np.stack(values, axis % first.ndim + 1)
        wanted = turned.reshape(wanted.shape)
    why = ("it does not interleave",) if together else ()
    return values, lambda mb, *values: mb.concat(values=values, axis=axis, interleave=together), [wanted], *why


def stacks(draw: Any) -> Any:
    values = [draw.array(shape) for shape in [draw.shape(1, 3)] * draw.number(1, 3)]
    axis = draw.number(-values[0].ndim - 1, values[0].ndim)
    return values, lambda mb, *values: mb.stack(values=values, axis=axis), [np.stack(values, axis)]


def splits(draw: Any) -> Any:
    lengths = list(draw.shape())
    axis = draw.number(-len(lengths), len(lengths) - 1)
    sizes = [draw.number(1, 3) for _ in range(draw.number(2, 3))]
    if draw.flag():
        sizes = [sizes[0]] * len(sizes)
    lengths[axis] = sum(sizes)
    x = anything(draw, tuple(lengths))
    even = len(set(sizes)) == 1
    how: dict[str, Any] = {"num_splits": len(sizes)} if even else {}
    if not even or draw.flag():
        how["split_sizes"] = sizes
    return [x], lambda mb, x: mb.split(x=x, axis=axis, **how), np.split(x, np.cumsum(sizes)[:-1], axis)


def slicing(draw: Any, shape: tuple[int, ...]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """MIL's parameters and Python's index; never empty. With the mask, a slice begins (or ends) where its direction has
    the first (or the last)."""
    begin, end, stride, first, last, single, index = [], [], [], [], [], [], []
    for n in shape:
        step = draw.one(1, 1, 2, 3, -1, -2)
        low = draw.number(0, n - 1)
        high = draw.number(low, n - 1)
        start, stop = (low, high + 1) if step > 0 else (high, low - 1)
        masks = [draw.flag(), draw.flag() or stop < 0]  # what ends before the first needs the mask
        drop = draw.flag() and len(shape) - sum(single) > 1
        if drop:
            masks = [draw.flag(), draw.flag()]
            index.append(0 if masks[0] else start)
        else:
            index.append(slice(None if masks[0] else start, None if masks[1] else stop, step))
        begin.append(start - draw.one(0, n))
        end.append(max(stop, 0) - (n if 0 < stop < n and draw.flag() else 0))
        stride.append(step), first.append(masks[0]), last.append(masks[1]), single.append(drop)
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    return dict(zip(names, (begin, end, stride, first, last, single), strict=True)), tuple(index)


def slices(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    how, index = slicing(draw, x.shape)
    return [x], lambda mb, x: mb.slice_by_index(x=x, **how), [x[index]]


def updates(draw: Any) -> Any:
    x = draw.array(draw.shape())
    how, index = slicing(draw, x.shape)
    new = draw.array(x[index].shape)
    wanted = x.copy()
    wanted[index] = new
    return [x, new], lambda mb, x, new: mb.slice_update(x=x, update=new, **how), [wanted]


def sized_slices(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    begin = [draw.number(0, n - 1) for n in x.shape]
    size = [draw.number(1, n - b) for b, n in zip(begin, x.shape, strict=True)]
    wanted = x[tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))]
    rest = [b + s == n and draw.flag() for b, s, n in zip(begin, size, x.shape, strict=True)]
    told = [-1 if r else s for r, s in zip(rest, size, strict=True)]
    # Of a negative beginning, coremltools declares the rest too long.
    begin = [b if r else b - draw.one(0, n) for b, r, n in zip(begin, rest, x.shape, strict=True)]
    return [x], lambda mb, x: mb.slice_by_size(x=x, begin=begin, size=told), [wanted]


def tiles(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    reps = [draw.number(1, 3) for _ in x.shape]
    return [x], lambda mb, x: mb.tile(x=x, reps=reps), [np.tile(x, reps)]


def reversals(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    axes = None if draw.flag() else draw.some(x.ndim)
    told = None if axes is None else draw.either(axes, x.ndim)
    return [x], lambda mb, x: mb.reverse(x=x, axes=told), [np.flip(x, axes)]


def pads(draw: Any) -> Any:
    x = draw.array(draw.shape())
    mode, theirs = draw.one(("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"))
    axes, value = draw.number(1, x.ndim), draw.scalar(-1, 1)
    most = [n - 1 if mode == "reflect" else 3 for n in x.shape[x.ndim - axes :]]
    widths = [[draw.number(0, n), draw.number(0, n)] for n in most]
    more = {"constant_values": value} if mode == "constant" else {}
    wanted = np.pad(x, [[0, 0]] * (x.ndim - axes) + widths, theirs, **more)
    flat = np.array(widths, np.int32).ravel()
    return [x], lambda mb, x: mb.pad(x=x, pad=flat, mode=mode, constant_val=value), [wanted]


def blocks(draw: Any, spread: bool) -> tuple[np.ndarray, int]:
    """A tensor whose plane (or whose channels) divide by a block."""
    b, n, c, h, w = (draw.number(1, 3) for _ in range(5))
    return draw.array((n, c * b * b, h, w) if spread else (n, c, h * b, w * b)), b


def shuffles(draw: Any) -> Any:
    x, b = blocks(draw, True)
    wanted = functional.pixel_shuffle(torch.from_numpy(x), b)
    return [x], lambda mb, x: mb.pixel_shuffle(x=x, upscale_factor=b), [wanted]


def unshuffles(draw: Any) -> Any:
    x, b = blocks(draw, False)
    wanted = functional.pixel_unshuffle(torch.from_numpy(x), b)
    return [x], lambda mb, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(b)), [wanted]


def depths_of(x: np.ndarray, b: int) -> np.ndarray:
    """TensorFlow's order: row and column of the block, then the channel."""
    return np.concatenate([x[:, :, row::b, column::b] for row, column in np.ndindex(b, b)], 1)


def depths(draw: Any) -> Any:
    x, b = blocks(draw, False)
    return [x], lambda mb, x: mb.space_to_depth(x=x, block_size=b), [depths_of(x, b)]


def spaces(draw: Any) -> Any:
    wanted, b = blocks(draw, False)
    return [depths_of(wanted, b)], lambda mb, x: mb.depth_to_space(x=x, block_size=b), [wanted]


def margins(draw: Any, b: list[int]) -> tuple[np.ndarray, list[int]]:
    """What is added around a plane (or cut off), and how long the plane is with it: a multiple of the block."""
    sides = np.array([[draw.number(0, 2), draw.number(0, 2)] for _ in b], np.int32)
    return sides, [k * -(-(int(s) + 1) // k) + k * draw.number(0, 1) for k, s in zip(b, sides.sum(1), strict=True)]


def batches(draw: Any) -> Any:
    """TensorFlow's order: row and column of the block come before the picture's number."""
    b = [draw.number(1, 3), draw.number(1, 3)]
    sides, full = margins(draw, b)
    x = draw.array(
        (draw.number(1, 2), draw.number(1, 2), *(n - int(s) for n, s in zip(full, sides.sum(1), strict=True)))
    )
    padded = np.pad(x, [[0, 0], [0, 0], *sides])
    wanted = np.concatenate([padded[:, :, row :: b[0], column :: b[1]] for row, column in np.ndindex(*b)])
    return [x], lambda mb, x: mb.space_to_batch(x=x, block_shape=b, paddings=sides), [wanted]


def unbatches(draw: Any) -> Any:
    b, n, c = [draw.number(1, 3), draw.number(1, 3)], draw.number(1, 2), draw.number(1, 2)
    sides, full = margins(draw, b)
    whole = draw.array((n, c, *full))
    x = np.concatenate([whole[:, :, row :: b[0], column :: b[1]] for row, column in np.ndindex(*b)])
    (top, bottom), (left, right) = sides
    wanted = whole[:, :, top : full[0] - bottom, left : full[1] - right]
    return [x], lambda mb, x: mb.batch_to_space(x=x, block_shape=b, crops=sides), [wanted]


def sliding(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    axis = draw.axis(x)
    size, stride, at = draw.number(1, x.shape[axis]), draw.number(1, 3), axis % x.ndim
    views = np.lib.stride_tricks.sliding_window_view(x, size, axis)
    wanted = np.moveaxis(views.take(range(0, views.shape[at], stride), at), -1, at + 1)
    return [x], lambda mb, x: mb.sliding_windows(x=x, axis=axis, size=size, stride=stride), [wanted]


def bands(draw: Any) -> Any:
    shape = draw.shape(2, 4)
    x = draw.array(shape) if draw.flag() else draw.whole(shape, -9, 9)
    lower, upper = draw.number(-1, 3), draw.number(-1, 3)
    wanted = x if lower < 0 else np.triu(x, -lower)
    return (
        [x],
        lambda mb, x: mb.band_part(x=x, lower=lower, upper=upper),
        [wanted if upper < 0 else np.tril(wanted, upper)],
    )


CASES = {
    "band_part": bands,
    "batch_to_space": unbatches,
    "concat": concats,
    "depth_to_space": spaces,
    "expand_dims": expansions,
    "flatten2d": flattened,
    "pad": pads,
    "pixel_shuffle": shuffles,
    "pixel_unshuffle": unshuffles,
    "reshape": reshapes,
    "reshape_like": reshapes_like,
    "reverse": reversals,
    "slice_by_index": slices,
    "slice_by_size": sized_slices,
    "slice_update": updates,
    "sliding_windows": sliding,
    "space_to_batch": batches,
    "space_to_depth": depths,
    "split": splits,
    "squeeze": squeezes,
    "stack": stacks,
    "tile": tiles,
    "transpose": transposes,
}


def test_every_operator_of_this_family_is_tested() -> None:
    assert set(CASES) == set(shape.OPERATORS)


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(settings.get_profile("operators"))
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    check(kind, CASES[kind], data)


def test_every_parameter_of_these_operators_is_varied(check: Any) -> None:
    check.has_varied(set(CASES), fixed=set())


def test_the_newer_reshape_matches_zeros_from_the_right(check: Any) -> None:
    x = np.arange(100, dtype=np.float32).reshape(2, 50)
    check.hold("reshape", [([x], lambda mb, x: mb.reshape(x=x, shape=[1, 0, -1, 0]), [x.reshape(1, 1, 2, 50)])])


def test_slices_of_nothing(check: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)

    def build(mb: Any, x: Any) -> Any:
        nothing = mb.slice_by_index(x=x, begin=[0, 2], end=[0, 2], end_mask=[True, False])
        return mb.concat(values=[x, nothing], axis=1)

    check.hold("slice_by_index", [([x], build, [x])])


def test_an_index_outside_is_no_index_from_the_end(make_package: Any) -> None:
    x = np.arange(5, dtype=np.float32)
    path = make_package([x], lambda mb, x: mb.slice_by_index(x=x, begin=[-7], end=[0], squeeze_mask=[True]))
    with pytest.raises(UsageError, match=r"'slice_by_index'.*axis -7 of 5"):
        load(path).run({"in_0": x})


@pytest.mark.parametrize(
    ("how", "said"),
    [({"pad": [3, 0], "mode": "reflect"}, "a reflection of 3 of 3 elements"), ({"pad": [0, 0, -1, 0]}, "padding of")],
)
def test_paddings_that_mil_forbids(how: dict[str, Any], said: str, make_package: Any, monkeypatch: Any) -> None:
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.ops.defs.iOS15 import tensor_operation

    x = np.zeros((2, 3), np.float32)
    shape = (2, 3 + sum(how["pad"]))
    monkeypatch.setattr(tensor_operation.pad, "type_inference", lambda self: types.tensor(types.fp32, shape))
    with pytest.raises(UsageError, match=said):
        load(make_package([x], lambda mb, x: mb.pad(x=x, **how))).run({"in_0": x})
