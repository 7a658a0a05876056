"""The deployed network, its canonical form, and the rewriting of a whole program for each target."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileseg.converters.export import Deployed, RewrittenProgram, export, refuse_what_is_left, rewrite
from mobileseg.converters.forms import TABLE, forms_for
from mobileseg.converters.passes import PASSES
from mobileseg.errors import RewriteError
from mobileseg.registry import PREPROCESSINGS
from mobileseg.types import Head, Preprocessing

SIZE = (10, 14)


def picture(batch: int = 2) -> Tensor:
    """A camera's picture: whole numbers in 0..255."""
    return torch.randint(0, 256, (batch, 3, *SIZE), generator=torch.Generator().manual_seed(0)).float()


def fed(pixels: Tensor, p: Preprocessing) -> Tensor:
    """What the authors feed their network, step by step in double precision."""
    x = pixels.double()
    x = x.flip(1) if p.channel_order == "BGR" else x
    mean, std = (torch.tensor(t, dtype=torch.float64)[:, None, None] for t in (p.mean, p.std))
    return (((x / p.scale) - mean) / std / p.post_scale).float()


def operators(program: Any) -> list[str]:
    return [n.target.__name__.split(".")[0] for n in program.graph.nodes if n.op == "call_function"]


def assert_close(result: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    assert result.shape == expected.shape
    assert float((result - expected).detach().abs().max()) <= tolerance * float(expected.detach().abs().max())


@pytest.mark.parametrize("name", sorted(PREPROCESSINGS))
def test_the_network_sees_what_its_authors_fed_it(name: str) -> None:
    deployed = Deployed(nn.Identity(), PREPROCESSINGS[name], "logits")
    assert_close(deployed(picture()), fed(picture(), PREPROCESSINGS[name]))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_bgr_network_gets_its_channels_exchanged(order: Any) -> None:
    p = Preprocessing("x", channel_order=order, scale=1.0, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    deployed = Deployed(nn.Identity(), p, "logits")
    red = torch.zeros(1, 3, 1, 1)
    red[0, 0] = 9.0
    expected = [8.0, -1.0, -0.75] if order == "RGB" else [-1.0, -1.0, 1.5]
    assert deployed(red).flatten().tolist() == expected


def test_raw_input_is_handed_on_as_it_is() -> None:
    assert torch.equal(Deployed(nn.Identity(), None, "logits")(picture()), picture())


@pytest.mark.parametrize("name", sorted(PREPROCESSINGS))
def test_padded_borders_see_zeros_after_the_preprocessing(name: str) -> None:
    """Were the offset folded into a padded convolution, or the picture padded before it, the borders would differ."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 5, padding=4, dilation=2))
    exported = export(Deployed(network, PREPROCESSINGS[name], "logits"), SIZE, batch=2)
    expected = network(fed(picture(), PREPROCESSINGS[name]))
    assert_close(exported.program.module()(picture()), expected, 1e-5)
    for target, precision in TABLE:
        assert_close(rewrite(exported, target, precision).module(picture()), expected, 1e-5)


@pytest.mark.parametrize("head", ["logits", "softmax", "argmax"])
def test_heads(head: Head) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 5, 1)
    logits = network(fed(picture(), PREPROCESSINGS["imagenet"]))
    expected = {"logits": logits, "softmax": logits.softmax(1), "argmax": logits.argmax(1)}[head]
    result = export(Deployed(network, PREPROCESSINGS["imagenet"], head), SIZE, batch=2).program.module()(picture())
    if head == "argmax":
        assert result.dtype == torch.uint8
        assert torch.equal(result, expected.int())
    else:
        assert_close(result, expected)


class PythonSide(nn.Module):
    """What a trained network's code has and no graph: dropout, in-place operators, loops and branches on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.drop, self.drop2d, self.alpha = nn.Dropout(0.5), nn.Dropout2d(0.5, inplace=True), nn.AlphaDropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.alpha(self.drop2d(self.drop(self.act(self.conv(x)))))
        x = F.dropout(x, 0.3, training=self.training)
        x += 1
        x[:, 0] = x[:, 1] * 2
        x.mul_(0.5).clamp_(max=2.0)
        height = x.shape[2]
        while height > 3:
            height = height // 2
            x = x + F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:])
        return x if x.size(1) == 4 else x[:, :4]


def test_canonical_form_has_no_dropout_and_no_in_place_operators() -> None:
    torch.manual_seed(0)
    network = PythonSide().train()
    program = export(network, SIZE, batch=2).program
    names = operators(program)
    assert not [n for n in names if re.search(r"drop|bernoulli|rand|_$|sym_size|copy_", n)]
    assert not [n for n in program.graph.nodes if n.op == "call_function" and n.target._schema.is_mutable]
    # Height 10 is halved twice before it is at most 3.
    assert names.count("upsample_nearest2d") == names.count("avg_pool2d") == 2
    assert torch.equal(program.module()(picture()), network.eval()(picture()))


class Everything(nn.Module):
    """One place for each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.one, self.many = nn.PReLU(), nn.PReLU(4)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.context, self.shuffle = nn.AdaptiveAvgPool2d((3, 4)), nn.ChannelShuffle(2)
        self.up = nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.norm(self.conv(x)))
        y, indices = self.pool(x)
        y = y + F.interpolate(self.context(y), size=y.shape[2:], mode="bilinear", align_corners=False)
        return self.up(self.shuffle(self.many(self.unpool(y, indices))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("target", "precision"), TABLE)
def test_every_pass_reports_what_it_did(target: str, precision: str) -> None:
    torch.manual_seed(0)
    network = Everything()
    deployed = Deployed(network, PREPROCESSINGS["espnet-camvid"], "logits")
    exported = export(deployed, SIZE, batch=2)
    result = rewrite(exported, target, precision)
    passes = result.rewrites[len(exported.rewrites) :]
    assert result.rewrites[: len(exported.rewrites)] == exported.rewrites
    assert [(r.name, r.exact, r.why, r.left) for r in passes] == [(p.name, p.exact, p.why, ()) for p in PASSES]
    counts = {r.name: r.count for r in passes}
    assert counts == {
        "remove_identities": 0,
        "fuse_clamps": 0,
        "rewrite_expansion": 0,
        "rewrite_padding": 0,
        "rewrite_resizing": 0,
        "fold_constants": 0,
        "fold_batch_norm": 1,
        "turn_signs": 0,
        "rewrite_unpooling": 1,
        "rewrite_grouped_convolution": 0,
        "move_affine": 0,
        "rewrite_average_pooling": 0,
        "rewrite_nearest": 0,
        "rewrite_max_pooling": 0,
        "rewrite_affine": 0,
        "hoist_limits": 0,
        "rewrite_channel_reduction": 0,
        "rewrite_transposed_convolution": int(target in ("tflite", "executorch")),
        "rewrite_adaptive_pooling": 1,
        "rewrite_channel_shuffle": 1,
        # One slope is a leaky ReLU everywhere; one a channel is left where the form says so.
        "rewrite_prelu": 1 if forms_for(target, precision).prelu == "native" else 2,
    }
    assert not {"max_unpool2d", "max_pool2d_with_indices", "_native_batch_norm_legit_no_training"} & set(
        operators(result.program)
    )
    assert_close(result.program.module()(picture()), deployed(picture()), 1e-5)


def test_the_program_that_was_rewritten_is_untouched() -> None:
    torch.manual_seed(0)
    network = Everything()
    exported = export(network, SIZE)
    program = exported.program
    graph, weights = str(program.graph), {k: v.clone() for k, v in program.state_dict.items()}
    rewrite(exported, "tflite", "int8")
    assert str(program.graph) == graph
    assert program.state_dict.keys() == weights.keys()
    assert all(torch.equal(program.state_dict[k], v) for k, v in weights.items())


class Enlarging(nn.Module):
    """An unpooling that no window covers: the flat indices mean other positions in the larger plane."""

    def forward(self, x: Tensor) -> Tensor:
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(pooled, indices, 2, output_size=(SIZE[0] + 1, SIZE[1] + 1))


@pytest.fixture(scope="module")
def left() -> RewrittenProgram:
    return rewrite(export(Enlarging(), SIZE), "tflite", "fp32")


def test_a_forbidden_operator_is_refused_with_the_reason(left: RewrittenProgram) -> None:
    with pytest.raises(RewriteError, match=r"unpools to 11x15.*10x14 plane.*mobileseg doctor"):
        refuse_what_is_left(left, frozenset({"max_unpool2d"}))


def test_a_forbidden_operator_that_no_pass_knows_is_refused_by_name() -> None:
    class TopK(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.topk(2, dim=1).values

    rewritten = rewrite(export(TopK(), SIZE), "onnx", "fp32")
    with pytest.raises(RewriteError, match=r"for the target: topk: no rewrite covers topk\. "):
        refuse_what_is_left(rewritten, frozenset({"topk"}))


def test_what_the_target_can_run_is_not_refused(left: RewrittenProgram) -> None:
    refuse_what_is_left(left, frozenset({"topk"}))
    refuse_what_is_left(left, frozenset())
