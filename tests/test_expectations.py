from dataclasses import replace

import numpy as np
import pytest

from ablation.config.expectations import Expectation, read_expectation, read_expectations
from ablation.config.tables import Row, Table
from ablation.reports.comparisons import compare
from ablation.reports.findings import Finding
from ablation.reports.folds import compare_folds
from ablation.reports.verdicts import exit_status, judge

NAMES = ["1", "16", "own last", "row 3", "lr=2e-05"]


@pytest.mark.parametrize(
    ("text", "better", "worse"),
    [
        ("row 16 > row 1", "16", "1"),
        ("row 16 < row 1", "1", "16"),
        ("16>1", "16", "1"),
        ("  row  16  >  1 ", "16", "1"),
        ("own last > row 1", "own last", "1"),
        ('row "own last" < 1', "1", "own last"),
        ("'lr=2e-05' > 1", "lr=2e-05", "1"),
        ('"row 3" > 1', "row 3", "1"),
        ("row 3 > row 1", "row 3", "1"),
        ("row lr=2e-05 < 1", "1", "lr=2e-05"),
    ],
)
def test_expressions(text: str, better: str, worse: str) -> None:
    assert read_expectation(text, NAMES) == (Expectation(text, better, worse), None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("row 16", "cannot be read"),
        ("", "cannot be read"),
        (" > ", "no row"),
        ("row 16 >", "cannot be read"),
        ("row 16 >= row 1", "cannot be read"),
        ("row 16 =< row 1", 'no row "16 ="'),
        ("row 16 = row 1", "cannot be read"),
        ("1 < 16 < 1", "cannot be read"),
        ("row 16 > row 17", 'no row "17"; did you mean'),
        ("row 16 > row ", 'no row "row"; did you mean'),
        ("own lost > 1", 'did you mean "own last"'),
        ("row 16 > row 16", "one row twice"),
        ("1 > " + "9" * 5000, 'no row "999'),
        (" " * 5000, "cannot be read"),
        ("1 > zz", 'no row "zz"; there are 1, 16, own last, row 3, lr=2e-05'),
    ],
)
def test_expressions_that_are_none(text: str, problem: str) -> None:
    found, said = read_expectation(text, NAMES)
    assert found is None
    assert problem in said
    assert len(said) < 500
    table = Table("", {name: Row(name, "", {}) for name in NAMES}, ())
    assert read_expectations([text], [table])[1][0].flag.startswith('--fail_unless "')


# ---------------------------------------------------------------- verdicts


def finding(points: int, n_seeds: int = 5, corrected_p: float | None = None) -> Finding:
    """Row 16 against row 1, on 300 texts."""
    a = np.arange(300)[None] < np.full((n_seeds, 1), 240)
    b = np.arange(300)[None] < np.full((n_seeds, 1), 240 + points)
    difference = compare(a, b)
    p = difference.p if corrected_p is None else corrected_p
    return Finding("own last", (1, 16), 3.33, [*range(n_seeds)], difference, p, 1)


UP, DOWN = Expectation("row 16 > row 1", "16", "1"), Expectation("16 < 1", "1", "16")


@pytest.mark.parametrize(
    ("expectation", "found", "outcome"),
    [
        (UP, finding(30), "supported"),
        (UP, finding(-30), "contradicted"),
        (DOWN, finding(30), "contradicted"),
        (DOWN, finding(-30), "supported"),
        (UP, finding(0), "undecided"),
        (UP, finding(30, corrected_p=0.051), "undecided"),  # Holm's p decides
        (UP, finding(30, n_seeds=1), "undecided"),
        (UP, finding(-30, n_seeds=1), "undecided"),
    ],
)
def test_verdicts(expectation: Expectation, found: Finding, outcome: str) -> None:
    (verdict,) = judge(expectation, [("The rows", found)])
    assert verdict.outcome == outcome
    assert verdict.line.startswith(f"{expectation.text}: {outcome}. ")
    assert ("One seed" in verdict.line) == (len(found.seeds) == 1)


def test_one_seed_of_folds_decides_and_says_what_it_does_not_know() -> None:
    one = finding(30, n_seeds=1)
    a, b = (np.arange(300)[None] < count for count in (240, 270))
    folds = compare_folds(a, b, np.arange(300) % 10)
    (verdict,) = judge(UP, [("The rows", replace(one, difference=folds, corrected_p=folds.p))])
    assert verdict.outcome == "supported"
    assert "one seed in all folds, whose luck" in verdict.line


def test_what_was_not_run_is_undecided() -> None:
    (verdict,) = judge(Expectation("2 > 1", "2", "1"), [("The rows", finding(30))])
    assert verdict.outcome == "undecided"
    assert "no complete runs" in verdict.line


def test_the_worst_decides() -> None:
    supported, contradicted, undecided = (
        judge(UP, [("The rows", finding(points))]) for points in (30, -30, 0)
    )
    assert exit_status(supported) == 0
    assert exit_status(supported + undecided) == 3
    assert exit_status(undecided + contradicted + supported) == 1
    both = judge(UP, [("The rows", finding(30)), ("Variants", finding(0))])
    assert exit_status(both) == 3
    assert both[0].line.startswith("row 16 > row 1: supported. The rows: Row 16 minus row 1")
    assert "undecided. Variants: " in both[1].line
    assert exit_status([]) == 0
