"""ENet: its authors' own answers, other widths, what the keys tell, training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobileseg import registry
from mobileseg.architectures import enet
from mobileseg.architectures.enet_network import BLOCKS, ENet, ENet2018, ENetIArunava, ENetIArunavaOneBN
from mobileseg.checkpoint import load_checkpoint

GOLDEN = {
    "enet-cityscapes-davidtvs": "davidtvs",
    "enet-greenhouse-davidtvs-pre2021": "davidtvs-pre2021",
    "enet-camvid-davidtvs2018": "davidtvs-2018",
    "enet-camvid-iarunava": "iarunava",
}
SMALL = {"channels": (7, 12, 20), "internal": {"regular1_2": 5, "upsample4_0": 3, "asymmetric2_3": 4}}


def randomized(network: nn.Module) -> nn.Module:
    """In eval mode, with statistics and slopes that are all different, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(0)
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "running_var" in key else 0.1))
    return network.eval()


def iarunava_keys(state: dict[str, Tensor], one_bn: bool = False) -> dict[str, Tensor]:
    """davidtvs' keys to iArunava's: the inverse of what the product does."""
    blocks = {name: block for block, name in enet.IARUNAVA_BLOCKS.items()}
    ends = {ours: theirs for theirs, ours in enet.IARUNAVA_ENDS.items()}
    out = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        name, _, layer = module.partition(".")
        table = enet.IARUNAVA_ASYMMETRIC if name.startswith("asymmetric") else enet.IARUNAVA_LAYERS
        inverse = {ours: theirs for theirs, ours in table.items() if not theirs.startswith("convt")}
        if module in ends:
            out[f"{ends[module]}.{leaf}"] = tensor
            continue
        old = inverse[layer]
        if name.startswith("upsample") and old.startswith("conv"):
            old = old.replace("conv", "convt")
            tensor = tensor if old == "convt2" else tensor.transpose(0, 1).contiguous()
        if one_bn and old.startswith("bnorm"):
            old = {"bnorm1": "batchnorm", "bnorm2": "batchnorm", "bnorm3": "batchnorm2"}[old]
        out[f"{blocks[name]}.{old}.{leaf}"] = tensor
    return out


@pytest.mark.parametrize(("name", "variant"), GOLDEN.items())
def test_logits_are_the_authors(shared: Path, name: str, variant: str) -> None:
    folder = shared / "checkpoints"
    network = load_checkpoint(folder / f"{name}.pth", variant=variant).network
    golden = np.load(folder / f"{name}.golden.npz")
    sizes = [key.removeprefix("input_") for key in golden if key.startswith("input_")]
    assert sizes
    for size in sizes:
        logits = golden[f"logits_{size}"]
        error = np.abs(network(torch.from_numpy(golden[f"input_{size}"])).numpy() - logits).max() / np.abs(logits).max()
        print(f"{name} {size}: {error:.1e}")
        assert error <= 1e-5


def test_twin_is_assumed_to_be_the_present_code_and_said(shared: Path) -> None:
    checkpoint = load_checkpoint(shared / "checkpoints" / "enet-greenhouse-davidtvs-pre2021.pth")
    assert checkpoint.variant == "davidtvs"
    assert [n.option for n in checkpoint.notices] == ["--variant davidtvs-pre2021"]


@pytest.mark.parametrize("encoder_relu", [False, True])
@pytest.mark.parametrize("decoder_relu", [False, True])
@pytest.mark.parametrize("variant", ["davidtvs", "davidtvs-pre2021", "davidtvs-2018", "iarunava", "iarunava-one-bn"])
def test_other_widths_and_activations(tmp_path: Path, variant: str, encoder_relu: bool, decoder_relu: bool) -> None:
    known = registry.variant("enet", variant)
    relus = {"encoder_relu": encoder_relu, "decoder_relu": decoder_relu}
    network = randomized(known.build(num_classes=3, **SMALL, **relus))
    state = network.state_dict()
    published = {
        "davidtvs-2018": lambda: {k.replace("out_activation", "out_prelu"): v for k, v in state.items()},
        "iarunava": lambda: iarunava_keys(state),
        "iarunava-one-bn": lambda: iarunava_keys(state, one_bn=True),
    }.get(variant, lambda: state)()
    torch.save(published, tmp_path / "w.pth")
    pictures = torch.rand(2, 3, 40, 48)

    loaded = load_checkpoint(tmp_path / "w.pth", variant=variant)

    assert loaded.hyperparameters == {"num_classes": 3, **SMALL, **relus}
    assert torch.equal(loaded.network(pictures), network(pictures))


@pytest.mark.parametrize(("network", "count"), [(ENetIArunava, 590), (ENetIArunavaOneBN, 455)])
def test_iarunava_files_have_the_number_of_keys_seen_in_the_wild(network: type[ENet], count: int) -> None:
    keys = iarunava_keys(network(12).state_dict(), one_bn=network is ENetIArunavaOneBN)
    assert len(keys) == count
    assert {"init.conv.bias", "b10.conv2.bias", "b23.conv21.weight", "b50.convt2.weight", "fullconv.weight"} <= set(
        keys
    )
    assert enet.rename_iarunava(keys).keys() <= network(12).state_dict().keys()


def test_older_code_is_recognised_where_the_decoder_has_prelu(tmp_path: Path) -> None:
    torch.save(
        registry.variant("enet", "davidtvs-pre2021").build(4, decoder_relu=False).state_dict(), tmp_path / "w.pth"
    )
    assert load_checkpoint(tmp_path / "w.pth").variant == "davidtvs-pre2021"


def test_twins_differ() -> None:
    torch.manual_seed(0)
    now = randomized(ENet(4))
    before = registry.variant("enet", "davidtvs-pre2021").build(4).eval()
    before.load_state_dict(now.state_dict())
    pictures = torch.rand(1, 3, 32, 32)
    assert not torch.allclose(now(pictures), before(pictures), atol=1e-3)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (34, 65)])
def test_any_size(size: tuple[int, int]) -> None:
    assert ENet(5).eval()(torch.rand(1, 3, *size)).shape == (1, 5, *size)


def test_classes_in_two_orders_are_said_for_twenty_classes_alone(tmp_path: Path) -> None:
    options = {}
    for classes in (19, 20):
        torch.save(ENet(classes).state_dict(), tmp_path / "w.pth")
        options[classes] = [n.option for n in load_checkpoint(tmp_path / "w.pth").notices]
    assert "--classes" in options[20]
    assert "--classes" not in options[19]


def test_trains() -> None:
    torch.manual_seed(0)
    network = registry.variant("enet", "davidtvs").build(num_classes=4)
    dropouts = {m.p for m in network.modules() if isinstance(m, nn.Dropout2d)}
    assert dropouts == {0.01, 0.1}
    pictures, labels = torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.long)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(pictures), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for p in network.parameters())


def test_prelu_of_a_block_is_one_parameter_in_iarunavas() -> None:
    network = ENetIArunava(12)
    assert sum(p.numel() for p in network.parameters()) == 353916
    block = network.get_submodule("regular1_1")
    assert block.get_submodule("ext_conv1.2") is block.get_submodule("out_activation")


def test_pooling_windows_of_the_2018_layout_share_maxima() -> None:
    pooling = ENet2018(3).get_submodule("downsample1_0.main_max1")
    _, indices = pooling(torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert len(indices[0, 0].unique()) < indices[0, 0].numel()


def test_exports_at_an_odd_size() -> None:
    network = ENet(3, **SMALL).eval()  # type: ignore[arg-type]
    pictures = torch.rand(1, 3, 33, 47)
    program = torch.export.export(network, (pictures,), strict=False)
    assert torch.allclose(program.module()(pictures), network(pictures), atol=1e-6)


def test_every_block_of_the_paper_is_there() -> None:
    kinds = [block.kind for block in BLOCKS.values()]
    assert [kinds.count(kind) for kind in ("downsample", "regular", "dilated", "asymmetric", "upsample")] == [
        2,
        11,
        8,
        4,
        2,
    ]
