"""ESPNetV2: the authors' logits, any width and class count, sizes, training, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobileseg import registry
from mobileseg.architectures.espnetv2 import VARIANTS, ESPNetV2, widths
from mobileseg.architectures.espnetv2_blocks import EfficientPyramid, Shuffle
from mobileseg.errors import OptionError
from mobileseg.types import Variant

BY_NAME = {variant.name: variant for variant in VARIANTS}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("2018", {"num_classes": 1, "channels": widths(0.5), "depths": (3, 7)}),
    ("2018", {"num_classes": 20, "channels": widths(1.25), "depths": (1, 2)}),
    ("2018", {"num_classes": 7, "channels": (16, 48, 80, 96), "depths": (2, 1)}),
    (
        "edgenets",
        {"num_classes": 2, "channels": widths(1.0), "depths": (3, 7), "decoder": (64, 48, 32), "projection": 1},
    ),
    (
        "edgenets",
        {"num_classes": 21, "channels": widths(1.5), "depths": (1, 1), "decoder": (128, 96, 64), "projection": 10},
    ),
    (
        "edgenets",
        {"num_classes": 5, "channels": (32, 64, 80, 112), "depths": (1, 3), "decoder": (40, 36, 20), "projection": 6},
    ),
]


def _randomized(network: nn.Module) -> nn.Module:
    """Statistics and slopes unlike their starting values, so that a forgotten or swapped layer shows."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.5)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "variant", "parameters"),
    [
        ("espnetv2-cityscapes-2018-s0.5", "2018", 99418),
        ("espnetv2-cityscapes-edgenets-s0.5", "edgenets", 80342),
        ("espnetv2-cityscapes-edgenets-s2.0", "edgenets", 789242),
        ("espnetv2-voc-edgenets-s0.5", "edgenets", 80353),
    ],
)
def test_logits_are_those_of_the_authors_code(shared: Path, name: str, variant: str, parameters: int) -> None:
    from mobileseg.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(shared / "checkpoints" / f"{name}.pth")
    golden = np.load(shared / "checkpoints" / f"{name}.golden.npz")
    sizes = [key.removeprefix("input_") for key in golden if key.startswith("input_")]
    assert len(sizes) >= 2
    assert (checkpoint.variant, checkpoint.parameters) == (variant, parameters)
    for size in sizes:
        expected = golden[f"logits_{size}"]
        with torch.no_grad():
            logits = checkpoint.network(torch.from_numpy(golden[f"input_{size}"])).numpy()
        assert logits.shape == expected.shape
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("name", "hyperparameters"), SHAPES)
def test_hyperparameters_are_read_from_the_shapes(name: str, hyperparameters: dict[str, Any]) -> None:
    first = _randomized(BY_NAME[name].build(**hyperparameters))
    state = first.state_dict()
    inferred = BY_NAME[name].infer(state)
    assert inferred == hyperparameters
    assert all(other.infer(state) is None for other in registry.variants() if other != BY_NAME[name])
    second = BY_NAME[name].build(**inferred)
    second.load_state_dict(state)
    picture = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        logits = first(picture)
        assert logits.shape == (2, hyperparameters["num_classes"], 48, 80)
        assert torch.equal(logits, second.eval()(picture))
    assert torch.isfinite(logits).all()
    assert logits.std() > 0


@pytest.mark.parametrize(
    ("scale", "channels"),
    [
        (0.5, (16, 32, 64, 128)),
        (1.0, (32, 64, 128, 256)),
        (1.25, (32, 80, 160, 320)),
        (1.5, (32, 96, 192, 384)),
        (2.0, (32, 128, 256, 512)),
    ],
)
def test_widths_are_those_of_the_authors_table(scale: float, channels: tuple[int, ...]) -> None:
    assert widths(scale) == channels


def test_a_width_that_does_not_divide_into_groups_is_refused() -> None:
    with pytest.raises(OptionError, match=r"multiple of 16"):
        widths(0.75)
    with pytest.raises(OptionError, match=r"\(16, 32, 64, 120\)"):
        ESPNetV2(4, channels=(16, 32, 64, 120))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
class TestVariant:
    def test_sizes(self, variant: Variant) -> None:
        network = variant.build(num_classes=4).eval()
        least = variant.min_size
        assert variant.size_multiple == 16
        assert variant.default_size is not None
        for classes in (2, 12, 19, 20, 21):
            assert all(side % 16 == 0 and side >= least for side in variant.default_size(classes))
        with torch.no_grad():
            assert network(torch.randn(1, 3, least, least)).shape == (1, 4, least, least)
            assert network(torch.randn(1, 3, 368, 480)).shape == (1, 4, 368, 480)
            with pytest.raises(RuntimeError):
                network(torch.randn(1, 3, 360, 480))

    def test_training_reaches_every_weight_that_the_output_depends_on(self, variant: Variant) -> None:
        torch.manual_seed(0)
        network = variant.build(num_classes=3).train()
        labels = torch.randint(3, (2, 64, 64))
        nn.functional.cross_entropy(network(torch.randn(2, 3, 64, 64)), labels).backward()
        without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert len(without) == 3
        assert all(name.endswith("_0.eesp.module_act.weight") for name in without)

    def test_exports_at_a_fixed_size(self, variant: Variant) -> None:
        network = _randomized(variant.build(num_classes=4, depths=(1, 1)))
        picture = torch.randn(1, 3, 48, 64)
        exported = torch.export.export(network, (picture,), strict=False).module()
        with torch.no_grad():
            torch.testing.assert_close(exported(picture), network(picture), rtol=0, atol=0)

    def test_a_classifier_left_in_the_file_is_dropped(self, variant: Variant) -> None:
        state = variant.build(num_classes=4).state_dict()
        prefix = next(iter(state)).split(".")[0]
        unused = {f"{prefix}.{key}": torch.zeros(8) for key in ("level5_0.act.weight", "level5.0.x", "classifier.bias")}
        assert variant.rename is not None
        assert variant.rename({**state, **unused}).keys() == state.keys()

    def test_a_truncated_or_foreign_state_dict_is_not_recognised(self, variant: Variant) -> None:
        state = variant.build(num_classes=4).state_dict()
        prefix = next(iter(state)).split(".")[0]
        without_level = {key: value for key, value in state.items() if not key.startswith(f"{prefix}.level4_0")}
        headless = {key: value for key, value in state.items() if key.startswith(prefix)}
        for foreign in ({}, without_level, headless, {f"backbone.{key}": value for key, value in state.items()}):
            assert variant.infer(foreign) is None

    def test_what_it_was_fed_is_assumed_and_said(self, variant: Variant) -> None:
        expected = {"2018": ("espnet-cityscapes", "BGR"), "edgenets": ("imagenet", "RGB")}[variant.name]
        preprocessing = registry.preprocessing(variant.preprocessing(20))
        assert (preprocessing.name, preprocessing.channel_order) == expected
        assert any(n.option == "--preprocessing" and preprocessing.channel_order in n.message for n in variant.notices)


def test_the_pyramid_rounds_up_and_stops_at_five_pixels() -> None:
    seen: list[tuple[int, ...]] = []
    pyramid = EfficientPyramid(4, 2, 3).eval()
    for stage in pyramid.stages:
        stage.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    with torch.no_grad():
        assert pyramid(torch.randn(1, 4, 61, 9)).shape == (1, 3, 61, 9)
    assert seen == [(122, 18), (92, 14), (61, 9), (31, 5), (7, 5)]


def test_shuffle_interleaves_the_groups() -> None:
    channels = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert Shuffle(2)(channels).flatten().tolist() == [0, 3, 1, 4, 2, 5]
