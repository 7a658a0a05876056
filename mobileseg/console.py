"""What the commands show to people: progress while they work, tables when they are done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mobileseg.types import NotRun

if TYPE_CHECKING:
    from mobileseg.diagnosis import Diagnosis
    from mobileseg.inspection import CheckpointSummary
    from mobileseg.listing import Listing
    from mobileseg.types import Checkpoint, ConvertedArtifact, ConvertResult, Notice, Preprocessing, Size, TensorSpec
    from mobileseg.validation.inspection import ArtifactSummary, Delegation

GATES = {
    "pixel_agreement": ("agreement", ">=", lambda share: f"{100 * share:.4g} %", "--min-agreement"),
    "sqnr_db": ("SQNR", ">=", lambda decibels: f"{decibels:.4g} dB", "--min-sqnr"),
    "miou_drop_points": ("mIoU drop", "<=", lambda points: f"{points:.3g} points", "--max-miou-drop"),
}
"""Gate -> what it is called, on which side of the limit a value passes, its unit, and the option that sets it."""


class Screen:
    """One command's output for people, on ``stream``."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self.console = Console(file=stream, quiet=quiet, highlight=False, markup=False, emoji=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The stage's name with the time it takes: moving on a terminal, else a line when it begins and one when it
        has ended."""
        start = time.perf_counter()
        if self.console.is_terminal and not self.console.quiet:
            columns = SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
            with Progress(
                *columns, console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False
            ) as progress:
                progress.add_task(name, total=None)
                yield
        else:
            self.console.print(f"{name} ...", soft_wrap=True)
            yield
        self.console.print(f"{name}: {time.perf_counter() - start:.1f} s", soft_wrap=True)

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

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
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
        if not files:
            return
        self.table(("File, size", "Input", "Parity", "Gates", "Time"), [converted_row(f) for f in files])
        self.console.print(f"In {files[0].artifact.path.parent}, each with its report (.report.json).", soft_wrap=True)
        for file in files:
            for gate in (g for g in file.report["parity"]["gates"] if not g["passed"]):
                self.console.print(f"Gate not met by {file.artifact.path.name}: {gate_text(gate)}.", soft_wrap=True)

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
        if diagnosis.checkpoint is None or diagnosis.size is None:
            return
        self.loaded(diagnosis.checkpoint, diagnosis.size)
        for prospect in diagnosis.prospects:
            self.console.print(f"\nFor {prospect.target} in {prospect.precision}:")
            self.facts([(f"{r.count} x", f"{r.name}, {r.exact}: {r.why}") for r in prospect.rewrites if r.count])
            for reason in (reason for rewrite in prospect.rewrites for reason in rewrite.left):
                self.console.print(f"Left: {reason}")
            self.console.print(prospect.refusal or "Nothing is left that it cannot run.")

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
        metadata = summary.metadata
        rows = [
            ("file", str(summary.path)),
            ("target", f"{summary.target}, {summary.precision}"),
            ("runtime", summary.runtime),
            ("bytes", f"{summary.bytes:,}, of which weights {summary.graph.weight_bytes:,}"),
            ("sha256", summary.sha256),
            *(("input", tensor_text(t)) for t in summary.inputs),
            *(("output", tensor_text(t)) for t in summary.outputs),
            ("delegate", delegate_text(summary.graph.delegation)),
            *(
                (key, metadata_text(value))
                for key, value in metadata.items()
                if key not in ("target", "precision", "input", "output")
            ),
        ]
        self.facts(rows)
        delegation = summary.graph.delegation
        taken = None if isinstance(delegation, NotRun) else delegation.operators
        columns = ("Operator", "Count") if taken is None else ("Operator", "Count", "Delegated")
        self.table(
            columns,
            [
                (name, str(count)) if taken is None else (name, str(count), str(taken.get(name, 0)))
                for name, count in summary.graph.operators.items()
            ],
        )
        for note in summary.notes:
            self.console.print(f"Note: {note}")

    def listed(self, listing: Listing) -> None:
        self.table([column.capitalize() for column in listing.columns], listing.rows)


def converted_row(file: ConvertedArtifact) -> tuple[str, ...]:
    parity = file.report["parity"]
    lines = [f"agreement {share_text(parity['pixel_agreement'])}"]
    if not isinstance(parity["sqnr_db"], Mapping):
        lines.append(f"SQNR {number_text(parity['sqnr_db'], '.1f')} dB")
    if not isinstance(parity["miou_artifact"], Mapping):
        lines += [f"mIoU {parity['miou_artifact']:.4f}", f"checkpoint {parity['miou_reference']:.4f}"]
    met = sum(gate["passed"] for gate in parity["gates"])
    return (
        f"{file.artifact.path.name}\n{bytes_text(file.report['artifact']['bytes'])}",
        "\n".join(f"{'x'.join(map(str, t.shape))}\n{t.layout} {t.dtype}" for t in file.artifact.inputs),
        "\n".join(lines),
        f"{met} of {len(parity['gates'])} met",
        f"{sum(file.seconds.values()):.0f} s",
    )


def gate_text(gate: Mapping[str, Any]) -> str:
    """A gate that was not met: what was measured, what was asked for, and the option that asks otherwise."""
    name, side, unit, option = GATES[gate["name"]]
    value = gate["value"]
    measured = f"not measured ({value['not_run']})" if isinstance(value, Mapping) else unit(value)
    return f"{name} is {measured}, asked for is {side} {unit(gate['limit'])} ({option})"


def share_text(share: float) -> str:
    """Rounded down, so that 100 % is only what is."""
    return f"{int(share * 1e6) / 1e4:.4f} %"


def number_text(value: float | str, form: str) -> str:
    return value if isinstance(value, str) else format(value, form)


def bytes_text(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def preprocessing_text(p: Preprocessing) -> str:
    parts = [p.channel_order, *([f"/ {p.scale:g}"] if p.scale != 1 else [])]
    if p.mean != (0.0, 0.0, 0.0):
        parts.append(f"- ({', '.join(f'{m:g}' for m in p.mean)})")
    if p.std != (1.0, 1.0, 1.0):
        parts.append(f"/ ({', '.join(f'{s:g}' for s in p.std)})")
    if p.post_scale != 1:
        parts.append(f"/ {p.post_scale:g}")
    return f"{p.name}: {' '.join(parts)}"


def tensor_text(t: TensorSpec) -> str:
    shape = "x".join("?" if n < 0 else str(n) for n in t.shape)
    span = f", {t.range[0]:g} to {t.range[1]:g}" if t.range else ""
    quantized = f", scale {t.scale:g}, zero point {t.zero_point}" if t.scale is not None else ""
    return f"{t.name}: {shape} {t.layout} {t.dtype}{span}{quantized}"


def delegate_text(delegation: Delegation | NotRun) -> str:
    if isinstance(delegation, NotRun):
        return f"not run: {delegation.why}"
    return f"{delegation.name}, {delegation.partitions} partitions"


def metadata_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
