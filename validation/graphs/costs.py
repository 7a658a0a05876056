"""What a file's operators cost, counted from the shapes and types of their tensors; and what is alive between them.

A reader lists a file's operators and tensors (`Listing`); the arithmetic is the same for all. What is counted:

- **MACs**: the multiply-accumulates of convolutions, transposed ones and matrix products, by the dense formula: a
  product with a padded zero counts, one between the zeros of a dilated kernel does not, for there is none. All other
  operators have none: a pooling, an interpolation and a sum of two tensors cost what they move.
- **Bytes**: what an operator reads (its inputs, each once, weights among them) and writes (its results), in the types
  in which the file has them. A weight counts as it is stored, where the file widens it at first, too. What selects a
  part of its input reads that part. A reshaping counts as if it copied, though most runtimes let it share memory.
- An operator of constants alone is computed once, as the file is loaded: it counts nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mobileseg.types import NotRun
from mobileseg.validation.graphs.base import Operation, Peak, Shape

Key = Hashable
Place = int | str
"""Of an input among an operator's: its position, or the parameter's name."""

SELECTION, VIEW, UNKNOWN = "selection", "view", "unknown"
"""Kinds of operators that are counted in a way of their own: those that read a part of their input; those that give
it in another shape; those that are not known."""

_WIDTH = re.compile(r"(?:b?float|u?int|complex)(\d+)")
_BYTE = 8


def times(*factors: int | None) -> int | None:
    """None where a factor is not known."""
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


@dataclass(frozen=True)
class Tensor:
    """``shape``: None for what is known at run time only; ``dtype``: NumPy's name (``float16``, ``int4``), or another
    where NumPy has none. ``stored``: bytes of a constant in the file; None for what is no constant.
    """

    shape: Shape
    dtype: str
    stored: int | None = None

    @property
    def elements(self) -> int | None:
        return None if self.shape is None else times(*self.shape)

    @property
    def bytes(self) -> int | None:
        """None where the shape or the size of an element is not known."""
        if self.stored is not None:
            return self.stored
        return bytes_of(self.elements, self.dtype)


def bytes_of(elements: int | None, dtype: str) -> int | None:
    """Of packed elements; None where either is not known."""
    width = _BYTE if dtype == "bool" else _width(dtype)
    return None if elements is None or width is None else -(-elements * width // _BYTE)


def _width(dtype: str) -> int | None:
    found = _WIDTH.match(dtype)
    return None if found is None else int(found[1])


def constant(shape: Sequence[int], dtype: str) -> Tensor:
    """A tensor whose numbers are in the file."""
    return Tensor(tuple(shape), dtype, bytes_of(math.prod(shape), dtype) or 0)


@dataclass(frozen=True)
class Operands:
    """What a rule is told of an operator. ``options``: what configures it, as far as its reader says it."""

    inputs: Mapping[Place, Tensor]
    outputs: Sequence[Tensor]
    options: Mapping[Place, Any]


class Work(NamedTuple):
    """An operator's kind in our words, and its MACs; None where they are not known."""

    kind: str
    macs: int | None


Rule = Callable[[Operands], Work]


@dataclass(frozen=True)
class Call:
    """One operator. ``operator``, ``name``: as `Operation` has them. ``inputs``: keys of what it reads, constants among
    them, those that are left out not."""

    operator: str
    name: str
    rule: Rule
    inputs: Mapping[Place, Key]
    outputs: tuple[Key, ...]
    delegated: bool | None
    options: Mapping[Place, Any] = field(default_factory=dict)
    portable: bool = False


@dataclass(frozen=True)
class Listing:
    """A file's operators in the order in which it runs them, and its tensors. ``inputs``, ``outputs``: keys of the
    file's own. ``aliases``: keys of tensors that are another one, in another shape or order of axes."""

    calls: tuple[Call, ...]
    tensors: Mapping[Key, Tensor]
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]
    aliases: Mapping[Key, Key] = field(default_factory=dict)


def counted_costs(listing: Listing) -> tuple[tuple[Operation, ...], Peak | NotRun]:
    """Every operator with what it costs; and the most bytes that are alive at once."""
    listing = _with_constants(listing)
    operations = tuple(_operation(call, listing) for call in listing.calls)
    return operations, _peak(listing, operations)


def _with_constants(listing: Listing) -> Listing:
    """What is computed of constants alone is a constant, stored as those are. (An operator that is not known may read
    more than it says: a branch does.)"""
    tensors = dict(listing.tensors)
    nothing = Operands({}, (), {})
    for call in listing.calls:
        sources = [tensors[key] for key in dict.fromkeys(call.inputs.values())]
        known = call.rule(nothing).kind != UNKNOWN
        if known and sources and all(source.stored is not None for source in sources):
            stored = sum(source.stored or 0 for source in sources)
            tensors.update({key: replace(tensors[key], stored=stored) for key in call.outputs})
    return replace(listing, tensors=tensors)


def _operation(call: Call, listing: Listing) -> Operation:
    inputs = {place: listing.tensors[key] for place, key in call.inputs.items()}
    outputs = [listing.tensors[key] for key in call.outputs]
    once = bool(outputs) and all(output.stored is not None for output in outputs)
    work = call.rule(Operands(inputs, outputs, call.options))
    read = _sum(listing.tensors[key].bytes for key in dict.fromkeys(call.inputs.values()))
    written = _sum(output.bytes for output in outputs)
    if work.kind == SELECTION and read is not None and written is not None:
        read = min(read, written)
    values = [t for t in inputs.values() if t.stored is None] or outputs or [Tensor(None, "")]
    return Operation(
        name=call.name,
        operator=call.operator,
        kind=work.kind,
        shape=outputs[0].shape if outputs else None,
        # A choice between values also reads what decides it, which is smaller.
        dtype=max(values, key=lambda value: value.bytes or 0).dtype,
        macs=0 if once else work.macs,
        bytes_read=0 if once else read,
        bytes_written=0 if once else written,
        delegated=call.delegated,
        portable=call.portable,
    )


def _sum(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    known = [size for size in found if size is not None]
    return sum(known) if len(known) == len(found) else None


def _peak(listing: Listing, operations: Sequence[Operation]) -> Peak | NotRun:
    """A value is alive from the operator that gives it to the last that reads it, the file's inputs from the start, its
    outputs to the end. A reshaping's result is what it reshapes; no other operator writes over what it reads."""
    lives = _lives(listing, operations)
    sizes = {key: listing.tensors[key].bytes for key in lives}
    unknown = sum(size is None for size in sizes.values())
    if unknown:
        return NotRun(f"the sizes of {unknown} values are known at run time only")
    change = [0] * (max(len(operations), 1) + 1)
    for key, (born, last) in lives.items():
        change[born] += sizes[key] or 0
        change[last + 1] -= sizes[key] or 0
    alive = list(itertools.accumulate(change))
    return Peak(max(alive), alive.index(max(alive)))


def _lives(listing: Listing, operations: Sequence[Operation]) -> dict[Key, tuple[int, int]]:
    """First and last operator at which each value is alive; constants, and what is another value, are not among
    them."""
    owners = dict(listing.aliases)

    def owner(key: Key) -> Key:
        while key in owners:
            key = owners[key]
        return key

    lives: dict[Key, tuple[int, int]] = {}

    def alive(keys: Iterable[Key], position: int) -> None:
        for key in map(owner, keys):
            if listing.tensors[key].stored is None:
                born, last = lives.get(key, (position, position))
                lives[key] = (min(born, position), max(last, position))

    alive(listing.inputs, 0)
    for position, (call, operation) in enumerate(zip(listing.calls, operations, strict=True)):
        alive(call.inputs.values(), position)
        if operation.kind == VIEW:
            owners.update(_viewed(call, listing, owner))
        alive(call.outputs, position)
    alive(listing.outputs, max(len(operations) - 1, 0))
    return lives


def _viewed(call: Call, listing: Listing, owner: Callable[[Key], Key]) -> Iterator[tuple[Key, Key]]:
    """A reshaping's result, and what it reshapes: its one input that is no constant."""
    values = [key for key in call.inputs.values() if listing.tensors[key].stored is None]
    if len(values) == len(call.outputs) == 1:
        result, source = owner(call.outputs[0]), owner(values[0])
        if result != source:
            yield result, source
