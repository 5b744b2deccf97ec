"""Figures of detections, without a detector."""

import numpy as np
import pytest

from tfyolo.evaluation import metrics
from tfyolo.evaluation.matching import Found


def test_score_shift_is_the_mean_difference_on_what_both_find():
    def found(boxes, scores, labels):
        return Found(np.array(boxes, "float64").reshape(-1, 4), np.array(scores), np.array(labels, int))

    one = found([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]], [0.9, 0.5, 0.1], [0, 1, 0])
    other = found(
        [[0, 0, 10, 9], [20, 20, 40, 40], [50, 50, 60, 60], [70, 70, 80, 80]], [0.5, 0.6, 0.9, 0.9], [0, 1, 0, 0]
    )
    assert metrics.score_shift([one], [other], 0.25) == pytest.approx((-0.4 + 0.1) / 2)
    assert metrics.score_shift([one, None], [one, one], 0.25) == 0
    assert np.isnan(metrics.score_shift([one], [found([], [], [])], 0.25))
    swapped = other._replace(labels=1 - other.labels)
    assert np.isnan(metrics.score_shift([one], [swapped], 0.25))
