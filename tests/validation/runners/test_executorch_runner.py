"""The ExecuTorch runner and graph reader: our files, others' files, damaged files, and delegates that are not here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobileseg.errors import MissingExtraError, UnavailableError, UsageError
from mobileseg.types import NotRun, Placement
from mobileseg.validation.coreml.operators import OPERATORS
from mobileseg.validation.graphs import read_graph
from mobileseg.validation.runners import executorch_coreml, open_artifact

pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")
SIZE = (6, 10)
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def network() -> Any:
    """A fixed 1x1 convolution from RGB to four classes, as a torch module."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 4, 1).eval()


@pytest.fixture(scope="session")
def make(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The convolution as a .pte file of ours, for a delegate, with a head."""
    from mobileseg.converters.executorch import TARGET
    from mobileseg.converters.export import Deployed, export, rewrite
    from mobileseg.converters.target import Lowering

    folder = tmp_path_factory.mktemp("pte")

    def made(delegate: str = "xnnpack", head: str = "logits", batch: int = 1) -> Path:
        path = folder / f"{delegate}.{head}.{batch}.pte"
        if not path.exists():
            metadata = {
                "target": "executorch",
                "precision": "fp32",
                "head": head,
                "input": {"name": "picture", "layout": "NCHW"},
                "output": {"name": head, "layout": "NHW" if head == "argmax" else "NCHW"},
            }
            options = {"delegate": delegate}
            module = Deployed(network, None, head)  # type: ignore[arg-type]
            rewritten = rewrite(export(module, SIZE, batch=batch), TARGET.backend(options), "fp32")
            TARGET.lower(rewritten, Lowering("fp32", head, metadata, options), path)  # type: ignore[arg-type]
        return path

    return made


@pytest.fixture(scope="session")
def foreign(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The convolution as a .pte file of ExecuTorch's own tools, without metadata and digest."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(network, (torch.zeros(1, 3, *SIZE),))
    path = tmp_path_factory.mktemp("foreign") / "foreign.pte"
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)
    return path


@pytest.fixture(scope="session")
def expected(network: Any, pictures: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        logits: np.ndarray = network(torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    return logits


@pytest.mark.parametrize("delegate", ["xnnpack", "portable"])
@pytest.mark.parametrize("batch", [1, 3])
def test_runs_and_says_what_ran(make, pictures, expected, delegate, batch):
    runner = open_artifact(make(delegate, batch=batch))
    np.testing.assert_allclose(runner.run(pictures), expected, rtol=1e-5, atol=1e-4)
    assert (runner.head, runner.notes, runner.cannot_run, runner.size) == ("logits", (), "", SIZE)
    assert (runner.inputs[0].name, runner.outputs[0].name) == ("picture", "logits")
    assert (runner.inputs[0].dtype, runner.inputs[0].layout) == ("float32", "NCHW")
    assert (runner.artifact.target, runner.artifact.precision) == ("executorch", "fp32")
    assert runner.runtime.startswith("executorch 1.")
    assert ("XNNPACK" in runner.runtime) == (delegate == "xnnpack")


def test_class_maps(make, pictures, expected):
    runner = open_artifact(make(head="argmax"), Placement(threads=2))
    assert runner.outputs[0].dtype == "uint8"
    classes = runner.run(pictures)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))


def test_a_file_of_others_runs_and_is_noted(foreign, pictures, expected):
    runner = open_artifact(foreign)
    np.testing.assert_allclose(runner.run(pictures), expected, rtol=1e-5, atol=1e-4)
    assert "inferred" in runner.notes[0]
    graph = read_graph(foreign)
    assert graph.operators == {"XnnpackBackend": 1}
    assert (graph.delegation.partitions, graph.delegation.operators["Conv2d"]) == (1, 1)
    assert graph.weight_bytes >= 4 * 4 * 4


def test_a_delegate_that_is_not_here_loads_and_says_what_runs_it(make, pictures):
    runner = open_artifact(make("vulkan"))
    assert runner.outputs[0].shape == (1, 4, *SIZE)
    assert "Android" in runner.cannot_run
    with pytest.raises(UnavailableError, match=r"Android.*--delegate xnnpack"):
        runner.run(pictures)
    assert read_graph(runner.artifact.path).delegation.partitions == 1


@pytest.fixture
def needs_the_executor():
    pytest.importorskip("coremltools")
    if sys.platform == "darwin":
        pytest.skip("Core ML is here")


@pytest.mark.usefixtures("needs_the_executor")
@pytest.mark.parametrize(("batch", "head"), [(1, "logits"), (3, "logits"), (1, "argmax")])
def test_core_ml_s_package_inside_is_run_by_the_reference_executor(make, pictures, expected, batch, head):
    runner = open_artifact(make("coreml", batch=batch, head=head))
    result = runner.run(pictures)
    if head == "argmax":
        assert runner.outputs[0].dtype == "int32"
        np.testing.assert_array_equal(result, expected.argmax(axis=1))
    else:
        assert runner.outputs[0].dtype == str(result.dtype) == "float32"
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)
    assert "not Core ML itself" in runner.runtime
    assert runner.notes[0] == executorch_coreml.NOTE
    assert read_graph(runner.artifact.path).delegation.partitions == 1


@pytest.mark.usefixtures("needs_the_executor")
def test_a_core_ml_package_is_not_run_without_what_reads_it(make, monkeypatch):
    path = make("coreml")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    runner = open_artifact(path)
    assert (runner.notes, "iPhone" in runner.cannot_run) == ((), True)
    monkeypatch.undo()
    monkeypatch.delitem(OPERATORS, "conv")
    assert "has not: main: op " in open_artifact(path).cannot_run


@pytest.mark.parametrize(
    "content", [b"", b"PK", bytes(5000), bytes(range(256)) * 20, b"\x1c\x00\x00\x00ET12eh00" + bytes(range(256)) * 8]
)
def test_what_is_no_program_is_refused(tmp_path, content):
    path = tmp_path / "broken.pte"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.pte' does not load as an ExecuTorch file: .+\. Convert it again"):
        open_artifact(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(make, tmp_path, share):
    content, path = make().read_bytes(), tmp_path / "cut.pte"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UsageError, match=r"cut\.pte.*(too small|truncated|overflow)"):
        open_artifact(path)


def test_no_changed_byte_of_ours_is_run(make, tmp_path):
    """The runtime itself would hand a damaged payload to XNNPACK."""
    content, path = make().read_bytes(), tmp_path / "flipped.pte"
    random = np.random.default_rng(0)
    for position in random.integers(0, len(content), 40):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"flipped\.pte"):
            open_artifact(path)


def test_says_nothing_on_the_streams(make, tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path; from mobileseg.validation.runners import open_artifact;"
        "open_artifact(Path(sys.argv[1])).run(np.zeros((1, 6, 10, 3), np.uint8))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(make())], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_the_extra_that_is_missing(make, monkeypatch):
    path = make()
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(MissingExtraError, match=r"mobileseg\[executorch\]"):
        open_artifact(path)


def test_graph_of_a_delegate(make):
    graph = read_graph(make(head="argmax"))
    assert graph.operators == {"XnnpackBackend": 1, "aten.argmax": 1, "dim_order_ops._to_dim_order_copy": 1}
    assert graph.delegation.name == "XNNPACK"
    assert graph.delegation.operators["Conv2d"] == 1
    assert graph.delegation.left["aten.argmax.default"]
    assert [(layer.name, layer.dtype, layer.bytes) for layer in graph.layers] == [
        ("network.weight", "float32", (3 * 4 + 4) * 4)
    ]
    assert (graph.weight_bytes, graph.quantization) == (64, {"float32": 2})


def test_graph_of_portable_kernels_and_its_memory_plan(make):
    path = make("portable")
    graph = read_graph(path)
    assert graph.operators == {"aten.convolution": 1}
    assert isinstance(graph.delegation, NotRun)
    # The output; the input is read where the app holds it.
    assert 4 * 6 * 10 * 4 <= graph.planned_bytes < 4 * 6 * 10 * 4 + 64


def test_metadata_is_ours(make):
    assert json.dumps(open_artifact(make()).metadata["input"]) == '{"layout": "NCHW", "name": "picture"}'
