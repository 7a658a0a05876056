"""Conversions in half to two thirds of the time, with the same files: what torch's graphs cost beside the work on them.

A conversion traces its graph some twenty times. With every step torch copies the whole history of each node, which
grows by one step each time, where a reference does: nothing writes into it (`torch.fx.traceback.NodeSource`, for which
it calls ``copy.deepcopy``). And Python looks through millions of small objects for cycles, every 700 of them.

Each decomposition looks up all composite operators by name, once for each of some forty namespaces, though only newly
registered ones would have to be; and it registers twenty kernels for each of them by `OperatorBase.py_impl`, which
evaluates its annotations every time.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

_OBJECTS = (100_000, 10, 10)
"""New objects between two searches for cycles among the youngest; how many of these searches before one among the
older."""

_BY_REFERENCE = SimpleNamespace(copy=copy.copy, deepcopy=list)


@contextmanager
def quick_graphs() -> Iterator[None]:
    """While the context lasts, in this process. Contexts may be nested."""
    import torch._export.utils
    import torch._ops
    import torch.export.decomp_utils
    import torch.export.exported_program
    import torch.fx.traceback

    traceback: Any = torch.fx.traceback
    if traceback.copy is _BY_REFERENCE:
        yield
        return
    utils: Any = torch._export.utils
    operator: Any = torch._ops.OperatorBase
    composites = _composites(utils._collect_all_valid_cia_ops, utils._materialize_cpp_cia_ops)
    replaced: tuple[tuple[Any, str, Any], ...] = (
        (traceback, "copy", _BY_REFERENCE),
        (torch.export.decomp_utils, "_collect_all_valid_cia_ops", composites),
        (torch.export.exported_program, "_collect_all_valid_cia_ops", composites),
        (utils, "_materialize_cpp_cia_ops", lambda: None),
        (operator, "py_impl", _registering(operator.py_impl)),
    )
    with ExitStack() as stack:
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(*_OBJECTS)
        for holder, name, quick in replaced:
            stack.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, quick)
        yield


def _composites(collect: Callable[[], set[Any]], look_up: Callable[[], None]) -> Callable[[], set[Any]]:
    """``collect`` (the composite operators that can be kept whole), with ``look_up`` called here, and only where
    operators have been registered since."""
    import torch

    registered: Any = torch._C._dispatch_get_registrations_for_dispatch_key
    known = registered("CompositeImplicitAutograd")
    look_up()

    def composites() -> set[Any]:
        nonlocal known
        now = registered("CompositeImplicitAutograd")
        if now != known:
            look_up()
            known = now
        return collect()

    return composites


def _registering(py_impl: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``py_impl``; of a dispatch key that has no kernel yet, without what is slow in it."""
    from torch._C import DispatchKey

    def quick(operator: Any, key: Any) -> Any:
        if not isinstance(key, DispatchKey) or key == DispatchKey.Python or key in operator.py_kernels:
            return py_impl(operator, key)

        def register(kernel: Any) -> Any:
            operator.py_kernels[key] = kernel
            operator._dispatch_cache.clear()
            return kernel

        return register

    return quick
