"""A small network in the stock tools' files: a sign in it is what XNNPACK does not take."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

SIZE = (16, 24)


class Signs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.second(x))
        result: Tensor = torch.sign(self.last(x))
        return result


@pytest.fixture(scope="session")
def signs() -> nn.Module:
    torch.manual_seed(0)
    return Signs().eval().requires_grad_(False)


@pytest.fixture(scope="session")
def signs_tflite(signs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    litert_torch = pytest.importorskip("litert_torch", reason="install the extra: pip install 'mobileseg[tflite]'")
    path = tmp_path_factory.mktemp("signs") / "signs.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = litert_torch.to_channel_last_io(signs, args=[0], outputs=[0])
        litert_torch.convert(module, (torch.zeros(1, *SIZE, 3),)).export(str(path))
    return path


@pytest.fixture(scope="session")
def signs_pte(signs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("executorch.exir", reason="install the extra: pip install 'mobileseg[executorch]'")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    path = tmp_path_factory.mktemp("signs") / "signs.pte"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(signs, (torch.zeros(1, 3, *SIZE),))
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)
    return path
