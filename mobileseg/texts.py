"""How the screen words what it shows: one value, one line or cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mobileseg.types import NotRun

if TYPE_CHECKING:
    from mobileseg.types import Classes, ConvertedArtifact, Preprocessing, TensorSpec
    from mobileseg.validation.graphs.base import Delegation, Layer, Operation, Peak, Shape
    from mobileseg.validation.graphs.estimate import Costs
    from mobileseg.validation.measured import Measured
    from mobileseg.validation.timings import Kind

BUSY = 0.02
"""A share of waiting above which measured times are not to be trusted."""

GATES = {
    "pixel_agreement": ("agreement", ">=", lambda share: f"{100 * share:.4g} %", "--min-agreement"),
    "sqnr_db": ("SQNR", ">=", lambda decibels: f"{decibels:.4g} dB", "--min-sqnr"),
    "miou_drop_points": ("mIoU drop", "<=", lambda points: f"{points:.3g} points", "--max-miou-drop"),
    "operators": ("the number of wrong operators", "<=", lambda count: f"{count:.0f}", "--bisect"),
    "baseline_pixel_agreement": ("agreement", ">=", lambda share: f"{100 * share:.4f} %", "--baseline"),
    "baseline_sqnr_db": ("SQNR", ">=", lambda decibels: f"{decibels:.4g} dB", "--baseline"),
    "baseline_miou": ("mIoU", ">=", lambda miou: f"{miou:.4f}", "--baseline"),
    "baseline_bytes": ("size", "<=", lambda count: f"{count:,.0f} bytes", "--baseline"),
}
"""Gate -> what it is called, on which side of the limit a value passes, its unit, and the option that sets it."""


def converted_row(file: ConvertedArtifact) -> tuple[str, ...]:
    parity = file.report["parity"]
    if "not_run" in parity:
        return (*_named(file), "loaded, checked\nnot run here", "none held", _seconds(file))
    lines = [f"agreement {share_text(parity['pixel_agreement'])}"]
    if not isinstance(parity["sqnr_db"], Mapping):
        lines.append(f"SQNR {number_text(parity['sqnr_db'], '.1f')} dB")
    if not isinstance(parity["miou_artifact"], Mapping):
        lines += [f"mIoU {parity['miou_artifact']:.4f}", f"checkpoint {parity['miou_reference']:.4f}"]
    met = sum(gate["passed"] for gate in parity["gates"])
    return (*_named(file), "\n".join(lines), f"{met} of {len(parity['gates'])} met", _seconds(file))


def _named(file: ConvertedArtifact) -> tuple[str, str]:
    return (
        f"{file.artifact.path.name}\n{bytes_text(file.report['artifact']['bytes'])}",
        "\n".join(f"{'x'.join(map(str, t.shape))}\n{t.layout} {t.dtype}" for t in file.artifact.inputs),
    )


def _seconds(file: ConvertedArtifact) -> str:
    return f"{sum(file.seconds.values()):.0f} s"


def gate_text(gate: Mapping[str, Any]) -> str:
    """A gate that was not met: what was measured, what was asked for, and the option that asks otherwise."""
    name, side, unit, option = GATES[gate["name"]]
    value = gate["value"]
    measured = f"not measured ({value['not_run']})" if isinstance(value, Mapping) else unit(value)
    return f"{name} is {measured}, asked for is {side} {unit(gate['limit'])} ({option})"


def fault_text(fault: Mapping[str, Any]) -> str:
    """An operator that is wrong: where it is in the network and in the file, how wrong, and what was done to it."""
    operators = fault["file_operators"]
    named = (
        f"{operators[-1]['operator']} {operators[-1]['index']} '{operators[-1]['name']}'" if operators else "nothing"
    )
    before = f" (with the {len(operators) - 1} before it)" if len(operators) > 1 else ""
    module = f" of {fault['module']}" if fault["module"] else ""
    ways = dict.fromkeys(node["operator"] for node in fault["torch_nodes"])
    sentences = [
        f"torch's {fault['operator']}{module} ({fault['node']}) is {named}{before} in the file, {_how_wrong(fault)}",
        "everything behind it agrees" if fault["alone"] else "what is behind it does not agree either",
        f"it stands for {', '.join(ways)}" if len(ways) > 1 else "",
        f"changed by {', '.join(fault['rewrites'])}" if fault["rewrites"] else "",
    ]
    if fault["quantization"]:
        stored = fault["quantization"]
        sentences.append(f"stored as {stored['dtype']}, scale {stored['scale']:.6g}, zero point {stored['zero_point']}")
    return "; ".join(filter(None, sentences))


def _how_wrong(fault: Mapping[str, Any]) -> str:
    if fault["sqnr_db"] is None:
        return "and no value in its place"
    decibels = fault["sqnr_db"] if isinstance(fault["sqnr_db"], str) else f"{fault['sqnr_db']:.1f} dB"
    bias = fault["bias_steps"]
    return f"{decibels} from what the same inputs give" + (
        f", {bias:+.2f} quantization steps on average" if bias is not None else ""
    )


def parity_facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was compared, and how near it is; what was not measured is left out."""
    artifact, parity = report["artifact"], report["parity"]
    forms = {
        "pixel agreement": ("pixel_agreement", share_text),
        "along boundaries": ("boundary_agreement", share_text),
        "confident flips": ("confident_flips", lambda share: f"{100 * share:.4f} %"),
        "SQNR": ("sqnr_db", lambda value: f"{number_text(value, '.1f')} dB"),
        "largest error": ("max_abs_err", lambda value: f"{value:.3g}"),
        "mean error": ("mean_abs_err", lambda value: f"{value:.3g}"),
        "cosine": ("cosine", lambda value: f"{value:.9f}"),
        "mIoU, checkpoint": ("miou_reference", lambda value: f"{value:.4f}"),
        "mIoU, file": ("miou_artifact", lambda value: f"{value:.4f}"),
    }
    measured = [(name, worded(parity[key])) for name, (key, worded) in forms.items() if _is_measured(parity[key])]
    return [
        ("file", artifact["path"]),
        ("format", f"{artifact['target']}, {artifact['precision']}"),
        ("runs on", parity["runner"]),
        *(("note", note) for note in parity["notes"]),
        *measured,
    ]


def class_rows(parity: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of each class that the reference gives to some pixel: its IoU between both sides, and the change of its IoU
    against labels."""
    changes = parity["per_class_iou_change"]
    return [
        (name, f"{iou:.4f}", f"{changes[name]:+.4f}" if _is_measured(changes.get(name, {})) else "-")
        for name, iou in parity["per_class_iou_against_reference"].items()
        if _is_measured(iou)
    ]


def _is_measured(value: Any) -> bool:
    return not isinstance(value, Mapping)


def layer_row(layer: Layer) -> tuple[str, ...]:
    return shortened(layer.name, 40), layer.operator, layer.dtype, f"{layer.bytes:,}"


def shortened(name: str, most: int = 38) -> str:
    """The end of a long name."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def share_text(share: float) -> str:
    """Rounded down, so that 100 % is only what is."""
    return f"{int(share * 1e6) / 1e4:.4f} %"


def number_text(value: float | str, form: str) -> str:
    return value if isinstance(value, str) else format(value, form)


def duration_text(seconds: float) -> str:
    """``"40 s"``, ``"12 min"``, ``"2.5 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def count_of_text(what: str, done: int, total: int, left: float) -> str:
    """``"37 of 100 pictures, 12 s left"``; ``total`` 0 and ``left`` below a second are not told."""
    of = f" of {total}" if total else ""
    return f"{done}{of} {what}" + (f", {duration_text(left)} left" if left >= 1.0 else "")


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


def delegate_text(delegation: Delegation | NotRun, costs: Costs) -> str:
    if isinstance(delegation, NotRun):
        return f"not run: {delegation.why}"
    calls = f"{delegation.name}, {delegation.partitions} partition{'' if delegation.partitions == 1 else 's'}"
    if isinstance(costs.delegated, NotRun):
        return calls
    shares = {"operators": costs.delegated.operators, "MACs": costs.delegated.macs, "bytes": costs.delegated.bytes}
    taken = [f"{100 * share:.1f} % of {what}" for what, share in shares.items() if share is not None]
    return f"{calls}: {', '.join(taken)}" if taken else calls


def work_text(costs: Costs) -> str:
    moved = f"{bytes_text(costs.bytes_read)} read, {bytes_text(costs.bytes_written)} written"
    return f"{count_text(costs.macs)} MACs; {moved}"


def peak_text(peak: Peak | NotRun, operations: Sequence[Operation]) -> str:
    if isinstance(peak, NotRun):
        return peak.why
    at = f", at operator {peak.operation} ({operations[peak.operation].operator})" if operations else ""
    return f"{bytes_text(peak.bytes)} alive at once{at}"


def held_text(held: int | NotRun) -> str:
    if isinstance(held, NotRun):
        return f"not measured: {held.why}"
    return f"{bytes_text(held)} held after a run, weights included (measured)"


def plan_text(planned: int | NotRun) -> str:
    return planned.why if isinstance(planned, NotRun) else f"{planned:,} bytes, without the delegate's own"


def oldest_runtime_facts(oldest: str | NotRun | None) -> list[tuple[str, str]]:
    """A row, or none."""
    if oldest is None:
        return []
    return [("oldest runtime", f"not known: {oldest.why}" if isinstance(oldest, NotRun) else oldest)]


def operator_rows(costs: Costs) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of all operators, the costliest first; the delegate's column where there is one."""
    with_delegate = not isinstance(costs.delegated, NotRun)
    columns = ("Operator", "Count", *(("Delegated",) if with_delegate else ()), "MACs", "Moved", "Time")
    return columns, [
        (
            row.operator,
            str(row.count),
            *((str(row.delegated),) if with_delegate else ()),
            known_text(row.macs, count_text),
            known_text(row.bytes, bytes_text),
            percent_text(row.share),
        )
        for row in costs.operators
    ]


def costliest_rows(costs: Costs, operations: Sequence[Operation]) -> list[tuple[str, ...]]:
    """Number; operator and name; shape of the result; MACs; bytes; share of the time."""
    rows: list[tuple[str, ...]] = []
    for cost in costs.costliest:
        found = operations[cost.operation]
        alone = " (not delegated)" if found.delegated is False and not isinstance(costs.delegated, NotRun) else ""
        rows.append(
            (
                str(cost.operation),
                f"{found.operator}{alone}\n{shortened(found.name)}",
                shape_text(found.shape),
                known_text(found.macs, count_text),
                known_text(found.bytes_moved, bytes_text),
                percent_text(cost.share),
            )
        )
    return rows


def time_text(measured: Measured | NotRun) -> str:
    """Of the whole file, and how that was had."""
    if isinstance(measured, NotRun):
        return f"not measured: {measured.why}"
    timed = measured.timed
    threads = "1 thread" if timed.threads == 1 else f"{timed.threads} threads"
    runs = "1 run" if timed.runs == 1 else f"the median of {timed.runs} runs"
    busy = f"; the machine was busy, with other processes for {timed.waited:.0%} of it" if timed.waited > BUSY else ""
    return f"{timed.whole_ms:.2f} ms here, on {threads}, {runs}{busy}; {timed.runtime}"


def kind_row(kind: Kind) -> tuple[str, ...]:
    return kind.operator, str(kind.count), f"{kind.ms:.3f}", percent_text(kind.share)


def measured_rows(measured: Measured, operations: Sequence[Operation]) -> list[tuple[str, ...]]:
    """Number in the file; operator and name; MACs; bytes; shares of the estimated and of the measured time; ms. What
    the runtime made of several operators is not in the file, and nothing is estimated of it."""
    rows: list[tuple[str, ...]] = []
    for cost in measured.costliest:
        timed = measured.timed.operators[cost.operator]
        found = None if cost.operation is None else operations[cost.operation]
        alone = " (not delegated)" if measured.timed.partitions and not timed.delegated else ""
        rows.append(
            (
                "" if cost.operation is None else str(cost.operation),
                f"{timed.operator}{alone}\n{shortened((found or timed).name, 34)}",
                known_text(None if found is None else found.macs, count_text),
                known_text(None if found is None else found.bytes_moved, bytes_text),
                "?" if cost.estimated is None else percent_text(cost.estimated),
                percent_text(cost.share),
                f"{cost.ms:.3f}",
            )
        )
    return rows


def unknown_texts(costs: Costs) -> list[str]:
    """What is not in the sums."""
    unknown = {"MACs": costs.unknown_macs, "bytes": costs.unknown_bytes}
    return [
        f"Not known, and not counted: the {what} of {', '.join(f'{count} {name}' for name, count in found.items())}."
        for what, found in unknown.items()
        if found
    ]


def shape_text(shape: Shape) -> str:
    return "?" if shape is None else "x".join("?" if length is None else str(length) for length in shape) or "1"


def known_text(value: int | None, worded: Callable[[int], str]) -> str:
    return "?" if value is None else worded(value)


def count_text(count: int) -> str:
    """``"920"``, ``"44.7 M"``, ``"1.85 G"``: three digits."""
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)


def percent_text(share: float) -> str:
    return f"{100 * share:.1f} %"


def metadata_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def shares_text(shares: Sequence[float], classes: Classes, count: int | None = None, form: str = ".0f") -> str:
    """``"road 27 %, sky 26 %"``: the classes that cover most, those that cover nothing left out."""
    ranked = sorted(zip(shares, classes.names, strict=True), reverse=True)
    return ", ".join(f"{name} {100 * share:{form}} %" for share, name in ranked[:count] if share > 0)
