"""TFLite's operators. Data are NHWC; weights (out, H, W, in), of depthwise convolutions (1, H, W, out)."""

from __future__ import annotations

from mobileseg.validation.graphs.rules import DEPTHWISE, convolution, linear, product, table, transposed_convolution

RULES = table(
    {
        "CONV_2D": convolution(channels=-1, per_group=3),
        "DEPTHWISE_CONV_2D": convolution(channels=-1, kind=DEPTHWISE),
        # (D, H, W, in, out)
        "CONV_3D": convolution(channels=-1, per_group=3),
        # The first input is the result's size.
        "TRANSPOSE_CONV": transposed_convolution(data=2, channels=-1),
        "CONV_3D_TRANSPOSE": transposed_convolution(data=2, channels=-1),
        "FULLY_CONNECTED": linear(),
        "BATCH_MATMUL": product(),
    },
    pooling="AVERAGE_POOL_2D L2_POOL_2D MAX_POOL_2D REDUCE_WINDOW",
    elementwise="""
        ABS ADD ADD_N ATAN2 BITWISE_XOR CEIL COMPLEX_ABS COS DIV ELU EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD GELU GREATER
        GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM
        MINIMUM MUL NEG NOT_EQUAL POW PRELU RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RIGHT_SHIFT ROUND RSQRT SELECT SELECT_V2
        SIGN SIN SQRT SQUARE SQUARED_DIFFERENCE SUB TANH ZEROS_LIKE
    """,
    normalization="L2_NORMALIZATION LOCAL_RESPONSE_NORMALIZATION LOG_SOFTMAX SOFTMAX",
    reduction="""
        ARG_MAX ARG_MIN CUMSUM MEAN REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM TOPK_V2
    """,
    resizing="RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR",
    movement="""
        BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CONCATENATION DEPTH_TO_SPACE DILATE DYNAMIC_UPDATE_SLICE FILL
        ONE_HOT PACK RANGE REVERSE_SEQUENCE REVERSE_V2 SCATTER_ND SPACE_TO_BATCH_ND SPACE_TO_DEPTH
        SPLIT SPLIT_V TILE TRANSPOSE UNPACK WHERE
    """,
    padding="MIRROR_PAD PAD PADV2",
    selection="EMBEDDING_LOOKUP GATHER GATHER_ND RANK SHAPE SLICE STRIDED_SLICE",
    view="BITCAST EXPAND_DIMS RESHAPE SQUEEZE",
    conversion="CAST DENSIFY DEQUANTIZE FAKE_QUANT QUANTIZE",
)
