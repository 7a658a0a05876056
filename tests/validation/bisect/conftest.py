"""Files with faults planted in them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobileseg import convert, validate
from mobileseg.proving import Validation


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    __import__("sys").modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def planted() -> Any:
    """The module `planted`."""
    return _load("planted")


@pytest.fixture(scope="session")
def make_file(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_file(target, precision, fault)``: a file of the small network, with the fault or (None) without."""

    def make(target: str, precision: str = "fp32", fault: str | None = None, **options: Any) -> Path:
        network, preprocessing = planted.small(), planted.PREPROCESSING
        if fault is not None:
            network, preprocessing = planted.FAULTS[fault].plant(network)
        (made,) = convert(
            model=network,
            to=target,
            precision=precision,
            size=planted.SIZE,
            preprocessing=preprocessing,
            image_count=1,
            output=tmp_path_factory.mktemp("planted"),
            **options,
        ).artifacts
        return made.artifact.path

    return make


@pytest.fixture(scope="session")
def hold(planted: Any) -> Callable[..., Validation]:
    """Validates a file against the sound network, on two demo scenes, and looks at each operator."""

    def held(path: Path, **options: Any) -> Validation:
        return validate(
            path,
            model=planted.small(),
            preprocessing=planted.PREPROCESSING,
            image_count=2,
            bisect=True,
            **options,
        )

    return held
