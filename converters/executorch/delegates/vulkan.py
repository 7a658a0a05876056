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
    from executorch.backends.vulkan.patterns import fusable_patterns, rope, rope_hf

    # The registry holds what stands below these functions' caches, so that each file would trace the rotary embeddings
    # of language models twice: two seconds.
    fusable_patterns["export_llama_rope"].get_graphs_fn = rope.get_rope_graphs
    fusable_patterns["hf_rope"].get_graphs_fn = rope_hf.get_hf_rope_graphs
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
