"""Loading: every wrapping seen in the wild, what is refused and how it is said. Small random networks suffice."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mobileseg import registry, weights
from mobileseg.architectures.enet_network import ENet, ENetIArunava
from mobileseg.architectures.erfnet import ERFNet
from mobileseg.checkpoint import load_checkpoint
from mobileseg.errors import CheckpointError, OptionError, UnknownArchitectureError, UnsafeCheckpointError
from mobileseg.types import Notice, StateDict, Variant

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return ERFNet(5, channels=(8, 12, 16), blocks=(1, 2), decoder_channels=(10, 6), decoder_blocks=(1, 1)).eval()


@pytest.fixture
def state(network: nn.Module) -> State:
    return dict(network.state_dict())


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + key: tensor for key, tensor in state.items()}


def trainer(state: State) -> dict[str, Any]:
    """What davidtvs' trainer writes: the score is a NumPy scalar."""
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    return {"epoch": 300, "miou": np.float64(0.6), "state_dict": prefixed("module.")(state), "optimizer": optimizer}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "raw": lambda s: s,
    "state_dict": lambda s: {"state_dict": s},
    "any name": lambda s: {"epoch": 1, "arch": "erfnet", "whatever": s, "best_acc": torch.tensor(0.5)},
    "nested": lambda s: {"model": {"student": {"state_dict": s}}},
    "trainer": trainer,
    "numpy float32": lambda s: {"best": np.float32(1), "ok": np.bool_(True), "n": np.int64(3), "state_dict": s},
    "DataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "Lightning": lambda s: {"state_dict": {**prefixed("model.")(s), "criterion.weight": torch.ones(5)}, "loops": {}},
    "net": prefixed("net."),
    "a prefix of one's own": prefixed("my.segmenter."),
    "Parameters": lambda s: {k: nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in s.items()},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(tmp_path: Path, network: nn.Module, state: State, wrapping: str, zipped: bool) -> None:
    path = tmp_path / "w.pth.tar"
    torch.save(WRAPPINGS[wrapping](state), path, _use_new_zipfile_serialization=zipped)
    pictures = torch.rand(1, 3, 32, 32)

    loaded = load_checkpoint(path)

    assert (loaded.architecture, loaded.variant, loaded.num_classes) == ("erfnet", "eromera", 5)
    assert torch.equal(loaded.network(pictures), network(pictures))


def test_what_is_told_of_a_checkpoint(tmp_path: Path, network: nn.Module, state: State) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    loaded = load_checkpoint(str(path))
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.parameters == sum(p.numel() for p in network.parameters())
    assert loaded.path == path
    assert (loaded.size, loaded.size_multiple, loaded.preprocessing.name) == ((256, 512), 8, "unit")
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_real_parameter_counts_and_hashes(shared: Path) -> None:
    for row in json.loads((shared / "checkpoints" / "manifest.json").read_text()):
        loaded = load_checkpoint(shared / "checkpoints" / row["file"])
        assert (loaded.parameters, loaded.sha256) == (row["parameters"], row["sha256"]), row["name"]
        assert (loaded.architecture, loaded.num_classes) == (row["architecture"], row["num_classes"])
        preprocessing = row["preprocessing"]
        assert loaded.preprocessing.channel_order == preprocessing["order"]
        assert list(loaded.preprocessing.mean) == pytest.approx(preprocessing["mean"])


def test_safetensors(tmp_path: Path, network: nn.Module, state: State) -> None:
    save_file(state, tmp_path / "w.safetensors")
    pictures = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_checkpoint(tmp_path / "w.safetensors").network(pictures), network(pictures))


def test_one_name_of_a_shared_tensor_is_enough(tmp_path: Path) -> None:
    """safetensors keeps one name of each tensor; iArunava's ENet has most PReLUs under three."""
    network = ENetIArunava(3, channels=(7, 8, 12)).eval()
    kept = {key: t for key, t in network.state_dict().items() if ".ext_conv1.2." not in key}
    completed = weights.complete(network, kept)
    shared = "regular1_1.ext_conv1.2.weight"
    assert torch.equal(completed[shared], kept["regular1_1.out_activation.weight"])
    assert "asymmetric2_3.ext_conv1.2.weight" not in completed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, network: nn.Module, state: State, dtype: torch.dtype) -> None:
    torch.save({k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth").network
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    pictures = torch.rand(1, 3, 32, 32)
    assert torch.allclose(loaded(pictures), network(pictures), atol=0.05)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_quantized_tensors_are_dequantized(tmp_path: Path, state: State) -> None:
    key = "encoder.layers.1.conv3x1_1.weight"
    step = float(state[key].abs().max()) / 127
    torch.save({**state, key: torch.quantize_per_tensor(state[key], step, 0, torch.qint8)}, tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth").network.get_parameter(key)
    assert loaded.dtype is torch.float32
    assert torch.allclose(loaded, state[key], atol=step * 0.51)


def test_batch_counters_are_optional(tmp_path: Path, state: State) -> None:
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth").num_classes == 5
    torch.save({**state, "decoder.extra.num_batches_tracked": torch.tensor(1)}, tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth").num_classes == 5


def test_the_weights_are_preferred_to_their_average(tmp_path: Path, state: State) -> None:
    zeros = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    torch.save({"ema": zeros, "state_dict": state}, tmp_path / "w.pth")
    key = "decoder.output_conv.weight"
    assert torch.equal(load_checkpoint(tmp_path / "w.pth").network.get_parameter(key), state[key])


def test_overrides(tmp_path: Path, state: State) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    assert load_checkpoint(path, architecture="erfnet", variant="eromera", num_classes=5).num_classes == 5
    with pytest.raises(OptionError, match=r"has 5 classes, not 19.*--num-classes 5"):
        load_checkpoint(path, num_classes=19)
    with pytest.raises(OptionError, match=r"no architecture 'ernet'.*Did you mean 'erfnet'"):
        load_checkpoint(path, architecture="ernet")
    with pytest.raises(OptionError, match="no variant of enet 'eromera'"):
        load_checkpoint(path, architecture="enet", variant="eromera")
    with pytest.raises(UnknownArchitectureError, match=r"looked for: enet davidtvs.*no key of these networks"):
        load_checkpoint(path, architecture="enet")


def test_twin_by_override(tmp_path: Path) -> None:
    torch.save(ENet(3).state_dict(), tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth").variant == "davidtvs"
    assert load_checkpoint(tmp_path / "w.pth", variant="davidtvs-pre2021").variant == "davidtvs-pre2021"


def test_ambiguous_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(state: StateDict) -> dict[str, Any] | None:
        return {"in_channels": 3, "out_channels": 2, "kernel_size": 1, "num_classes": 2} if "weight" in state else None

    def build(num_classes: int, **sizes: int) -> nn.Module:
        return nn.Conv2d(**sizes)

    pair = tuple(Variant("conv", name, "", "", infer, build, notices=(Notice("m", "o"),)) for name in ("a", "b"))
    monkeypatch.setattr(registry, "variants", lambda architecture=None: pair)
    torch.save(nn.Conv2d(3, 2, 1).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UnknownArchitectureError, match="--arch conv --variant a, --arch conv --variant b"):
        load_checkpoint(tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth", variant="b").variant == "b"


def test_nearest_network_and_the_differences_are_named(tmp_path: Path, state: State) -> None:
    del state["decoder.layers.0.conv.bias"]
    state["decoder.attention.weight"] = torch.ones(3)
    state["decoder.layers.1.conv1x3_1.bias"] = torch.ones(99)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UnknownArchitectureError) as caught:
        load_checkpoint(tmp_path / "w.pth")
    said = str(caught.value)
    assert "Nearest is erfnet eromera: 1 tensors missing (decoder.layers.0.conv.bias)" in said
    assert "1 tensors unexpected (decoder.attention.weight)" in said
    assert "decoder.layers.1.conv1x3_1.bias (99,) instead of (10,)" in said
    assert "\n" not in said


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    resnet = {
        "conv1.weight": torch.randn(64, 3, 7, 7),
        "bn1.weight": torch.ones(64),
        "layer1.0.conv1.weight": torch.randn(64, 64, 3, 3),
        "layer1.0.bn1.running_mean": torch.zeros(64),
        "fc.weight": torch.randn(1000, 512),
    }
    torch.save(resnet, tmp_path / "resnet18.pth")
    with pytest.raises(
        UnknownArchitectureError,
        match=r"5 tensors begin with conv1.weight, .*mobileseg list architectures.*--model FILE.py:FACTORY",
    ):
        load_checkpoint(tmp_path / "resnet18.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, state: State, value: float) -> None:
    key = "decoder.output_conv.bias"
    torch.save({**state, key: torch.full_like(state[key], value)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"in 1 tensors, the first of them '{key}'"):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_no_classes(tmp_path: Path, state: State) -> None:
    last = {"decoder.output_conv.weight": torch.zeros(6, 0, 2, 2), "decoder.output_conv.bias": torch.zeros(0)}
    torch.save({**state, **last}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="has no classes"):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"a": {1: torch.ones(3)}}, torch.ones(3)])
def test_files_without_weights(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_checkpoint(tmp_path / "w.pth")


# Files that are no checkpoints


def saved(content: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


WEIGHTS = {"a": torch.zeros(50, 50)}
DAMAGED = {
    "empty": (b"", "is empty"),
    "text": (b"epoch 1: loss 0.3\n" * 20, "cannot be read"),
    "web page": (b"\n<!DOCTYPE html><html></html>", "web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "truncated": (saved(WEIGHTS)[:-3000], "truncated"),
    "start only": (saved(WEIGHTS)[:80], "truncated"),
    "legacy, truncated": (saved(WEIGHTS, zipped=False)[:-3000], "truncated"),
    "legacy, start only": (saved(WEIGHTS, zipped=False)[:70], "truncated"),
    "plain pickle": (pickle.dumps([1, 2, 3]), "cannot be read"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "cannot be read"),
    "zeros": (bytes(5000), "tar format of PyTorch 0.1"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    content, said = DAMAGED[damage]
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_no_damage_gets_through_as_another_error(tmp_path: Path, state: State, zipped: bool) -> None:
    whole = saved(state, zipped)
    generator = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(3):
            content[generator.integers(min(400, len(content)))] = generator.integers(256)
        (tmp_path / "w.pth").write_bytes(content)
        with contextlib.suppress(CheckpointError):
            load_checkpoint(tmp_path / "w.pth")


def test_damaged_safetensors(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_checkpoint(tmp_path / "w.safetensors")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no file"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a directory"):
        load_checkpoint(tmp_path)


class Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.victim}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_never_runs(tmp_path: Path, state: State, zipped: bool) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "w.pth").write_bytes(saved({"state_dict": state, "x": Hostile(victim)}, zipped))
    with pytest.raises(UnsafeCheckpointError, match=r"would have to run '\w+\.system'"):
        load_checkpoint(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Hostile(victim), 2))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "w.pth")
    assert not victim.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", ["module", "namespace", "array"])
def test_objects_are_refused_with_the_way_to_save_again(
    tmp_path: Path, network: nn.Module, state: State, content: str, zipped: bool
) -> None:
    whole: dict[str, Any] = {
        "module": network,
        "namespace": {"args": argparse.Namespace(lr=0.1), "state_dict": state},
        "array": {"losses": np.zeros(3), "state_dict": state},
    }
    (tmp_path / "w.pth").write_bytes(saved(whole[content], zipped))
    with pytest.raises(UnsafeCheckpointError, match=r"torch.save\(model.state_dict\(\), 'weights.pth'\)"):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        load_checkpoint(tmp_path / "w.pt")


def test_allow_list_holds_scalars_and_their_types_only() -> None:
    names = {getattr(x[0] if isinstance(x, tuple) else x, "__name__", "") for x in weights.numpy_scalars()}
    assert {"scalar", "dtype", "Float64DType", "Float32DType", "Int64DType"} <= names
    assert all(name in ("scalar", "dtype") or name.endswith("DType") for name in names)
