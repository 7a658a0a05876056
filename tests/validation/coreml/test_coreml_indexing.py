"""Operators of the Core ML executor that take, order and make elements, against NumPy and coremltools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg.errors import UnavailableError
from mobileseg.validation.coreml import load
from mobileseg.validation.coreml.operators import indexing


def anything(draw: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Of fractions or of integers."""
    return draw.array(shape) if draw.flag() else draw.whole(shape, -9, 9)


def orders(draw: Any) -> Any:
    """Equals keep their order."""
    x = draw.distinct(draw.shape()) if draw.flag() else draw.whole(draw.shape(), -2, 2)
    axis, ascending = draw.axis(x), draw.flag()
    wanted = np.argsort(x if ascending else -x, axis, kind="stable")
    return [x], lambda mb, x: mb.argsort(x=x, axis=axis, ascending=ascending), [wanted], *mixed(x)


def mixed(x: np.ndarray) -> tuple[str, ...]:
    return ("it does not keep the order of equals",) if x.dtype == np.int32 else ()


def best(draw: Any) -> Any:
    """Of equals the first. Without an order that is asked for, the values are in one all the same."""
    x = draw.distinct(draw.shape()) if draw.flag() else draw.whole(draw.shape(), -2, 2)
    axis, ascending = draw.axis(x), draw.flag()
    k = draw.number(1, x.shape[axis])
    places = np.argsort(x if ascending else -x, axis, kind="stable").take(range(k), axis)
    how: dict[str, Any] = {"sort": draw.flag(), "return_indices": draw.flag()} if draw.ios > 15 else {}
    indices = how.get("return_indices", True)
    if draw.ios > 16 and indices:
        how["output_indices_dtype"] = draw.one("int32", "uint16")
    wanted = [np.take_along_axis(x, places, axis), *([places] if indices else [])]
    return [x], lambda mb, x: mb.topk(x=x, k=k, axis=axis, ascending=ascending, **how), wanted, *mixed(x)


def sums(draw: Any) -> Any:
    x = draw.array(draw.shape()) if draw.flag() else draw.whole(draw.shape(), -(2**31), 2**31 - 1)
    axis = draw.number(-1, x.ndim - 1)
    exclusive, backwards = draw.flag(), draw.flag()
    y = np.flip(x, axis) if backwards else x
    with np.errstate(all="ignore"):
        wanted = np.cumsum(y, axis, dtype=np.float64 if x.dtype == np.float32 else np.int32)
    if exclusive:
        wanted = np.concatenate(
            [np.zeros_like(wanted.take([0], axis)), wanted.take(range(x.shape[axis] - 1), axis)], axis
        )
    why = ("exclusive sums end in a TypeError",) if exclusive else ("it sums integers in 64 bits",)
    return (
        [x],
        lambda mb, x: mb.cumsum(x=x, axis=axis, exclusive=exclusive, reverse=backwards),
        [np.flip(wanted, axis) if backwards else wanted],
        *(why if exclusive or x.dtype == np.int32 else ()),
    )


def hot(draw: Any) -> Any:
    """What is no class is off everywhere."""
    classes = draw.number(1, 5)
    x = draw.whole(draw.shape(1, 3), 0, 6)
    axis = draw.number(-x.ndim - 1, x.ndim)
    on, off = draw.one((np.float32(2.5), np.float32(-1)), (np.int32(7), np.int32(-3)))
    wanted = np.stack([np.where(x == k, on, off) for k in range(classes)], axis)
    return (
        [x],
        lambda mb, x: mb.one_hot(indices=x, one_hot_vector_size=classes, axis=axis, on_value=on, off_value=off),
        [wanted],
    )


def fills(draw: Any) -> Any:
    """The shape is an input, so that it is known at run time only."""
    shape = draw.shape(2, 2)
    value = draw.one(draw.scalar(-3, 3), np.int32(draw.number(-9, 9)))

    def build(mb: Any, lengths: Any) -> Any:
        return mb.reshape(x=mb.fill(shape=lengths, value=value), shape=list(shape))

    return [np.array(shape, np.int32)], build, [np.full(shape, value)]


def likes(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    value = draw.one(draw.scalar(-3, 3), np.int32(draw.number(-9, 9)))
    return [x], lambda mb, x: mb.fill_like(ref_tensor=x, value=value), [np.full(x.shape, value)]


def ranges(draw: Any) -> Any:
    """The end is an input, so that the length is known at run time only; up or down, of fractions too."""
    start, step = draw.number(-3, 3), draw.number(1, 3) * draw.one(1, -1)
    dtype, by = draw.one((np.int32, 1), (np.float32, 0.25))
    count = draw.number(1, 9)
    told = [dtype(start * by), dtype(step * by)]
    end = np.array([start + step * count - draw.number(0, abs(step) - 1) * np.sign(step)]).astype(dtype) * dtype(by)
    wanted = (start + step * np.arange(count)) * by

    def build(mb: Any, end: Any) -> Any:
        made = mb.range_1d(start=told[0], end=mb.squeeze(x=end, axes=[0]), step=told[1])
        return mb.reshape(x=made, shape=[count])

    return [end.astype(dtype)], build, [wanted]


def shapes_of(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    return [x], lambda mb, x: mb.shape(x=x), [x.shape]


def places_in(draw: Any, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Up to iOS 16 also counted from the end."""
    return draw.whole(shape, -n if draw.ios < 17 else 0, n - 1)


def checked(draw: Any) -> dict[str, bool]:
    return {"validate_indices": draw.flag()} if draw.ios > 16 else {}


def gathers(draw: Any) -> Any:
    """Of batches; one index alone; a result that is one number."""
    x = anything(draw, draw.shape())
    batch = draw.number(0, min(x.ndim - 1, 2)) if draw.ios > 15 else 0
    axis = draw.number(batch, x.ndim - 1)
    places = places_in(draw, x.shape[axis], (*x.shape[:batch], *draw.shape(1 if batch == 0 else 0, 2, 3)))
    wanted = np.stack([x[one].take(places[one], axis - batch) for one in np.ndindex(*x.shape[:batch])]).reshape(
        (*x.shape[:axis], *places.shape[batch:], *x.shape[axis + 1 :])
    )
    how: dict[str, Any] = {"axis": axis - draw.one(0, x.ndim), **checked(draw)}
    if draw.ios > 15:
        how["batch_dims"] = batch
    if batch:
        how["axis"] = axis  # a negative one, coremltools' evaluation takes for another
    return [x, places], lambda mb, x, at: mb.gather(x=x, indices=at, **how), [wanted]


def gathers_along(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    axis = draw.axis(x)
    lengths = [draw.number(1, 3) if k == axis % x.ndim else n for k, n in enumerate(x.shape)]
    places, how = places_in(draw, x.shape[axis], tuple(lengths)), checked(draw)
    return (
        [x, places],
        lambda mb, x, at: mb.gather_along_axis(x=x, indices=at, axis=axis, **how),
        [np.take_along_axis(x, places, axis)],
    )


def gathers_nd(draw: Any) -> Any:
    x = anything(draw, draw.shape())
    batch = draw.number(0, x.ndim - 1) if draw.ios > 15 else 0
    depth = draw.number(1, x.ndim - batch)
    around = (*x.shape[:batch], *draw.shape(0, 2, 3))
    places = np.stack([places_in(draw, n, around) for n in x.shape[batch : batch + depth]], -1)
    before = np.ix_(*map(range, x.shape[:batch]))
    spread = [b.reshape(*b.shape, *[1] * (len(around) - batch)) for b in before]
    wanted = x[(*spread, *np.moveaxis(places, -1, 0))]
    how: dict[str, Any] = {**({"batch_dims": batch} if draw.ios > 15 else {}), **checked(draw)}
    why = "it compares the indices with all lengths"
    return [x, places], lambda mb, x, at: mb.gather_nd(x=x, indices=at, **how), [wanted], why


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
    result = x.astype(np.float64)
    for place, new in entries:
        result[place] = CHANGES[mode](result[place], new)
        if x.dtype == np.int32:
            result[place] = np.trunc(result[place])
    return result


def scattered(draw: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, Any, str]:
    """What is changed, a maker of changes (none of them 0), and how. By halves and doubles: products are exact."""
    mode, whole = draw.one(*CHANGES), draw.flag()

    def powers(shape: tuple[int, ...]) -> np.ndarray:
        signs = draw.rng().choice([-1, 1], shape)
        return signs * (1 + draw.whole(shape, 0, 2) if whole else 2.0 ** draw.whole(shape, -1, 1))

    x = draw.whole(shape, -99, 99) if whole else draw.array(shape)
    return x, lambda shape: powers(shape).astype(x.dtype), mode


def some_places(draw: Any, n: int, mode: str) -> np.ndarray:
    """One twice, unless the later would replace the earlier."""
    if mode == "update":
        at = draw.rng().permutation(n)[: draw.number(1, n)]
        return (at - (draw.one(0, n) if draw.ios < 17 else 0)).astype(np.int32)
    return places_in(draw, n, (draw.number(1, 4),))


def scatters(draw: Any) -> Any:
    x, changes, mode = scattered(draw, draw.shape())
    axis = draw.axis(x)
    at, how = some_places(draw, x.shape[axis], mode), checked(draw)
    new = changes(tuple(len(at) if k == axis % x.ndim else n for k, n in enumerate(x.shape)))
    entries = [((slice(None),) * (axis % x.ndim) + (place,), new.take(k, axis)) for k, place in enumerate(at)]
    return (
        [x, at, new],
        lambda mb, x, at, new: mb.scatter(data=x, indices=at, updates=new, axis=axis, mode=mode, **how),
        [changed(x, entries, mode)],
    )


def scatters_along(draw: Any) -> Any:
    x, changes, mode = scattered(draw, draw.shape())
    axis, how = draw.axis(x), checked(draw)
    at = np.argsort(draw.rng().random(x.shape), axis).take(range(draw.number(1, x.shape[axis])), axis).astype(np.int32)
    at -= draw.one(0, x.shape[axis]) if draw.ios < 17 else 0
    new = changes(at.shape)
    entries = []
    for place in np.ndindex(*at.shape):
        target = list(place)
        target[axis] = at[place]
        entries.append((tuple(target), new[place]))
    why = () if mode == "update" else ("it updates, whatever the mode",)
    return (
        [x, at, new],
        lambda mb, x, at, new: mb.scatter_along_axis(data=x, indices=at, updates=new, axis=axis, mode=mode, **how),
        [changed(x, entries, mode)],
        *why,
    )


def scatters_nd(draw: Any) -> Any:
    x, changes, mode = scattered(draw, draw.shape())
    depth, how = draw.number(1, x.ndim), checked(draw)
    count = int(np.prod(x.shape[:depth]))
    flat = some_places(draw, count, mode) % count
    at = np.stack(np.unravel_index(flat, x.shape[:depth]), -1).astype(np.int32)
    if draw.ios < 17 and draw.flag():
        at -= np.array(x.shape[:depth], np.int32)
    new = changes((len(at), *x.shape[depth:]))
    entries = [(tuple(place), new[k]) for k, place in enumerate(at)]
    return (
        [x, at, new],
        lambda mb, x, at, new: mb.scatter_nd(data=x, indices=at, updates=new, mode=mode, **how),
        [changed(x, entries, mode)],
        "it compares the indices with all lengths",
    )


CASES = {
    "argsort": orders,
    "cumsum": sums,
    "fill": fills,
    "fill_like": likes,
    "gather": gathers,
    "gather_along_axis": gathers_along,
    "gather_nd": gathers_nd,
    "one_hot": hot,
    "range_1d": ranges,
    "scatter": scatters,
    "scatter_along_axis": scatters_along,
    "scatter_nd": scatters_nd,
    "shape": shapes_of,
    "topk": best,
}


def test_every_operator_of_this_family_is_tested() -> None:
    assert set(CASES) == set(indexing.OPERATORS)


@pytest.mark.parametrize("kind", sorted(CASES))
@settings(settings.get_profile("operators"))
@given(data=st.data())
def test_operator(kind: str, check: Any, data: Any) -> None:
    check(kind, CASES[kind], data)


def test_every_parameter_of_these_operators_is_varied(check: Any) -> None:
    check.has_varied(set(CASES), fixed=set())


def test_one_number_is_gathered(check: Any) -> None:
    """As of a shape, in programs whose sizes are known at run time only."""
    x, at = np.arange(6, dtype=np.float32), np.array([4], np.int32)

    def build(mb: Any, x: Any, at: Any) -> Any:
        return mb.expand_dims(x=mb.gather(x=x, indices=mb.squeeze(x=at, axes=[0]), axis=0), axes=[0])

    check.hold("gather", [([x, at], build, [[4.0]])])


def test_indices_of_one_byte_reach_all_that_they_can_say(check: Any) -> None:
    x, at = np.arange(300, dtype=np.float32), np.array([0, 127, 200, 255], np.int32)

    def build(mb: Any, x: Any, at: Any) -> Any:
        return mb.gather(x=x, indices=mb.cast(x=at, dtype="uint8"), axis=0)

    check.hold("gather", [([x, at], build, [[0, 127, 200, 255]])])


def test_minus_one_are_all() -> None:
    """By the operator itself: coremltools declares -1 of them."""
    values, places = indexing.OPERATORS["topk"]({"x": [torch.tensor([3.0, 1.0, 2.0])], "k": [torch.tensor(-1)]}, 17)
    assert (values.tolist(), places.tolist()) == ([3.0, 2.0, 1.0], [0, 2, 1])


def test_a_sum_before_the_first_is_nothing_whatever_the_first_is(check: Any) -> None:
    x = np.array([np.inf, 1e8, 1.0], np.float32)
    why = "exclusive sums end in a TypeError"
    check.hold("cumsum", [([x], lambda mb, x: mb.cumsum(x=x, exclusive=True), [[0.0, np.inf, np.inf]], why)])


GATHERS: dict[str, Any] = {
    "gather": lambda mb, x, at: mb.gather(x=x, indices=at),
    "gather_along_axis": lambda mb, x, at: mb.gather_along_axis(x=x, indices=at),
    "gather_nd": lambda mb, x, at: mb.gather_nd(x=x, indices=mb.expand_dims(x=at, axes=[1])),
    "scatter": lambda mb, x, at: mb.scatter(data=x, indices=at, updates=x),
    "scatter_along_axis": lambda mb, x, at: mb.scatter_along_axis(data=x, indices=at, updates=x),
    "scatter_nd": lambda mb, x, at: mb.scatter_nd(data=x, indices=mb.expand_dims(x=at, axes=[1]), updates=x),
}


@pytest.mark.parametrize("kind", sorted(GATHERS))
@pytest.mark.parametrize(("target", "index"), [("iOS16", 3), ("iOS16", -4), ("iOS17", 3), ("iOS17", -1)])
def test_an_index_outside_is_not_defined(kind: str, target: str, index: int, make_package: Any) -> None:
    x, at = np.arange(3, dtype=np.float32), np.array([0, index, 1], np.int32)
    executor = load(make_package([x, at], GATHERS[kind], target))
    with pytest.raises(UnavailableError, match=rf"op \d+ '{kind}'.*index of -?\d into 3 elements is not defined"):
        executor.run({"in_0": x, "in_1": at})


def test_an_index_outside_one_axis_does_not_reach_into_the_next(make_package: Any) -> None:
    x, at = np.zeros((3, 4), np.float32), np.array([[0, 5]], np.int32)
    path = make_package([x, at], lambda mb, x, at: mb.scatter_nd(data=x, indices=at, updates=np.ones(1, np.float32)))
    with pytest.raises(UnavailableError, match="index of 5 into 4 elements"):
        load(path).run({"in_0": x, "in_1": at})


def test_which_of_several_updates_stays_is_not_defined(make_package: Any) -> None:
    x, at = np.zeros(3, np.float32), np.array([1, 1], np.int32)
    new = np.array([5.0, 6.0], np.float32)
    path = make_package([x, at, new], lambda mb, x, at, new: mb.scatter(data=x, indices=at, updates=new, mode="update"))
    with pytest.raises(UnavailableError, match="which of several updates of one element stays"):
        load(path).run({"in_0": x, "in_1": at, "in_2": new})
    equal = np.array([5.0, 5.0], np.float32)
    (result,) = load(path).run({"in_0": x, "in_1": at, "in_2": equal}).values()
    assert result.tolist() == [0.0, 5.0, 0.0]
