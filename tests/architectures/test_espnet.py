"""ESPNet and ESPNet-C: the authors' logits, any depth, width and class count, sizes, training, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mobileseg import registry
from mobileseg.architectures.espnet import VARIANTS
from mobileseg.errors import OptionError
from mobileseg.types import Variant

BY_NAME = {variant.name: variant for variant in VARIANTS}
STRIDE = {"sacmehta": 1, "sacmehta-encoder": 8}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("sacmehta", {"num_classes": 12, "p": 2, "q": 3, "channels": (16, 64, 128), "picture_in_skip": True}),
    ("sacmehta", {"num_classes": 20, "p": 2, "q": 8, "channels": (16, 64, 128), "picture_in_skip": False}),
    ("sacmehta", {"num_classes": 5, "p": 1, "q": 1, "channels": (8, 33, 71), "picture_in_skip": True}),
    ("sacmehta-encoder", {"num_classes": 1, "p": 5, "q": 3, "channels": (16, 64, 128)}),
    ("sacmehta-encoder", {"num_classes": 20, "p": 1, "q": 2, "channels": (24, 40, 75)}),
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
        ("espnet-camvid-p2q8", "sacmehta", 354517),
        ("espnet-c-cityscapes-p2q8", "sacmehta-encoder", 349449),
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
    picture = torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        logits = first(picture)
        assert logits.shape == (2, hyperparameters["num_classes"], 40 // STRIDE[name], 72 // STRIDE[name])
        assert torch.equal(logits, second.eval()(picture))
    assert torch.isfinite(logits).all()
    assert logits.std() > 0


def test_the_decoder_needs_a_class_for_each_branch() -> None:
    with pytest.raises(OptionError, match=r"cannot have 4 classes: at least 5"):
        BY_NAME["sacmehta"].build(num_classes=4)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
class TestVariant:
    def test_sizes(self, variant: Variant) -> None:
        network = variant.build(num_classes=6).eval()
        least, stride = variant.min_size, STRIDE[variant.name]
        assert variant.size_multiple == 8
        assert variant.default_size is not None
        assert variant.default_size(12) == (360, 480)
        assert variant.default_size(20) == (512, 1024)
        assert all(side % 8 == 0 for side in variant.default_size(3))
        with torch.no_grad():
            for height, width in ((least, least), (120, 168)):
                logits = network(torch.randn(1, 3, height, width))
                assert logits.shape == (1, 6, height // stride, width // stride)

    def test_training_reaches_every_weight(self, variant: Variant) -> None:
        torch.manual_seed(0)
        network = variant.build(num_classes=6).train()
        logits = network(torch.randn(2, 3, 64, 64))
        nn.functional.cross_entropy(logits, torch.randint(6, (2, *logits.shape[2:]))).backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    def test_exports_at_a_fixed_size(self, variant: Variant) -> None:
        network = _randomized(variant.build(num_classes=6, p=1, q=1))
        picture = torch.randn(1, 3, 40, 64)
        exported = torch.export.export(network, (picture,), strict=False).module()
        with torch.no_grad():
            torch.testing.assert_close(exported(picture), network(picture), rtol=0, atol=0)

    def test_a_truncated_or_foreign_state_dict_is_not_recognised(self, variant: Variant) -> None:
        state = variant.build(num_classes=6).state_dict()
        truncated = {key: value for key, value in state.items() if "level2_0" not in key}
        for foreign in ({}, truncated, {f"backbone.{key}": value for key, value in state.items()}):
            assert variant.infer(foreign) is None

    def test_what_it_was_fed_is_assumed_and_said(self, variant: Variant) -> None:
        assert [variant.preprocessing(n) for n in (12, 19, 3)] == ["espnet-camvid", *["espnet-cityscapes"] * 2]
        assert registry.preprocessing(variant.preprocessing(12)).channel_order == "BGR"
        assert any(n.option == "--preprocessing" and "BGR" in n.message for n in variant.notices)


def test_the_decoder_refuses_a_size_that_is_no_multiple() -> None:
    network = BY_NAME["sacmehta"].build(num_classes=6).eval()
    with pytest.raises(RuntimeError), torch.no_grad():
        network(torch.randn(1, 3, 124, 168))
