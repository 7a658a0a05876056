"""What coremltools makes of the blocks of other segmentation networks, run by the executor: see
``benchmarks/coreml_blocks.py``, which prints the same as a table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("coremltools", reason="install the extra: pip install 'mobileseg[coreml]'")

ROOT = Path(__file__).parents[3]
SIZE = (32, 48)

CHOSEN = {
    "inverted_residual": ["fp32", "int8", "palette6"],
    "bottleneck": ["fp32", "uint8", "W8A8"],
    "unet": ["fp32", "fp16", "palette8", "sparse"],
    "aspp": ["fp32", "palette4", "sparse int8"],
    "segformer": ["fp32", "fp16", "int4 block", "palette3 group"],
    "segformer_fused": ["fp32 iOS18", "sparse palette4"],
}
"""Every block and every form, though not each of each; those are the slow test's."""

WHOLE = [
    "cgnet.py:build",
    "dabnet.py:build",
    "deeplab.py:build",
    "edanet.py:build",
    "oddities.py:attention",
    "oddities.py:mobile",
    "oddities.py:pyramid",
    "oddities.py:scripted",
    "oddities.py:shuffled",
    "unet.py:build",
    "unet.py:half_pixel",
]


@pytest.fixture(scope="module")
def blocks() -> ModuleType:
    """The script."""
    spec = importlib.util.spec_from_file_location("coreml_blocks", ROOT / "benchmarks" / "coreml_blocks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def hold(blocks: ModuleType, model: str, forms: list[str], size: tuple[int, int] = SIZE) -> None:
    path = f"{ROOT / 'tests' / 'networks'}/{model}"
    rows = list(blocks.rows_of(model, blocks.network_of(path, size), blocks.pictures_of(size, 4), forms))
    assert [row.form for row in rows] == forms
    for row in rows:
        check(blocks, row)


def check(blocks: ModuleType, row: Any) -> None:
    if row.form in blocks.COMPRESSIONS:
        done, _, of = row.decoded.removesuffix(", result equal").partition("/")
        assert row.decoded.endswith(", result equal")
        assert done == of
        assert row.compressed > 0
    elif row.form == "fp16":
        assert row.sqnr_db > 40
    elif row.form == "W8A8":
        assert row.compressed > 0
        assert row.sqnr_db > 100
    else:
        assert row.sqnr_db > 100


@pytest.mark.parametrize("block", sorted(CHOSEN))
@pytest.mark.filterwarnings("ignore")
def test_blocks_give_what_torch_gives(block: str, blocks: ModuleType) -> None:
    hold(blocks, f"blocks.py:{block}", CHOSEN[block])


def test_every_block_and_every_form_is_run(blocks: ModuleType) -> None:
    assert set(CHOSEN) == set(blocks.BLOCKS)
    assert {form for forms in CHOSEN.values() for form in forms} == set(blocks.FORMS)


@pytest.mark.slow
@pytest.mark.parametrize("block", sorted(CHOSEN))
@pytest.mark.filterwarnings("ignore")
def test_every_form_of_every_block(block: str, blocks: ModuleType) -> None:
    hold(blocks, f"blocks.py:{block}", list(blocks.FORMS), (64, 96))


@pytest.mark.slow
@pytest.mark.parametrize("model", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_whole_networks_of_others(model: str, blocks: ModuleType) -> None:
    hold(blocks, model, ["fp32", "fp16"], (64, 96))
