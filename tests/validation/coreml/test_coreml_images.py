"""Core ML packages that take and give images: what the executor says of them, and what it computes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

coremltools = pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

from mobileseg import mlpackage  # noqa: E402
from mobileseg.validation.coreml import Feature, Picture, load  # noqa: E402

SIZE = (4, 6)


def network(channels: int) -> torch.nn.Module:
    torch.manual_seed(channels)
    return torch.nn.Conv2d(channels, 3, 3, padding=1).eval()


def package(path: Path, colours: str, *, output: str | None = None, precision: str = "FLOAT32", **how: Any) -> Path:
    """A convolution of an image, of 1 or 3 channels."""
    channels = 1 if colours.startswith("GRAYSCALE") else 3
    layouts = coremltools.colorlayout
    shape = (1, channels, *SIZE)
    exported = torch.export.export(network(channels), (torch.rand(shape),)).run_decompositions({})
    given = [coremltools.ImageType(name="x", shape=shape, color_layout=getattr(layouts, colours), **how)]
    returned = None if output is None else [coremltools.ImageType(name="y", color_layout=getattr(layouts, output))]
    with mlpackage.quietly():
        model = coremltools.convert(
            exported,
            inputs=given,
            outputs=returned,
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=coremltools.precision[precision],
            skip_model_load=True,
        )
        model.save(str(path))
    return path


SCALES: list[tuple[float, Any]] = [(1.0, 0.0), (1 / 127.5, -1.0), (0.5, "a channel")]


@pytest.mark.parametrize(
    ("colours", "scale"), itertools.product(["RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16"], SCALES)
)
def test_an_image_comes_with_its_colours_scale_and_bias(colours: str, scale: tuple[float, Any], tmp_path: Path) -> None:
    """``scale`` and ``bias`` are operators of the program: what it takes are the picture's numbers."""
    channels = 1 if colours.startswith("GRAYSCALE") else 3
    factor, bias = scale
    bias = [0.25 * k - 1 for k in range(channels)] if bias == "a channel" else bias
    told = bias[0] if channels == 1 and isinstance(bias, list) else bias
    how = {"bias": [told] * 3 if channels == 3 and not isinstance(told, list) else told}
    executor = load(package(tmp_path / "x.mlpackage", colours, scale=factor, **how))
    (source,) = executor.inputs
    assert source.picture is not None
    assert (source.name, source.shape, source.picture.colours) == ("x", (1, channels, *SIZE), colours)
    rtol = 1e-3 if colours == "GRAYSCALE_FLOAT16" else 1e-6  # in whose precision scale and bias stand
    np.testing.assert_allclose(source.picture.scale, factor, rtol)
    np.testing.assert_allclose(np.broadcast_to(source.picture.bias, channels), np.broadcast_to(bias, channels), rtol)
    picture = np.random.default_rng(0).integers(0, 256, (1, channels, *SIZE)).astype(np.uint8)
    (result,) = executor.run({"x": picture}).values()
    shift = np.broadcast_to(np.float32(bias), channels).reshape(1, -1, 1, 1)
    with torch.no_grad():
        wanted = network(channels)(torch.from_numpy(np.float32(picture) * np.float32(factor) + shift))
    np.testing.assert_allclose(result, wanted.numpy(), rtol=1e-4, atol=0.1 if rtol > 1e-5 else 1e-4)


def test_an_image_as_it_is(tmp_path: Path) -> None:
    (source,) = load(package(tmp_path / "x.mlpackage", "RGB")).inputs
    assert source == Feature("x", (1, 3, *SIZE), "float32", Picture("RGB"))


@pytest.mark.parametrize(("output", "precision"), [("RGB", "FLOAT32"), ("BGR", "FLOAT16")])
def test_an_image_that_is_returned_is_what_the_program_computes(output: str, precision: str, tmp_path: Path) -> None:
    """Core ML makes bytes of it; the executor hands back the numbers themselves."""
    executor = load(package(tmp_path / "x.mlpackage", "RGB", output=output, precision=precision))
    (made,) = executor.outputs
    assert made == Feature("y", (1, 3, *SIZE), "float32", Picture(output))
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, *SIZE)).astype(np.uint8)
    (result,) = executor.run({"x": picture}).values()
    with torch.no_grad():
        wanted = network(3)(torch.from_numpy(picture).float()).numpy()
    np.testing.assert_allclose(result, wanted, rtol=1e-3, atol=1e-4 if precision == "FLOAT32" else 0.2)
    assert result.dtype == np.float32
