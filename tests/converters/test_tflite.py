"""The TFLite target on one small network that has every operator the passes rewrite, and on the odd cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mobileseg.converters.export import Deployed, export, rewrite
from mobileseg.converters.target import Lowering
from mobileseg.registry import PREPROCESSINGS

pytest.importorskip("litert_torch", reason="needs the extra: pip install 'mobileseg[tflite]'")
pytest.importorskip("ai_edge_litert", reason="needs the extra: pip install 'mobileseg[tflite]'")

from mobileseg.converters.tflite import TARGET, flatbuffer

METADATA = {"tool": "mobileseg", "classes": {"names": ["a", "b"]}}
FORBIDDEN = ("GATHER", "SCATTER", "TOPK", "CUSTOM", "FLEX", "WHERE", "SELECT", "CAST", "TRANSPOSE_CONV")
SIZE = (36, 44)


class Small(nn.Module):
    """Unpooling (overlapping and not), both PReLUs, normalization, channel padding, a transposed convolution, a
    shuffle, pyramid pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.PReLU(12))
        self.second = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.PReLU())
        self.up = nn.ConvTranspose2d(16, 16, 3, 2, 1, 1)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y, outer = F.max_pool2d(x, 3, 2, 1, return_indices=True)
        z, inner = F.max_pool2d(self.second(y), 2, return_indices=True)
        z = z + F.interpolate(F.adaptive_avg_pool2d(z, (6, 7)), size=z.shape[-2:], mode="bilinear", align_corners=True)
        z = F.max_unpool2d(z, inner, 2, output_size=y.shape[-2:])
        x = F.max_unpool2d(z, outer, 2, output_size=x.shape[-2:])
        x = F.pad(F.max_pool2d(x, 2), (0, 0, 0, 0, 0, 4))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(self.up(x))  # type: ignore[no-any-return]


def network() -> Small:
    torch.manual_seed(3)
    made = Small()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.6)
    return made.eval()


def classifier() -> nn.Module:
    """A network of two layers, where only the head counts."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()


def pictures(size: tuple[int, int] = SIZE, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (batch, 3, *size), generator=torch.Generator().manual_seed(seed)).float()


Write = Callable[..., Path]


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Converts once for each set of arguments; the file's path."""
    made: dict[Any, Path] = {}

    def convert(
        module: Callable[[], nn.Module] = network,
        size: tuple[int, int] = SIZE,
        precision: str = "fp32",
        head: Any = "logits",
        preprocessing: str = "imagenet",
        batch: int = 1,
        again: int = 0,
    ) -> Path:
        key = (module, size, precision, head, preprocessing, batch, again)
        if key not in made:
            deployed = Deployed(module(), PREPROCESSINGS[preprocessing], head)
            made[key] = tmp_path_factory.mktemp("tflite") / "network.tflite"
            rewritten = rewrite(export(deployed, size, batch=batch), "tflite", precision)
            TARGET.lower(rewritten, Lowering(precision, head, METADATA), made[key])
        return made[key]

    return convert


def interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    loaded = Interpreter(str(path), num_threads=1)
    loaded.allocate_tensors()
    return loaded


def run(path: Path, picture: Tensor) -> NDArray[Any]:
    """Channels-first result of the file for a channels-first picture."""
    loaded = interpreter(path)
    loaded.set_tensor(loaded.get_input_details()[0]["index"], picture.permute(0, 2, 3, 1).contiguous().numpy())
    loaded.invoke()
    result: NDArray[Any] = loaded.get_tensor(loaded.get_output_details()[0]["index"])
    return result.transpose(0, 3, 1, 2) if result.ndim == 4 else result


def expected(
    head: Any = "logits",
    preprocessing: str = "imagenet",
    picture: Tensor | None = None,
    module: Callable[[], nn.Module] = network,
) -> NDArray[Any]:
    with torch.no_grad():
        result = Deployed(module(), PREPROCESSINGS[preprocessing], head)(pictures() if picture is None else picture)
    return result.numpy()  # type: ignore[no-any-return]


def operators(path: Path) -> Counter[str]:
    return Counter(o["op_name"] for o in interpreter(path)._get_ops_details())


@pytest.mark.parametrize(("batch", "preprocessing"), [(1, "imagenet"), (2, "espnet-cityscapes")])
def test_runs_and_equals_torch(write: Write, batch: int, preprocessing: str) -> None:
    # Without windows whose two largest numbers are nearer than the rounding of a sum: the maximum may be either.
    picture = pictures(batch=batch, seed=5)
    reference = expected(preprocessing=preprocessing, picture=picture)
    difference = np.abs(run(write(preprocessing=preprocessing, batch=batch), picture) - reference)
    assert difference.max() <= 1e-5 * np.abs(reference).max()


def test_names_types_and_layout(write: Write) -> None:
    (signature,) = interpreter(write()).get_signature_list().values()
    assert signature == {"inputs": ["picture"], "outputs": ["logits"]}
    loaded = interpreter(write())
    assert loaded.get_input_details()[0]["shape"].tolist() == [1, *SIZE, 3]
    assert loaded.get_output_details()[0]["shape"].tolist() == [1, *SIZE, 5]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_only_operators_that_phones_run(write: Write, precision: str) -> None:
    found = operators(write(precision=precision))
    assert not [name for name in found if any(word in name for word in FORBIDDEN)]
    assert found["LEAKY_RELU"] == 1
    assert found["PRELU"] == 1
    details = interpreter(write(precision=precision)).get_tensor_details()
    assert not [t["name"] for t in details if t["dtype"] == np.bool_]


def test_no_layout_change_but_the_shuffle(write: Write) -> None:
    assert operators(write())["TRANSPOSE"] == 1


def test_softmax_head(write: Write) -> None:
    path = write(module=classifier, head="softmax")
    assert next(iter(interpreter(path).get_signature_list().values()))["outputs"] == ["probabilities"]
    np.testing.assert_allclose(run(path, pictures()), expected("softmax", module=classifier), atol=1e-5)


def test_argmax_head_is_a_small_class_map(write: Write) -> None:
    result = run(write(module=classifier, head="argmax"), pictures())
    assert result.dtype == np.uint8
    assert result.shape == (1, *SIZE)
    assert (result == expected("argmax", module=classifier)).mean() >= 0.999


def test_fp16_halves_the_weights_and_agrees(write: Write) -> None:
    full, half = write(), write(precision="fp16")
    weights = [
        sum(len(b.data) for b in flatbuffer.read(p.read_bytes()).buffers if b.data is not None) for p in (full, half)
    ]
    assert weights[1] < 0.75 * weights[0]  # scalars, shapes and metadata keep their size in a file this small
    reference = expected()
    assert np.abs(run(half, pictures()) - reference).max() <= 5e-3 * np.abs(reference).max()
    assert "DEQUANTIZE" in operators(half)


def test_metadata_is_embedded(write: Write) -> None:
    import json

    model = flatbuffer.read(write().read_bytes())
    (entry,) = [m for m in model.metadata if m.name == b"mobileseg"]
    assert json.loads(bytes(model.buffers[entry.buffer].data)) == METADATA


def test_the_same_program_gives_the_same_bytes(write: Write) -> None:
    assert write().read_bytes() == write(again=1).read_bytes()


def test_no_path_of_the_machine_is_in_the_file(write: Write) -> None:
    content = write().read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert b"site-packages" not in content


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, indices, 2, output_size=x.shape[-2:])


def test_unpooling_to_an_odd_size(write: Write) -> None:
    picture = torch.randint(0, 3, (1, 3, 37, 51)).float()
    path = write(module=Odd, size=(37, 51), preprocessing="unit")
    with torch.no_grad():
        reference = Deployed(Odd(), PREPROCESSINGS["unit"], "logits")(picture).numpy()
    assert np.array_equal(run(path, picture), reference)
