"""The first operator of a file whose result is not what torch computes from the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mobileseg.validation.bisect.candidates import Candidate
from mobileseg.validation.bisect.follow import Comparison, Match

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobileseg.validation.traces import Step, Trace

MOST_FAULTS = 3
"""Located in one file; with more, it is not the same network."""

FIRST_NODES, NEAREST, EARLIEST = 8, 3, 2
"""Suppositions that are tried: so many nodes from the first that differs on, each with so many values of the file, the
nearest to what was expected and the ones computed first."""

COUNTERPART_DB = 6.0
"""From this SQNR on a value that lies outside its tolerance, with the right inputs, is taken for the node's own."""


@dataclass(frozen=True)
class Fault:
    """``nodes``: of torch's graph, from the last values that agree on to the one whose value is wrong. ``match``: the
    file's value in the last one's place; None where nothing has it. ``alone``: everything behind agrees once this value
    is taken from the file. ``steps``: the file's operators on the same way."""

    nodes: tuple[str, ...]
    match: Match | None
    alone: bool
    steps: tuple[Step, ...]

    @property
    def node(self) -> str:
        return self.nodes[-1]


@dataclass(frozen=True)
class Located:
    """``matches``: by node, in torch's order, with the faults' own. ``faults``: the first first."""

    matches: Mapping[str, Match]
    faults: tuple[Fault, ...]


def locate(comparison: Comparison) -> Located:
    """Follow the file; where it is left for good, find the value to suppose so that all behind agrees again."""
    supposed: dict[str, Candidate] = {}
    faults: list[Fault] = []
    followed = comparison.follow(supposed)
    while len(faults) < MOST_FAULTS:
        state = _State(comparison, followed.matches)
        lost = state.lost()
        found = _supposition(state, lost, supposed) if lost else state.slight(followed.near, supposed)
        if found is None:
            faults += [_unexplained(state, lost, followed.near)] if lost else []
            break
        supposed[found.node] = found.candidate
        followed = comparison.follow(supposed)
        rest = _State(comparison, followed.matches).lost()
        faults.append(state.fault(found.node, followed.matches[found.node], alone=not rest))
    return Located(followed.matches, tuple(sorted(faults, key=lambda fault: comparison.order[fault.node])))


@dataclass(frozen=True)
class _Supposition:
    node: str
    candidate: Candidate


def _supposition(state: _State, lost: Sequence[str], supposed: Mapping[str, Candidate]) -> _Supposition | None:
    """The one behind which the most agrees; of equals the first: behind it agrees what agrees behind a later one. None
    where nothing behind any agrees."""
    comparison, tried = state.comparison, lost[:FIRST_NODES]
    values = comparison.follow(supposed, state.matches, wanted=frozenset(tried)).values
    best, most = None, 0
    for node in (name for name in tried if name in values):
        if node == comparison.network.output:
            # Nothing is behind it that could tell; its place in the file is known.
            return best or _Supposition(node, comparison.output)
        for candidate in state.candidates_for(node, values[node]):
            followed = comparison.follow({**supposed, node: candidate}, state.matches, behind=node)
            if followed.agreed > most:
                best, most = _Supposition(node, candidate), followed.agreed
    return best


def _unexplained(state: _State, lost: Sequence[str], near: Mapping[str, Match]) -> Fault:
    node = next((name for name in lost if name in near), lost[0])
    return state.fault(node, near.get(node), alone=False)


@dataclass(frozen=True)
class _State:
    """What one run along the file found."""

    comparison: Comparison
    matches: Mapping[str, Match]

    def lost(self) -> list[str]:
        """Nodes that agree with nothing and lead to nothing that does, in order."""
        network = self.comparison.network
        recovered: set[str] = set()
        for name, node in reversed(network.nodes.items()):
            if name in self.matches or any(user.name in recovered for user in node.users):
                recovered.add(name)
        leading = {network.output, *network.ancestors(network.output)}
        return [name for name in network.nodes if name not in recovered and name in leading]

    def places_for(self, node: str) -> Iterator[str]:
        """Keys that can have the node's place: no other node's, and computed from what the node is computed from; and
        those that it is computed from, as if the file had left it out."""
        before = set(self.comparison.network.ancestors(node))
        for key in self._roots:
            roots = self._roots[key]
            if key in self._claimed:
                if self._claimed[key] & before:
                    yield key
            elif roots and all(self._claimed[root] & before for root in roots):
                yield key

    def candidates_for(self, node: str, expected: NDArray[np.float32]) -> list[Candidate]:
        """Values that can have the node's place, the nearest to what was expected and the earliest."""
        nearest = self.comparison.candidates.nearest(expected, frozenset(self.places_for(node)))
        position = {key: i for i, key in enumerate(self._roots)}
        earliest = sorted(
            (candidate for candidate in nearest if candidate.key not in self._claimed), key=lambda c: position[c.key]
        )
        return list(dict.fromkeys([*nearest[:NEAREST], *earliest[:EARLIEST]]))

    def slight(self, near: Mapping[str, Match], supposed: Mapping[str, Candidate]) -> _Supposition | None:
        """The first node whose counterpart lies outside its tolerance, though what is behind it agrees again."""
        for node, match in near.items():
            key = match.candidate.key
            if key in self._claimed or match.difference.sqnr_db < COUNTERPART_DB:
                continue
            if key in set(self.places_for(node)) and not self._is_passed_on(node, key):
                # A convolution and the normalization that is folded into it both come near to the one value.
                rivals = [name for name, other in near.items() if other.candidate == match.candidate]
                found = _Supposition(max(rivals, key=lambda name: near[name].difference.sqnr_db), match.candidate)
                if self._is_borne_out(found, supposed):
                    return found
        return None

    def _is_borne_out(self, found: _Supposition, supposed: Mapping[str, Candidate]) -> bool:
        """Whether what agrees next behind the node still does with the file's value in its place. Else that value is
        not the node's: a convolution's with a normalization in it that torch computes behind a concatenation."""
        comparison = self.comparison
        followed = comparison.follow({**supposed, found.node: found.candidate})
        return followed.matches.keys() >= set(comparison.network.next_after(found.node, self.matches))

    def _is_passed_on(self, node: str, key: str) -> bool:
        """Whether the value is a step on the way to another node's: a part of what torch computes at once."""
        readers = [step for step in self._trace.steps if key in step.inputs]
        following = set(self.comparison.network.next_after(node, self.matches))
        claimed = {name for step in readers for out in step.outputs for name in self._claimed.get(out, ())}
        return bool(claimed) and not claimed & following

    def fault(self, node: str, match: Match | None, *, alone: bool) -> Fault:
        """At this node, with what lies on the way to it on both sides."""
        nodes = self.comparison.network.way_to(node, self.matches)
        return Fault(nodes, match, alone, self._steps_to(match.candidate.key) if match else self._first_lost())

    def _steps_to(self, key: str) -> tuple[Step, ...]:
        """The operators that lead from values that agree to this one."""
        found, waiting = dict[int, "Step"](), [key]
        while waiting:
            step = self._makers.get(waiting.pop())
            if step is not None and step.index not in found:
                found[step.index] = step
                waiting += [read for read in step.inputs if read not in self._claimed]
        return tuple(found[index] for index in sorted(found))

    def _first_lost(self) -> tuple[Step, ...]:
        """The first operator that gives nothing which agrees, and from which nothing follows that does."""
        useful = set(self._claimed)
        for step in reversed(self._trace.steps):
            if useful.intersection(step.outputs):
                useful.update(step.inputs)
        return tuple(step for step in self._trace.steps if not useful.intersection(step.outputs))[:1]

    @property
    def _trace(self) -> Trace:
        return self.comparison.candidates.trace

    @cached_property
    def _claimed(self) -> dict[str, set[str]]:
        """Keys that agree, each with its nodes."""
        found: dict[str, set[str]] = {}
        for node, match in self.matches.items():
            found.setdefault(match.candidate.key, set()).add(node)
        return found

    @cached_property
    def _makers(self) -> dict[str, Step]:
        return {key: step for step in self._trace.steps for key in step.outputs}

    @cached_property
    def _roots(self) -> dict[str, frozenset[str]]:
        """Of each key: the nearest keys before it that agree."""
        found: dict[str, frozenset[str]] = {key: frozenset() for key in self._trace.inputs}
        for step in self._trace.steps:
            roots = frozenset().union(*({k} if k in self._claimed else found.get(k, ()) for k in step.inputs))
            found.update(dict.fromkeys(step.outputs, roots))
        return found
