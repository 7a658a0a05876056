"""Networks unlike ours, from files as strangers write them (tests/networks), through every target and its gates."""

from __future__ import annotations

import functools
import importlib.util
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mobileseg import registry
from mobileseg.checkpoint import load_checkpoint
from mobileseg.converters.export import Deployed, Exported, export
from mobileseg.converters.target import Target
from mobileseg.making import Task, make, silent
from mobileseg.mobile_assets.demo import EVALUATION_SEEDS, scene
from mobileseg.sources import PictureSource
from mobileseg.types import Checkpoint, GateLimits, NotRun, Size
from mobileseg.validation.gates import all_passed, apply_gates
from mobileseg.validation.parity import reference_of

pytestmark = [
    # A network of others uses what is deprecated, and the converters warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

FOLDER = Path(__file__).parent / "networks"
SIZE = (64, 96)
ODD_SIZE = (65, 97)

NETWORKS = {
    "U-Net, bilinear by corners": "unet.py:build",
    "U-Net, bilinear by centres": "unet.py:half_pixel",
    "SegNet": "segnet.py:build",
    "ASPP": "deeplab.py:build",
    "as DABNet": "dabnet.py:build",
    "as CGNet": "cgnet.py:build",
    "as EDANet": "edanet.py:build",
    "MobileNetV3, lite R-ASPP": "oddities.py:mobile",
    "pyramid pooling": "oddities.py:pyramid",
    "shuffles and norms": "oddities.py:shuffled",
    "attention": "oddities.py:attention",
    "autocast, CBAM": "oddities.py:scripted",
}
QUICK_ODD_SIZE = "unet.py:half_pixel"
# Their operators are in the others, too: asymmetric and dilated convolutions as in DABNet, a context as MobileNetV3's.
LIKE_OTHERS = ("cgnet.py:build", "edanet.py:build")
TAKE_ODD_SIZES = ("unet.py:build", "deeplab.py:build", "cgnet.py:build")
# Through ExecuTorch: bilinear resizing, unpooling, shuffles, attention. TFLite, ONNX and Core ML get more.
QUICK_EXECUTORCH = ("unet.py:build", "segnet.py:build", "oddities.py:shuffled", "oddities.py:attention")
# In 16 bits: bilinear resizing, unpooling.
QUICK_FP16 = ("unet.py:build", "segnet.py:build")


@functools.cache
def network(model: str, size: Size = SIZE) -> Checkpoint:
    return load_checkpoint(None, model=f"{FOLDER / model.partition(':')[0]}:{model.partition(':')[2]}", size=size)


@functools.cache
def exported(model: str, size: Size) -> Exported:
    loaded = network(model, size)
    return export(Deployed(loaded.network, loaded.preprocessing, "logits"), size)


def usable(name: str) -> Target:
    target: Target = registry.target(name)
    for module in target.modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'mobileseg[{target.extra}]'")
    return target


def passes_its_gates(model: str, target_name: str, precision: str, size: Size, folder: Path) -> None:
    target = usable(target_name)
    path = folder / f"network{target.suffix}"
    layout = {"layout": target.input_layout}
    metadata = {"target": target.name, "precision": precision, "head": "logits", "input": layout, "output": layout}
    source = PictureSource("two scenes", 2, functools.partial(scenes, size))
    loaded = network(model, size)
    limits = GateLimits()
    task = Task(
        target.name, precision, "logits", {}, metadata, path, path, source, source, None, loaded.preprocessing, limits
    )
    made = make(task, exported(model, size), reference_of(loaded), silent)
    assert not isinstance(made.parity, NotRun)
    gates = apply_gates(made.parity, precision)
    assert all_passed(gates), gates


def scenes(size: Size) -> Iterator[NDArray[np.uint8]]:
    return (scene(seed, size).picture for seed in EVALUATION_SEEDS[:2])


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_the_networks_are_worth_comparing(model: str) -> None:
    """Several classes, logits neither tiny nor huge, and none that depends on few weights alone."""
    loaded = network(model)
    picture = scene(EVALUATION_SEEDS[0], SIZE).picture
    logits = reference_of(loaded)(picture[None])[0]
    shares = np.bincount(logits.argmax(0).ravel(), minlength=loaded.num_classes) / logits[0].size
    assert 0.05 < logits.std() < 50
    assert np.sort(shares)[-2] > 0.01


def all_in_fp32() -> Iterator[Any]:
    for model in (m for m in NETWORKS.values() if m != QUICK_ODD_SIZE):
        for target in registry.TARGETS:
            slow = model in LIKE_OTHERS or (target == "executorch" and model not in QUICK_EXECUTORCH)
            yield pytest.param(model, target, marks=[pytest.mark.slow] if slow else [], id=f"{model}-{target}")


@pytest.mark.parametrize(("model", "target"), list(all_in_fp32()))
def test_fp32(model: str, target: str, tmp_path: Path) -> None:
    passes_its_gates(model, target, "fp32", SIZE, tmp_path)


@pytest.mark.parametrize("target", registry.TARGETS)
@pytest.mark.parametrize("model", QUICK_FP16)
def test_fp16(model: str, target: str, tmp_path: Path) -> None:
    passes_its_gates(model, target, "fp16", SIZE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", registry.TARGETS)
@pytest.mark.parametrize("model", [m for m in NETWORKS.values() if m not in QUICK_FP16])
def test_fp16_of_all(model: str, target: str, tmp_path: Path) -> None:
    passes_its_gates(model, target, "fp16", SIZE, tmp_path)


@pytest.mark.parametrize("target", registry.TARGETS)
@pytest.mark.parametrize("model", [QUICK_ODD_SIZE, *[pytest.param(m, marks=pytest.mark.slow) for m in TAKE_ODD_SIZES]])
def test_odd_sizes(model: str, target: str, tmp_path: Path) -> None:
    passes_its_gates(model, target, "fp32", ODD_SIZE, tmp_path)


# A checkpoint of one's own network


def test_the_weights_of_a_checkpoint_come_out(tmp_path: Path) -> None:
    """The file computes what the weights of the checkpoint do, not those that the factory made."""
    model = f"{FOLDER / 'unet.py'}:build"
    trained = load_checkpoint(None, model=f"{FOLDER / 'unet.py'}:build", size=SIZE).network
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.25)
    torch.save({"epoch": 1, "state_dict": trained.get_submodule("network").state_dict()}, tmp_path / "best.pth")
    loaded = load_checkpoint(tmp_path / "best.pth", model=model, size=SIZE)
    picture = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded.network(picture), trained(picture))
        assert not torch.allclose(loaded.network(picture), network("unet.py:build").network(picture))


# A third party's architecture, as docs/other-networks.md shows it


def code_after(heading: str, language: str) -> str:
    """The first block of code of that language behind a heading of the page."""
    page = (Path(__file__).parents[1] / "docs" / "other-networks.md").read_text(encoding="utf-8")
    return page.partition(heading)[2].partition(f"```{language}\n")[2].partition("```")[0]


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.startswith("tinynet"):
                del sys.modules[name]


def test_an_architecture_of_an_installed_package(tmp_path: Path) -> None:
    """The page's example, installed as pip would: a distribution whose entry points name it."""
    import tomllib

    heading = "## An architecture of your own package"
    project = tomllib.loads(code_after(heading, "toml"))["project"]
    entry_points = project["entry-points"]["mobileseg.architectures"]
    module = entry_points["tinynet"]
    (tmp_path / f"{module}.py").write_text(code_after(heading, "python"))
    information = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = "\n".join(f"{name} = {value}" for name, value in entry_points.items())
    (information / "entry_points.txt").write_text(f"[mobileseg.architectures]\n{lines}\n")

    with installed(tmp_path):
        (variant,) = registry.variants("tinynet")
        trained = variant.build(num_classes=4, width=12).eval()
        torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "tiny.pth")
        loaded = load_checkpoint(tmp_path / "tiny.pth")

    assert (loaded.architecture, loaded.variant, loaded.num_classes) == ("tinynet", variant.name, 4)
    assert loaded.hyperparameters == {"num_classes": 4, "width": 12}
    assert (loaded.size_multiple, loaded.preprocessing.name) == (variant.size_multiple, "imagenet")
    picture = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded.network(picture), trained(picture))
    with pytest.raises(Exception, match="tinynet"):
        registry.variants("tinynet")


def test_the_page_s_own_network(tmp_path: Path) -> None:
    """The page's file, with its attributes."""
    (tmp_path / "my_net.py").write_text(textwrap.dedent(code_after("## Your network's file", "python")))
    loaded = load_checkpoint(None, model=f"{tmp_path / 'my_net.py'}:build", num_classes=3)
    assert (loaded.num_classes, loaded.size, loaded.size_multiple) == (3, (360, 480), 8)
    assert loaded.preprocessing.name == "imagenet"
    assert loaded.notices == ()
