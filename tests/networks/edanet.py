"""In the manner of EDANet (arXiv:1809.06323): dense concatenation of asymmetric dilated convolutions."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from randomness import randomise


class Downsample(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.conv_ch = cout - cin if cin < cout else cout
        self.conv = nn.Conv2d(cin, self.conv_ch, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = nn.BatchNorm2d(cout)
        self.concat = cin < cout

    def forward(self, x):
        out = self.conv(x)
        if self.concat:
            out = torch.cat((out, self.pool(x)), dim=1)
        return F.relu(self.bn(out), inplace=True)


class EDABlock(nn.Module):
    def __init__(self, cin, d, k=8, dropprob=0.02):
        super().__init__()
        self.conv1x1, self.bn0 = nn.Conv2d(cin, k, 1), nn.BatchNorm2d(k)
        self.conv3x1_1, self.conv1x3_1 = (
            nn.Conv2d(k, k, (3, 1), padding=(1, 0)),
            nn.Conv2d(k, k, (1, 3), padding=(0, 1)),
        )
        self.bn1 = nn.BatchNorm2d(k)
        self.conv3x1_2 = nn.Conv2d(k, k, (3, 1), stride=1, padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = nn.Conv2d(k, k, (1, 3), stride=1, padding=(0, d), dilation=(1, d))
        self.bn2 = nn.BatchNorm2d(k)
        self.dropout = nn.Dropout2d(dropprob)

    def forward(self, input):
        out = F.relu(self.bn0(self.conv1x1(input)))
        out = F.relu(self.bn1(self.conv1x3_1(self.conv3x1_1(out))))
        out = self.bn2(self.conv1x3_2(self.conv3x1_2(out)))
        if self.dropout.p != 0:
            out = self.dropout(out)
        return F.relu(torch.cat([out, input], 1))


class EDALike(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.layers = nn.ModuleList([Downsample(3, 12), Downsample(12, 24)])
        channels = 24
        for d in (1, 2):
            self.layers.append(EDABlock(channels, d))
            channels += 8
        self.layers.append(Downsample(channels, 48))
        channels = 48
        for d in (4, 8):
            self.layers.append(EDABlock(channels, d))
            channels += 8
        self.project_layer = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return F.interpolate(self.project_layer(x), scale_factor=8, mode="bilinear", align_corners=True)


def build(num_classes=10):
    return randomise(EDALike(num_classes), 7)
