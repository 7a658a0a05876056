from __future__ import annotations

import pytest
import torch

from mobileseg.quantization.params import GREATEST, LEAST, Params, params_of
from mobileseg.quantization.program.simulate import rounded


@pytest.mark.parametrize("scale", [params_of(-3, 5), params_of(0, 255), params_of(-1e-6, 2e-6), Params(0.5, -128)])
def test_rounding_is_torchs_bit_for_bit_and_leaves_its_input(scale: Params) -> None:
    """Halves of steps, ties that is, and what lies far beyond the range, among them."""
    steps = torch.cat(
        [torch.arange(-600, 600) / 2, 300 * torch.randn(5000, generator=torch.Generator().manual_seed(0))]
    )
    value = steps * scale.scale
    before = value.clone()
    expected = torch.fake_quantize_per_tensor_affine(value, scale.scale, scale.zero_point, LEAST, GREATEST)
    assert torch.equal(rounded(value, scale), expected)
    assert torch.equal(value, before)
