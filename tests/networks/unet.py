"""A U-Net: bilinear upsampling, skips that are concatenated, any size."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from randomness import randomise


class DoubleConv(nn.Module):
    def __init__(self, in_ch, out_ch):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_ch, out_ch, 3, padding=1),
            nn.BatchNorm2d(out_ch),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_ch, out_ch, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_ch),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.conv(x)


class Up(nn.Module):
    def __init__(self, in_ch, out_ch, align_corners):
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)
        self.conv = DoubleConv(in_ch, out_ch)

    def forward(self, deep, skip):
        deep = self.up(deep)
        dy = skip.size()[2] - deep.size()[2]
        dx = skip.size()[3] - deep.size()[3]
        deep = F.pad(deep, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, deep], dim=1))


class UNet(nn.Module):
    def __init__(self, n_channels, n_classes, width=8, align_corners=True):
        super().__init__()
        self.inc = DoubleConv(n_channels, width)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(width, 2 * width))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(2 * width, 2 * width))
        self.up1 = Up(4 * width, width, align_corners)
        self.up2 = Up(2 * width, width, align_corners)
        self.outc = nn.Conv2d(width, n_classes, kernel_size=1)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x = self.up1(x3, x2)
        x = self.up2(x, x1)
        return self.outc(x)


def build(num_classes=6):
    return randomise(UNet(3, num_classes), 20)


def half_pixel():
    """Upsampling by pixel centres."""
    return randomise(UNet(3, 6, align_corners=False), 2)
