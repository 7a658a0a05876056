"""SegNet in small: max-pooling that hands its indices to the decoder."""

import torch.nn as nn
from randomness import randomise


def conv_bn(cin, cout):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(True))


class MiniSegNet(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.enc1, self.enc2 = conv_bn(3, 12), conv_bn(12, 16)
        self.mid = conv_bn(16, 16)
        self.dec2, self.dec1 = conv_bn(16, 12), nn.Conv2d(12, classes, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, 2)

    def forward(self, x):
        x, i1 = self.pool(self.enc1(x))
        x, i2 = self.pool(self.enc2(x))
        x = self.mid(x)
        x = self.dec2(self.unpool(x, i2))
        return self.dec1(self.unpool(x, i1))


def build():
    network = randomise(MiniSegNet(), 19)
    network.mobileseg = {"size": (64, 96), "size_multiple": 4, "min_size": 8, "preprocessing": "unit"}
    return network
