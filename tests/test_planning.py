import math
from dataclasses import replace

import numpy as np
import pytest

from ablation.reports import planning
from ablation.reports.comparisons import ALPHA
from ablation.reports.planning import DEFAULT, SEEDS, estimate_spread, plan
from benchmarks import false_findings
from benchmarks.false_findings import COMMON, LIVELY, NOISY, QUIET, Effects, share_found, spread_of

N_PAIRS = 1000
# Of a share near 0.8, from as many pairs as the plan and these have.
ERROR = math.sqrt(0.16 / planning.N_REPEATS + 0.16 / N_PAIRS)


@pytest.mark.parametrize(
    ("effects", "middle", "points", "alpha"),
    [
        (QUIET, 0.95, 2, ALPHA),
        (COMMON, 0.95, 3, ALPHA),
        (COMMON, 0.95, 3, ALPHA / 18),
        (LIVELY, 0.93, 5, ALPHA / 10),
        (Effects(0.0, 0.5, 0.05), 0.95, 3, ALPHA),
        (QUIET, 0.7, 5, ALPHA),
    ],
)
@pytest.mark.slow
def test_what_is_planned_shows_with_probability_0_8(
    effects: Effects, middle: float, points: float, alpha: float
) -> None:
    """With the planned texts, and with 300, the test finds it as often as the plan says."""
    reached = 0
    for need in plan(spread_of(effects, middle), (points,), alpha, 300):
        found = share_found(effects, middle, points, (need.n_seeds, 300), alpha, N_PAIRS)
        assert found == pytest.approx(need.power_at_hand, abs=3.5 * ERROR), need
        if need.n_texts <= 1500 and need.n_seeds <= 10:
            found = share_found(
                effects, middle, points, (need.n_seeds, int(need.n_texts)), alpha, N_PAIRS
            )
            # Tried numbers lie a step apart, so that a plan may be a little better than asked for.
            assert 0.8 - 3.5 * ERROR < found < 0.83 + 3.5 * ERROR, need
            reached += 1
    assert reached >= 1


@pytest.mark.parametrize("effects", [COMMON, LIVELY, NOISY])
def test_what_is_not_reachable_does_not_show_with_very_many_texts(effects: Effects) -> None:
    needs = plan(spread_of(effects, 0.95), (2.0,), ALPHA)
    refused = [need for need in needs if math.isinf(need.n_texts)]
    assert [need.n_seeds for need in refused[:3]] == [2, 3, 5]
    found = share_found(effects, 0.95, 2, (3, 6000), ALPHA, 500)
    assert found < 0.8


@pytest.mark.slow
def test_more_takes_less() -> None:
    """Of seeds and points; and never more with fewer comparisons."""
    points = (1.0, 2.0, 3.0, 5.0)
    texts = {
        alpha: np.array([need.n_texts for need in plan(DEFAULT, points, alpha)]).reshape(4, -1)
        for alpha in (ALPHA, ALPHA / 18)
    }
    for needed in texts.values():
        for axis, order in ((0, needed[:-1] >= needed[1:]), (1, needed[:, :-1] >= needed[:, 1:])):
            assert order.all(), axis
    assert (texts[ALPHA] <= texts[ALPHA / 18]).all()


def test_a_plan_is_the_same_each_time_whatever_is_at_hand() -> None:
    first = plan(DEFAULT, (2.0,), ALPHA, 300)
    plan.cache_clear()
    assert plan(DEFAULT, (2.0,), ALPHA, 300) == first
    other = plan(DEFAULT, (2.0, 3.0), ALPHA, 123)
    assert [need.n_texts for need in other[:5]] == [need.n_texts for need in first]


# ---------------------------------------------------------------- from records


def runs_of(effects: Effects, accuracies: list[float], n_seeds: int, n_texts: int, seed: int = 3):
    rng = np.random.default_rng(seed)
    ease = rng.standard_normal((1, 1, n_texts), dtype=np.float32)
    return [false_findings.simulate(effects, a, ease, n_seeds, rng)[0] for a in accuracies]


@pytest.mark.parametrize("effects", [QUIET, COMMON, LIVELY, NOISY])
@pytest.mark.parametrize("accuracies", [[0.95, 0.95], [0.9, 0.7]])
def test_the_spread_is_that_of_the_runs(effects: Effects, accuracies: list[float]) -> None:
    estimate = estimate_spread(runs_of(effects, accuracies, 200, 4000))
    truth = spread_of(effects, float(np.mean(accuracies)))
    assert estimate.between == pytest.approx(truth.between, abs=0.03)
    assert estimate.within == pytest.approx(truth.within, abs=0.03)
    assert estimate.seed == pytest.approx(truth.seed, rel=0.25)
    assert estimate.accuracy == pytest.approx(truth.accuracy, abs=0.02)


def test_the_points_over_seeds_are_those_of_the_document() -> None:
    """As docs/statistics.md has them, but for what few texts add and the ceiling takes."""
    for effects, points in ((QUIET, 0.6), (COMMON, 1.1), (LIVELY, 1.6), (NOISY, 4.7)):
        assert spread_of(effects, 0.95).points == pytest.approx(points, rel=0.15)
    common = spread_of(COMMON, 0.95)
    shares = (DEFAULT.between, DEFAULT.within, DEFAULT.seed)
    assert (common.between, common.within, common.seed) == pytest.approx(shares, abs=0.001)


def test_where_the_runs_do_not_tell_the_default_stands() -> None:
    one = np.arange(300)[None] < 270
    assert estimate_spread([one, one]) == replace(DEFAULT, accuracy=0.9)
    perfect = np.ones((3, 300), dtype=bool)
    assert estimate_spread([perfect]).accuracy == pytest.approx(1 - 0.5 / 300)
    assert estimate_spread([perfect, ~perfect]).accuracy == pytest.approx(0.5)
    # Two seeds that happen to agree leave most of the default.
    agreeing = np.repeat(one, 2, axis=0)
    assert estimate_spread([agreeing]).seed > 0.5 * DEFAULT.seed
    # So do seeds that agree more than texts let expect.
    few = np.stack([np.roll(np.arange(40) < 30, 10 * i) for i in range(4)])
    assert estimate_spread([few]).seed == pytest.approx(DEFAULT.seed * 4 / 7)
    # One configuration says nothing of what two have in common.
    single = estimate_spread(runs_of(LIVELY, [0.9], 5, 300))
    assert single.between / single.within == pytest.approx(DEFAULT.between / DEFAULT.within)


@pytest.mark.filterwarnings("error")
def test_any_runs_give_a_spread_that_can_be_planned_with() -> None:
    rng = np.random.default_rng(0)
    for n_seeds, n_texts, rate in [(2, 1, 0.5), (2, 2, 0.5), (3, 5, 0.9), (2, 40, 0.02)]:
        for _ in range(10):
            runs = [rng.random((n_seeds, n_texts)) < rate for _ in range(3)]
            spread = estimate_spread(runs)
            assert 0 <= spread.seed <= spread.seed + spread.within < 1
            assert 0 < spread.between <= spread.within
            needs = plan(spread, (5.0, 50.0), ALPHA, n_texts, n_repeats=20, most_texts=40)
            assert all(0 <= need.power_at_hand <= 1 for need in needs)
            assert len(needs) == 2 * len(SEEDS)
