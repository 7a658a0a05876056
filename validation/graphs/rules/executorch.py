"""ExecuTorch's operators: ATen's, by name without the overload, on its own kernels and inside Vulkan's calls, and those
inside XNNPACK's. ATen's data are NCHW, weights (out, in, H, W), of transposed convolutions (in, out, H, W); XNNPACK's
data NHWC, weights (out, H, W, in), of depthwise convolutions (1, H, W, out)."""

from __future__ import annotations

from mobileseg.validation.graphs.rules import (
    DEPTHWISE,
    convolution,
    either,
    linear,
    product,
    table,
    transposed_convolution,
)

_TRANSPOSED = 6
"""Which argument of a convolution says that it is transposed."""

_CONVOLUTION = either(_TRANSPOSED, transposed_convolution(), convolution(per_group=1))

_ATEN = table(
    {
        "addmm": product(data=1),
        "baddbmm": product(data=1),
        "bmm": product(),
        "convolution": _CONVOLUTION,
        "linear": linear(),
        "mm": product(),
    },
    pooling="_adaptive_avg_pool2d avg_pool2d max_pool2d max_pool2d_with_indices",
    elementwise="""
        abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or
        bitwise_right_shift bitwise_xor ceil clamp cos cosh div elu eq erf exp expm1 floor floor_divide fmod ge gelu glu
        gt hardsigmoid hardswish hardtanh isinf isnan le leaky_relu log log10 log1p log2 logical_and logical_not
        logical_or logical_xor logit lt masked_fill maximum minimum mul ne neg pow prelu reciprocal relu remainder round
        rsqrt rsub sigmoid sign silu sin sinh sqrt sub tan tanh trunc where
    """,
    normalization="""
        _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _softmax native_group_norm
        native_layer_norm
    """,
    reduction="amax amin any argmax argmin cumsum max mean min prod sum topk var var_mean",
    resizing="_upsample_bilinear2d_aa grid_sampler_2d upsample_bicubic2d upsample_bilinear2d upsample_nearest2d",
    movement="""
        _to_copy alias_copy arange cat clone copy copy_ detach_copy empty expand_copy fill flip full
        full_like index_put index_put_ lift_fresh_copy masked_scatter nonzero ones permute_copy pixel_shuffle
        pixel_unshuffle repeat repeat_interleave roll scalar_tensor scatter scatter_add select_scatter
        slice_scatter split_copy split_with_sizes_copy stack t_copy transpose_copy tril unbind_copy unfold_copy zeros
    """,
    padding="""
        constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
        replication_pad3d
    """,
    selection="""
        as_strided_copy diagonal_copy embedding gather index index_select masked_select narrow_copy select_copy
        slice_copy sym_size
    """,
    view="squeeze_copy unsqueeze_copy view_copy",
)

_OTHERS = table(
    {"et_vk.conv_with_clamp": _CONVOLUTION},
    elementwise="executorch_prim.add executorch_prim.floordiv executorch_prim.mul executorch_prim.sub",
    movement="dim_order_ops._clone_dim_order dim_order_ops._empty_dim_order et_vk.prepack",
    view="executorch_prim.et_view",
    conversion="""
        dim_order_ops._to_dim_order_copy quantized_decomposed.choose_qparams
        quantized_decomposed.dequantize_per_channel quantized_decomposed.dequantize_per_tensor
        quantized_decomposed.dequantize_per_token quantized_decomposed.quantize_per_channel
        quantized_decomposed.quantize_per_tensor quantized_decomposed.quantize_per_token
    """,
)

ATEN = _OTHERS | {f"aten.{name}": rule for name, rule in _ATEN.items()}

XNNPACK = table(
    {
        "BatchMatrixMultiply": product(),
        "Conv2d": convolution(channels=-1, per_group=3),
        "ConvTranspose2d": transposed_convolution(channels=-1),
        "DepthwiseConv2d": convolution(channels=-1, kind=DEPTHWISE),
        "FullyConnected": linear(),
    },
    pooling="ArgMaxPooling2d AvgPooling2d GlobalAvgPooling2d MaxPooling2d",
    elementwise="""
        Abs Add Ceiling Clamp Cos Div ELU Exp Floor Gelu Hardswish LeakyReLU Log Maximum Minimum Multiply Negate PReLU
        ReciprocalSquareRoot Sigmoid Sin Square SquareRoot Subtract Tanh
    """,
    normalization="Softmax",
    resizing="StaticResizeBilinear2D",
    movement="Concatenate2 Concatenate3 Concatenate4 Concatenate5 Copy StaticTranspose",
    padding="StaticConstantPad",
    selection="StaticSlice",
    view="StaticReshape",
    conversion="Convert",
)
