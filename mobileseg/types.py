"""The data that the parts of mobileseg hand one another: frozen dataclasses, no behaviour beyond arithmetic on their
own fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Size = tuple[int, int]
"""Height, width in pixels."""

Triple = tuple[float, float, float]
ChannelOrder = Literal["RGB", "BGR"]
Head = Literal["logits", "softmax", "argmax"]
OutputSize = Literal["network", "input"]
"""An artifact's output: as the network has it, often a part of the picture's size; or resized to the picture's."""
OUTPUT_NAMES: Mapping[Head, str] = {"logits": "logits", "softmax": "probabilities", "argmax": "classes"}
"""What an artifact calls its output, by head."""
StateDict = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Preprocessing:
    """What the authors fed their network: ``((pixel / scale) - mean) / std / post_scale``, pixel in 0..255.

    ``mean`` and ``std`` stand in the network's own ``channel_order``.
    """

    name: str
    channel_order: ChannelOrder = "RGB"
    scale: float = 255.0
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    post_scale: float = 1.0

    def affine(self) -> tuple[Triple, Triple]:
        """Gain and offset per network channel, so that ``x = pixel * gain + offset``; computed in float64."""
        gain = tuple(1.0 / (self.scale * s * self.post_scale) for s in self.std)
        offset = tuple(-m / (s * self.post_scale) for m, s in zip(self.mean, self.std, strict=True))
        return (gain[0], gain[1], gain[2]), (offset[0], offset[1], offset[2])


@dataclass(frozen=True)
class Classes:
    """Names and colours of a network's outputs. ``palette``: one RGB triple (0..255) a class; ``void``: the class that
    is no class."""

    dataset: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    void: int | None = None


@dataclass(frozen=True)
class Notice:
    """Something that a checkpoint's keys cannot tell, what was assumed, and the option that says otherwise.

    ``num_classes``: the class count for which alone it matters; None for any.
    """

    message: str
    option: str
    num_classes: int | None = None


@dataclass(frozen=True)
class Variant:
    """One trained layout of one architecture: what `registry` lists and `checkpoint` recognises.

    ``infer`` reads the hyperparameters (``num_classes`` always among them) from a state dict's keys and shapes and
    returns None when the layout's tell-tale keys are absent. ``build`` makes the network for them: an `nn.Module`
    taking ``(N, 3, H, W) float32`` and returning logits ``(N, num_classes, H', W') float32``, whose own keys are those
    of the checkpoint (or of ``rename`` applied to it). ``twin_of`` names a variant whose keys are identical, which is
    then the one assumed.
    """

    architecture: str
    name: str
    summary: str
    source: str
    infer: Callable[[StateDict], dict[str, Any] | None]
    build: Callable[..., nn.Module]
    preprocessing: Callable[[int], str] = lambda num_classes: "unit"
    size_multiple: int = 1
    min_size: int = 32
    default_size: Callable[[int], Size] | None = None
    twin_of: str | None = None
    notices: tuple[Notice, ...] = ()
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network and what was inferred of it.

    ``network``: eval mode, ``(N, 3, H, W) float32`` preprocessed pictures in, logits ``(N, C, H', W') float32`` out.
    ``sha256`` is of the file; ``size`` is the size it was trained at, where known. ``classes``: what the network itself
    says of its classes, a data set's name, or names and a palette (empty: any colours); None where it says nothing.
    """

    network: nn.Module
    architecture: str
    variant: str
    num_classes: int
    hyperparameters: Mapping[str, Any]
    preprocessing: Preprocessing
    size: Size
    size_multiple: int
    min_size: int
    parameters: int
    sha256: str
    path: Path
    notices: tuple[Notice, ...] = ()
    classes: Classes | str | None = None


@dataclass(frozen=True)
class Rewrite:
    """What one pass did to a graph. ``exact``: ``"bit-exact"`` or the tolerance; ``left``: nodes it refused, each with
    the reason."""

    name: str
    count: int
    exact: str
    why: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Int8Recipe:
    """How static int8 is made, for all targets. ``ranges``: a method of `mobileseg.quantization.ranges`, or ``"auto"``.
    ``equalized``: whether channels are brought to like ranges first. ``min_agreement``: share of pixels, 0 to 1, that
    should keep their class on new pictures, as ``probes`` of the calibration pictures, mirrored, foretell;
    ``max_miou_drop``: points of mIoU that may be lost on these, heeded where they have labels. Where int8 throughout
    does not hold them, operators stay in float, as few as suffice; ``max_evaluations``: how many plans are tried for
    that."""

    ranges: str = "auto"
    equalized: bool = True
    min_agreement: float = 0.98
    max_miou_drop: float | None = None
    max_evaluations: int = 24
    probes: int = 4


INT8 = Int8Recipe()
"""What ``--int8`` alone does."""


@dataclass(frozen=True)
class Recipe:
    """How a quantizer makes its file. ``base``: the precision that the target lowers. ``planned``: whether an int8 plan
    is made of the program from pictures first. ``function``: ``"module:function"`` that quantizes the lowered file
    (`mobileseg.registry.function`); None where the plan is written into the program, which is then lowered.
    ``values``: ``"module:function"`` that says which values the target rounds, where those are others than
    `quantization.program.values` finds. ``observed``: whether the function measures ranges itself, and is handed the
    calibration pictures in place of a plan. ``words``: what is said of it where the target itself does it."""

    base: str
    planned: bool
    function: str | None
    values: str | None = None
    observed: bool = False
    words: str = ""

    @property
    def calibrated(self) -> bool:
        """Whether there is anything to be measured on pictures."""
        return self.planned or self.observed


@dataclass(frozen=True)
class KeptUnit:
    """Operators kept in float together. ``name``: of the checkpoint's layer; ``operator``: what they compute.
    ``error_share``: of the error that all units make, each alone in int8, 0 to 1; ``cost_share``: of the work."""

    name: str
    operator: str
    error_share: float
    cost_share: float


@dataclass(frozen=True)
class Equalization:
    """What equalizing channels did. ``scaled``: how many sets of channels; ``expected_gain_db``: by how much less the
    output's error should be. ``agreement_without``: share of equal pixels on the probes, int8 throughout, without
    it."""

    scaled: int
    expected_gain_db: float
    agreement_without: float | NotRun


@dataclass(frozen=True)
class Int8Findings:
    """What planning static int8 found, on the mirrored probes.

    ``novelty``: how many times as many pixels change class in int8 on these as on the same pictures as they are;
    ``sought``: the share of equal pixels on them that, for it, should give the recipe's on new ones. ``ranges``: the
    method taken, ``ranges_tried``: each one's share of equal pixels, 0 to 1 (empty where one was asked for). ``int8``:
    that share for int8 throughout, ``agreement``: of the plan; ``miou_drop``: points that the plan loses. ``held``:
    whether it holds what was sought. ``units``: how many there are; ``kept``: those in float, of which ``cost_share``
    is the work. ``evaluations``: plans tried. ``float_operators``: of the file. ``file_agreement``: the share that the
    file itself keeps equal on the probes. ``warnings``: about activations, pictures and the file, each one a sentence.
    """

    recipe: Int8Recipe
    ranges: str
    ranges_tried: Mapping[str, float]
    probes: int
    novelty: float
    sought: float
    int8: float
    agreement: float
    miou_drop: float | NotRun
    held: bool
    evaluations: int
    units: int
    kept: tuple[KeptUnit, ...]
    cost_share: float
    float_operators: int | NotRun
    file_agreement: float | NotRun
    equalization: Equalization | NotRun
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantized:
    """What a quantizer did. ``recipe``: in words; ``kept_float``: what computes in float, ``"KIND: name"``; ``int8``:
    what planning found, where a plan was made."""

    recipe: str
    kept_float: tuple[str, ...] = ()
    int8: Int8Findings | None = None


@dataclass(frozen=True)
class Placement:
    """Where a file is run, and how. ``device``: ``"host"``, or a name of `mobileseg.registry.DEVICES`.
    ``compute_units``: of Core ML where that exists, in coremltools' words (``"all"``, ``"cpu_only"``,
    ``"cpu_and_gpu"``, ``"cpu_and_ne"``)."""

    device: str = "host"
    threads: int = 1
    compute_units: str = "all"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact. ``layout``: ``"NCHW"``, ``"NHWC"``, ``"NHW"``; ``range``: of an input's
    values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    range: tuple[float, float] | None = None
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Artifact:
    """A file that a phone can run. ``metadata``: the JSON object embedded in it."""

    path: Path
    target: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """One limit and the value it was held against. ``value`` is None where it was not measured, which is not a pass."""

    name: str
    limit: float
    value: float | None
    passed: bool


@dataclass(frozen=True)
class GateLimits:
    """Limits asked for; None means not asked."""

    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    max_miou_drop: float | None = None


@dataclass(frozen=True)
class NotRun:
    """Something that was not measured, and why; ``{"not_run": why}`` in a report."""

    why: str


@dataclass(frozen=True)
class ConvertedArtifact:
    """One row of a conversion's result. ``seconds``: per stage."""

    artifact: Artifact
    report: Mapping[str, Any]
    report_path: Path | None
    passed: bool | NotRun
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class FailedTarget:
    """A target of several that came to nothing. ``error``: the exception's name; ``exit_code``: what it alone would
    have ended with; ``traceback``: of a fault of ours, else empty."""

    target: str
    precision: str
    error: str
    message: str
    exit_code: int
    traceback: str = ""


@dataclass(frozen=True)
class ConvertResult:
    artifacts: Sequence[ConvertedArtifact]
    failures: Sequence[FailedTarget] = ()

    @property
    def passed(self) -> bool | NotRun:
        """Whether all targets were made and passed their gates.

        `NotRun` where none failed and some could not be held against the checkpoint here, or were not made (a dry run).
        """
        if self.failures or any(a.passed is False for a in self.artifacts):
            return False
        return next((a.passed for a in self.artifacts if isinstance(a.passed, NotRun)), True)

    @property
    def exit_code(self) -> int:
        """Of the worst that happened: a fault of ours (1), a missing backend (4), bad input (2), a gate not met (3)."""
        codes = {f.exit_code for f in self.failures} | (
            {3} if any(a.passed is False for a in self.artifacts) else set()
        )
        return next((code for code in (1, 4, 2, 3) if code in codes), 0)
