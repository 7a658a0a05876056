"""Which of a file's operators each of XNNPACK's kernels works for.

XNNPACK says how long each kernel took, in the order in which it runs them, and not which operator that was for. It
makes one kernel of most operators; none of those that it joins to a neighbour (a padding before a convolution) or
computes when it loads (DEQUANTIZE of weights); and a clamp more for an activation that it cannot join.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobileseg.validation.graphs.xnnpack import CLAMP, KERNELS

_JOINED = 1
"""What it costs in `assigned` that an operator has no kernel, or a clamp besides."""
_MAY_BE_JOINED = {"PAD", "DEQUANTIZE", "QUANTIZE", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE"}
_UNLIKELY = 10
"""What it costs that any other operator has no kernel, and that one that is not in `KERNELS` has one or two."""


def assigned(operators: Sequence[str], kernels: Sequence[str]) -> tuple[range, ...] | None:
    """For each of a partition's operators, the numbers of its kernels. Both in the order of execution.

    The likeliest way to deal out all the kernels in order, each to an operator that makes such a kernel; None where
    there is none.
    """
    # For each number of kernels that the operators so far may have taken: the cost, and the kernels before the last.
    reached: dict[int, tuple[int, int]] = {0: (0, 0)}
    history = list[dict[int, tuple[int, int]]]()
    for operator in operators:
        following: dict[int, tuple[int, int]] = {}
        for taken, (cost, _) in reached.items():
            for more, price in _ways(operator, kernels, taken):
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


def _ways(operator: str, kernels: Sequence[str], taken: int) -> Iterator[tuple[int, int]]:
    """How many of the next kernels an operator may take, and what that costs."""
    following = [kernel.partition(" (")[0] for kernel in kernels[taken : taken + 2]]
    known = KERNELS.get(operator)
    yield 0, _JOINED if operator in _MAY_BE_JOINED else _UNLIKELY
    if known is None:
        yield from ((count, _UNLIKELY) for count in range(1, len(following) + 1))
    elif following and following[0] in known:
        yield 1, 0
        if following[1:] == [CLAMP]:
            yield 2, _JOINED
