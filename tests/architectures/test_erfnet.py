"""ERFNet: its authors' own answers, other widths and depths, the unused head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobileseg.architectures.erfnet import ERFNet, infer
from mobileseg.checkpoint import load_checkpoint


def test_logits_are_the_authors(shared: Path) -> None:
    folder = shared / "checkpoints"
    network = load_checkpoint(folder / "erfnet-cityscapes.pth").network
    golden = np.load(folder / "erfnet-cityscapes.golden.npz")
    sizes = [key.removeprefix("input_") for key in golden if key.startswith("input_")]
    assert sizes
    for size in sizes:
        logits = golden[f"logits_{size}"]
        error = np.abs(network(torch.from_numpy(golden[f"input_{size}"])).numpy() - logits).max() / np.abs(logits).max()
        print(f"erfnet-cityscapes {size}: {error:.1e}")
        assert error <= 1e-5


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"num_classes": 2},
        {"num_classes": 20, "encoder_classes": 20},
        {"num_classes": 7, "encoder_classes": 1000},
        {"num_classes": 3, "channels": (9, 14, 30), "decoder_channels": (11, 6)},
        {"num_classes": 3, "channels": (8, 16, 24), "blocks": (1, 6), "decoder_blocks": (0, 3)},
    ],
)
def test_other_widths_depths_and_heads(tmp_path: Path, hyperparameters: dict[str, Any]) -> None:
    network = ERFNet(**hyperparameters)
    network.train()(torch.rand(4, 3, 32, 32))  # moves the running statistics
    network.eval()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth"
    )
    pictures = torch.rand(1, 3, 40, 64)

    loaded = load_checkpoint(tmp_path / "w.pth")

    assert loaded.architecture == "erfnet"
    assert loaded.num_classes == hyperparameters["num_classes"]
    assert loaded.parameters == sum(p.numel() for p in network.parameters())
    assert torch.equal(loaded.network(pictures), network(pictures))


def test_dilations_repeat_two_to_sixteen() -> None:
    layers = ERFNet(2, blocks=(5, 10)).encoder.layers
    found = [m.get_submodule("conv3x1_2").dilation[0] for m in layers if hasattr(m, "conv3x1_2")]
    assert found == [1] * 5 + [2, 4, 8, 16] * 2 + [2, 4]


def test_not_inferred_from_other_keys() -> None:
    assert infer({}) is None
    assert infer({"conv1.weight": torch.zeros(64, 3, 7, 7), "encoder.layers.0.bn.weight": torch.zeros(3)}) is None


def test_exports() -> None:
    network = ERFNet(3, channels=(8, 16, 24), blocks=(1, 4), decoder_channels=(12, 8)).eval()
    pictures = torch.rand(1, 3, 32, 48)
    program = torch.export.export(network, (pictures,), strict=False)
    assert torch.allclose(program.module()(pictures), network(pictures), atol=1e-6)
