"""Every metric against its definition written out pixel by pixel, and on maps small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mobileseg.errors import PictureError
from mobileseg.types import NotRun
from mobileseg.validation.metrics import (
    AgreementCounts,
    LabelCounts,
    LogitErrorSums,
    boundary_band,
    class_iou,
    class_map,
    confident_pixels,
    confusion_matrix,
    resize_bilinear,
    resize_nearest,
    softmax,
)

LOGITS = hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-50, 50, width=32))
MAPS = hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2))


def accumulated(*pairs):
    sums = LogitErrorSums()
    for reference, artifact in pairs:
        sums.add(reference, artifact)
    return sums.result()


@settings(deadline=None, max_examples=50)
@given(LOGITS, LOGITS, LOGITS, LOGITS)
def test_errors_over_two_pictures_equal_the_definitions(a, b, c, d):
    errors = accumulated((a, b), (c, d))
    pairs = [(float(x), float(y)) for ref, art in ((a, b), (c, d)) for x, y in zip(ref.flat, art.flat, strict=True)]
    differences = [abs(x - y) for x, y in pairs]
    assert errors.max_abs_err == max(differences)
    assert errors.mean_abs_err == pytest.approx(sum(differences) / len(differences))
    signal, noise = math.fsum(x * x for x, _ in pairs), math.fsum(e * e for e in differences)
    if noise == 0:
        assert errors.sqnr_db == math.inf
    elif signal == 0:
        assert isinstance(errors.sqnr_db, NotRun)
    else:
        assert errors.sqnr_db == pytest.approx(10 * math.log10(signal / noise))
    lengths = math.sqrt(signal) * math.sqrt(math.fsum(y * y for _, y in pairs))
    if lengths:
        assert errors.cosine == pytest.approx(math.fsum(x * y for x, y in pairs) / lengths, abs=1e-9)
    else:
        assert isinstance(errors.cosine, NotRun)


def test_known_figures():
    reference = np.array([[[3.0, 4.0]]], np.float32)
    errors = accumulated((reference, reference + np.array([0.3, -0.4], np.float32)))
    assert errors.sqnr_db == pytest.approx(20.0, abs=1e-5)
    assert errors.max_abs_err == pytest.approx(0.4)
    assert errors.mean_abs_err == pytest.approx(0.35)
    assert accumulated((reference, -reference)).cosine == pytest.approx(-1.0)


def test_equal_arrays_have_infinite_sqnr_and_no_error():
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    errors = accumulated((values, values.copy()))
    assert (errors.max_abs_err, errors.mean_abs_err, errors.sqnr_db) == (0.0, 0.0, math.inf)
    assert errors.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_leaves_no_figure(broken):
    values = np.ones((3, 2, 2), np.float32)
    artifact = values.copy()
    artifact[1, 0, 0] = broken
    errors = accumulated((values, values), (values, artifact), (values, values))
    for figure in (errors.max_abs_err, errors.mean_abs_err, errors.sqnr_db, errors.cosine):
        assert isinstance(figure, NotRun)
        assert "1 of the artifact's 36 values" in figure.why
    assert class_map(artifact)[0, 0] == -1
    assert (class_map(artifact) == -1).sum() == 1


def test_class_map_takes_the_first_of_equals():
    assert class_map(np.array([1.0, 2.0, 2.0], np.float32)[:, None, None]).item() == 1


@settings(deadline=None, max_examples=50)
@given(MAPS, st.integers(0, 3))
def test_boundary_band_equals_its_definition(classes, radius):
    height, width = classes.shape
    expected = np.zeros(classes.shape, bool)
    for row, column in np.ndindex(height, width):
        near = classes[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]
        expected[row, column] = len(set(near.flat)) > 1
    np.testing.assert_array_equal(boundary_band(classes, radius), expected)


def test_agreement_on_a_map_counted_by_hand():
    reference = np.zeros((10, 10), np.int64)
    reference[:, 5:] = 1  # the band is columns 3 to 6: 40 pixels
    artifact = reference.copy()
    artifact[0, 4] = 1  # in the band, unsure
    artifact[0, 3] = 1  # in the band, unsure
    artifact[1, 6] = 2  # in the band, sure
    artifact[2, 0] = 1  # outside it, sure
    confident = np.ones((10, 10), bool)
    confident[0, 3:5] = False
    counts = AgreementCounts()
    counts.add(reference, artifact, confident)
    agreement = counts.result()
    assert agreement.pixels == pytest.approx(0.96)
    assert agreement.boundary == pytest.approx(37 / 40)
    assert agreement.confident_flips == pytest.approx(0.02)
    counts.add(reference, reference, confident)
    assert counts.result().pixels == pytest.approx(0.98)


def test_a_map_of_one_class_has_no_boundary_to_agree_on():
    counts = AgreementCounts()
    counts.add(np.zeros((4, 4), np.int64), np.ones((4, 4), np.int64), np.zeros((4, 4), bool))
    assert counts.result().pixels == 0.0
    assert isinstance(counts.result().boundary, NotRun)


def test_confidence_is_the_lead_in_probability():
    # Softmax of (x, 0) leads by tanh(x / 2), which is 0.5 at x = 2 atanh(0.5).
    edge = 2 * math.atanh(0.5)
    logits = np.array([[[edge * 0.999, edge * 1.001, -edge * 1.001]], [[0.0, 0.0, 0.0]]], np.float32)
    assert confident_pixels(logits).tolist() == [[False, True, True]]
    assert confident_pixels(logits[:1]).all()


@settings(deadline=None, max_examples=30)
@given(LOGITS)
def test_softmax_sums_to_one_and_keeps_ratios(logits):
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, rtol=1e-5)
    wide = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities, wide / wide.sum(axis=0), rtol=1e-4, atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from([None, 0, 2]))
def test_confusion_and_iou_equal_their_definitions(data, void):
    classes, shape = 3, (5, 4)
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255])))
    predictions = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-1, 3)))
    confusion = confusion_matrix(labels, predictions, classes, void)
    counted = [(int(t), int(p)) for t, p in zip(labels.flat, predictions.flat, strict=True) if t not in (255, void)]
    for label in range(classes):
        for predicted in range(classes):
            assert confusion[label, predicted] == counted.count((label, predicted))
        assert confusion[label, classes] == sum(t == label and p in (-1, 3) for t, p in counted)
    for index, iou in enumerate(class_iou(confusion)):
        intersection = sum(t == index and p == index for t, p in counted)
        union = sum(t == index or p == index for t, p in counted)
        if any(t == index for t, _ in counted):
            assert iou == pytest.approx(intersection / union)
        else:
            assert iou is None


def test_label_scores_by_hand():
    labels = np.array([[0, 0, 0, 1], [1, 1, 3, 255]], np.uint8)  # 3 is void
    reference = np.array([[0, 0, 0, 1], [1, 1, 0, 0]])
    artifact = np.array([[0, 0, 1, 1], [3, -1, 0, 0]])  # two of class 1 lost: to void, and to no class
    counts = LabelCounts(4, void=3)
    counts.add(labels, reference, artifact)
    scores = counts.result()
    assert scores.iou_reference == (1.0, 1.0, None, None)
    assert scores.iou_artifact == pytest.approx((2 / 3, 1 / 4, None, None))
    assert (scores.miou_reference, scores.pixel_accuracy_reference) == (1.0, 1.0)
    assert scores.miou_artifact == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert scores.pixel_accuracy_artifact == pytest.approx(3 / 6)


def test_labels_of_other_classes_and_of_none_are_refused():
    with pytest.raises(PictureError, match=r"class 26, but the network has 20.*0\.\.19"):
        confusion_matrix(np.array([[26]], np.uint8), np.array([[0]]), 20, None)
    counts = LabelCounts(2, void=None)
    counts.add(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64))
    with pytest.raises(PictureError, match="void"):
        counts.result()


def test_bilinear_resize_has_half_pixel_centres():
    row = np.array([[[0.0, 4.0]]], np.float32)
    np.testing.assert_allclose(resize_bilinear(row, (1, 4))[0, 0], [0.0, 1.0, 3.0, 4.0])
    assert resize_bilinear(row, (1, 2)) is row
    np.testing.assert_allclose(resize_bilinear(np.arange(8, dtype=np.float32)[None, None], (1, 2))[0, 0], [1.5, 5.5])


def test_nearest_resize_takes_the_pixel_under_the_centre():
    classes = np.array([[0, 1], [2, 3]])
    np.testing.assert_array_equal(resize_nearest(classes, (4, 4)), classes.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(resize_nearest(np.arange(9)[None], (1, 3))[0], [1, 4, 7])
    np.testing.assert_array_equal(resize_nearest(np.arange(2)[None], (1, 3))[0], [0, 1, 1])
