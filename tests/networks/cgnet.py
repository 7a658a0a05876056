"""In the manner of CGNet (arXiv:1811.08201): local and surrounding features, weighted by a global context."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from randomness import randomise


class ConvBNPReLU(nn.Module):
    def __init__(self, nin, nout, k, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(nin, nout, (k, k), stride=stride, padding=((k - 1) // 2, (k - 1) // 2), bias=False)
        self.bn, self.act = nn.BatchNorm2d(nout, eps=1e-03), nn.PReLU(nout)

    def forward(self, input):
        return self.act(self.bn(self.conv(input)))


class GlobalContext(nn.Module):
    def __init__(self, channel, reduction):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channel, channel // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channel // reduction, channel),
            nn.Sigmoid(),
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class ContextGuided(nn.Module):
    def __init__(self, nin, nout, dilation, down=False):
        super().__init__()
        n = nout if down else nout // 2
        self.down = down
        self.conv1 = ConvBNPReLU(nin, n, 3 if down else 1, 2 if down else 1)
        self.f_loc = nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False)
        self.f_sur = nn.Conv2d(n, n, 3, padding=dilation, dilation=dilation, groups=n, bias=False)
        self.bn, self.act = nn.BatchNorm2d(2 * n, eps=1e-3), nn.PReLU(2 * n)
        self.reduce = nn.Conv2d(2 * n, nout, 1, bias=False) if down else None
        self.f_glo = GlobalContext(nout, 4)

    def forward(self, input):
        x = self.conv1(input)
        joined = self.act(self.bn(torch.cat([self.f_loc(x), self.f_sur(x)], 1)))
        if self.down:
            return self.f_glo(self.reduce(joined))
        return input + self.f_glo(joined)


class InputInjection(nn.Module):
    def __init__(self, ratio):
        super().__init__()
        self.pool = nn.ModuleList()
        for _ in range(ratio):
            self.pool.append(nn.AvgPool2d(3, stride=2, padding=1))

    def forward(self, input):
        for pool in self.pool:
            input = pool(input)
        return input


class CGLike(nn.Module):
    def __init__(self, classes=6, m=2, n=1, dropout_flag=True):
        super().__init__()
        self.level1 = nn.Sequential(ConvBNPReLU(3, 12, 3, 2), ConvBNPReLU(12, 12, 3))
        self.sample1, self.sample2 = InputInjection(1), InputInjection(2)
        self.b1, self.p1 = nn.BatchNorm2d(15), nn.PReLU(15)
        self.level2_0 = ContextGuided(15, 16, 2, down=True)
        self.level2 = nn.ModuleList(ContextGuided(16, 16, 2) for _ in range(m - 1))
        self.b2, self.p2 = nn.BatchNorm2d(35), nn.PReLU(35)
        self.level3_0 = ContextGuided(35, 32, 4, down=True)
        self.level3 = nn.ModuleList(ContextGuided(32, 32, 4) for _ in range(n - 1))
        self.b3, self.p3 = nn.BatchNorm2d(64), nn.PReLU(64)
        self.dropout_flag = dropout_flag
        self.classifier = nn.Conv2d(64, classes, 1)

    def forward(self, input):
        out = self.level1(input)
        inp1, inp2 = self.sample1(input), self.sample2(input)
        out = self.p1(self.b1(torch.cat([out, inp1], 1)))
        first = out = self.level2_0(out)
        for layer in self.level2:
            out = layer(out)
        out = self.p2(self.b2(torch.cat([out, first, inp2], 1)))
        first = out = self.level3_0(out)
        for layer in self.level3:
            out = layer(out)
        out = self.p3(self.b3(torch.cat([first, out], 1)))
        if self.dropout_flag:
            out = F.dropout2d(out, 0.1, self.training)
        return F.interpolate(self.classifier(out), input.size()[2:], mode="bilinear", align_corners=True)


def build(num_classes=6):
    return randomise(CGLike(num_classes), 6)
