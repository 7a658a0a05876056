"""Static int8 on the rewritten program: which values are rounded, their ranges, what that does to the result.

All targets share it. A target's own quantizer writes what is found here into its file's form.
"""

from mobileseg.quantization.program.planned import (
    Planned,
    Sort,
    equalize_channels,
    equalized,
    exact_classes,
    int8_agreement,
    plan_program,
    probes_of,
    same,
)

__all__ = [
    "Planned",
    "Sort",
    "equalize_channels",
    "equalized",
    "exact_classes",
    "int8_agreement",
    "plan_program",
    "probes_of",
    "same",
]
