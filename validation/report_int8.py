"""What a report says of the plan of an int8 file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mobileseg.types import Int8Findings, NotRun
from mobileseg.validation.plain import not_run, number


def plan_record(found: Int8Findings) -> dict[str, Any]:
    """The report's ``quantization.plan``."""
    recipe, equalization = found.recipe, found.equalization
    return {
        "ranges": found.ranges,
        "ranges_tried": dict(found.ranges_tried),
        "equalized": recipe.equalized,
        "budget": {
            "min_agreement": found.sought,
            "max_miou_drop": recipe.max_miou_drop,
            "max_evaluations": recipe.max_evaluations,
        },
        "held": found.held,
        "probes": found.probes,
        "novelty": found.novelty,
        "agreement_int8": found.int8,
        "agreement": found.agreement,
        "agreement_of_file": number(found.file_agreement),
        "miou_drop": number(found.miou_drop),
        "equalization": not_run(equalization)
        if isinstance(equalization, NotRun)
        else {
            "scaled": equalization.scaled,
            "expected_gain_db": equalization.expected_gain_db,
            "agreement_without": number(equalization.agreement_without),
        },
        "units": found.units,
        "kept": [asdict(unit) for unit in found.kept],
        "cost_share": found.cost_share,
        "evaluations": found.evaluations,
        "float_operators": number(found.float_operators),
    }
