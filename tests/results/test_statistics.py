import math

import numpy as np
import pytest
from scipy import stats

from unildiff.results.statistics import bootstrap_interval, compare_paired, sign_test


def test_the_interval_is_scipys_percentile_interval():
    values = np.random.default_rng(3).normal(27.0, 2.0, size=60)
    low, high = bootstrap_interval([values], draws=20_000)
    peer = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    # Two independent sets of 20,000 draws: the quantiles of a mean with standard error 0.26 differ by less than 0.02.
    assert low == pytest.approx(peer.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(peer.confidence_interval.high, abs=0.02)


def test_the_interval_is_seeded_and_widens_with_the_level():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval([values], seed=4) == bootstrap_interval([values], seed=4)
    assert bootstrap_interval([values], seed=4) != bootstrap_interval([values], seed=5)
    low, high = bootstrap_interval([values], level=0.5)
    wide_low, wide_high = bootstrap_interval([values], level=0.99)
    assert wide_low < low < high < wide_high


def test_images_left_out_do_not_count():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert bootstrap_interval([np.append(values, [math.nan, math.inf])]) == bootstrap_interval([values])
    assert all(math.isnan(end) for end in bootstrap_interval([np.array([5.0, math.nan])]))


def test_scenes_drawn_together_keep_their_correlation():
    scene = np.random.default_rng(1).normal(size=200)
    apart = bootstrap_interval([scene, -scene + 3])
    together = bootstrap_interval([scene, -scene + 3], together=True)
    # The two columns cancel scene by scene: their mean is 1.5 in every draw; drawn apart they do not.
    assert together == pytest.approx((1.5, 1.5))
    assert apart[1] - apart[0] > 0.1


def test_without_a_finite_pair_there_is_no_comparison():
    assert compare_paired([math.nan], [1.0]) is None


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 0), (7, 3), (3, 7), (50, 50), (1300, 900)])
def test_the_sign_test_is_scipys(better, worse):
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert sign_test(better, worse) == pytest.approx(expected, rel=1e-9)


def test_a_paired_comparison_by_hand():
    # Differences +1, +1, -1, 0, +3: mean 0.8, three better, one worse; p = 2 * (C(4,0) + C(4,1)) / 16 = 0.625.
    result = compare_paired([20, 21, 22, 23, 24], [21, 22, 21, 23, 27])
    assert (result.count, result.better, result.worse) == (5, 3, 1)
    assert result.difference == pytest.approx(0.8)
    assert result.p_value == pytest.approx(0.625)
    assert result.low <= 0.8 <= result.high
    assert not result.conclusive


def test_a_tenth_of_a_decibel_everywhere_is_conclusive():
    first = np.random.default_rng(0).normal(27, 3, size=40)
    result = compare_paired(first, first + 0.1)
    assert result.conclusive
    assert not compare_paired(first, first[::-1]).conclusive


def test_images_of_one_scene_count_once():
    # Scene a: +1 and +3, mean 2. Scene b: -1 and -1, mean -1. Over scenes: mean 0.5, one better, one worse.
    result = compare_paired([0, 0, 0, 0], [1, 3, -1, -1], scenes=["a", "a", "b", "b"])
    assert (result.count, result.better, result.worse) == (2, 1, 1)
    assert result.difference == pytest.approx(0.5)
