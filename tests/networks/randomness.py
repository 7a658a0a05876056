"""Weights for the networks of this folder: random, the same on every call, and such that every layer matters."""

import torch
import torch.nn.functional as F
from torch import nn


def randomise(network, seed, height=64, width=96):
    """Batch statistics near those of smooth pictures, affine parameters and slopes off their defaults, logits O(1)."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 1.2)
    pictures = (
        F.interpolate(torch.rand(4, 3, 9, 13), (height, width), mode="bilinear") + torch.rand(4, 3, height, width) / 8
    )
    with torch.no_grad():
        network.train()(pictures)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 0.2 * torch.randn_like(module.running_mean) * module.running_var.sqrt()
            module.running_var *= torch.empty_like(module.running_var).uniform_(0.7, 1.4)
            module.running_var.clamp_(min=0.1)
    return network.eval()
