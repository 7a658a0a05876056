"""The options that several commands share, and how their words are read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mobileseg.errors import OptionError, UsageError
from mobileseg.types import INT8, Int8Recipe, Size, Triple

_RUNS = 30
"""Of --time."""


def parse_size(text: str | Size) -> Size:
    """``HxW`` in pixels. Raises `OptionError`."""
    if isinstance(text, tuple):
        return text
    match = re.fullmatch(r"\s*(\d+)\s*[xX*,]\s*(\d+)\s*", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise OptionError(f"--size takes HEIGHTxWIDTH in pixels, for example --size 512x1024; got '{text}'.")
    return int(match[1]), int(match[2])


def parse_triple(text: str | Triple) -> Triple:
    """Three numbers, one a channel. Raises `OptionError`."""
    if isinstance(text, tuple):
        return text
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            f"--mean and --std take three numbers, for example --mean 0.485,0.456,0.406; got '{text}'."
        ) from None
    return first, second, third


def parse_range(text: str | tuple[float, float]) -> tuple[float, float]:
    """Two numbers. Raises `OptionError`."""
    if isinstance(text, tuple):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            f"--input-range takes the values of black and white, for example --input-range 0,1; got '{text}'."
        ) from None
    return low, high


def time_runs(time: bool, runs: int | None) -> int | None:
    """How many runs are timed; None for none. Raises `OptionError` for a number without ``--time``."""
    if runs is not None and not time:
        raise OptionError(f"--runs {runs} says how many runs are timed, and --time, which times them, is missing.")
    return (runs or _RUNS) if time else None


def recipe_of(ranges: str, no_equalize: bool, max_evaluations: int) -> Int8Recipe:
    """What the options of int8 say."""
    return replace(INT8, ranges=ranges, equalized=not no_equalize, max_evaluations=max_evaluations)


def precision_of(precision: str | None, shorthands: dict[str, bool]) -> str:
    """The one precision that ``--precision`` and the flags name; fp32 where none does. Raises `UsageError` for two."""
    asked = [*([precision] if precision else []), *(name for name, given in shorthands.items() if given)]
    if len(set(asked)) > 1:
        raise UsageError(
            f"{' and '.join(asked)} were asked for, and one conversion has one precision. "
            "Say one of --int8, --fp16 or --precision P, and run again for the others."
        )
    return asked[0] if asked else "fp32"


def _option(*names: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, show_default=False, **more)


# What to convert
CheckpointArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .pth, .pt, .pth.tar or .safetensors file; without one, the embedded demo network.",
    ),
]
ModelFactory = Annotated[
    str | None,
    _option(
        "--model", metavar="MODULE:FACTORY|FILE.py:FACTORY", help="Any other network: what makes it. Runs its code."
    ),
]
Arch = Annotated[str | None, _option("--arch", metavar="NAME", help="Its architecture; else told from its keys.")]
VariantName = Annotated[str | None, _option("--variant", metavar="NAME", help="Its layout, where several fit.")]
NumClasses = Annotated[int | None, _option("--num-classes", metavar="N", help="Its number of classes, to be checked.")]

# To what
To = Annotated[str, typer.Option("--to", metavar="TARGET,...", help="Targets, separated by commas, or all.")]
ToOne = Annotated[str, typer.Option("--to", metavar="TARGET", help="The target whose forms are looked at.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Weights and activations in 8-bit integers.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Weights in 16-bit floating point.")]
Precision = Annotated[
    str | None, _option("--precision", metavar="P", help="Any precision of 'mobileseg list precisions'; else fp32.")
]
PictureSize = Annotated[
    Any,
    _option(
        "--size", metavar="HxW", help="Height x width of the pictures; else what it was trained at.", parser=parse_size
    ),
]
HeadName = Annotated[str, typer.Option("--head", metavar="HEAD", help="The output: logits, softmax or argmax.")]
RawInput = Annotated[bool, typer.Option("--raw-input", help="Leave the preprocessing out of the file.")]
OutputSizeName = Annotated[
    str, typer.Option("--output-size", metavar="network|input", help="Output as the network has it, or as the picture.")
]
Opset = Annotated[int | None, _option("--opset", metavar="N", help="ONNX: operator set of the file.")]
Delegate = Annotated[
    str | None,
    _option("--delegate", metavar="NAME", help="ExecuTorch: xnnpack, coreml, vulkan or portable; else xnnpack."),
]
InputType = Annotated[
    str | None,
    _option("--input-dtype", metavar="TYPE", help="TFLite int8: the input's type, float32 (default), int8 or uint8."),
]
OutputType = Annotated[
    str | None,
    _option("--output-dtype", metavar="TYPE", help="TFLite int8: the output's type, float32 (default), int8 or uint8."),
]
EtRecord = Annotated[bool, typer.Option("--etrecord", help="ExecuTorch: write the ETRecord beside the file.")]
DeploymentTarget = Annotated[
    str | None, _option("--deployment-target", metavar="OS", help="Core ML: oldest system it runs on; else iOS16.")
]
Author = Annotated[str | None, _option("--author", metavar="TEXT", help="Core ML: author, shown by Xcode.")]
License = Annotated[str | None, _option("--license", metavar="TEXT", help="Core ML: licence, shown by Xcode.")]
Jobs = Annotated[
    int | None, _option("--jobs", metavar="N", help="Targets made at once; else as many as there is room for.")
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and rewrite, and write no file.")]

# What the weights do not tell
PreprocessingName = Annotated[
    str | None,
    _option("--preprocessing", metavar="NAME|FILE.json", help="What the network was fed: a name, or a JSON file."),
]
Mean = Annotated[
    Any, _option("--mean", metavar="A,B,C", help="Mean per channel, in the network's order.", parser=parse_triple)
]
Std = Annotated[Any, _option("--std", metavar="A,B,C", help="Standard deviation per channel.", parser=parse_triple)]
Scale = Annotated[float | None, _option("--scale", metavar="X", help="What pixels are divided by first.")]
PostScale = Annotated[float | None, _option("--post-scale", metavar="X", help="What they are divided by last.")]
ChannelOrder = Annotated[str | None, _option("--channel-order", metavar="RGB|BGR", help="The network's channels.")]
ClassesName = Annotated[
    str | None, _option("--classes", metavar="NAME|FILE", help="Names and palette of the classes, by data set or file.")
]

# Prediction
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE|demo",
        help="A .tflite, .onnx, .pte or .mlpackage file, a checkpoint, or demo for the embedded network.",
    ),
]
Inputs = Annotated[
    list[Path], typer.Argument(metavar="PICTURE...", help="Pictures, folders of pictures at any depth, video files.")
]
PredictionOutput = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of masks and overlays.")]
Opacity = Annotated[
    float, typer.Option("--opacity", metavar="SHARE", min=0.0, max=1.0, help="Of the colours over the picture, 0 to 1.")
]
Legend = Annotated[bool, typer.Option("--legend", help="The classes in a strip below each overlay, too.")]
VideoMasks = Annotated[bool, typer.Option("--video-masks", help="A label map of each frame of a video, too.")]
Threads = Annotated[int | None, _option("--threads", metavar="N", min=1, help="Of the artifact's runtime; else all.")]
ComputeUnits = Annotated[
    str,
    typer.Option(
        "--compute-units", metavar="UNITS", help="Core ML on macOS: all, cpu_only, cpu_and_gpu or cpu_and_ne."
    ),
]

# Pictures
Calibration = Annotated[
    str | None,
    _option("--calibration", metavar="DIR|synthetic", help="Pictures that int8 takes its ranges from."),
]
CalibrationSize = Annotated[int, typer.Option("--calibration-size", metavar="N", help="How many of them.")]
CalibrationLabels = Annotated[
    Path | None,
    _option("--calibration-labels", metavar="DIR", help="Their label maps, for --max-miou-drop to be sought by int8."),
]
Ranges = Annotated[
    str,
    typer.Option(
        "--ranges", metavar="METHOD", help="int8: min-max, moving-average, percentile[:P], mse, entropy, or auto."
    ),
]
NoEqualize = Annotated[bool, typer.Option("--no-equalize", help="int8: leave the channels' ranges as they are.")]
MaxEvaluations = Annotated[
    int,
    typer.Option(
        "--max-evaluations", metavar="N", min=1, help="int8: plans tried in search of what must stay in float."
    ),
]
Images = Annotated[
    Path | None, _option("--images", metavar="DIR", help="Pictures on which file and checkpoint are compared.")
]
Labels = Annotated[Path | None, _option("--labels", metavar="DIR", help="Their label maps, for the mIoU.")]
ImageCount = Annotated[int, typer.Option("--image-count", metavar="N", help="How many pictures to compare on.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Which pictures are chosen.")]

# What a finished file is held against, and what it does not say of itself
ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A .tflite, .onnx, .pte or .mlpackage, of mobileseg or not.")
]
Against = Annotated[
    str | None,
    _option("--against", metavar="FILE|demo", help="The checkpoint, or another file, that it should equal."),
]
AllOrSome = Annotated[int | None, _option("--image-count", metavar="N", min=1, help="How many pictures; else all.")]
Random = Annotated[int | None, _option("--random", metavar="N", min=1, help="N pictures of noise instead.")]
Layout = Annotated[str | None, _option("--input-layout", metavar="NCHW|NHWC", help="Of the file's input.")]
InputRange = Annotated[
    Any, _option("--input-range", metavar="A,B", help="What black and white are to the file.", parser=parse_range)
]
OutputLayout = Annotated[str | None, _option("--output-layout", metavar="NCHW|NHWC|NHW", help="Of its output.")]
FileHead = Annotated[str | None, _option("--head", metavar="HEAD", help="What it returns: logits, softmax or argmax.")]
FileRawInput = Annotated[
    bool | None, _option("--raw-input/--picture-input", help="It takes the network's own input, or pictures.")
]
FilePrecision = Annotated[str | None, _option("--precision", metavar="P", help="Whose gates it is held to.")]

Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="Where the file is run: a device of 'mobileseg list devices'.")
]
PackageSources = Annotated[
    Path | None,
    _option("--sources", metavar="FILE", help="Package sources (.list or .sources) in place of the machine's own."),
]
Workers = Annotated[int | None, _option("--jobs", metavar="N", help="Processes that share the pictures, at most.")]
Cluster = Annotated[
    str | None, _option("--cluster", metavar="HOST:PORT", help="A Dask scheduler, whose workers share them.")
]

# Where findings go
ReportFile = Annotated[Path | None, _option("--report", metavar="FILE.json", help="The report.")]
JUnitFile = Annotated[Path | None, _option("--junit", metavar="FILE.xml", help="The gates as JUnit XML.")]
MarkdownFile = Annotated[Path | None, _option("--markdown", metavar="FILE.md", help="A summary in Markdown.")]
HtmlFile = Annotated[Path | None, _option("--html", metavar="FILE.html", help="The report as one page.")]
Bisect = Annotated[
    bool, typer.Option("--bisect", help="On the worst picture, hold every operator against torch's; name a wrong one.")
]
Baseline = Annotated[
    Path | None, _option("--baseline", metavar="FILE.json", help="A report; what is worse than it fails.")
]

TOP = 20
Top = Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many layers are shown, the worst first.")]

# Gates
MinAgreement = Annotated[
    float | None,
    _option("--min-agreement", metavar="SHARE", min=0.0, max=1.0, help="Least share of pixels of equal class, 0 to 1."),
]
MinSqnr = Annotated[
    float | None, _option("--min-sqnr", metavar="DB", help="Least signal-to-noise ratio of the logits.")
]
MaxMiouDrop = Annotated[
    float | None, _option("--max-miou-drop", metavar="POINTS", help="Most points of mIoU that may be lost.")
]

# Times
Time = Annotated[bool, typer.Option("--time", help="Measure how long each operator of an artifact takes here.")]
TimeRuns = Annotated[int | None, _option("--runs", metavar="N", min=1, help="Of --time: how many runs; else 30.")]

# What is shown
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="What the converters print too, and tracebacks.")]
