"""A worker process in this machine's own Python: its answers, and every way in which there is none."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobileseg.errors import UnavailableError, UsageError
from mobileseg.validation.devices import arm64_worker
from mobileseg.validation.devices.worker import Worker, start
from mobileseg.validation.runners import open_artifact

Start = Callable[..., Worker]


@pytest.fixture
def file(make_onnx: Callable[..., Path]) -> Path:
    return make_onnx()


def test_its_answers_are_the_runners(start_here: Start, file: Path, pictures: np.ndarray) -> None:
    runner, worker = open_artifact(file), start_here(str(file), "1")
    for picture in pictures:
        tensor = runner.encoded(picture[None])
        np.testing.assert_array_equal(worker.answer(tensor), runner.invoke(tensor))


def test_values_that_are_no_numbers_come_back_as_they_are(start_here: Start, file: Path) -> None:
    tensor = np.full(open_artifact(file).inputs[0].shape, np.nan, np.float32)
    answer = start_here(str(file), "1").answer(tensor)
    assert answer.dtype == np.float32
    assert np.isnan(answer).all()


def test_a_file_that_does_not_load(start_here: Start, file: Path) -> None:
    cut = file.with_name("cut.onnx")
    cut.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"Running the file here failed with status 1: .*cut\.onnx"):
        start_here(str(cut), "1")


def test_a_tensor_that_the_runtime_refuses(start_here: Start, file: Path) -> None:
    worker = start_here(str(file), "1")
    with pytest.raises(UsageError, match=r"failed with status 1: .*"):
        worker.answer(np.zeros((1, 3), np.float32))
    with pytest.raises(UsageError, match=r"failed with status 1: .*"):
        worker.answer(np.zeros((1, 3), np.float32))


def test_a_runtime_that_is_not_there(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError('No module named onnxruntime')\n")
    with pytest.raises(UsageError, match="No module named onnxruntime"):
        start_here(".onnx", environment={"PYTHONPATH": str(tmp_path)})


def test_the_runtimes_alone_can_be_tried(start_here: Start) -> None:
    worker = start_here(".onnx")
    assert worker.process.wait() == 0


def test_a_worker_that_is_killed(start_here: Start, file: Path) -> None:
    runner, worker = open_artifact(file), start_here(str(file), "1")
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()
    with pytest.raises(UnavailableError, match="was ended by SIGKILL"):
        worker.answer(np.zeros(runner.inputs[0].shape, np.float32))


def test_a_worker_that_crashes_while_it_computes() -> None:
    script = "import os, sys; sys.stdin.buffer.read(8); print('a last word.', file=sys.stderr); os.abort()"
    greeting = (
        f"import numpy, sys; sys.path.insert(0, {str(Path(arm64_worker.__file__).parent)!r}); import arm64_worker"
    )
    hello = "arm64_worker.send(sys.stdout.buffer, numpy.zeros(1))"
    worker = start("It", [sys.executable, "-c", f"{greeting}; {hello}; {script}"], os.environ)
    with pytest.raises(UnavailableError, match=r"It was ended by SIGABRT: a last word\."):
        worker.answer(np.zeros(1))


def test_an_answer_cut_short() -> None:
    script = "import sys; sys.stdout.buffer.write((1000).to_bytes(8, 'little') + b'half')"
    with pytest.raises(UsageError, match=r"It failed with status 0\."):
        start("It", [sys.executable, "-c", script], os.environ)


def test_what_libraries_print_is_not_taken_for_an_answer(start_here: Start, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os\nprint('loaded')\nos.write(1, b'loaded')\n")
    worker = start_here(".onnx", environment={"PYTHONPATH": str(tmp_path)})
    assert worker.process.wait() == 0


def test_a_worker_ends_when_nobody_has_it_any_more(start_here: Start, file: Path) -> None:
    worker = start_here(str(file), "1")
    process = worker.process
    del worker
    gc.collect()
    assert process.returncode == -signal.SIGKILL


def test_a_worker_ends_when_its_parent_is_gone(file: Path) -> None:
    """The parent is killed, so that nothing of it can tidy up; the worker finds its stdin at an end."""
    parent = (
        "import os, sys; from mobileseg.validation.devices.worker import start; "
        f"w = start('It', [sys.executable, '-P', {arm64_worker.__file__!r}, {str(file)!r}, '1'], os.environ); "
        "print(w.process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", parent], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # Orphans are adopted, so that no wait() is ours; a process that is gone cannot be signalled.
    pid = int(done.stdout)
    for _ in range(1000):
        if not Path(f"/proc/{pid}/exe").exists():
            break
        os.sched_yield()
        subprocess.run(["sleep", "0.05"], check=True)
    assert not Path(f"/proc/{pid}/exe").exists()
