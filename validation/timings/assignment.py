"""Which of a file's operators each of XNNPACK's kernels works for.

XNNPACK says how long each kernel took, in the order in which it runs them, and not which operator that was for. It
makes one kernel of most operators; none of those that it joins to a neighbour (a padding before a convolution) or
computes when it loads (the widening of float16 weights); and a clamp more for an activation that it cannot join.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

CLAMP = "Clamp"

_JOINED = 1
"""What it costs in `assigned` that an operator has no kernel, or a clamp besides."""
_JOINABLE = frozenset(["Constant Pad", "Convert", CLAMP, "Static Reshape"])
_UNLIKELY = 10
"""What it costs that an operator with other kernels has none, and that one whose kernels are not known has some."""

Table = Mapping[str, AbstractSet[str]]
"""Operator -> XNNPACK's words for what it makes of it, up to the first " (" of the kernel's name."""


def assigned(operators: Sequence[str], kernels: Sequence[str], table: Table) -> tuple[range, ...] | None:
    """For each of a partition's operators, the numbers of its kernels. Both in the order of execution.

    The likeliest way to deal out all the kernels in order, each to an operator that makes such a kernel; None where
    there is none.
    """
    words = [kernel.partition(" (")[0] for kernel in kernels]
    # For each number of kernels that the operators so far may have taken: the cost, and the kernels before the last.
    reached: dict[int, tuple[int, int]] = {0: (0, 0)}
    history = list[dict[int, tuple[int, int]]]()
    for operator in operators:
        following: dict[int, tuple[int, int]] = {}
        for taken, (cost, _) in reached.items():
            for more, price in _ways(table.get(operator), words[taken : taken + 2]):
                known = following.get(taken + more)
                if known is None or cost + price < known[0]:
                    following[taken + more] = (cost + price, taken)
        history.append(following)
        reached = following
    end = len(kernels)
    if end not in reached:
        return None
    found = list[range]()
    for step in reversed(history):
        start = step[end][1]
        found.append(range(start, end))
        end = start
    return tuple(reversed(found))


def _ways(made: AbstractSet[str] | None, following: Sequence[str]) -> Iterator[tuple[int, int]]:
    """How many of the next kernels (two at most) an operator may take, and what that costs. ``made``: the kernels that
    are made of it, None where that is not known."""
    if made is None:
        yield from ((count, _UNLIKELY) for count in range(len(following) + 1))
        return
    yield 0, _JOINED if made & _JOINABLE else _UNLIKELY
    if following and following[0] in made:
        yield 1, 0
        if following[1:] == [CLAMP]:
            yield 2, _JOINED
