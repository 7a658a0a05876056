"""Several targets made at once, each by a worker, from one exported program and the reference's recorded answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobileseg import resources, workers
from mobileseg.making import Count, Failure, Made, Progress, Task, attempt

if TYPE_CHECKING:
    from mobileseg.converters.export import Exported
    from mobileseg.types import Rewrite

MEMORY = 3 * resources.GIB
"""What one worker may take: the largest seen was 2.2 GiB (EdgeNets ESPNetV2 s=2.0 at 512x1024, TFLite)."""

_BEGIN, _COUNT, _END = "begin", "count", "end"


@dataclass(frozen=True)
class Shared:
    """What all workers read: the exported program's file, what tracing resolved, the folder of recorded logits."""

    program: Path
    rewrites: tuple[Rewrite, ...]
    reference: Path


@dataclass(frozen=True)
class MakingOrder:
    """One file, made by a worker."""

    task: Task
    shared: Shared

    def work(self, tell: workers.Tell) -> Made | Failure:
        import torch

        from mobileseg.converters.export import Exported
        from mobileseg.validation.parity import recorded

        @contextmanager
        def stage(name: str) -> Iterator[Count]:
            tell(_BEGIN, name)
            yield lambda *counted: tell(_COUNT, counted)
            tell(_END, name)

        exported = Exported(torch.export.load(self.shared.program), self.shared.rewrites)
        return attempt(self.task, exported, recorded(self.shared.reference), stage)


def share(exported: Exported, folder: Path) -> Shared:
    """Write the program into ``folder``, where the reference's logits are to be recorded, too."""
    import torch

    path, reference = folder / "program.pt2", folder / "reference"
    reference.mkdir()
    torch.export.save(exported.program, path)
    return Shared(path, exported.rewrites, reference)


def make_all(tasks: Sequence[Task], shared: Shared, count: int, progress: Progress) -> list[Made | Failure]:
    """The result of each task, in their order."""
    with ExitStack() as stages:
        running = [stages.enter_context(ExitStack()) for _ in tasks]
        counts: dict[int, Count | None] = {}

        def heard(number: int, word: str, value: Any) -> None:
            if word == _COUNT:
                count = counts.get(number)
                if count is not None:
                    count(*value)
                return
            running[number].close()
            if word == _BEGIN:
                counts[number] = running[number].enter_context(progress(value))

        results = workers.run([MakingOrder(task, shared) for task in tasks], count, heard)
    return [_death_of(t, r) if isinstance(r, workers.Death) else r for t, r in zip(tasks, results, strict=True)]


def _death_of(task: Task, death: workers.Death) -> Failure:
    hint = " Likely there was too little memory: try --jobs 1, or a smaller --size." if death.killed else ""
    return Failure("WorkerError", f"The process that made {task.final.name} {death.how}.{hint}", 1, "")
