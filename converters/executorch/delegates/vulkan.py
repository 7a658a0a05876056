"""Vulkan: the GPU of Android phones."""

from __future__ import annotations

import logging
import re
from typing import Any

from mobileseg.converters.executorch.delegates.base import Delegate, Reason

_SKIPPED = re.compile(r"Due to \[(?P<reason>.*?)\], skipping .*? = (?P<operator>[\w.]+)\(", re.DOTALL)
_SET = re.compile(r"\{([^}]*)\}")


def _partitioners() -> list[Any]:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return [VulkanPartitioner()]


def _reason(record: logging.LogRecord) -> Reason | None:
    found = _SKIPPED.search(record.getMessage())
    if found is None:
        return None
    # A set of types is told in no order.
    ordered = _SET.sub(lambda types: ", ".join(sorted(types[1].split(", "))), found["reason"])
    return found["operator"], ordered


DELEGATE = Delegate(
    name="vulkan",
    partitioners=_partitioners,
    otherwise="the Vulkan delegate has no such operator",
    loggers=("",),  # it tells the root logger
    reason=_reason,
)
