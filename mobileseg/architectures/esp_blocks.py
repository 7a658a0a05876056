"""What ESPNet and ESPNetV2 have in common: layers under sacmehta's key names, and the reading of a state dict's shapes.

The attribute names ``conv``, ``bn`` and ``act`` are keys of the checkpoints. No convolution here has a bias; padding
keeps the size at stride 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from mobileseg.types import StateDict


class Conv(nn.Module):
    """Convolution without bias."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class ConvNorm(Conv):
    """Convolution, batch normalization."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, eps: float = 1e-5
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class ConvNormAct(ConvNorm):
    """Convolution, batch normalization, PReLU with one slope a channel."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, eps: float = 1e-5
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, eps=eps)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class NormAct(nn.Module):
    """Batch normalization, PReLU with one slope a channel."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=eps)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(x))
        return out


def halve() -> nn.AvgPool2d:
    """Average pooling 3x3, stride 2, padding 1, the padding's zeros counted: how both networks shrink the picture."""
    return nn.AvgPool2d(3, stride=2, padding=1)


def width(state: StateDict, key: str) -> int:
    """First dimension of a tensor (a convolution's outputs, a PReLU's channels), 0 where there is no such tensor."""
    return state[key].shape[0] if key in state and state[key].ndim > 0 else 0


def fan_in(state: StateDict, key: str) -> int:
    """Second dimension of a convolution's weight (its inputs per group), 0 where there is no such weight."""
    return state[key].shape[1] if key in state and state[key].ndim == 4 else 0


def children(state: StateDict, prefix: str) -> int:
    """How many different names follow ``prefix`` (which ends in a dot): the length of a `nn.ModuleList`."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
