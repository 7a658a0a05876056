"""Operators of the Core ML executor that move, take and order elements, against NumPy and coremltools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.nn import functional

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.validation.coreml.operators import indexing, shape

NEWER = {"slice_update": "iOS18"}
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
FEW = st.integers(1, 3)


def array(data: Any, shape: tuple[int, ...], distinct: bool = False) -> np.ndarray:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 16)))
    if distinct:
        return rng.permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)
    return rng.uniform(0.5, 2, shape).astype(np.float32) * rng.choice([-1, 1], shape).astype(np.float32)


def axis_in(data: Any, x: np.ndarray) -> int:
    return data.draw(st.integers(-x.ndim, x.ndim - 1))


def reshapes(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    form = data.draw(st.sampled_from(("flat", "keep", "infer")))
    target = {"flat": [-1], "keep": [0] * x.ndim, "infer": [*x.shape[:-1], -1]}[form]
    return [x], lambda mb, x: mb.reshape(x=x, shape=target), [x.reshape([-1]) if form == "flat" else x]


def reshapes_like(data: Any) -> Any:
    a, b = array(data, (2, 3)), array(data, (4, 5))
    x = array(data, (6, 5))
    begins, ends = (np.int32(0), np.int32(1)), (np.int32(2), np.int32(0))
    masks = (False, True)
    return (
        [x, a, b],
        lambda mb, x, a, b: mb.reshape_like(x=x, ref_tensors=(a, b), begins=begins, ends=ends, end_masks=masks),
        [x.reshape(2, 3, 5)],
    )


def flattened(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axis = axis_in(data, x)
    wanted = x.reshape(int(np.prod(x.shape[:axis])), -1)
    return [x], lambda mb, x: mb.flatten2d(x=x, axis=axis), [wanted]


def transposes(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    perm = data.draw(st.permutations(range(x.ndim)))
    return [x], lambda mb, x: mb.transpose(x=x, perm=perm), [x.transpose(perm)]


def expansions(data: Any) -> Any:
    x = array(data, data.draw(SHAPES)[:3])
    axes = data.draw(st.sampled_from(([0], [-1], [1], [0, -1], [0, 2])))
    return [x], lambda mb, x: mb.expand_dims(x=x, axes=axes), [np.expand_dims(x, tuple(axes))]


def squeezes(data: Any) -> Any:
    x = array(data, (1, *data.draw(SHAPES)[:2], 1))
    axes = data.draw(st.sampled_from((None, [0], [-1], [0, 1])))
    kept = [
        n for axis, n in enumerate(x.shape) if n > 1 or (axes is not None and axis not in [a % x.ndim for a in axes])
    ]
    return [x], lambda mb, x: mb.squeeze(x=x, axes=axes), [x.reshape(kept)]


def concats(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axis, together = axis_in(data, x), data.draw(st.booleans())
    if together:
        y = array(data, x.shape)
        wanted = np.stack([x, y], axis % x.ndim + 1).reshape(
            [n * (1 + (k == axis % x.ndim)) for k, n in enumerate(x.shape)]
        )
    else:
        y = array(data, tuple(data.draw(FEW) if k == axis % x.ndim else n for k, n in enumerate(x.shape)))
        wanted = np.concatenate([x, y], axis)
    return [x, y], lambda mb, x, y: mb.concat(values=[x, y], axis=axis, interleave=together), [wanted]


def stacks(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    y, axis = array(data, x.shape), axis_in(data, x)
    return [x, y], lambda mb, x, y: mb.stack(values=[x, y], axis=axis), [np.stack([x, y], axis)]


def splits(data: Any) -> Any:
    shape = data.draw(SHAPES)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(FEW, min_size=2, max_size=3))
    x = array(data, tuple(sum(sizes) if k == axis % len(shape) else n for k, n in enumerate(shape)))
    if len(set(sizes)) == 1 and data.draw(st.booleans()):
        count = len(sizes)
        return [x], lambda mb, x: mb.split(x=x, num_splits=count, axis=axis), np.split(x, count, axis)
    return (
        [x],
        lambda mb, x: mb.split(x=x, split_sizes=sizes, axis=axis),
        np.split(x, np.cumsum(sizes)[:-1], axis),
    )


def slicing(data: Any, shape: tuple[int, ...]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """MIL's parameters and Python's index; never empty."""
    begin, end, stride, first, last, single, index = [], [], [], [], [], [], []
    for n in shape:
        low = data.draw(st.integers(0, n - 1))
        high = data.draw(st.integers(low + 1, n))
        step = data.draw(st.sampled_from((1, 1, 2, -1)))
        drop = data.draw(st.booleans()) and len(shape) > 1 and sum(single) < len(shape) - 1
        whole = (data.draw(st.booleans()), data.draw(st.booleans())) if step > 0 and not drop else (False, False)
        if step < 0:
            # Backwards from the last taken to the first; from the very first on, only by the mask.
            begin.append(high - 1 - data.draw(st.sampled_from((0, n))))
            end.append(low - 1 - n if low else 0)
            whole = (False, low == 0)
            stop = None if low == 0 else low - 1
            index.append(low if drop else slice(high - 1, stop, -1))
            if drop:
                begin[-1], whole, step = low, (False, False), 1
        else:
            begin.append(low - data.draw(st.sampled_from((0, n))))
            end.append(high - n if high < n and data.draw(st.booleans()) else high)
            index.append(low if drop else slice(None if whole[0] else low, None if whole[1] else high, step))
        stride.append(step), first.append(whole[0]), last.append(whole[1]), single.append(drop)
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    return dict(zip(names, (begin, end, stride, first, last, single), strict=True)), tuple(index)


def slices(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    how, index = slicing(data, x.shape)
    return [x], lambda mb, x: mb.slice_by_index(x=x, **how), [x[index]]


def updates(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    how, index = slicing(data, x.shape)
    new = array(data, x[index].shape)
    wanted = x.copy()
    wanted[index] = new
    return [x, new], lambda mb, x, new: mb.slice_update(x=x, update=new, **how), [wanted]


def sized_slices(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    begin = [data.draw(st.integers(0, n - 1)) for n in x.shape]
    size = [data.draw(st.integers(1, n - b)) for b, n in zip(begin, x.shape, strict=True)]
    told = [-1 if b + s == n and data.draw(st.booleans()) else s for b, s, n in zip(begin, size, x.shape, strict=True)]
    wanted = x[tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))]
    return [x], lambda mb, x: mb.slice_by_size(x=x, begin=begin, size=told), [wanted]


def tiles(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    reps = [data.draw(FEW) for _ in x.shape]
    return [x], lambda mb, x: mb.tile(x=x, reps=reps), [np.tile(x, reps)]


def reversals(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axes = data.draw(st.sampled_from((None, [0], [-1], list(range(x.ndim)))))
    return [x], lambda mb, x: mb.reverse(x=x, axes=axes), [np.flip(x, axes)]


def pads(data: Any) -> Any:
    x = array(data, tuple(data.draw(st.integers(2, 5)) for _ in range(data.draw(st.integers(1, 4)))))
    mode, theirs = data.draw(st.sampled_from((("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"))))
    axes = data.draw(st.integers(1, x.ndim))
    widths = [[data.draw(st.integers(0, n - 1)) for _ in range(2)] for n in x.shape[x.ndim - axes :]]
    more = {"constant_values": 0.25} if mode == "constant" else {}
    wanted = np.pad(x, [[0, 0]] * (x.ndim - axes) + widths, theirs, **more)
    flat = np.array(widths, np.int32).ravel()
    return [x], lambda mb, x: mb.pad(x=x, pad=flat, mode=mode, constant_val=np.float32(0.25)), [wanted]


def blocks(data: Any, spread: bool) -> tuple[np.ndarray, int]:
    """A tensor whose plane (or whose channels) divide by a block."""
    b, n, c, h, w = (data.draw(FEW) for _ in range(5))
    return array(data, (n, c * b * b, h, w) if spread else (n, c, h * b, w * b)), b


def shuffles(data: Any) -> Any:
    x, b = blocks(data, True)
    wanted = functional.pixel_shuffle(torch.from_numpy(x), b)
    return [x], lambda mb, x: mb.pixel_shuffle(x=x, upscale_factor=b), [wanted]


def unshuffles(data: Any) -> Any:
    x, b = blocks(data, False)
    wanted = functional.pixel_unshuffle(torch.from_numpy(x), b)
    return [x], lambda mb, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(b)), [wanted]


def depths(data: Any) -> Any:
    """TensorFlow's order, element by element."""
    x, b = blocks(data, False)
    n, c, h, w = x.shape
    wanted = np.zeros((n, b * b * c, h // b, w // b), np.float32)
    for row, column in np.ndindex(b, b):
        first = (row * b + column) * c
        wanted[:, first : first + c] = x[:, :, row::b, column::b]
    return [x], lambda mb, x: mb.space_to_depth(x=x, block_size=b), [wanted]


def spaces(data: Any) -> Any:
    wanted, b = blocks(data, False)
    (x,) = depths_of(wanted, b)
    return [x], lambda mb, x: mb.depth_to_space(x=x, block_size=b), [wanted]


def depths_of(x: np.ndarray, b: int) -> list[np.ndarray]:
    return [np.concatenate([x[:, :, row::b, column::b] for row, column in np.ndindex(b, b)], 1)]


def batches(data: Any) -> Any:
    """TensorFlow's order: row and column of the block come before the picture's number."""
    b = (data.draw(FEW), data.draw(FEW))
    h, w = b[0] * data.draw(st.integers(1, 2)) + 1, b[1] * data.draw(st.integers(1, 2)) + 1
    paddings = [[b[0] - 1, 0], [0, b[1] - 1]]
    x = array(data, (data.draw(FEW), 2, h, w))
    full = np.pad(x, [[0, 0], [0, 0], *paddings])
    wanted = np.concatenate([full[:, :, row :: b[0], column :: b[1]] for row, column in np.ndindex(*b)])
    return (
        [x],
        lambda mb, x: mb.space_to_batch(x=x, block_shape=list(b), paddings=np.array(paddings, np.int32)),
        [wanted],
    )


def unbatches(data: Any) -> Any:
    b, n = (data.draw(FEW), data.draw(FEW)), data.draw(FEW)
    x = array(data, (n * b[0] * b[1], 2, 2, 3))
    whole = np.zeros((n, 2, 2 * b[0], 3 * b[1]), np.float32)
    for k, (row, column) in enumerate(np.ndindex(*b)):
        whole[:, :, row :: b[0], column :: b[1]] = x[k * n : (k + 1) * n]
    crops = np.array([[1, 0], [0, 1]], np.int32)
    return (
        [x],
        lambda mb, x: mb.batch_to_space(x=x, block_shape=list(b), crops=crops),
        [whole[:, :, 1:, : whole.shape[3] - 1]],
    )


def sliding(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axis = axis_in(data, x)
    size, stride = data.draw(st.integers(1, x.shape[axis])), data.draw(FEW)
    views = np.lib.stride_tricks.sliding_window_view(x, size, axis)
    wanted = np.moveaxis(views.take(range(0, views.shape[axis % x.ndim], stride), axis % x.ndim), -1, axis % x.ndim + 1)
    return [x], lambda mb, x: mb.sliding_windows(x=x, axis=axis, size=size, stride=stride), [wanted]


def bands(data: Any) -> Any:
    x = array(data, (2, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))))
    lower, upper = data.draw(st.integers(-1, 3)), data.draw(st.integers(-1, 3))
    wanted = x if lower < 0 else np.triu(x, -lower)
    return (
        [x],
        lambda mb, x: mb.band_part(x=x, lower=lower, upper=upper),
        [wanted if upper < 0 else np.tril(wanted, upper)],
    )


def orders(data: Any) -> Any:
    x = array(data, data.draw(SHAPES), distinct=True)
    axis, ascending = axis_in(data, x), data.draw(st.booleans())
    wanted = np.argsort(x if ascending else -x, axis)
    return [x], lambda mb, x: mb.argsort(x=x, axis=axis, ascending=ascending), [wanted]


def best(data: Any) -> Any:
    x = array(data, data.draw(SHAPES), distinct=True)
    axis, ascending = axis_in(data, x), data.draw(st.booleans())
    k = data.draw(st.integers(1, x.shape[axis]))
    places = np.argsort(x if ascending else -x, axis).take(range(k), axis)
    return (
        [x],
        lambda mb, x: mb.topk(x=x, k=k, axis=axis, ascending=ascending),
        [np.take_along_axis(x, places, axis), places],
    )


def sums(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axis = data.draw(st.integers(-1, x.ndim - 1))
    exclusive, backwards = data.draw(st.booleans()), data.draw(st.booleans())
    y = np.flip(x, axis) if backwards else x
    wanted = np.cumsum(y, axis) - (y if exclusive else 0)
    return (
        [x],
        lambda mb, x: mb.cumsum(x=x, axis=axis, exclusive=exclusive, reverse=backwards),
        [np.flip(wanted, axis) if backwards else wanted],
    )


def hot(data: Any) -> Any:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.integers(0, 4, data.draw(SHAPES)[:3]).astype(np.int32)
    axis = data.draw(st.integers(-1, x.ndim))
    wanted = np.moveaxis(np.where(np.eye(4, dtype=bool)[x], 2.5, -1.0), -1, axis)
    return (
        [x],
        lambda mb, x: mb.one_hot(
            indices=x, one_hot_vector_size=4, axis=axis, on_value=np.float32(2.5), off_value=np.float32(-1)
        ),
        [wanted],
    )


def fills(data: Any) -> Any:
    x, shape = array(data, (2,)), data.draw(SHAPES)
    return (
        [x],
        lambda mb, x: mb.add(x=mb.fill(shape=list(shape), value=np.float32(1.5)), y=mb.reduce_sum(x=x)),
        [np.full(shape, 1.5) + x.sum()],
    )


def likes(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    return [x], lambda mb, x: mb.fill_like(ref_tensor=x, value=np.float32(2.5)), [np.full(x.shape, 2.5)]


def ranges(data: Any) -> Any:
    """The end is an input, so that the length is known at run time only."""
    start, step = data.draw(st.integers(-3, 3)), data.draw(st.integers(1, 3))
    end = np.array([start + data.draw(st.integers(1, 9))], np.int32)

    def build(mb: Any, end: Any) -> Any:
        last = mb.squeeze(x=end, axes=[0])
        return mb.reduce_sum(x=mb.range_1d(start=np.int32(start), end=last, step=np.int32(step)), keep_dims=True)

    return [end], build, [[np.arange(start, end[0], step).sum()]]


def shapes_of(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    return [x], lambda mb, x: mb.shape(x=x), [x.shape]


def indices_in(data: Any, n: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(data.draw(st.integers(0, 999))).integers(0, n, shape).astype(np.int32)


def gathers(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axis = axis_in(data, x)
    places = indices_in(data, x.shape[axis], data.draw(SHAPES)[:2])
    return [x, places], lambda mb, x, at: mb.gather(x=x, indices=at, axis=axis), [x.take(places, axis)]


def gathers_along(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axis = axis_in(data, x)
    shape = tuple(data.draw(FEW) if k == axis % x.ndim else n for k, n in enumerate(x.shape))
    places = indices_in(data, x.shape[axis], shape)
    return (
        [x, places],
        lambda mb, x, at: mb.gather_along_axis(x=x, indices=at, axis=axis),
        [np.take_along_axis(x, places, axis)],
    )


def gathers_nd(data: Any) -> Any:
    x = array(data, (3, 4, 2))
    depth = data.draw(FEW)
    at = np.stack([indices_in(data, n, (2, 3)) for n in x.shape[:depth]], -1)
    return [x, at], lambda mb, x, at: mb.gather_nd(x=x, indices=at), [x[tuple(np.moveaxis(at, -1, 0))]]


CHANGES = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "update": lambda old, new: new,
}


def changed(x: np.ndarray, entries: Any, mode: str) -> np.ndarray:
    result = x.copy()
    for place, new in entries:
        result[place] = CHANGES[mode](result[place], new)
    return result


def scatters(data: Any) -> Any:
    x = array(data, data.draw(SHAPES))
    axis, mode = axis_in(data, x), data.draw(st.sampled_from(sorted(CHANGES)))
    at = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(x.shape[axis])[:2].astype(np.int32)
    new = array(data, tuple(len(at) if k == axis % x.ndim else n for k, n in enumerate(x.shape)))
    entries = [((slice(None),) * (axis % x.ndim) + (place,), new.take(k, axis)) for k, place in enumerate(at)]
    return (
        [x, at, new],
        lambda mb, x, at, new: mb.scatter(data=x, indices=at, updates=new, axis=axis, mode=mode),
        [changed(x, entries, mode)],
    )


def scatters_along(data: Any) -> Any:
    x = array(data, (3, 4))
    axis, mode = data.draw(st.integers(-2, 1)), data.draw(st.sampled_from(sorted(CHANGES)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    at = np.argsort(rng.random((3, 4)), axis).take([0, 1], axis).astype(np.int32)
    new = array(data, at.shape)
    entries = []
    for place in np.ndindex(*at.shape):
        target = list(place)
        target[axis] = at[place]
        entries.append((tuple(target), new[place]))
    return (
        [x, at, new],
        lambda mb, x, at, new: mb.scatter_along_axis(data=x, indices=at, updates=new, axis=axis, mode=mode),
        [changed(x, entries, mode)],
    )


def scatters_nd(data: Any) -> Any:
    x, mode = array(data, (3, 4, 2)), data.draw(st.sampled_from(sorted(CHANGES)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    at = np.stack(np.unravel_index(rng.permutation(12)[:3], (3, 4)), -1).astype(np.int32)
    new = array(data, (3, 2))
    entries = [(tuple(place), new[k]) for k, place in enumerate(at)]
    return (
        [x, at, new],
        lambda mb, x, at, new: mb.scatter_nd(data=x, indices=at, updates=new, mode=mode),
        [changed(x, entries, mode)],
    )


CASES = {
    "argsort": orders,
    "band_part": bands,
    "batch_to_space": unbatches,
    "concat": concats,
    "cumsum": sums,
    "depth_to_space": spaces,
    "expand_dims": expansions,
    "fill": fills,
    "fill_like": likes,
    "flatten2d": flattened,
    "gather": gathers,
    "gather_along_axis": gathers_along,
    "gather_nd": gathers_nd,
    "one_hot": hot,
    "pad": pads,
    "pixel_shuffle": shuffles,
    "pixel_unshuffle": unshuffles,
    "range_1d": ranges,
    "reshape": reshapes,
    "reshape_like": reshapes_like,
    "reverse": reversals,
    "scatter": scatters,
    "scatter_along_axis": scatters_along,
    "scatter_nd": scatters_nd,
    "shape": shapes_of,
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
    "topk": best,
    "transpose": transposes,
}


def test_every_operator_of_these_families_is_tested() -> None:
    assert set(CASES) == {*shape.OPERATORS, *indexing.OPERATORS}


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    target = NEWER.get(kind) or data.draw(st.sampled_from(("iOS16", "iOS17", "iOS18")))
    check(kind, [CASES[kind](data) for _ in range(8)], target)


def test_the_newer_reshape_matches_zeros_from_the_right(check: Any) -> None:
    x = np.arange(100, dtype=np.float32).reshape(2, 50)
    check("reshape", [([x], lambda mb, x: mb.reshape(x=x, shape=[1, 0, -1, 0]), [x.reshape(1, 1, 2, 50)])], "iOS17")


def test_before_ios_17_negative_indices_count_from_the_end(check: Any) -> None:
    x, at = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([-1, 0], np.int32)
    check("gather", [([x, at], lambda mb, x, at: mb.gather(x=x, indices=at, axis=1), [x[:, [-1, 0]]])], "iOS16")


def test_gathers_of_batches(check: Any) -> None:
    x, at = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.array([[2, 0], [1, 1]], np.int32)
    wanted = np.stack([x[0][[2, 0]], x[1][[1, 1]]])
    check("gather", [([x, at], lambda mb, x, at: mb.gather(x=x, indices=at, axis=1, batch_dims=1), [wanted])])
    places = at[..., None]
    check("gather_nd", [([x, places], lambda mb, x, at: mb.gather_nd(x=x, indices=at, batch_dims=1), [wanted])])


def test_topk_without_indices_and_with_all(check: Any) -> None:
    x = np.array([[3.0, 1.0, 2.0]], np.float32)
    check("topk", [([x], lambda mb, x: mb.topk(x=x, k=2, return_indices=False), [[[3.0, 2.0]]])])
