"""What is written out in several copies, and need not be.

Before: n (N, 1, H, W) -> expand((N, C, H, W)) -> div(x (N, C, H, W), it) -> z
After:  div(x, n) -> z

Before: n -> expand(size) -> any other operator                 form "repeat"
After:  n -> reshape (axes of one number in front) -> repeat(size / n's own) -> the operator

Preconditions: the first, that the operator is one of two operands which broadcasts, and the other has the result's
shape; the second, that no axis is taken as it comes (a size of -1 is known by its value here).

Exactness: bit-exact. TFLite needs it: litert-torch turns a network channels-last, an expansion's size stays as it was,
and what comes behind fails to convert, or reads wrong numbers without a word (0.10: a quarter of the pixels). Every
target saves the copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mobileseg.converters.passes.base import Outcome, Pass, aten, is_call, replace, value

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from mobileseg.converters.forms import Forms

_BROADCASTING = (
    aten.add.Tensor,
    aten.div.Tensor,
    aten.maximum.default,
    aten.minimum.default,
    aten.mul.Tensor,
    aten.sub.Tensor,
)


def _broadcasts(user: Node, expanded: Node) -> bool:
    """Whether ``user`` gives the same without the expansion."""
    if not is_call(user, *_BROADCASTING):
        return False
    others = [a for a in user.args[:2] if a is not expanded]
    return len(others) == 1 and is_node_of_shape(others[0], value(user).shape)


def is_node_of_shape(argument: object, shape: object) -> bool:
    return hasattr(argument, "meta") and value(cast("Node", argument)).shape == shape


def _repeated(x: Tensor, size: tuple[int, ...]) -> Tensor:
    own = (1,) * (len(size) - x.ndim) + tuple(x.shape)
    x = x.reshape(own) if len(own) != x.ndim else x
    return x.repeat(*(wanted // has for wanted, has in zip(size, own, strict=True)))


def _apply(module: GraphModule, forms: Forms) -> Outcome:
    count = 0
    for node in [n for n in module.graph.nodes if is_call(n, aten.expand.default)]:
        x, size = cast("Node", node.args[0]), tuple(value(node).shape)
        free = [user for user in node.users if _broadcasts(user, node)]
        for user in free:
            user.replace_input_with(node, x)
        if not node.users:
            module.graph.erase_node(node)
        elif forms.expansion == "repeat":
            replace(node, lambda x, size=size: _repeated(x, size), x)
        elif not free:
            continue
        count += 1
    return Outcome(count)


PASS = Pass(
    name="rewrite_expansion",
    exact="bit-exact",
    why="litert-torch leaves an expansion's size as it was while it turns the network channels-last",
    apply=_apply,
)
