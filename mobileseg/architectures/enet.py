"""ENet: Paszke, Chaurasia, Kim, Culurciello, "ENet: A Deep Neural Network Architecture for Real-Time Semantic
Segmentation", 2016, arXiv:1606.02147.

One network with davidtvs' present keys; each other layout is a subclass that differs in a few blocks, and a renaming:

===================  ==================================================================================================
``davidtvs``         github.com/davidtvs/PyTorch-ENet since March 2021. Any size.
``davidtvs-pre2021`` The same repository before: one more activation in the upsampling blocks.
``davidtvs-2018``    Its 2018 layout: overlapping 3x3 pooling, 3x3 transposed convolutions, output PReLU per channel.
``iarunava``         github.com/iArunava/ENet-Real-Time-Semantic-Segmentation, 2019: stride in the 3x3 convolution,
                     asymmetric 1x5 before 5x1 with nothing between, one PReLU module used three times in most blocks.
``iarunava-one-bn``  The same repository before: one batch normalisation applied twice in each block.
===================  ==================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mobileseg.architectures.blocks import default_size, width, widths
from mobileseg.architectures.enet_network import BLOCKS, ENet, ENet2018, ENetIArunava, ENetIArunavaOneBN, ENetPre2021
from mobileseg.types import Notice, StateDict, Variant

Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def hyperparameters(state: StateDict) -> dict[str, Any] | None:
    """What `ENet` is built from, out of a state dict with its keys."""
    stem = width(state, "initial_block.main_branch.weight")
    later = widths(state, "downsample1_0.ext_conv3.0.weight", "downsample2_0.ext_conv3.0.weight")
    num_classes = width(state, "transposed_conv.weight", axis=1)
    if stem is None or later is None or num_classes is None:
        return None
    channels = (stem + 3, *later)
    inner = {name: width(state, f"{name}.ext_conv1.0.weight") for name in BLOCKS}
    return {
        "num_classes": num_classes,
        "channels": channels,
        "internal": {n: w for n, w in inner.items() if w is not None and w != BLOCKS[n].internal(channels)},
        "encoder_relu": "downsample1_0.ext_conv1.2.weight" not in state,
        "decoder_relu": "upsample4_0.ext_conv1.2.weight" not in state,
    }


def layout(telltale: str, rename: Rename = dict) -> Callable[[StateDict], dict[str, Any] | None]:
    """Inference for the layout that alone has the key ``telltale``."""

    def infer(state: StateDict) -> dict[str, Any] | None:
        return hyperparameters(rename(dict(state))) if telltale in state else None

    return infer


def rename_2018(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace(".out_prelu.", ".out_activation."): tensor for key, tensor in state.items()}


# b10..b14 are stage 1, b20..b28 stage 2, b31..b38 stage 3 (from 0 in davidtvs' names), b40.. and b50.. the decoder.
IARUNAVA_BLOCKS = {
    f"b{stage}{int(number) + (stage == '3')}": name for name in BLOCKS for stage, number in [name[-3:].split("_")]
}
IARUNAVA_LAYERS = {
    "conv1": "ext_conv1.0",
    "convt1": "ext_conv1.0",
    "bnorm1": "ext_conv1.1",
    "prelu1": "ext_conv1.2",
    "conv2": "ext_conv2.0",
    "convt2": "ext_conv2.0",
    "bnorm2": "ext_conv2.1",
    "prelu2": "ext_conv2.2",
    "conv3": "ext_conv3.0",
    "convt3": "ext_conv3.0",
    "bnorm3": "ext_conv3.1",
    "prelu3": "out_activation",
    "main_conv": "main_conv1.0",
}
IARUNAVA_ASYMMETRIC = {
    **IARUNAVA_LAYERS,
    "conv21": "ext_conv2.0",
    "conv22": "ext_conv2.1",
    "bnorm2": "ext_conv2.2",
    "prelu2": "ext_conv2.3",
}
IARUNAVA_ONE_BN = {"batchnorm": "ext_conv1.1", "batchnorm2": "ext_conv3.1"}
IARUNAVA_ENDS = {
    "init.conv": "initial_block.main_branch",
    "init.batchnorm": "initial_block.batch_norm",
    "init.prelu": "initial_block.out_activation",
    "fullconv": "transposed_conv",
}


def rename_iarunava(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """iArunava's keys to davidtvs'; its transposed 1x1 convolutions become the convolutions they equal."""
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        block, _, layer = module.partition(".")
        name = IARUNAVA_BLOCKS.get(block, block)
        layers = IARUNAVA_ASYMMETRIC if name.startswith("asymmetric") else IARUNAVA_LAYERS
        layer = IARUNAVA_ONE_BN.get(layer, layer)
        target = IARUNAVA_ENDS.get(module, f"{name}.{layers.get(layer, layer)}")
        pointwise = re.fullmatch("convt[13]", layer) is not None and tensor.ndim == 4
        renamed[f"{target}.{leaf}"] = tensor.transpose(0, 1) if pointwise else tensor
    return renamed


CLASS_ORDER = Notice(
    "An ENet with 20 outputs may have been trained with Cityscapes' training ids and void last, which is assumed, or "
    "in the order of davidtvs' own data set, in which 0 is unlabeled and 1 to 19 are the classes. "
    "The weights cannot tell.",
    "--classes",
    num_classes=20,
)
ONE_BN = Notice(
    "This layout applies one batch normalisation twice in each block, whose running statistics then fit neither place: "
    "in evaluation the published weights reach an mIoU of 2 to 6 %. Train with the repository's later layout instead.",
    "--variant iarunava",
)
RESIDUAL_RELU = (
    "davidtvs' ENet before March 2021 had one more activation at the end of the upsampling extension. "
    "With ReLU in the decoder the keys are the same and both load, but the logits differ; {assumed} was assumed. "
    "Say otherwise if the repository was cloned {otherwise}."
)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        architecture="enet",
        name="davidtvs",
        summary="davidtvs' layout since March 2021",
        source="https://github.com/davidtvs/PyTorch-ENet",
        infer=layout("upsample4_0.ext_tconv1.weight"),
        build=ENet,
        default_size=default_size(),
        notices=(
            Notice(
                RESIDUAL_RELU.format(assumed="the present code", otherwise="before then"), "--variant davidtvs-pre2021"
            ),
            CLASS_ORDER,
        ),
    ),
    Variant(
        architecture="enet",
        name="davidtvs-pre2021",
        summary="davidtvs' layout before March 2021: one more activation in the upsampling blocks",
        source="https://github.com/davidtvs/PyTorch-ENet before commit 7cd31d4",
        infer=layout("upsample4_0.ext_tconv1.weight"),
        build=ENetPre2021,
        default_size=default_size(),
        twin_of="davidtvs",
        notices=(
            Notice(RESIDUAL_RELU.format(assumed="the older code", otherwise="since then"), "--variant davidtvs"),
            CLASS_ORDER,
        ),
    ),
    Variant(
        architecture="enet",
        name="davidtvs-2018",
        summary="davidtvs' layout of 2018: output PReLU per channel, overlapping pooling windows",
        source="https://github.com/davidtvs/PyTorch-ENet at commit 921e40c",
        infer=layout("initial_block.out_prelu.weight", rename_2018),
        build=ENet2018,
        size_multiple=8,
        default_size=default_size(8),
        notices=(CLASS_ORDER,),
        rename=rename_2018,
    ),
    Variant(
        architecture="enet",
        name="iarunava",
        summary="iArunava's layout of 2019",
        source="https://github.com/iArunava/ENet-Real-Time-Semantic-Segmentation",
        infer=layout("b10.bnorm1.weight", rename_iarunava),
        build=ENetIArunava,
        size_multiple=8,
        default_size=default_size(8),
        notices=(CLASS_ORDER,),
        rename=rename_iarunava,
    ),
    Variant(
        architecture="enet",
        name="iarunava-one-bn",
        summary="iArunava's first layout, which applies one batch normalisation twice in each block",
        source="https://github.com/iArunava/ENet-Real-Time-Semantic-Segmentation at commit 8f0b484",
        infer=layout("b10.batchnorm.weight", rename_iarunava),
        build=ENetIArunavaOneBN,
        size_multiple=8,
        default_size=default_size(8),
        notices=(ONE_BN, CLASS_ORDER),
        rename=rename_iarunava,
    ),
)
