"""What a network of others says of itself in its attribute ``mobileseg``, and what is assumed where it does not."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from mobileseg import registry
from mobileseg.checkpoint import load_checkpoint
from mobileseg.errors import OptionError
from mobileseg.foreign import path_in_deployed
from mobileseg.types import Checkpoint, Classes, Preprocessing


def load(model: nn.Module) -> Checkpoint:
    return load_checkpoint(None, model=model, size=(16, 24))


class Silent(nn.Module):
    def __init__(self, channels: int = 4, **attributes: Any) -> None:
        super().__init__()
        self.conv, self.mobileseg = nn.Conv2d(3, channels, 1), attributes

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


@pytest.mark.parametrize(("classes", "size"), [(4, (256, 512)), (12, (360, 480)), (19, (512, 1024))])
def test_a_network_that_says_nothing(classes: int, size: tuple[int, int]) -> None:
    loaded = load_checkpoint(None, model=Silent(classes))
    assert (loaded.size, loaded.min_size, loaded.preprocessing.name, loaded.classes) == (size, 1, "unit", None)
    assert [n.option for n in loaded.notices] == ["--size", "--preprocessing"]


def test_with_what_paths_of_modules_begin_once_deployed() -> None:
    from mobileseg.converters.export import Deployed

    network = load(Silent()).network
    assert f"{path_in_deployed(network)}conv" in dict(Deployed(network, None, "logits").named_modules())
    assert path_in_deployed(Silent()) == "network."


def test_a_network_that_says_everything() -> None:
    said = {"size": [48, 64], "size_multiple": 16, "min_size": 32, "preprocessing": "imagenet", "classes": list("abcd")}
    loaded = load_checkpoint(None, model=Silent(**said))
    assert (loaded.size, loaded.size_multiple, loaded.min_size) == ((48, 64), 16, 32)
    assert loaded.preprocessing == registry.preprocessing("imagenet")
    assert loaded.classes == Classes("custom", ("a", "b", "c", "d"), ())
    assert loaded.notices == ()
    assert load(Silent(**said)).size == (16, 24)


def test_other_ways_to_say_it() -> None:
    mean = {"channel_order": "BGR", "scale": 1.0, "mean": (104, 117, 123)}
    classes = {"names": list("abcd"), "palette": [(i, 0, 255) for i in range(4)], "void": 3}
    loaded = load(Silent(preprocessing=mean, classes=classes))
    assert loaded.preprocessing == Preprocessing("custom", "BGR", 1.0, (104, 117, 123))
    assert loaded.classes == Classes("custom", ("a", "b", "c", "d"), tuple((i, 0, 255) for i in range(4)), 3)
    assert load(Silent(preprocessing=Preprocessing("mine"), classes="camvid")).classes == "camvid"


ATTRIBUTES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"sizes": (1, 2)}, r"no entry 'sizes'\. Did you mean 'size'"),
    "size": ({"size": 512}, r"expected \(height, width\)"),
    "negative": ({"size": (0, 4)}, r"0 is no number of pixels"),
    "multiple": ({"size_multiple": 1.5}, r"1.5 is no number of pixels"),
    "preprocessing": ({"preprocessing": "imagnet"}, r"no preprocessing 'imagnet'\. Did you mean 'imagenet'"),
    "field": ({"preprocessing": {"means": (0, 0, 0)}}, r"'means'\. Did you mean 'mean'"),
    "figures": ({"preprocessing": {"std": (1, 0, 1)}}, r"std must be positive"),
    "kind": ({"preprocessing": 3}, r"'preprocessing' is int"),
    "number": ({"classes": ["a", "b"]}, r"names 2 classes; the network gives 4"),
    "names": ({"classes": [1, 2, 3, 4]}, r"'classes' must be a data set's name"),
    "palette": ({"classes": {"names": list("abcd"), "palette": [(1, 2, 300)] * 4}}, r"red, green, blue \(0 to 255\)"),
    "void": ({"classes": {"names": list("abcd"), "void": 4}}, r"'void' is 4"),
}


@pytest.mark.parametrize(("attributes", "said"), ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attributes_that_do_not_fit(attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        load(Silent(**attributes))


def test_an_attribute_that_is_no_dictionary() -> None:
    network = Silent()
    network.mobileseg = 3  # type: ignore[assignment]
    with pytest.raises(OptionError, match=r"'mobileseg' of the model Silent is int. Make it a dictionary with"):
        load(network)
