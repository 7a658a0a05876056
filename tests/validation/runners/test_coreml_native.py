"""Core ML itself, which is not here: coremltools' own `MLModel`, with a stand-in for its binding to the system.

coremltools checks what it is given as it does on a Mac (names, the picture's kind and mode); the stand-in takes the
place of what would come after that, and answers by the reference executor. What only a Mac can show is not shown here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from mobileseg.errors import OptionError, UnavailableError, UsageError
from mobileseg.types import Placement

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from coremltools.models import model as coremltools_model

from mobileseg import mlpackage
from mobileseg.validation.coreml import load
from mobileseg.validation.runners import coreml, coreml_native, open_artifact

if sys.platform == "darwin":
    pytest.skip("Core ML is here", allow_module_level=True)

SIZE = (16, 24)
BINDING = "coremltools.libcoremlpython"


class Proxy:
    """What `MLModel` calls: as coremltools 9 spells it."""

    opened: ClassVar[list[tuple[str, str]]] = []
    given: ClassVar[list[dict[str, Any]]] = []
    newest = 100
    refuses = ""
    fails = ""

    @classmethod
    def maximum_supported_specification_version(cls) -> int:
        return cls.newest

    def __init__(self, path: str, units: str, function: str, hints: dict[str, str], asset: None) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        assert (function, hints, asset) == ("", {}, None)
        self.opened.append((path, units))
        self.executor = load(Path(path))

    def predict(self, data: dict[str, Any], state: None) -> dict[str, Any]:
        if self.fails:
            raise RuntimeError(self.fails)
        self.given.append(dict(data))
        arrays = {
            name: np.asarray(value).transpose(2, 0, 1)[None] if isinstance(value, Image.Image) else value
            for name, value in data.items()
        }
        return self.executor.run(arrays)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> type[Proxy]:
    """The stand-in, in the place of Core ML's binding."""
    mlpackage.import_coremltools()
    own = type("Proxy", (Proxy,), {"opened": [], "given": []})
    binding = ModuleType(BINDING)
    binding._MLModelProxy = own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, BINDING, binding)
    monkeypatch.setattr(coremltools_model, "_MLModelProxy", own)
    monkeypatch.setattr(coreml, "is_here", lambda: True)
    return own


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)


@pytest.mark.parametrize("units", coreml_native.COMPUTE_UNITS)
def test_compute_units_reach_core_ml(make_mlpackage: Callable[..., Path], proxy: type[Proxy], units: str) -> None:
    runner = open_artifact(make_mlpackage(), Placement(compute_units=units))
    assert proxy.opened == [(str(make_mlpackage()), units.upper())]
    assert runner.runtime.startswith("Core ML of macOS ")
    assert f"compute units {units})" in runner.runtime
    assert (runner.notes, runner.cannot_run) == ((), "")


def test_unknown_compute_units(make_mlpackage: Callable[..., Path], proxy: type[Proxy]) -> None:
    with pytest.raises(OptionError, match=r"'gpu'.*Known: all, cpu_and_gpu, cpu_and_ne, cpu_only"):
        open_artifact(make_mlpackage(), Placement(compute_units="gpu"))
    assert proxy.opened == []


def test_a_picture_goes_in_as_an_image(
    make_mlpackage: Callable[..., Path], proxy: type[Proxy], pictures: np.ndarray
) -> None:
    result = open_artifact(make_mlpackage()).run(pictures)
    assert [list(data) for data in proxy.given] == [["picture"], ["picture"]]
    for data, picture in zip(proxy.given, pictures, strict=True):
        image = data["picture"]
        assert (image.mode, image.size) == ("RGB", (SIZE[1], SIZE[0]))
        np.testing.assert_array_equal(np.asarray(image), picture)
    executor = load(make_mlpackage())
    expected = [executor.run({"picture": p.transpose(2, 0, 1)[None]})["logits"] for p in pictures]
    np.testing.assert_array_equal(result, np.concatenate(expected))


def test_an_array_goes_in_as_an_array(
    make_mlpackage: Callable[..., Path], proxy: type[Proxy], pictures: np.ndarray
) -> None:
    raw = pictures.transpose(0, 3, 1, 2).astype(np.float32)
    classes = open_artifact(make_mlpackage(head="argmax", raw=True, output={"layout": "NHW"})).run(raw)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(proxy.given[1]["picture"], raw[1:])


def test_a_file_that_is_too_new_is_not_run(
    make_mlpackage: Callable[..., Path], proxy: type[Proxy], pictures: np.ndarray
) -> None:
    proxy.newest = 5
    runner = open_artifact(make_mlpackage())
    assert "knows 5 and older. Update macOS, or convert it with an older --deployment-target" in runner.cannot_run
    with pytest.raises(UnavailableError, match="Update macOS"):
        runner.run(pictures)
    assert proxy.opened == proxy.given == []


def test_what_core_ml_refuses(make_mlpackage: Callable[..., Path], proxy: type[Proxy], pictures: np.ndarray) -> None:
    proxy.refuses = "Error compiling model"
    with pytest.raises(UsageError, match=r"Core ML does not load '.*': Error compiling model\. Convert it again"):
        open_artifact(make_mlpackage())
    proxy.refuses = ""
    runner = open_artifact(make_mlpackage())
    proxy.fails = "Failed to build the plan"
    with pytest.raises(UnavailableError, match=r"cannot run .* with compute units all: Failed to build the plan"):
        runner.run(pictures)


def test_core_ml_is_on_macos_with_its_binding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, BINDING, ModuleType(BINDING))
    assert not coreml_native.is_here()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert coreml_native.is_here()
    monkeypatch.setitem(sys.modules, BINDING, None)
    assert not coreml_native.is_here()
