"""In the manner of DABNet (arXiv:1907.11357): depthwise asymmetric bottlenecks, the picture injected at each scale."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from randomness import randomise


class Conv(nn.Module):
    def __init__(self, nin, nout, kernel, stride, padding, dilation=(1, 1), groups=1, bn_acti=False):
        super().__init__()
        self.conv = nn.Conv2d(nin, nout, kernel, stride, padding, dilation, groups, bias=False)
        self.bn_prelu = BNPReLU(nout) if bn_acti else None

    def forward(self, x):
        x = self.conv(x)
        return x if self.bn_prelu is None else self.bn_prelu(x)


class BNPReLU(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bn, self.acti = nn.BatchNorm2d(channels, eps=1e-3), nn.PReLU(channels)

    def forward(self, x):
        return self.acti(self.bn(x))


class DAB(nn.Module):
    def __init__(self, n, d):
        super().__init__()
        h = n // 2
        self.bn_relu_1, self.bn_relu_2 = BNPReLU(n), BNPReLU(h)
        self.conv3x3 = Conv(n, h, 3, 1, 1, bn_acti=True)
        self.dconv3x1 = Conv(h, h, (3, 1), 1, (1, 0), groups=h, bn_acti=True)
        self.dconv1x3 = Conv(h, h, (1, 3), 1, (0, 1), groups=h, bn_acti=True)
        self.ddconv3x1 = Conv(h, h, (3, 1), 1, (d, 0), (d, 1), groups=h, bn_acti=True)
        self.ddconv1x3 = Conv(h, h, (1, 3), 1, (0, d), (1, d), groups=h, bn_acti=True)
        self.conv1x1 = Conv(h, n, 1, 1, 0)

    def forward(self, x):
        y = self.conv3x3(self.bn_relu_1(x))
        near = self.dconv1x3(self.dconv3x1(y))
        far = self.ddconv1x3(self.ddconv3x1(y))
        return self.conv1x1(self.bn_relu_2(near + far)) + x


class Down(nn.Module):
    def __init__(self, nin, nout):
        super().__init__()
        self.pooled = nin < nout
        self.conv = Conv(nin, nout - nin if self.pooled else nout, 3, 2, 1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn_prelu = BNPReLU(nout)

    def forward(self, x):
        y = self.conv(x)
        if self.pooled:
            y = torch.cat([y, self.pool(x)], 1)
        return self.bn_prelu(y)


class Inject(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.pool = nn.ModuleList(nn.AvgPool2d(3, stride=2, padding=1) for _ in range(times))

    def forward(self, x):
        for pool in self.pool:
            x = pool(x)
        return x


class DABLike(nn.Module):
    def __init__(self, classes=8):
        super().__init__()
        self.init = nn.Sequential(Conv(3, 12, 3, 2, 1, bn_acti=True), Conv(12, 12, 3, 1, 1, bn_acti=True))
        self.down_1, self.down_2, self.down_3 = Inject(1), Inject(2), Inject(3)
        self.bn_1, self.bn_2, self.bn_3 = BNPReLU(15), BNPReLU(35), BNPReLU(51)
        self.downsample_1, self.block_1 = Down(15, 16), nn.Sequential(DAB(16, 2))
        self.downsample_2, self.block_2 = Down(35, 24), nn.Sequential(DAB(24, 4))
        self.classifier = Conv(51, classes, 1, 1, 0)

    def forward(self, input):
        x = self.init(input)
        x = self.bn_1(torch.cat([x, self.down_1(input)], 1))
        first = self.downsample_1(x)
        x = self.block_1(first)
        x = self.bn_2(torch.cat([x, first, self.down_2(input)], 1))
        second = self.downsample_2(x)
        x = self.block_2(second)
        x = self.bn_3(torch.cat([x, second, self.down_3(input)], 1))
        return F.interpolate(self.classifier(x), input.size()[2:], mode="bilinear", align_corners=False)


def build(classes=8):
    return randomise(DABLike(classes), 5)
