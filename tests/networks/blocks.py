"""The blocks that segmentation networks are built from, each as a small network: between a stem and a classifier."""

import torch
import torch.nn.functional as F
from deeplab import ASPP
from oddities import conv
from randomness import randomise
from torch import nn
from unet import DoubleConv


class SqueezeExcite(nn.Module):
    """MobileNetV3's, by convolutions."""

    def __init__(self, channels):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(self.pool(x)))))


class InvertedResidual(nn.Module):
    """MobileNetV3's: wide, depthwise, squeezed, narrow."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        wide = 4 * cin
        self.residual = stride == 1 and cin == cout
        self.blocks = nn.Sequential(
            conv(cin, wide, 1, act=nn.Hardswish),
            nn.Conv2d(wide, wide, 5, stride, 2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            SqueezeExcite(wide),
            nn.Conv2d(wide, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )

    def forward(self, x):
        return x + self.blocks(x) if self.residual else self.blocks(x)


class Bottleneck(nn.Module):
    """ResNet's: narrow, 3x3, wide, around it the identity or a projection."""

    def __init__(self, cin, cout, stride=1, dilation=1, groups=1):
        super().__init__()
        width = cout // 4 * groups
        self.narrow = conv(cin, width, 1)
        self.middle = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, dilation, dilation, groups, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.wide = nn.Sequential(nn.Conv2d(width, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.project = None
        if stride != 1 or cin != cout:
            self.project = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        around = x if self.project is None else self.project(x)
        return F.relu(self.wide(self.middle(self.narrow(x))) + around)


class UNet(nn.Module):
    """Skips that are concatenated; one way up by a transposed convolution, the other by interpolation."""

    def __init__(self, classes=5, width=8):
        super().__init__()
        self.one, self.two, self.three = DoubleConv(3, width), DoubleConv(width, 2 * width), DoubleConv(2 * width, 32)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.transposed = nn.ConvTranspose2d(32, 16, 2, 2)
        self.second, self.first = DoubleConv(32, 16), DoubleConv(24, width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        one = self.one(x)
        two = self.two(self.pool(one))
        x = self.second(torch.cat([two, self.transposed(self.three(self.pool(two)))], 1))
        return self.classify(self.first(torch.cat([one, self.up(x)], 1)))


class Attention(nn.Module):
    """SegFormer's: keys and values from a coarser grid. ``fused``: torch's own attention."""

    def __init__(self, dim, heads, reduction, fused):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.reduce = nn.Conv2d(dim, dim, reduction, reduction)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x, h, w):
        b, n, c = x.shape
        coarse = self.norm(self.reduce(x.transpose(1, 2).reshape(b, c, h, w)).flatten(2).transpose(1, 2))
        q = self.q(x).reshape(b, n, self.heads, c // self.heads).transpose(1, 2)
        k, v = self.kv(coarse).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class Stage(nn.Module):
    """Overlapping patches, attention, and the feed-forward layers with a depthwise convolution between."""

    def __init__(self, cin, dim, heads, reduction, stride, fused):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(cin, dim, 2 * stride - 1, stride, stride - 1), nn.LayerNorm(dim)
        self.norm1, self.attend = nn.LayerNorm(dim), Attention(dim, heads, reduction, fused)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.depthwise = nn.Conv2d(2 * dim, 2 * dim, 3, 1, 1, groups=2 * dim)
        self.last = nn.LayerNorm(dim)

    def forward(self, x):
        x = self.patch(x)
        b, c, h, w = x.shape
        x = self.norm(x.flatten(2).transpose(1, 2))
        x = x + self.attend(self.norm1(x), h, w)
        y = self.fc1(self.norm2(x)).transpose(1, 2).reshape(b, 2 * c, h, w)
        x = x + self.fc2(F.gelu(self.depthwise(y)).flatten(2).transpose(1, 2))
        return self.last(x).transpose(1, 2).reshape(b, c, h, w)


class SegFormer(nn.Module):
    """Two stages; the head projects each, enlarges the coarser one and joins them."""

    def __init__(self, classes=5, fused=False):
        super().__init__()
        self.fine, self.coarse = Stage(3, 16, 2, 4, 4, fused), Stage(16, 32, 4, 2, 2, fused)
        self.project = nn.ModuleList([nn.Linear(16, 16), nn.Linear(32, 16)])
        self.fuse, self.classify = conv(32, 16, 1), nn.Conv2d(16, classes, 1)

    def forward(self, x):
        fine = self.fine(x)
        b, _, h, w = fine.shape
        maps = []
        for project, features in zip(self.project, (fine, self.coarse(fine)), strict=True):
            tokens = project(features.flatten(2).transpose(1, 2)).transpose(1, 2)
            grid = tokens.reshape(b, 16, features.shape[2], features.shape[3])
            maps.append(F.interpolate(grid, size=(h, w), mode="bilinear", align_corners=False))
        return F.interpolate(self.classify(self.fuse(torch.cat(maps[::-1], 1))), scale_factor=4, mode="bilinear")


def between(seed, *blocks, channels):
    """Blocks that take 16 channels of half the picture's size, and leave so many."""
    return randomise(nn.Sequential(conv(3, 16, 3, 2), *blocks, nn.Conv2d(channels, 5, 1)), seed)


def inverted_residual():
    """MobileNetV3's: hard-swish, squeeze-and-excitation."""
    return between(40, InvertedResidual(16, 24, 2), InvertedResidual(24, 24, 1), channels=24)


def bottleneck():
    """ResNet's: halving, then dilated in groups."""
    return between(41, Bottleneck(16, 32, 2), Bottleneck(32, 32, dilation=2), Bottleneck(32, 32, groups=2), channels=32)


def unet():
    """Skips that are concatenated."""
    return randomise(UNet(), 42)


def aspp():
    """DeepLab's: dilated branches beside each other, one of them the mean of all."""
    return between(43, Bottleneck(16, 32, 2), ASPP(32, 16, (2, 4, 6)), channels=16)


def segformer():
    """Layer norm and attention, written out."""
    return randomise(SegFormer(), 44)


def segformer_fused():
    """The same by torch's own attention."""
    return randomise(SegFormer(fused=True), 45)
