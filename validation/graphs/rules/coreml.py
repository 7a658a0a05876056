"""MIL's operators; inputs bear MIL's names. Data are NCHW; weights (out, in, H, W), of transposed convolutions (in,
out, H, W)."""

from __future__ import annotations

from mobileseg.validation.graphs.rules import convolution, linear, product, table, transposed_convolution

RULES = table(
    {
        "conv": convolution(data="x", weights="weight", per_group=1),
        "conv_transpose": transposed_convolution(data="x", weights="weight"),
        "linear": linear(weights="weight"),
        "matmul": product(data="x"),
    },
    pooling="avg_pool l2_pool max_pool",
    elementwise="""
        abs acos add asin atan atanh ceil clamped_relu clip cos cosh elu equal erf exp exp2 floor floor_div gelu greater
        greater_equal inverse leaky_relu less less_equal linear_activation log logical_and logical_not logical_or
        logical_xor maximum minimum mod mul not_equal pow prelu real_div relu relu6 round rsqrt scaled_tanh select
        sigmoid sigmoid_hard sign silu sin sinh softplus softplus_parametric softsign sqrt square sub tan tanh threshold
        thresholded_relu
    """,
    normalization="batch_norm instance_norm l2_norm layer_norm local_response_norm softmax",
    reduction="""
        argsort cumsum reduce_argmax reduce_argmin reduce_l1_norm reduce_l2_norm reduce_log_sum reduce_log_sum_exp
        reduce_max reduce_mean reduce_min reduce_prod reduce_sum reduce_sum_square topk
    """,
    resizing="""
        affine crop_resize resample resize resize_bilinear resize_nearest_neighbor upsample_bilinear
        upsample_nearest_neighbor
    """,
    movement="""
        band_part batch_to_space concat depth_to_space fill fill_like non_zero one_hot pixel_shuffle pixel_unshuffle
        range_1d reverse reverse_sequence scatter scatter_along_axis scatter_nd slice_update sliding_windows
        space_to_batch space_to_depth split stack tile transpose
    """,
    padding="pad",
    selection="crop gather gather_along_axis gather_nd shape slice_by_index slice_by_size",
    view="expand_dims flatten2d identity reshape reshape_like squeeze",
    conversion="cast dequantize quantize",
)
