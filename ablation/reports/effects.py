"""What single options do in a table whose rows combine several: the mean effect of each value, and
the value that one would choose."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablation.config.commands import format_value
from ablation.reports.comparisons import ALPHA, Difference, compare_pairs, holm
from ablation.reports.findings import describe_detectable, format_interval, format_p
from ablation.reports.folds import compare_pairs_of_folds

Name = Hashable  # of a row
Runs = Mapping[int, np.ndarray]  # of a row: by seed, whether each test text (M,) was right


@dataclass(frozen=True)
class Group:
    """Rows that differ in one option alone: by its value, in the order of the table."""

    option: str
    rows: dict[Any, Name]


def group_rows(rows: Mapping[Name, Mapping[str, Any]]) -> list[Group]:
    """All groups of at least two rows that differ in one option alone, option by option.

    Args:
        rows: the value of every option of each row, in the order of the table.
    """
    names = {option: None for options in rows.values() for option in options}
    varied = [o for o in names if len({repr(options[o]) for options in rows.values()}) > 1]
    groups = []
    for option in varied:
        alike: dict[tuple[str, ...], dict[Any, Name]] = defaultdict(dict)
        for name, options in rows.items():
            others = tuple(repr(options[other]) for other in varied if other != option)
            alike[others].setdefault(options[option], name)
        groups += [Group(option, found) for found in alike.values() if len(found) > 1]
    return groups


# ---------------------------------------------------------------- the mean effect of a value


@dataclass(frozen=True)
class Effect:
    """What a value of an option does instead of another, on average over contexts: pairs of rows
    that differ in nothing else."""

    option: str
    base: Any
    value: Any
    n_contexts: int
    n_seeds: int  # that all rows of these pairs have
    points: float
    difference: Difference | None  # none with one seed, which says nothing of choices
    corrected_p: float
    n_effects: int  # that p is corrected for

    @property
    def sentence(self) -> str:
        """The effect in words."""
        if not self.difference:
            return "With one seed, nothing can be said of choices."
        if self.corrected_p < ALPHA:
            better = "better" if self.points > 0 else "worse"
            return f"{format_value(self.value)} is {better} on average."
        detectable = describe_detectable(self.difference, ALPHA / self.n_effects)
        return f"Not distinguishable with this n. {detectable}"


def mean_effects(
    groups: Sequence[Group], runs: Mapping[Name, Runs], fold: np.ndarray | None = None
) -> list[Effect]:
    """The effect of each value of each option against its first value in the table, where at least
    two contexts have both with a seed in common; p-values are corrected for how many there are.

    Args:
        groups: as :func:`group_rows` has them.
        runs: of the rows that were run, on the same M texts.
        fold: (M,): of each text, if it was tested in one.
    """
    found = []
    for option in dict.fromkeys(group.option for group in groups):
        of_option = [group.rows for group in groups if group.option == option]
        # The table's order, also where its first rows are in no group.
        base, *values = dict.fromkeys(value for rows in of_option for value in rows)
        for value in values:
            pairs = [(rows[base], rows[value]) for rows in of_option if {base, value} <= {*rows}]
            pairs = [pair for pair in pairs if {*pair} <= runs.keys()]
            seeds = _common_seeds([runs[name] for pair in pairs for name in pair])
            if len(pairs) > 1 and seeds:
                a, b = (
                    np.array([[runs[pair[i]][seed] for seed in seeds] for pair in pairs])
                    for i in range(2)
                )
                difference = None  # one seed tells runs apart, and not choices
                if fold is not None:
                    difference = compare_pairs_of_folds(a, b, fold)
                elif len(seeds) > 1:
                    difference = compare_pairs(a, b)
                points = 100 * float(b.mean() - a.mean())
                found.append((option, base, value, len(pairs), len(seeds), points, difference))
    tested = [difference.p for *_, difference in found if difference]
    corrected = iter(holm(tested))
    return [Effect(*e, next(corrected) if e[-1] else math.nan, len(tested)) for e in found]


def _common_seeds(runs: Sequence[Runs]) -> list[int]:
    return sorted(set.intersection(*map(set, runs))) if runs else []


def tabulate_effects(effects: Sequence[Effect]) -> pd.DataFrame:
    """A line for each effect, texts as they are printed."""
    return pd.DataFrame(
        {
            "option": effect.option,
            "value": format_value(effect.value),
            "against": format_value(effect.base),
            "contexts": str(effect.n_contexts),
            "seeds": str(effect.n_seeds),
            "difference": f"{effect.points:+.2f}",
            "95 % interval": format_interval(effect.difference) if effect.difference else "",
            "p": format_p(effect.difference.p) if effect.difference else "",
            "p, Holm": format_p(effect.corrected_p) if effect.difference else "",
            "finding": effect.sentence,
        }
        for effect in effects
    )


# ---------------------------------------------------------------- chosen on validation


@dataclass(frozen=True)
class Validation:
    """What a row's runs did on the validation part, by seed."""

    correct: Mapping[int, int]  # texts
    loss: Mapping[int, float]  # the last that was recorded; may be not a number


@dataclass(frozen=True)
class Choice:
    """The row of a group that one would choose by validation, and the best of the test column."""

    group: Group
    seeds: list[int]  # that all rows of the group have
    value: Any
    best_on_test: list[Any]  # several where they tie
    tied: bool  # whether the loss decided

    @property
    def row(self) -> Name:
        """That was chosen."""
        return self.group.rows[self.value]


def choose_on_validation(
    group: Group, validation: Mapping[Name, Validation], runs: Mapping[Name, Runs]
) -> Choice | None:
    """The row with the most validation texts right, over the seeds that all rows of the group
    have; of those that tie, the one with the lowest mean of the last losses, or else the first.

    Rows that were not run are left out; none if fewer than two are left, or no seed in common.
    """
    rows = {value: name for value, name in group.rows.items() if name in runs}
    seeds = _common_seeds([runs[name] for name in rows.values()])
    if len(rows) < 2 or not seeds:
        return None

    def count(value: Any) -> int:
        return sum(validation[rows[value]].correct[seed] for seed in seeds)

    def loss(value: Any) -> float:
        mean = sum(validation[rows[value]].loss.get(seed, math.inf) for seed in seeds) / len(seeds)
        return math.inf if math.isnan(mean) else mean

    most = max(map(count, rows))
    tied = [value for value in rows if count(value) == most]
    on_test = {
        value: int(sum(runs[name][seed].sum() for seed in seeds)) for value, name in rows.items()
    }
    best = [value for value, n in on_test.items() if n == max(on_test.values())]
    return Choice(Group(group.option, rows), seeds, min(tied, key=loss), best, len(tied) > 1)
