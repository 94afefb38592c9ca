import math
from itertools import product

import numpy as np
import pytest

from ablation.reports.comparisons import ALPHA, compare, compare_pairs
from ablation.reports.effects import (
    Group,
    Validation,
    choose_on_validation,
    group_rows,
    mean_effects,
    tabulate_effects,
)
from benchmarks.false_findings import COMMON, simulate

rng = np.random.default_rng(8)


def runs_of(accuracy: float, n_seeds: int = 3, n_texts: int = 200) -> dict[int, np.ndarray]:
    return dict(enumerate(rng.random((n_seeds, n_texts)) < accuracy, start=1))


# ---------------------------------------------------------------- contexts


def test_rows_that_differ_in_one_option_alone() -> None:
    rows = {
        1: {"size": "s", "rate": 1, "lora": False},
        2: {"size": "s", "rate": 2, "lora": False},
        3: {"size": "m", "rate": 1, "lora": False},
        "x": {"size": "m", "rate": 2, "lora": False},
        "y": {"size": "l", "rate": 3, "lora": True},  # differs from each in more than one
    }
    groups = [(group.option, group.rows) for group in group_rows(rows)]
    assert groups == [
        ("size", {"s": 1, "m": 3}),
        ("size", {"s": 2, "m": "x"}),
        ("rate", {1: 1, 2: 2}),
        ("rate", {1: 3, 2: "x"}),
    ]


def test_groups_are_all_pairs_that_differ_in_one_option() -> None:
    """Beside a look at every pair."""
    names = ("a", "b", "c")
    combinations = list(product((0, 1, 2), (0, 1), (0, 1)))
    chosen = rng.choice(len(combinations), 8, replace=False)
    rows = {int(i): dict(zip(names, combinations[i], strict=True)) for i in chosen}
    expected = {
        frozenset(pair)
        for pair in product(rows, repeat=2)
        if sum(rows[pair[0]][n] != rows[pair[1]][n] for n in names) == 1
    }
    found = {
        frozenset(pair)
        for group in group_rows(rows)
        for pair in product(group.rows.values(), repeat=2)
        if pair[0] != pair[1]
    }
    assert found == expected
    assert group_rows({1: {"a": 0}, 2: {"a": 0}}) == []
    assert group_rows({}) == []


# ---------------------------------------------------------------- the mean effect


def test_of_one_pair_the_test_is_that_of_two_rows() -> None:
    a, b = rng.random((2, 4, 300)) < np.array([0.8, 0.9])[:, None, None]
    one, two = compare(a, b), compare_pairs(a[None], b[None])
    assert (one.points, one.low, one.high, one.p) == pytest.approx(
        (two.points, two.low, two.high, two.p)
    )


def test_the_same_pair_twice_shows_no_more() -> None:
    """Values are twice as large, and so are their errors, but for what rounding hides."""
    a, b = rng.random((2, 4, 300)) < np.array([0.8, 0.86])[:, None, None]
    once, twice = (
        compare_pairs(a[None], b[None]),
        compare_pairs(np.stack([a] * 2), np.stack([b] * 2)),
    )
    assert (once.points, once.low, once.high, once.p) == pytest.approx(
        (twice.points, twice.low, twice.high, twice.p)
    )


def test_rounding_is_that_of_as_many_counts() -> None:
    """Seeds that agree in all contexts: each of 2 C counts hides 1/12, and only this is left."""
    n_contexts, n_seeds, n_texts = 3, 2, 300
    right = np.array([240, 250, 260])[:, None, None] + np.zeros((1, n_seeds, 1))
    a = np.arange(n_texts)[None, None] < right
    b = np.arange(n_texts)[None, None] < right + 30
    found = compare_pairs(a, b)
    # The mean over contexts of 30 texts; its variance over seeds is 2 C / 12 / C ** 2.
    t = 30 / math.sqrt(2 / 12 / n_contexts / n_seeds)
    assert found.points == pytest.approx(10)
    assert found.p == pytest.approx(1 - 2 * math.atan(t) / math.pi)


def test_few_texts_that_lean_are_no_effect() -> None:
    a = np.zeros((4, 5, 300), dtype=bool)
    b = a | (np.arange(300) < 5)
    found = compare_pairs(a, b)
    assert found.p == pytest.approx(2 / 2**5)
    assert found.low <= 0 <= found.high <= 100


@pytest.mark.filterwarnings("error")
def test_interval_and_p_of_an_effect_agree() -> None:
    for seed in range(150):
        draw = np.random.default_rng(seed)
        shape = draw.integers([2, 2, 1], [6, 6, 60])
        base, gain = draw.uniform(0.3, 1), draw.choice([0, 0.02, 0.3, 0.7])
        a = draw.random(shape) < base - gain / 2
        b = a | (draw.random(shape) < gain) if draw.random() < 0.5 else draw.random(shape) < base
        found = compare_pairs(a, b)
        assert -100 <= found.low <= found.points <= found.high <= 100
        assert (found.low <= 0 <= found.high) == (found.p >= ALPHA)
        assert found.points == pytest.approx(100 * (b.mean() - a.mean()))


def test_effects_of_equal_worth_are_rarely_found() -> None:
    """At 5 %, four contexts of which each has texts' ease and the runs of a seed in common."""
    found, n, levels = 0, 400, (0.9, 0.92, 0.95, 0.97)
    for i in range(n):
        draw = np.random.default_rng(i)
        ease = draw.standard_normal((1, 1, 300), dtype=np.float32)
        a, b = (
            np.stack([simulate(COMMON, level, ease, 5, draw)[0] for level in levels])
            for _ in range(2)
        )
        found += compare_pairs(a, b).p < 0.05
    assert found / n < 0.06 + 2.5 * math.sqrt(0.06 / n)


def table(n_seeds: int = 3) -> tuple[list[Group], dict]:
    rows = {
        f"{size}-{rate}": {"size": size, "rate": rate}
        for size, rate in product(("s", "m", "l"), (1, 2))
    }
    return group_rows(rows), {name: runs_of(0.6 + 0.15 * ("2" in name), n_seeds) for name in rows}


def test_the_mean_effect_of_each_value() -> None:
    groups, runs = table()
    effects = {(e.option, e.value): e for e in mean_effects(groups, runs)}
    assert {*effects} == {("size", "m"), ("size", "l"), ("rate", 2)}
    rate = effects["rate", 2]
    assert (rate.base, rate.n_contexts, rate.n_seeds) == (1, 3, 3)
    means = {name: np.mean([*seeds.values()]) for name, seeds in runs.items()}
    by_hand = np.mean([means[f"{size}-2"] - means[f"{size}-1"] for size in "sml"])
    assert (rate.points, rate.difference.points) == pytest.approx((100 * by_hand, 100 * by_hand))
    # Three effects: the smallest p times 3.
    assert rate.corrected_p == pytest.approx(3 * rate.difference.p)
    shown = tabulate_effects([*effects.values()]).set_index("option").loc["rate"]
    assert shown["finding"] == "2 is better on average."
    assert (shown["value"], shown["against"], shown["contexts"]) == ("2", "1", "3")


def test_an_effect_takes_two_contexts_with_common_seeds() -> None:
    groups, runs = table()
    del runs["m-2"], runs["l-1"]  # of rates, one context is left
    assert mean_effects(groups, runs) == []
    groups, runs = table()
    runs["m-2"] = {2: runs["m-2"][2], 9: runs["m-2"][1]}
    (rate,) = (e for e in mean_effects(groups, runs) if e.option == "rate")
    assert (rate.n_contexts, rate.n_seeds, rate.difference) == (3, 1, None)
    assert math.isnan(rate.corrected_p)
    assert "one seed" in rate.sentence.lower()
    runs["m-2"] = {9: runs["m-2"][9]}
    assert all(e.option != "rate" for e in mean_effects(groups, runs))


# ---------------------------------------------------------------- chosen on validation


def choose(correct: list[list[int]], losses: list[list[float]], on_test: list[float]):
    group = Group("rate", {0.1 * i: f"row {i}" for i in range(len(correct))})
    validation = {
        f"row {i}": Validation(dict(enumerate(correct[i])), dict(enumerate(losses[i])))
        for i in range(len(correct))
    }
    runs = {
        f"row {i}": {s: np.arange(100) < 100 * on_test[i] for s in range(len(correct[i]))}
        for i in range(len(correct))
    }
    return choose_on_validation(group, validation, runs)


def test_validation_chooses_and_not_the_test() -> None:
    found = choose([[9, 9], [10, 9], [8, 10]], [[1, 1]] * 3, [0.9, 0.8, 0.95])
    assert (found.row, found.tied, found.best_on_test) == ("row 1", False, [0.2])


def test_the_loss_breaks_ties_and_then_the_order() -> None:
    found = choose([[9, 9], [10, 8], [8, 10]], [[0.5, 0.5], [0.3, 0.4], [0.1, 0.9]], [0.9] * 3)
    assert (found.row, found.tied, len(found.best_on_test)) == ("row 1", True, 3)
    nan = math.nan
    assert choose([[9], [9], [8]], [[nan], [2.0], [0]], [0.9] * 3).row == "row 1"
    assert choose([[9], [9]], [[nan], [nan]], [0.9] * 2).row == "row 0"
    assert choose([[9], [9]], [[1.0], [1.0]], [0.9] * 2).row == "row 0"


def test_only_seeds_that_all_have_choose() -> None:
    group = Group("rate", {1: "a", 2: "b", 3: "not run"})
    right = np.ones(4, dtype=bool)
    runs = {"a": {1: right, 2: right}, "b": {2: right, 3: right}}
    validation = {
        "a": Validation({1: 10, 2: 5}, {1: 0.1, 2: 0.1}),
        "b": Validation({2: 6, 3: 0}, {2: 0.1, 3: 9.0}),
    }
    found = choose_on_validation(group, validation, runs)
    assert (found.row, found.seeds) == ("b", [2])
    assert choose_on_validation(group, validation, {"a": runs["a"]}) is None
    assert choose_on_validation(group, validation, runs | {"b": {3: right}}) is None
