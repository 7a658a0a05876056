"""What the commands show to people: progress while they work, tables when they are done."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mobileseg.texts import (
    bytes_text,
    class_rows,
    converted_row,
    costliest_rows,
    count_of_text,
    delegate_text,
    duration_text,
    fault_text,
    gate_text,
    held_text,
    kind_row,
    layer_row,
    measured_rows,
    metadata_text,
    oldest_runtime_facts,
    operator_rows,
    parity_facts,
    peak_text,
    plan_text,
    preprocessing_text,
    shares_text,
    tensor_text,
    time_text,
    unknown_texts,
    work_text,
)
from mobileseg.texts_int8 import class_texts, int8_texts
from mobileseg.types import NotRun

if TYPE_CHECKING:
    from mobileseg.diagnosis import Diagnosis
    from mobileseg.inspection import CheckpointSummary
    from mobileseg.listing import Listing
    from mobileseg.making import Count
    from mobileseg.prediction import Prediction
    from mobileseg.proving import Validation
    from mobileseg.types import Checkpoint, ConvertResult, Notice, Size
    from mobileseg.validation.devices.arm64_root import Installation
    from mobileseg.validation.graphs.base import Operation
    from mobileseg.validation.inspection import ArtifactSummary
    from mobileseg.validation.measured import Measured

LARGEST = 10
"""How many layers of an artifact are shown."""

WORTH_TELLING = 10.0
"""Seconds that are left."""

_STEP, _MANY = 10, 100


@dataclass
class _Counted:
    """Pictures of one file or folder, or what a stage counts. ``begun``: when ``first`` of them were done; ``shown``:
    the last number told."""

    begun: float
    first: int
    shown: int = 0

    def left(self, now: float, done: int, total: int | None) -> float:
        """Seconds; 0 where it cannot be told."""
        if total is None or done == self.first:
            return 0.0
        return (now - self.begun) / (done - self.first) * (total - done)


class Screen:
    """One command's output for people, on ``stream``."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self.console = Console(file=stream, quiet=quiet, highlight=False, markup=False, emoji=False)
        self.running: Progress | None = None
        self.lock = threading.Lock()
        self.counted: dict[Path, _Counted] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Count | None]:
        """The stage's name with the time it takes: moving on a terminal, with what it counts, else a line when it
        begins and one when it has ended. Several may run at once, each in a thread of its own."""
        start = time.perf_counter()
        if self.console.is_terminal and not self.console.quiet:
            with self.moving(name) as count:
                yield count
        else:
            self.console.print(f"{name} ...", soft_wrap=True)
            yield None
        self.console.print(f"{name}: {time.perf_counter() - start:.1f} s", soft_wrap=True)

    @contextmanager
    def moving(self, name: str) -> Iterator[Count]:
        """A line that moves, below those of other stages: a terminal has one display, which they share."""
        counted: dict[str, _Counted] = {}
        with self.lock:
            if self.running is None:
                columns = SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
                self.running = Progress(
                    *columns, console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False
                )
                self.running.start()
            progress, line = self.running, self.running.add_task(name, total=None)

        def count(what: str, done: int, total: int) -> None:
            now = time.perf_counter()
            left = counted.setdefault(what, _Counted(now, done)).left(now, done, total or None)
            with self.lock:
                progress.update(line, description=f"{name}: {count_of_text(what, done, total, left)}")

        try:
            yield count
        finally:
            with self.lock:
                progress.remove_task(line)
                if not progress.tasks:
                    progress.stop()
                    self.running = None

    def loaded(self, checkpoint: Checkpoint, size: Size) -> None:
        """What was inferred of a checkpoint, each with the option that says otherwise."""
        rows = [
            ("network", f"{checkpoint.architecture}, {checkpoint.variant}", "--arch, --variant"),
            ("classes", str(checkpoint.num_classes), ""),
            ("parameters", f"{checkpoint.parameters:,}", ""),
            ("size", f"{size[0]}x{size[1]} (height x width)", "--size"),
            ("preprocessing", preprocessing_text(checkpoint.preprocessing), "--preprocessing"),
        ]
        self.facts(rows)
        self.notices(checkpoint.notices)

    def notices(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self.console.print(f"Note: {notice.message} ({notice.option})")

    def facts(self, rows: Sequence[tuple[str, ...]]) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for row in rows:
            grid.add_row(*(f"  {text}" if i == 0 else text for i, text in enumerate(row)))
        self.console.print(grid)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> None:
        """``right``: columns of numbers."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold", justify="right" if column in right else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def converted(self, result: ConvertResult) -> None:
        """The closing table, and which gates were not met."""
        files = [f for f in result.artifacts if "not_run" not in f.report]
        for left_out in (f for f in result.artifacts if "not_run" in f.report):
            self.console.print(
                f"{left_out.artifact.path}: {left_out.report['not_run']}, would be written", soft_wrap=True
            )
        for failure in result.failures:
            self.console.print(f"{failure.target} in {failure.precision} failed: {failure.message}", soft_wrap=True)
        if not files:
            return
        self.table(("File, size", "Input", "Parity", "Gates", "Time"), [converted_row(f) for f in files])
        self.console.print(f"In {files[0].artifact.path.parent}, each with its report (.report.json).", soft_wrap=True)
        for file in files:
            parity = file.report["parity"]
            if "not_run" in parity:
                unmet = " The limits that were asked for are not met." if file.passed is False else ""
                self.console.print(
                    f"{file.artifact.path.name} is not compared: {parity['not_run']}{unmet}", soft_wrap=True
                )
                continue
            if file.artifact.precision == "fp16" and "recipe" in file.report["quantization"]:
                recipe = file.report["quantization"]["recipe"]
                self.console.print(f"{file.artifact.path.name} is {recipe}.", soft_wrap=True)
            for gate in (g for g in parity["gates"] if not g["passed"]):
                self.console.print(f"Gate not met by {file.artifact.path.name}: {gate_text(gate)}.", soft_wrap=True)
        for line in (line for file in files for line in int8_texts(file)):
            self.console.print(line)

    def validated(self, found: Validation) -> None:
        """What was measured of one file, class by class, and which gates were met."""
        parity = found.report["parity"]
        self.facts(parity_facts(found.report))
        self.table(("Class", "IoU of file and reference", "Change of IoU"), class_rows(parity))
        for line in class_texts(parity, Path(found.report["artifact"]["path"]).name):
            self.console.print(line)
        for gate in parity["gates"]:
            self.console.print(f"{'met    ' if gate['passed'] else 'NOT MET'}  {gate_text(gate)}", soft_wrap=True)
        for fault in found.report["operators"].get("faults", ()):
            self.console.print(f"WRONG    {fault_text(fault)}", soft_wrap=True)

    def predicting(self, path: Path, done: int, total: int | None) -> None:
        """A line at the first picture or frame, each tenth of the first hundred, and each hundredth; with the time that
        is left, where it is worth telling."""
        now = time.perf_counter()
        counted = self.counted.setdefault(path, _Counted(now, done))
        step = _STEP if done <= _MANY else _MANY
        if counted.shown and done != total and done // step == counted.shown // step:
            return
        counted.shown = done
        left = counted.left(now, done, total)
        told = f", about {duration_text(left)} left" if left >= WORTH_TELLING else ""
        self.console.print(f"{path.name}: {done} of {total or 'an unknown number'}{told}", soft_wrap=True)

    def predicted(self, made: Prediction) -> None:
        """What was drawn, what covers most of it, and where it is."""
        height, width = made.input_size
        self.facts(
            [
                ("model", made.model),
                ("runs on", f"{made.runtime}, pictures resized to {height}x{width}"),
                ("classes", f"{len(made.classes.names)} of {made.classes.dataset} (--classes)"),
            ]
        )
        if made.pictures:
            shown = made.pictures[:LARGEST]
            rows = [(p.path.name, "x".join(map(str, p.size)), p.shares, p.network_ms) for p in shown]
            self.table(
                ("Picture", "Size", "Most of it", "Network"),
                [(n, size, shares_text(s, made.classes, 3), f"{ms:.0f} ms") for n, size, s, ms in rows],
            )
            if len(made.pictures) > len(shown):
                self.console.print(f"... and {len(made.pictures) - len(shown)} more (--json lists all).")
        if made.videos:
            self.table(
                ("Video", "Size", "Frames", "Most of it", "Network"),
                [
                    (
                        v.path.name,
                        "x".join(map(str, v.size)),
                        f"{v.frames} at {v.fps:.4g} /s",
                        shares_text(v.shares, made.classes, 3),
                        f"{v.network_ms:.0f} ms",
                    )
                    for v in made.videos
                ],
            )
        for silent in (v for v in made.videos if v.audio_dropped):
            self.console.print(f"The sound of {silent.path.name} is not in its overlay.", soft_wrap=True)
        self.console.print(f"Over all: {shares_text(made.shares, made.classes, form='.1f')}")
        self.console.print(
            f"In {made.output}: masks/ (label maps with colours), overlays/, legend.png; {made.seconds:.1f} s.",
            soft_wrap=True,
        )
        for failure in made.failures:
            self.console.print(f"Not read: {failure.reason}", soft_wrap=True)
        for note in made.notes:
            self.console.print(f"Note: {note}")

    def diagnosed(self, diagnosis: Diagnosis) -> None:
        self.table(
            ("Target", "Packages", "Works"),
            [
                (
                    backend.target,
                    "\n".join(f"{name} {version or 'missing'}" for name, version in backend.packages.items()),
                    "yes" if backend.works else "no",
                )
                for backend in diagnosis.backends
            ],
        )
        for backend in diagnosis.backends:
            if not backend.works:
                self.console.print(f"{backend.target}: {backend.fault}. Mend it with: {backend.remedy}", soft_wrap=True)
        for device in diagnosis.devices:
            self.console.print(f"Device {device.name}: {device.fault or 'works'}", soft_wrap=True)
        if diagnosis.checkpoint is None or diagnosis.size is None:
            return
        self.loaded(diagnosis.checkpoint, diagnosis.size)
        for prospect in diagnosis.prospects:
            self.console.print(f"\nFor {prospect.target} in {prospect.precision}:")
            self.facts([(f"{r.count} x", f"{r.name}, {r.exact}: {r.why}") for r in prospect.rewrites if r.count])
            for reason in (reason for rewrite in prospect.rewrites for reason in rewrite.left):
                self.console.print(f"Left: {reason}")
            self.console.print(prospect.refusal or "Nothing is left that it cannot run.")

    def installed(self, installed: Installation) -> None:
        """What a device has, and where."""
        packages = ", ".join(f"{name} {version}" for name, version in installed.packages.items())
        self.console.print(
            f"{installed.device} {'is now' if installed.made else 'was already'} set up: {packages} on Python "
            f"{installed.python}, in '{installed.folder}' ({bytes_text(installed.bytes)}).",
            soft_wrap=True,
        )

    def inspected(self, summary: CheckpointSummary | ArtifactSummary) -> None:
        if summary.kind == "checkpoint":
            self.checkpoint(summary)
        else:
            self.artifact(summary)

    def checkpoint(self, summary: CheckpointSummary) -> None:
        rule = f"multiples of {summary.size_multiple}" if summary.size_multiple > 1 else "any"
        rows = [
            ("file", str(summary.path)),
            ("network", f"{summary.architecture}, {summary.variant}"),
            *((name, str(value)) for name, value in summary.hyperparameters.items()),
            ("parameters", f"{summary.parameters:,}"),
            ("bytes", f"{summary.bytes:,}"),
            ("sha256", summary.sha256),
            ("size", f"{summary.size[0]}x{summary.size[1]} (height x width)"),
            ("sizes allowed", f"{rule}, at least {summary.min_size}"),
            ("preprocessing", preprocessing_text(summary.preprocessing)),
        ]
        self.facts(rows)
        self.notices(summary.notices)

    def artifact(self, summary: ArtifactSummary) -> None:
        metadata, graph, costs = summary.metadata, summary.graph, summary.costs
        rows = [
            ("file", str(summary.path)),
            ("target", f"{summary.target}, {summary.precision}"),
            ("runtime", summary.runtime),
            *oldest_runtime_facts(graph.oldest_runtime),
            ("bytes", f"{summary.bytes:,}, of which weights {graph.weight_bytes:,}"),
            ("sha256", summary.sha256),
            *(("input", tensor_text(t)) for t in summary.inputs),
            *(("output", tensor_text(t)) for t in summary.outputs),
            ("time", time_text(summary.measured)),
            ("delegate", delegate_text(graph.delegation, costs)),
            ("work", work_text(costs)),
            ("activations", peak_text(graph.peak, graph.operations)),
            ("memory", held_text(summary.held_bytes)),
            ("memory plan", plan_text(graph.planned_bytes)),
            *(
                (key, metadata_text(value))
                for key, value in metadata.items()
                if key not in ("target", "precision", "input", "output")
            ),
        ]
        self.facts(rows)
        columns, operators = operator_rows(costs)
        self.console.print(f"\nOperators. Time is estimated, for {costs.machine}, and not measured:")
        self.table(columns, operators, right=columns[1:])
        left = {} if isinstance(graph.delegation, NotRun) else graph.delegation.left
        self.facts([(f"{name}:", why) for name, why in left.items()])
        for text in unknown_texts(costs):
            self.console.print(text)
        if isinstance(summary.measured, NotRun):
            self.console.print("\nThe costliest:")
            columns = ("No.", "Operator", "Result", "MACs", "Moved", "Time")
            self.table(columns, costliest_rows(costs, graph.operations), right=("No.", *columns[2:]))
        else:
            self.measured(summary.measured, graph.operations)
        stored = ", ".join(f"{count} {kind}" for kind, count in graph.quantization.items())
        self.console.print(f"\nConstants: {stored or 'none'}. The largest layers:")
        largest = graph.layers[:LARGEST]
        self.table(("Layer", "Operator", "Type", "Bytes"), [layer_row(layer) for layer in largest], right=("Bytes",))
        if len(graph.layers) > LARGEST:
            self.console.print(f"... and {len(graph.layers) - LARGEST} more (--json lists all).")
        for note in summary.notes:
            self.console.print(f"Note: {note}")

    def measured(self, measured: Measured, operations: Sequence[Operation]) -> None:
        """Kinds of operators and single ones, by measured time."""
        self.console.print(f"\nMeasured: all operators take {measured.timed.sum_ms:.2f} ms. By kind:")
        kinds = measured.kinds[:LARGEST]
        self.table(("Operator", "Count", "ms", "Share"), [kind_row(k) for k in kinds], right=("Count", "ms", "Share"))
        if len(measured.kinds) > LARGEST:
            self.console.print(f"... and {len(measured.kinds) - LARGEST} more (--json lists all).")
        self.console.print("\nThe costliest, measured:")
        columns = ("No.", "Operator", "MACs", "Moved", "Estimate", "Share", "ms")
        self.table(columns, measured_rows(measured, operations), right=("No.", *columns[2:]))
        if any(cost.operation is None for cost in measured.costliest):
            self.console.print("Those without a number are not in the file: the runtime made them of its operators.")

    def listed(self, listing: Listing) -> None:
        self.table([column.capitalize() for column in listing.columns], listing.rows)
