"""The trained demo networks: what they are, and that they are as good as is said."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mobileseg import registry
from mobileseg.mobile_assets import demo
from mobileseg.mobile_assets.demo import train

GOOD = 0.78
"""Mean IoU on unseen scenes that every demo network reaches; what each one has on all of them is in results.json."""

RESULTS = json.loads((Path(demo.__file__).parent / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluation() -> train.Samples:
    return train.samples(demo.EVALUATION_SEEDS[:8])


def trained(name: str) -> tuple[nn.Module, train.Preprocessing]:
    chosen = demo.DEMO[name]
    network, preprocessing = train.build(chosen)
    network.load_state_dict(load_file(chosen.weights), strict=True)
    return network.eval(), preprocessing


def miou(network: nn.Module, preprocessing: train.Preprocessing, data: train.Samples) -> float:
    return float(np.nanmean(train.intersection_over_union(train.confusion(network, preprocessing, data))))


@pytest.mark.parametrize("name", sorted(demo.DEMO))
def test_the_network_is_good_on_unseen_scenes_and_needs_its_channel_order(name: str, evaluation: train.Samples) -> None:
    """A swap of red and blue is the commonest mistake in deployment: the demo must show it."""
    network, preprocessing = trained(name)
    right = miou(network, preprocessing, evaluation)
    swapped = train.Samples(np.ascontiguousarray(evaluation.pictures[..., ::-1]), evaluation.labels)
    wrong = miou(network, preprocessing, swapped)
    assert right >= GOOD
    assert wrong < right - 0.02


@pytest.mark.parametrize("name", sorted(demo.DEMO))
def test_the_file_is_recognised_as_its_variant(name: str) -> None:
    chosen = demo.DEMO[name]
    state = load_file(chosen.weights)
    inferred = registry.variant(chosen.architecture, chosen.variant).infer(state)
    assert inferred is not None
    assert inferred["num_classes"] == len(demo.CLASS_NAMES)
    others = [
        variant.name
        for variant in registry.variants(chosen.architecture)
        if variant.infer(state) is not None and variant.twin_of != chosen.variant
    ]
    assert others == [chosen.variant]


@pytest.mark.parametrize("name", sorted(demo.DEMO))
def test_the_weights_are_fit_to_be_quantized(name: str) -> None:
    """Finite, float32, and no batch normalisation with a vanishing variance, whose folded weights would explode."""
    for key, tensor in load_file(demo.DEMO[name].weights).items():
        assert tensor.dtype in (torch.float32, torch.int64), key
        assert torch.isfinite(tensor).all(), key
        if key.endswith("running_var"):
            assert tensor.min() > 1e-6, key


def test_the_weights_are_small() -> None:
    assert sum(chosen.weights.stat().st_size for chosen in demo.DEMO.values()) < 2_000_000


@pytest.mark.parametrize("name", sorted(demo.DEMO))
def test_the_figures_are_of_these_files(name: str) -> None:
    figures, chosen = RESULTS[name], demo.DEMO[name]
    network, preprocessing = train.build(chosen)
    assert figures["sha256"] == hashlib.sha256(chosen.weights.read_bytes()).hexdigest()
    assert figures["parameters"] == sum(p.numel() for p in network.parameters())
    assert figures["preprocessing"] == preprocessing.name
    assert figures["variant"] == chosen.variant
    evaluation = figures["evaluation"]
    assert evaluation["seeds"] == [demo.EVALUATION_SEEDS.start, demo.EVALUATION_SEEDS.stop]
    assert evaluation["miou"] >= GOOD
    assert evaluation["miou"] == pytest.approx(np.mean(list(evaluation["iou"].values())), abs=1e-3)


def test_intersection_over_union_by_hand() -> None:
    counts = np.zeros((7, 7), np.int64)
    counts[0, 0], counts[0, 1], counts[1, 1] = 6, 2, 4
    iou = train.intersection_over_union(counts)
    assert iou[0] == pytest.approx(6 / 8)
    assert iou[1] == pytest.approx(4 / 6)
    assert np.isnan(iou[2:]).all()


def test_to_input_is_the_preprocessing() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    for preprocessing in registry.PREPROCESSINGS.values():
        channels = pictures if preprocessing.channel_order == "RGB" else pictures[..., ::-1]
        expected = (channels / preprocessing.scale - preprocessing.mean) / preprocessing.std / preprocessing.post_scale
        got = train.to_input(pictures, preprocessing).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_training_runs_and_writes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cycles of one step on a few scenes: the weights load and move, and the results name both cycles' scenes."""
    monkeypatch.setattr(train, "EVALUATION_SEEDS", range(2))
    monkeypatch.setattr(train, "PROGRESS_SEEDS", range(2, 3))
    recipe = replace(train.RECIPES["espnetv2"], steps=1, scenes=4, crop=(64, 96))
    monkeypatch.setitem(train.RECIPES, "espnetv2", recipe)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    first, second, results = tmp_path / "1.safetensors", tmp_path / "2.safetensors", tmp_path / "r.json"
    results.write_text('{"enet": {}}')
    common = ["--network", "espnetv2", "--results", str(results)]
    assert train.main([*common, "--output", str(first)]) == 0
    assert train.main([*common, "--output", str(second), "--start", str(first), "--seed", "1"]) == 0
    network, _ = train.build(demo.DEMO["espnetv2"])
    before, after = load_file(first), load_file(second)
    network.load_state_dict(after, strict=True)
    assert any(not torch.equal(before[key], after[key]) for key in before if key.endswith("weight"))
    written = json.loads(results.read_text())
    assert set(written) == {"enet", "espnetv2"}
    base = demo.TRAINING_SEEDS.start
    assert [c["scene_seeds"] for c in written["espnetv2"]["cycles"]] == [[base, base + 4], [base + 4, base + 8]]
