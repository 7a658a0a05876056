"""`mobileseg inspect` and `mobileseg list`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileseg import registry
from mobileseg.validation.graphs.tflite import xnnpack_delegation


def test_a_checkpoint(run: Any, checkpoint: Path) -> None:
    ended = run("inspect", checkpoint, "--json")
    assert ended.code == 0, ended
    told = ended.json
    assert (told["kind"], told["architecture"], told["variant"]) == ("checkpoint", "erfnet", "eromera")
    assert (told["num_classes"], told["size_multiple"]) == (3, 8)
    assert told["preprocessing"]["name"] == "unit"
    assert told["hyperparameters"]["channels"] == [6, 8, 12]
    shown = run("inspect", checkpoint).out
    assert f"{told['parameters']:,}" in shown
    assert "multiples of 8, at least" in shown


def test_an_onnx_file(run: Any, converted: Any) -> None:
    import onnx

    path = converted[1] / "small.fp32.onnx"
    ended = run("inspect", path, "--json")
    assert ended.code == 0, ended
    told = ended.json
    assert (told["kind"], told["target"], told["precision"]) == ("artifact", "onnx", "fp32")
    assert told["bytes"] == path.stat().st_size
    graph = told["graph"]
    assert sum(graph["operators"].values()) == len(onnx.load(path).graph.node)
    assert 0 < graph["weight_bytes"] < told["bytes"]
    assert "not_run" in graph["delegation"]
    assert told["inputs"][0]["shape"] == [1, 3, 64, 64]
    assert told["metadata"]["architecture"] == "erfnet"


def test_where_an_artifact_is_slow(run: Any, converted: Any) -> None:
    path = converted[1] / "small.fp32.onnx"
    told = run("inspect", path, "--json").json
    costs, operations = told["costs"], told["graph"]["operations"]
    assert costs["macs"] == sum(operation["macs"] for operation in operations) > 0
    assert costs["unknown_macs"] == costs["unknown_bytes"] == {}
    assert len(operations) == sum(row["count"] for row in costs["operators"])
    assert len(costs["costliest"]) == 5
    shares = [cost["share"] for cost in costs["costliest"]]
    assert shares == sorted(shares, reverse=True)
    assert "not_run" in costs["delegated"]
    peak = told["graph"]["peak"]
    assert peak["bytes"] >= max(operation["bytes_written"] for operation in operations)
    assert isinstance(told["held_bytes"], int | dict)
    shown = run("inspect", path).out
    assert f"{peak['bytes'] / 1024:.0f} KiB alive at once, at operator {peak['operation']}" in shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "Time is estimated" in shown
    rows = lines[lines.index("The costliest:") + 3 :]
    first = operations[costs["costliest"][0]["operation"]]
    assert rows[0].split()[:3] == [
        str(costs["costliest"][0]["operation"]),
        first["operator"],
        "x".join(map(str, first["shape"])),
    ]
    assert first["name"][-20:] in rows[1]


def test_how_long_an_artifact_takes(run: Any, converted: Any) -> None:
    path = converted[1] / "small.fp32.onnx"
    ended = run("inspect", path, "--time", "--runs", "2", "--json")
    assert ended.code == 0, ended
    measured = ended.json["measured"]
    timed, costliest = measured["timed"], measured["costliest"]
    assert timed["threads"] == 1
    assert timed["whole_ms"] > 0
    assert sum(kind["count"] for kind in measured["kinds"]) == len(timed["operators"])
    times = [cost["ms"] for cost in costliest]
    assert len(times) == 5
    assert times == sorted(times, reverse=True)
    assert times[0] == max(operator["ms"] for operator in timed["operators"])
    shown = run("inspect", path, "--time", "--runs", "2").out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "ms here, on 1 thread, the median of" in shown
    assert "The costliest:" not in lines
    heading, _, first, *_ = lines[lines.index("The costliest, measured:") + 1 :]
    assert heading.split() == ["No.", "Operator", "MACs", "Moved", "Estimate", "Share", "ms"]
    assert re.fullmatch(r"\d+\.\d{3}", first.split()[-1])


def test_what_was_not_measured_is_no_number(run: Any, converted: Any) -> None:
    path = converted[1] / "small.fp32.onnx"
    assert "--time" in run("inspect", path, "--json").json["measured"]["not_run"]
    assert "not measured: it was not asked for (--time measures it)" in " ".join(run("inspect", path).out.split())


def test_runs_without_time(run: Any, converted: Any) -> None:
    ended = run("inspect", converted[1] / "small.fp32.onnx", "--runs", "3", "--json")
    assert ended.code == 2
    assert "--time, which times them, is missing" in ended.error["message"]


def test_a_checkpoint_is_not_timed(run: Any, checkpoint: Path) -> None:
    ended = run("inspect", checkpoint, "--time", "--json")
    assert ended.code == 2
    assert "mobileseg convert" in ended.error["message"]


def test_a_file_that_does_not_load(run: Any) -> None:
    Path("a.onnx").write_bytes(b"nothing")
    ended = run("inspect", "a.onnx", "--json")
    assert ended.code == 2
    assert "does not load" in ended.error["message"]


def test_what_a_delegate_takes() -> None:
    """Two partitions around an operator that stays: 0 -> CONV -> 1 -> ADD -> 2 -> PADV2 -> 3 -> CONV -> 4."""
    details = [
        operator(0, "CONV_2D", [0, 10], [1]),
        operator(1, "ADD", [1, 0], [2]),
        operator(2, "PADV2", [2], [3]),
        operator(3, "CONV_2D", [3, 11], [4]),
        operator(4, "DELEGATE", [0, 10], [2]),
        operator(5, "DELEGATE", [3, 11], [4]),
    ]
    delegation = xnnpack_delegation(details)
    assert delegation.operators == {"CONV_2D": 2, "ADD": 1}
    assert delegation.partitions == 2


def operator(index: int, name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    return {"index": index, "op_name": name, "inputs": np.array(inputs), "outputs": np.array(outputs)}


@pytest.mark.parametrize("kind", ["architectures", "targets", "precisions", "devices"])
def test_list(run: Any, kind: str) -> None:
    ended = run("list", kind, "--json")
    assert ended.code == 0
    rows = ended.json[kind]
    assert rows
    shown = run("list", kind).out
    for row in rows:
        assert next(iter(row.values())) in shown


def test_every_variant_is_listed(run: Any) -> None:
    rows = run("list", "architectures", "--json").json["architectures"]
    assert {(r["architecture"], r["variant"]) for r in rows} == {(v.architecture, v.name) for v in registry.variants()}
    assert all(r["summary"] and r["source"] for r in rows)


def test_list_of_what_there_is_not(run: Any) -> None:
    ended = run("list", "devicess", "--json")
    assert ended.code == 2
    assert "Did you mean 'devices'?" in ended.error["message"]
