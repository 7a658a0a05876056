"""`--model`: what becomes of the code that a user names, good and bad."""

from __future__ import annotations

import hashlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobileseg.checkpoint import load_checkpoint
from mobileseg.errors import CheckpointError, OptionError, SizeError
from mobileseg.factories import build

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)
        self.bn = nn.BatchNorm2d(num_classes)

    def forward(self, x):
        return self.bn(self.conv(x))
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Puts code into a file beside `NETWORK`'s; the name to give to ``--model``."""

    def written(code: str, factory: str = "build", name: str = "code.py") -> str:
        (tmp_path / "net.py").write_text(NETWORK)
        (tmp_path / name).write_text(textwrap.dedent(code))
        return f"{tmp_path / name}:{factory}"

    return written


@pytest.fixture
def net(write: Write) -> str:
    return write(NETWORK, "Net")


def load(model: Any, **options: Any) -> Any:
    return load_checkpoint(None, model=model, size=options.pop("size", (16, 24)), **options)


# What can be named


FACTORIES = {
    "a function": "from net import Net\ndef build(): return Net()",
    "a class": "from net import Net as build",
    "an object": "from net import Net\nbuild = Net()",
    "a lambda": "import net\nbuild = lambda: net.Net()",
    "partial": "import functools, net\nbuild = functools.partial(net.Net, 4)",
    "other defaults": "from net import Net\ndef build(pretrained=False, *args, **kwargs): return Net(**kwargs)",
    "DataParallel": "from net import Net\nfrom torch import nn\ndef build(): return nn.DataParallel(Net())",
    "half precision, training": "from net import Net\ndef build(): return Net().half().train()",
    "a dataclass in the file": """
        from __future__ import annotations
        import dataclasses
        from net import Net
        @dataclasses.dataclass
        class Settings:
            classes: int = 4
        def build(): return Net(Settings().classes)
        """,
}


@pytest.mark.parametrize("code", FACTORIES.values(), ids=FACTORIES)
def test_factories(write: Write, code: str) -> None:
    loaded = load(write(code))
    assert loaded.num_classes == 4
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}
    assert loaded.network(torch.zeros(1, 3, 16, 24)).shape == (1, 4, 16, 24)


def test_what_is_told_of_a_network(net: str) -> None:
    loaded = load(net)
    assert (loaded.architecture, loaded.variant, loaded.path) == ("Net", "Net", Path("code-Net"))
    assert (loaded.parameters, loaded.size, loaded.size_multiple) == (3 * 4 * 9 + 4 + 8, (16, 24), 1)
    assert loaded.sha256 == load(net).sha256 != load(net, num_classes=5).sha256


def test_a_name_with_dots(write: Write) -> None:
    loaded = load(write("from net import Net\nclass Models:\n    build = staticmethod(lambda: Net())", "Models.build"))
    assert (loaded.variant, loaded.path) == ("Models.build", Path("code-Models-build"))


def test_a_file_by_a_relative_path(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("from net import Net as build")
    monkeypatch.chdir(tmp_path)
    assert load("code.py:build").num_classes == 4


def test_a_package_in_the_current_folder_and_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pictures_to_classes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(NETWORK)
    (package / "zoo.py").write_text("from .net import Net\ndef build(): return Net(7)")
    with pytest.raises(OptionError, match=r"relative import.*--model PACKAGE\.MODULE:FACTORY"):
        load(f"{package / 'zoo.py'}:build")
    monkeypatch.chdir(tmp_path)
    assert load("pictures_to_classes.zoo:build").num_classes == 7
    assert not [name for name in sys.modules if name.startswith("pictures_to_classes")]
    monkeypatch.chdir("/")
    erfnet = load("mobileseg.architectures.erfnet:ERFNet", num_classes=3)
    assert (erfnet.num_classes, erfnet.path) == (3, Path("erfnet-ERFNet"))


def test_python_objects() -> None:
    network = nn.Conv2d(3, 2, 1).double()
    loaded = load(network)
    assert (loaded.architecture, loaded.num_classes, loaded.path) == ("Conv2d", 2, Path("Conv2d"))
    assert (network.weight.dtype, network.weight.requires_grad) == (torch.float64, True)
    assert load(lambda num_classes: nn.Conv2d(3, num_classes, 1), num_classes=9).num_classes == 9


def test_each_folder_has_its_own_modules(tmp_path: Path) -> None:
    """Two networks whose files import another ``utils``; one imports it only while it runs."""
    search, modules = list(sys.path), set(sys.modules)
    loaded = []
    for folder, classes in ("a", 2), ("b", 3):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "utils.py").write_text(f"CLASSES = {classes}")
        (tmp_path / folder / "code.py").write_text(
            textwrap.dedent("""
            from torch import nn
            class Net(nn.Module):
                def forward(self, x):
                    from utils import CLASSES
                    return x[:, :1].repeat(1, CLASSES, 1, 1)
            """)
        )
        loaded.append(load(f"{tmp_path / folder / 'code.py'}:Net"))
    assert [n.num_classes for n in loaded] == [2, 3]
    assert [n.network(torch.zeros(1, 3, 4, 4)).shape[1] for n in (*loaded, *loaded)] == [2, 3, 2, 3]
    assert sys.path == search
    assert not {"utils", "code", "mobileseg_model"} & (set(sys.modules) - modules)


# What the factory is called with


@pytest.mark.parametrize("name", ["num_classes", "n_classes", "nclass", "classes", "num_class", "n_class", "nClass"])
def test_number_of_classes(name: str, write: Write) -> None:
    model = write(f"from net import Net\ndef build(n_channels, {name}): return Net({name})")
    assert load(model, num_classes=6).num_classes == 6
    with pytest.raises(OptionError, match=rf"needs the number of classes \('{name}'\). Say it: --num-classes N"):
        load(model)


def test_number_of_classes_that_the_network_does_not_have(write: Write) -> None:
    with pytest.raises(OptionError, match=r"gives 4 classes, not 5\. The factory has no parameter of a usual name"):
        load(write("from net import Net\ndef build(): return Net()"), num_classes=5)
    with pytest.raises(OptionError, match=r"gives 4 classes, not 5\. Leave --num-classes out"):
        load(write("from net import Net\ndef build(num_classes): return Net(4)"), num_classes=5)


def test_a_list_of_classes_is_no_number(write: Write) -> None:
    model = write("from net import Net\ndef build(classes=('a', 'b')): return Net(len(classes))")
    assert load(model).num_classes == 2


def test_required_arguments_are_named_with_the_remedy(write: Write) -> None:
    model = write("def build(backbone, num_classes, *, depth): ...")
    with pytest.raises(OptionError, match=r"only you can choose: backbone, depth.*build\(num_classes=\.\.\., "):
        load(model, num_classes=3)


# What is wrong with the code


WRONG = {
    "no colon": ("my_net.py", r"does not say both where the code is.*--model my_net.py:build"),
    "nothing after it": ("my_net.py:", r"does not say both"),
    "no file": ("none/my_net.py:build", r"'none/my_net.py', is not there: check the path"),
    "no module": ("no_such_package.nets:build", r"raised ModuleNotFoundError: No module named 'no_such_package'"),
}


@pytest.mark.parametrize(("model", "said"), WRONG.values(), ids=WRONG)
def test_names_of_nothing(model: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        build(model)


BROKEN = {
    "missing": ("def built(): ...\nx = 1", OptionError, r"has no 'build'\. Did you mean 'built'\? It defines: built\."),
    "syntax": ("x = 1\ndef build(:", OptionError, r"raised SyntaxError: .* \(code.py, line 2\)"),
    "import": ("\nimport no_such_package", OptionError, r"No module named 'no_such_package' \(code.py, line 2\)"),
    "exits": ("import sys\nsys.exit(3)", OptionError, r"ended the program \(exit status 3\).*__name__ == '__main__'"),
    "at import": ("1 / 0", OptionError, r"Importing .* raised ZeroDivisionError: division by zero \(code.py, line 1\)"),
    "raises": ("def build():\n    {}['x']", OptionError, r"Calling .* raised KeyError: 'x' \(code.py, line 2\)"),
    "no module": ("def build(): return {}", OptionError, r"gave dict instead of a torch.nn.Module"),
    "nothing": ("def build(): pass", OptionError, r"gave NoneType instead"),
    "no factory": ("build = 3", OptionError, r"is of type int: expected is a function or class"),
    "scripted": (
        "import torch\nfrom net import Net\nbuild = lambda: torch.jit.script(Net())",
        OptionError,
        r"TorchScript program",
    ),
    "not finite": (
        "from net import Net\ndef build():\n    n = Net()\n    n.conv.bias.data[0] = float('nan')\n    return n",
        CheckpointError,
        r"The network of .*not finite numbers.*'conv.bias'",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("code", "kind", "said"), BROKEN.values(), ids=BROKEN)
def test_code_that_makes_no_network(write: Write, code: str, kind: type[Exception], said: str) -> None:
    model = write(code)
    with pytest.raises(kind, match=said) as caught:
        load(model)
    assert "\n" not in str(caught.value)


# What a network returns


def forward(body: str) -> str:
    return f"""
import torch
from torch import nn

class build(nn.Module):
    def forward(self, x):
        y = x[:, :2]
        {body}
"""


OUTPUTS = {
    "tuple": ("return y, x", "number 1 was taken"),
    "class map first": ("return [y.argmax(1), y]", "number 2 was taken"),
    "torchvision": ("return {'aux': x, 'out': y}", "'out' was taken"),
    "transformers": ("return {'loss': None, 'logits': y, 'hidden': (x, x)}", "'logits' was taken"),
    "one entry": ("return {'mask': y}", "'mask' was taken"),
    "nested": ("return {'out': [y, x]}", "number 1 of 'out' was taken"),
}


@pytest.mark.parametrize(("body", "said"), OUTPUTS.values(), ids=OUTPUTS)
def test_the_main_output_is_found_and_said(write: Write, body: str, said: str) -> None:
    loaded = load(write(forward(body)))
    x = torch.rand(1, 3, 16, 24)
    assert torch.equal(loaded.network(x), x[:, :2])
    assert [n.option for n in loaded.notices if said in n.message] == ["--model"]


def test_a_tensor_needs_no_notice(net: str) -> None:
    assert [n.option for n in load(net).notices] == ["--preprocessing"]


NO_LOGITS = {
    "classes": ("return y.argmax(1)", OptionError, r"a tensor \(1, 16, 24\) of int64\. Return the logits"),
    "no plane": ("return y.mean((2, 3))", OptionError, r"a tensor \(1, 2\) of float32"),
    "several": ("return {'a': y, 'b': x}", OptionError, r"a mapping with a, b\. Return the logits"),
    "nothing": ("pass", OptionError, r"returns a NoneType"),
    "half": ("return y.to(torch.bfloat16)", OptionError, r"of bfloat16\. Take autocast and casts out"),
    "not finite": ("return y / 0", OptionError, r"numbers that are not finite"),
    "raises": ("return y.view(1, 2, 64, 64)", SizeError, r"picture of 16x24.*RuntimeError.*code.py, line 8.*--size"),
    "exits": ("raise SystemExit('no')", SizeError, r"ended the program \(exit status no\)"),
}


@pytest.mark.parametrize(("body", "kind", "said"), NO_LOGITS.values(), ids=NO_LOGITS)
def test_what_are_no_logits(write: Write, body: str, kind: type[Exception], said: str) -> None:
    model = write(forward(body))
    with pytest.raises(kind, match=said):
        load(model)


def test_one_output_is_said(write: Write) -> None:
    assert "--head logits" in [n.option for n in load(write(forward("return y[:, :1]"))).notices]


# With a checkpoint


def weights(classes: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(1)
    bn = {f"bn.{key}": torch.rand(classes) + 0.5 for key in ("weight", "bias", "running_mean", "running_var")}
    return {"conv.weight": torch.randn(classes, 3, 3, 3), "conv.bias": torch.randn(classes), **bn}


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "raw": lambda s: s,
    "trainer": lambda s: {"epoch": 3, "optimizer": {}, "state_dict": {f"module.{k}": v for k, v in s.items()}},
    "half": lambda s: {"model": {k: v.half() for k, v in s.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_of_a_checkpoint(net: str, tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]) -> None:
    path = tmp_path / "best.pth"
    torch.save(wrap(weights()), path)
    loaded = load_checkpoint(path, model=net, size=(16, 24))
    assert (loaded.path, loaded.sha256) == (path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert torch.allclose(loaded.network.get_parameter("network.conv.weight"), weights()["conv.weight"], atol=1e-3)


def test_a_wrapper_around_the_network_that_was_trained(write: Write, tmp_path: Path) -> None:
    model = write(
        """
        from net import Net
        from torch import nn
        class build(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = Net()
            def forward(self, x):
                return self.inner(x)
        """
    )
    torch.save(weights(), tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth", model=model, size=(16, 24))
    assert torch.equal(loaded.network.get_parameter("network.inner.conv.bias"), weights()["conv.bias"])


def test_weights_of_another_network(net: str, tmp_path: Path) -> None:
    state = {**weights(), "head.weight": torch.ones(1)}
    del state["bn.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"does not fit the network of.*1 tensors missing \(bn.bias\).*unex"):
        load_checkpoint(tmp_path / "w.pth", model=net)
    torch.save(weights(5), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"conv.weight \(5, 3, 3, 3\) instead of \(4, 3, 3, 3\).*--num-classes"):
        load_checkpoint(tmp_path / "w.pth", model=net)
    assert load_checkpoint(tmp_path / "w.pth", model=net, num_classes=5).num_classes == 5


def test_weights_that_are_no_numbers(net: str, tmp_path: Path) -> None:
    torch.save({**weights(), "bn.bias": torch.full((4,), torch.inf)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w.pth' has weights that are not finite.*'bn.bias'"):
        load_checkpoint(tmp_path / "w.pth", model=net)


def test_options_that_exclude_each_other(net: str) -> None:
    with pytest.raises(OptionError, match="--arch and --variant name a network that mobileseg knows, --model one that"):
        load_checkpoint(None, model=net, architecture="enet")
    with pytest.raises(OptionError, match="No checkpoint was named"):
        load_checkpoint(None)
