"""Compressed weights of Core ML packages: how far they are from the originals, what is left, what stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from mobileseg import registry
from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.errors import OptionError, UsageError

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

import coremltools
from coremltools.converters.mil.mil import types

from mobileseg import mlpackage
from mobileseg.converters.coreml import TARGET
from mobileseg.quantization.coreml import compress_weights
from mobileseg.quantization.coreml.palette import palette_of

COMPRESSIONS = ("w8", "w4", "palette4", "palette6", "palette8")
WEIGHTS = ("conv", "conv_transpose")


@cache
def network() -> nn.Module:
    """Convolutions large and small, one of them with a channel too faint for a float16 scale."""
    torch.manual_seed(0)
    faint = nn.Conv2d(64, 32, 1)
    with torch.no_grad():
        faint.weight[3] *= 1e-4
        faint.weight[5] = 0.0
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3), faint, nn.ConvTranspose2d(32, 48, 2, stride=2)
    ).eval()


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "x.mlpackage"
    deployed = Deployed(network(), registry.preprocessing("imagenet"), "logits")
    rewritten = rewrite(export(deployed, (16, 24)), "coreml", "w8")
    TARGET.lower(rewritten, Lowering("fp16", "logits", {"precision": "w8"}), path)
    return path


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network for systems that take 4-bit weights."""
    path = tmp_path_factory.mktemp("newer") / "x.mlpackage"
    deployed = Deployed(network(), registry.preprocessing("imagenet"), "logits")
    rewritten = rewrite(export(deployed, (16, 24)), "coreml", "w4")
    TARGET.lower(rewritten, Lowering("w4", "logits", {"precision": "w4"}), path)
    return path


@pytest.fixture(scope="session")
def compressed(half: Path, newer: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """The package with each compression, and what the quantizer said, made once."""
    done: dict[str, tuple[Path, Any]] = {}

    def compress(precision: str) -> tuple[Path, Any]:
        if precision not in done:
            path = tmp_path_factory.mktemp(precision) / "x.mlpackage"
            shutil.copytree(newer if precision == "w4" else half, path)
            done[precision] = path, compress_weights(path, precision)
        return done[precision]

    return compress


def learned(path: Path) -> dict[str, Any]:
    return {o.outputs[0].name: o.weight for o in mlpackage.read(path).function.operations if o.op_type in WEIGHTS}


def numbers(weight: Any) -> Any:
    return (weight.val if weight.val is not None else weight.op.materialized_val_inference()).astype(np.float64)


def total(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def test_int8_weights_are_within_half_a_step(half: Path, compressed: Any) -> None:
    path, said = compressed("w8")
    originals, weights = learned(half), learned(path)
    kept = {name.partition(": ")[2] for name in said.kept_float}
    assert [originals[name].shape for name in originals if name in kept] == [(32, 3, 3, 3), (32, 64, 1, 1)]
    for name, weight in weights.items():
        before, after = numbers(originals[name]), numbers(weight)
        if name in kept:
            np.testing.assert_array_equal(after, before)
            continue
        assert weight.op.op_type == "constexpr_affine_dequantize"
        assert weight.op.quantized_data.val.dtype == np.int8
        axes = (0, 2, 3) if weight.shape[:2] == (32, 48) else (1, 2, 3)
        step = np.abs(before).max(axis=axes, keepdims=True) / 127
        # Half a step, what float16 rounds off the scale (2^-11 at 127 steps) and off the product.
        assert (np.abs(after - before) <= step * (0.5 + 127 * 2**-10)).all()


def test_4_bit_weights_are_within_half_a_step_of_their_block(newer: Path, compressed: Any) -> None:
    path, said = compressed("w4")
    originals, weights = learned(newer), learned(path)
    kept = {name.partition(": ")[2] for name in said.kept_float}
    assert [originals[name].shape for name in originals if name in kept] == [(32, 3, 3, 3)]
    blocks = {(64, 32, 3, 3): (64, 8, 1, 1), (32, 64, 1, 1): (32, 2, 1, 1), (32, 48, 2, 2): (4, 48, 1, 1)}
    for name in set(weights) - kept:
        before, after, stored = numbers(originals[name]), numbers(weights[name]), weights[name].op
        assert stored.op_type == "constexpr_blockwise_shift_scale"
        assert types.builtin_to_string(stored.data.dtype) == "int4"
        assert stored.scale.shape == stored.offset.shape == blocks[before.shape]
        step = stored.scale.val.astype(np.float64)
        for axis in (0, 1):
            step = step.repeat(before.shape[axis] // step.shape[axis], axis)
        # Half a step for the weight and half for the zero point; the products are float16.
        assert (np.abs(after - before) <= step * 1.01 + np.abs(before) * 2**-10).all()
        assert 10 * np.log10(np.square(before).sum() / np.square(after - before).sum()) > 20


def test_w4_needs_a_system_that_has_it(newer: Path) -> None:
    assert mlpackage.read_spec(newer)[0].specificationVersion == coremltools.target.iOS18.value
    for system in ("iOS17", "macOS14"):
        with pytest.raises(OptionError, match=rf"from iOS18 on; got --deployment-target {system}.*--precision w8"):
            TARGET.check({"deployment_target": system}, "w4")
        TARGET.check({"deployment_target": system}, "palette4")
    TARGET.check({"deployment_target": "macOS15"}, "w4")


@pytest.mark.parametrize("value", [0.0, 0.25, -0.25])
def test_blocks_of_one_number_stay_what_they_are(newer: Path, tmp_path: Path, value: float) -> None:
    constant = nn.Conv2d(3, 64, 8)
    nn.init.constant_(constant.weight, value)
    path = tmp_path / "x.mlpackage"
    rewritten = rewrite(export(Deployed(constant.eval(), None, "logits"), (16, 24)), "coreml", "w4")
    TARGET.lower(rewritten, Lowering("w4", "logits", {"raw_input": True}), path)
    compress_weights(path, "w4")
    (weight,) = learned(path).values()
    np.testing.assert_allclose(numbers(weight), value, rtol=2**-10)


@pytest.mark.parametrize(("bits", "least_db"), [(4, 18), (6, 30), (8, 42)])
def test_palettes_hold_the_weights(half: Path, compressed: Any, bits: int, least_db: float) -> None:
    path, said = compressed(f"palette{bits}")
    originals, weights = learned(half), learned(path)
    small = [name for name, weight in originals.items() if weight.val.size < 1024]
    assert said.kept_float == tuple(f"conv: {name}" for name in small)
    for name in set(weights) - set(small):
        before, after = numbers(originals[name]), numbers(weights[name])
        assert weights[name].op.op_type == "constexpr_lut_to_dense"
        assert len(np.unique(after)) <= 1 << bits
        assert 10 * np.log10(np.square(before).sum() / np.square(after - before).sum()) > least_db


def test_fewer_bits_are_fewer_bytes(half: Path, compressed: Any) -> None:
    sizes = [total(half), *(total(compressed(f"palette{bits}")[0]) for bits in (8, 6, 4))]
    assert sizes == sorted(sizes, reverse=True)
    weights = sum(p.numel() for p in network().parameters())
    assert sizes[-1] < 2 * weights
    assert total(compressed("w8")[0]) < sizes[0]


@pytest.mark.parametrize("precision", COMPRESSIONS)
def test_nothing_else_changes(half: Path, newer: Path, compressed: Any, precision: str) -> None:
    """Among it the preprocessing: coremltools' own pipeline would scale it by 0.999995."""
    path, said = compressed(precision)
    before, after = mlpackage.read(newer if precision == "w4" else half), mlpackage.read(path)
    digest = mlpackage.WEIGHTS_DIGEST
    for package in (before, after):
        assert package.spec.description.metadata.userDefined.pop(digest)
    assert before.spec.description == after.spec.description
    assert before.spec.specificationVersion == after.spec.specificationVersion
    plain = [
        [(o.op_type, o.outputs[0].name, o.outputs[0].shape) for o in p.function.operations if o.op_type != "const"]
        for p in (before, after)
    ]
    assert plain[0] == [o for o in plain[1] if not o[0].startswith("constexpr_")]
    assert "activations float16" in said.recipe


def test_newest_system_takes_them_too(tmp_path: Path) -> None:
    path = tmp_path / "x.mlpackage"
    rewritten = rewrite(export(Deployed(network(), None, "logits"), (16, 24)), "coreml", "palette4")
    lowering = Lowering("fp16", "logits", {"raw_input": True}, {"deployment_target": "iOS26"})
    for precision in ("w8", "palette4"):
        TARGET.lower(rewritten, lowering, path)
        compress_weights(path, precision)
        kinds = {weight.op.op_type for weight in learned(path).values()}
        expected = "constexpr_blockwise_shift_scale" if precision == "w8" else "constexpr_lut_to_dense"
        assert kinds == {"const", expected}


@pytest.mark.parametrize("precision", ["w8", "palette6"])
def test_equal_files_give_equal_bytes(half: Path, compressed: Any, tmp_path: Path, precision: str) -> None:
    again = tmp_path / "x.mlpackage"
    shutil.copytree(half, again)
    compress_weights(again, precision, iter(()))
    first = compressed(precision)[0]
    for file in (p for p in first.rglob("*") if p.is_file()):
        assert (again / file.relative_to(first)).read_bytes() == file.read_bytes(), file.name


def test_refuses_what_it_cannot_do(half: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"palette5.*palette4"):
        compress_weights(half, "palette5")
    with pytest.raises(UsageError, match="does not load"):
        compress_weights(tmp_path / "absent.mlpackage", "w8")


HALVES = st.floats(-8, 8, width=16)


@given(values=arrays.arrays(np.float16, st.integers(1, 300), elements=HALVES), bits=st.sampled_from([1, 2, 4, 6, 8]))
@settings(max_examples=60, deadline=None)
def test_each_number_gets_its_nearest_in_an_ordered_palette(values: Any, bits: int) -> None:
    palette, indices = palette_of(values, bits)
    assert (palette.shape, palette.dtype, indices.shape, indices.dtype) == (
        (1 << bits,),
        values.dtype,
        values.shape,
        np.uint8,
    )
    wide = palette.astype(np.float64)
    assert (np.diff(wide) >= 0).all()
    distances = np.abs(values.astype(np.float64)[:, None] - wide)
    np.testing.assert_array_equal(distances[np.arange(len(values)), indices], distances.min(axis=1))
    if len(np.unique(values)) <= 1 << bits:
        np.testing.assert_array_equal(palette[indices], values)


def optimum(numbers: Any, levels: int) -> float:
    """The least squared error of any palette, by dynamic programming over the numbers in order."""
    x = np.sort(numbers.astype(np.float64))
    count = np.arange(len(x) + 1)
    first, second = (np.concatenate([[0.0], np.cumsum(x**power)]) for power in (1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (first[None] - first[:, None]) ** 2 / (count[None] - count[:, None])
        cost = np.where(count[:, None] < count[None], second[None] - second[:, None] - means, np.inf)
    best = np.where(count == 0, 0.0, np.inf)
    for _ in range(levels):
        best = np.minimum(best, (best[:, None] + cost).min(axis=0))
    return float(best[-1])


@pytest.mark.parametrize(("bits", "loss_db"), [(2, 0.7), (4, 0.6), (6, 0.4)])
def test_palettes_are_near_the_best(bits: int, loss_db: float) -> None:
    values = np.random.default_rng(0).standard_normal(600).astype(np.float16)
    palette, indices = palette_of(values, bits)
    error = np.square(palette.astype(np.float64)[indices] - values).sum()
    assert 10 * np.log10(error / optimum(values, 1 << bits)) < loss_db
