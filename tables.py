"""Records of runs -> the table of rows and seeds, its verdicts, and its comparisons."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from comparisons import (
    ALPHA,
    Difference,
    accuracy_interval,
    compare,
    detectable_points,
    holm,
    published_count,
    same_proportion,
    smallest_difference,
)
from data_utils import PARTS, Splits
from errors import RecordError
from experiment_config import ExperimentConfig
from experiment_rows import (
    COMPARISONS,
    ROWS,
    Row,
    configure,
    find_row,
    format_command,
    format_flag,
)
from record_weights import require_one_base
from run_records import Record
from runs import identify

PUBLISHED_SEED = 123
COLUMNS = (
    *("row", "flags", "n", "train %", "val %", "test %", "95 % interval"),
    *("published %", "verdict", "min", "published min", "trained"),
)


@dataclass(frozen=True)
class Configuration:
    """The runs of one experiment that came to their end, by seed."""

    label: str
    flags: str
    records: tuple[Record, ...]

    @property
    def seeds(self) -> list[int]:
        """Of its runs, ascending."""
        return [record.seed for record in self.records]

    @cached_property
    def correct(self) -> np.ndarray:
        """(S, M): whether the run with each seed got each test message right."""
        return np.stack([record.correct for record in self.records])

    def percent(self, part: str) -> np.ndarray:
        """(S,): accuracy of each run on a part, in percent."""
        return np.array([record.accuracy(part).percent for record in self.records])

    @property
    def minutes(self) -> float:
        """Of training and the states it rests on, the mean over its runs."""
        return float(np.mean([record.minutes for record in self.records]))


@dataclass(frozen=True)
class Section:
    """The rows with the same flags beside them: none for the rows as published.

    ``same`` names, for a row that those flags make equal to an earlier one, that earlier row.
    """

    overrides: dict[str, Any]
    configurations: dict[int, Configuration]  # by row
    same: dict[int, int]

    @property
    def title(self) -> str:
        """What its rows have in common."""
        if not self.overrides:
            return "The rows"
        return f"Variants: the rows with {_flags_text(self.overrides)}"


def _flags_text(flags: dict[str, Any]) -> str:
    return " ".join(map(format_flag, flags, flags.values())) or "(none)"


def group_records(records: Sequence[Record]) -> tuple[list[Section], list[Configuration]]:
    """Complete records by section and row, and those that belong to no section by their flags."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.seed):
        groups[_experiment(record.config)].append(record)
    asked = [record.result["overrides"] for record in records if record.result["overrides"]]
    different = {json.dumps(overrides, sort_keys=True): overrides for overrides in asked}
    sections = [_make_section(overrides, groups) for overrides in ({}, *different.values())]
    # Flags that contradict no row make no variants.
    sections = [sections[0], *(section for section in sections[1:] if _is_new(section))]
    placed = {
        _experiment(configuration.records[0].config)
        for section in sections
        for configuration in section.configurations.values()
    }
    others = [
        Configuration("", format_command(replace(group[0].config, seed=PUBLISHED_SEED)), (*group,))
        for key, group in groups.items()
        if key not in placed
    ]
    return sections, others


def _experiment(config: ExperimentConfig) -> str:
    """The same for runs that differ only in their seed."""
    return identify(replace(config, seed=PUBLISHED_SEED))


def _make_section(overrides: dict[str, Any], groups: dict[str, list[Record]]) -> Section:
    section, first_rows = Section(overrides, {}, {}), {}
    for number, row in ROWS.items():
        key = _experiment(configure(row, overrides))
        first = first_rows.setdefault(key, number)
        if first != number:
            section.same[number] = first
        elif key in groups:
            flags = _flags_text(row.flags)
            section.configurations[number] = Configuration(str(number), flags, (*groups[key],))
    return section


def _is_new(section: Section) -> bool:
    return any(
        find_row(record.config) is None
        for configuration in section.configurations.values()
        for record in configuration.records
    )


def tabulate(section: Section, baseline: Splits[np.ndarray] | None = None) -> pd.DataFrame:
    """The table of a section: a line for each row, texts as they are printed."""
    lines = []
    for number, row in ROWS.items():
        line = {"row": str(number), "flags": _flags_text(row.flags)}
        configuration = section.configurations.get(number)
        if configuration:
            line |= figures(configuration)
        elif number in section.same:
            line["test %"] = f"as row {section.same[number]}"
        if not section.overrides:
            line |= _published(row, configuration)
        elif number not in {*section.configurations, *section.same}:
            line["test %"] = "not run"
        lines.append(line)
    if baseline:
        line = {"row": "", "flags": "characters, linear SVM (baseline)", "n": "1"}
        for part, name in zip(PARTS, ("train %", "val %", "test %"), strict=True):
            line[name] = f"{100 * getattr(baseline, part).mean():.2f}"
        line["95 % interval"] = _interval(accuracy_interval(baseline.test[None]))
        lines.append(line)
    table = pd.DataFrame(lines, columns=[name for name in COLUMNS if any(name in x for x in lines)])
    return table.fillna("")


def figures(configuration: Configuration) -> dict[str, str]:
    """What a table says of a configuration, texts as they are printed."""
    trained = configuration.records[0].result["parameters"]["trained"]
    return {
        "n": str(len(configuration.records)),
        "train %": mean_and_deviation(configuration.percent("train")),
        "val %": mean_and_deviation(configuration.percent("validation")),
        "test %": mean_and_deviation(configuration.percent("test")),
        "95 % interval": _interval(accuracy_interval(configuration.correct)),
        "min": f"{configuration.minutes:.2f}",
        "trained": f"{trained:,}",
    }


def mean_and_deviation(values: np.ndarray) -> str:
    """The mean over seeds, and where there are several, their standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def _published(row: Row, configuration: Configuration | None) -> dict[str, str]:
    return {
        "published %": f"{row.train:.2f} / {row.validation:.2f} / {row.test:.2f}",
        "published min": f"{row.minutes:.2f}",
        "verdict": judge(row, configuration),
    }


def judge(row: Row, configuration: Configuration | None) -> str:
    """Whether a run is consistent with the published counts, part by part.

    Published was one run, with seed 123: it is compared with the run of that seed, or else of the
    lowest. A figure that no count rounds to is impossible.
    """
    totals = {"train": row.n_train, "validation": 149, "test": 300}
    counts = {part: published_count(getattr(row, part), n) for part, n in totals.items()}
    impossible = [part for part, count in counts.items() if count is None]
    notes = [f"{part}: impossible as published" for part in impossible]
    if not configuration:
        return "; ".join(["not run", *notes])
    by_seed = {record.seed: record for record in configuration.records}
    record = by_seed.get(PUBLISHED_SEED, configuration.records[0])
    possible = [part for part in PARTS if part not in impossible]
    p_values = holm([_same_as_published(record, part, counts, totals) for part in possible])
    differing = [
        f"{part} differs (p {_relation(p)})"
        for part, p in zip(possible, p_values, strict=True)
        if p < ALPHA
    ]
    verdict = differing or [f"consistent (p {_relation(min(p_values))})"]
    return "; ".join([*verdict, *notes])


def _same_as_published(
    record: Record, part: str, counts: dict[str, int | None], totals: dict[str, int]
) -> float:
    found = record.accuracy(part)
    return same_proportion(found.correct, found.total, counts[part], totals[part])


def _relation(p: float) -> str:
    return f"= {_p(p)}" if p >= 0.001 else _p(p)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


# ---------------------------------------------------------------- comparisons


@dataclass(frozen=True)
class Finding:
    """What two rows, or their variants, show of the question that they were made for."""

    is_variant: bool
    question: str
    rows: tuple[int, int]
    seeds: list[int]
    difference: Difference
    corrected_p: float
    n_findings: int  # that p is corrected for

    @property
    def verdict(self) -> str:
        """Of what was published: of the direction, or of there being none. Variants have only a
        direction of their own."""
        if self.corrected_p >= ALPHA:
            return "not distinguishable with this n"
        if self.is_variant:
            return f"row {self.rows[1]} is {'better' if self.difference.points > 0 else 'worse'}"
        agrees = self.published * self.difference.points > 0
        return "supported" if agrees else "contradicted"

    @property
    def published(self) -> float:
        """The difference of the published figures, in points."""
        first, second = (ROWS[number].test for number in self.rows)
        return second - first

    @property
    def sentence(self) -> str:
        """The finding in words."""
        text = f"{self.verdict.capitalize()}: {self.difference.points:+.2f} points."
        if not self.is_variant:
            signs = {1: "better", 0: "equal", -1: "worse"}
            direction = signs[(self.published > 0) - (self.published < 0)]
            text = f"Published: row {self.rows[1]} {direction}. {text}"
        if self.corrected_p >= ALPHA:
            detectable = detectable_points(self.difference, ALPHA / self.n_findings)
            text += f" A difference of {detectable:.1f} points would have shown."
        return text


def find_differences(section: Section) -> list[Finding]:
    """The comparisons that the rows were made for, of those that were run with a common seed;
    p-values are corrected for how many there are."""
    pairs = []
    for question, first, second in COMPARISONS:
        # Rows that flags made equal to others no longer ask what they were made for.
        a, b = (section.configurations.get(number) for number in (first, second))
        seeds = sorted({*a.seeds} & {*b.seeds}) if a and b else []
        if seeds:
            correct = [c.correct[[c.seeds.index(seed) for seed in seeds]] for c in (a, b)]
            pairs.append(
                (bool(section.overrides), question, (first, second), seeds, compare(*correct))
            )
    corrected = holm([difference.p for *_, difference in pairs])
    return [Finding(*pair, p, len(pairs)) for pair, p in zip(pairs, corrected, strict=True)]


def tabulate_findings(findings: Sequence[Finding]) -> pd.DataFrame:
    """A line for each comparison, texts as they are printed."""
    return pd.DataFrame(
        {
            "rows": f"{finding.rows[0]}, {finding.rows[1]}",
            "question": finding.question,
            "seeds": str(len(finding.seeds)),
            "difference": f"{finding.difference.points:+.2f}",
            "95 % interval": f"{finding.difference.low:+.2f} to {finding.difference.high:+.2f}",
            "p": _p(finding.difference.p),
            "p, Holm": _p(finding.corrected_p),
            "McNemar p by seed": ", ".join(map(_p, finding.difference.mcnemar)),
            "finding": finding.sentence,
        }
        for finding in findings
    )


def compare_two(a: Record, b: Record) -> str:
    """The paired comparison of any two runs, in words.

    Raises:
        RecordError: one of them failed, or they were made on different data or from different
            weights that are called the same.
    """
    for record in (a, b):
        if not record.is_complete:
            raise RecordError(
                f"the run {record.folder} is {record.result['status']}: {record.result['error']}"
            )
    require_one_dataset([a, b])
    require_one_base([a, b])
    require_same_texts(a, b)
    difference = compare(a.correct[None], b.correct[None])
    only_a, only_b = (
        int((x & ~y).sum()) for x, y in ((a.correct, b.correct), (b.correct, a.correct))
    )
    fewest = smallest_difference()
    shown = "differ" if difference.p < ALPHA else "are not distinguishable with this n"
    return "\n".join(
        [
            *(
                f"{name}: {record.accuracy('test')} of {record.accuracy('test').total} test "
                f"messages, {format_command(record.config)}"
                for name, record in (("A", a), ("B", b))
            ),
            f"Only A is right on {only_a} messages, only B on {only_b}.",
            f"B minus A: {difference.points:+.2f} points, 95 % interval {difference.low:+.2f} to "
            f"{difference.high:+.2f}; exact McNemar p {_relation(difference.p)}.",
            f"The two runs {shown}. Runs that differ by fewer than {fewest} messages "
            f"({100 * fewest / difference.n_messages:.2f} points) can never be told apart.",
        ]
    )


def require_one_dataset(records: Sequence[Record]) -> None:
    """Raise ``RecordError`` unless all records were made on the same data and split."""
    for record in records[1:]:
        first = records[0]
        if record.result["data"] != first.result["data"]:
            raise RecordError(
                f"{first.folder} and {record.folder} were made on different data or another split "
                f"({first.result['data']['name']} and {record.result['data']['name']}), so they do "
                "not belong in one table. Keep them in different folders with --output_dir."
            )


def require_same_texts(a: Record, b: Record) -> None:
    """Raise ``RecordError`` unless two records on the same data have the same test texts."""
    if a.predictions["label"].tolist() != b.predictions["label"].tolist():
        raise RecordError(
            f"{a.folder} and {b.folder} name the same data and have predictions for other test "
            "texts, so one of the two is damaged. Run both again."
        )
