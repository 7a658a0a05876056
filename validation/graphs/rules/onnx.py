"""ONNX's operators, and those of ONNX Runtime's own domain that its tools write. Data are NCHW; weights (out, in, H,
W), of transposed convolutions (in, out, H, W)."""

from __future__ import annotations

from mobileseg.validation.graphs.rules import convolution, product, table, transposed_convolution

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Those whose operators are meant: another's ``Conv`` is another operator."""

RULES = table(
    {
        "Conv": convolution(per_group=1),
        "ConvInteger": convolution(per_group=1),
        "ConvTranspose": transposed_convolution(),
        "DeformConv": convolution(per_group=1),
        "FusedConv": convolution(per_group=1),
        "FusedMatMul": product(),
        "Gemm": product(),
        "MatMul": product(),
        "MatMulInteger": product(),
        "QGemm": product(),
        "QLinearConv": convolution(weights=3, per_group=1),
        "QLinearMatMul": product(),
    },
    pooling="""
        AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxRoiPool MaxUnpool QLinearAveragePool
        QLinearGlobalAveragePool RoiAlign
    """,
    elementwise="""
        Abs Acos Acosh Add And Asin Asinh Atan Atanh Binarizer BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil
        Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf
        IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QLinearAdd QLinearLeakyRelu
        QLinearMul QLinearSigmoid Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum
        Swish Tan Tanh ThresholdedRelu Where Xor
    """,
    normalization="""
        BatchNormalization GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax
        LpNormalization MeanVarianceNormalization RMSNormalization Softmax
    """,
    reduction="""
        ArgMax ArgMin CumProd CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare TopK
    """,
    resizing="GridSample Resize Upsample",
    movement="""
        Compress Concat ConstantOfShape DepthToSpace Expand EyeLike NonZero OneHot QLinearConcat Range
        ReverseSequence Scatter ScatterElements ScatterND SpaceToDepth Split Tile Transpose Trilu
    """,
    padding="CenterCropPad Pad",
    selection="Gather GatherElements GatherND Shape Size Slice",
    view="Flatten Identity Reshape Squeeze Unsqueeze",
    conversion="BitCast Cast CastLike DequantizeLinear DynamicQuantizeLinear QuantizeLinear",
    constant="Constant",
)
