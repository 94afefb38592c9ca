"""Records of runs -> the table of rows and seeds, and how far they are from what was published."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ablation.config.identity import identify
from ablation.config.options import ExperimentConfig
from ablation.config.published import PUBLISHED_SEED, messages_apart, published_count
from ablation.config.rows import ROWS, Row, configure, format_command, format_flags, row_number
from ablation.reports.comparisons import accuracy_interval, prediction_interval
from ablation.sweeps.records import Record
from ablation.system.errors import RecordError
from data_utils import PARTS, Splits

BASELINE = "characters, linear SVM (baseline)"
NO_FLAGS = "(none)"
ACCURACIES = dict(zip(PARTS, ("train %", "val %", "test %"), strict=True))
COLUMNS = (
    *("row", "flags", "n", *ACCURACIES.values(), "95 % interval"),
    *("published %", "verdict", "min", "published min", "trained"),
)


@dataclass(frozen=True)
class Configuration:
    """The complete runs of one experiment, by seed."""

    label: str  # its row's number, if it has one
    flags: str
    records: tuple[Record, ...]

    @property
    def seeds(self) -> list[int]:
        """Of its runs, ascending."""
        return [record.config.seed for record in self.records]

    @cached_property
    def correct(self) -> np.ndarray:
        """(S, M): whether the run with each seed got each test message right."""
        return np.stack([record.correct for record in self.records])

    def with_seeds(self, seeds: Collection[int]) -> "Configuration":
        """The same with those of its runs that have one of these seeds."""
        return replace(self, records=tuple(r for r in self.records if r.config.seed in seeds))

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
        return f"Variants: the rows with {format_flags(self.overrides)}"


def group_records(records: Sequence[Record]) -> tuple[list[Section], list[Configuration]]:
    """Complete records by section and row, and those that belong to no section by their flags."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.config.seed):
        groups[_experiment(record.config)].append(record)
    asked = [{}, *(record.result["overrides"] or {} for record in records)]
    different = {json.dumps(overrides, sort_keys=True): overrides for overrides in asked}
    sections, placed = [], set()
    for overrides in different.values():
        configurations, same = {}, {}
        first_rows: dict[str, int] = {}
        for number, row in ROWS.items():
            key = _experiment(configure(row, overrides))
            first = first_rows.setdefault(key, number)
            if first != number:
                same[number] = first
            elif key in groups:
                flags = format_flags(row.flags) or NO_FLAGS
                configurations[number] = Configuration(str(number), flags, (*groups[key],))
        shown = [record for part in configurations.values() for record in part.records]
        # Flags that contradict no row make no variants.
        if not overrides or any(row_number(record.config) is None for record in shown):
            sections.append(Section(overrides, configurations, same))
            placed |= {_experiment(record.config) for record in shown}
    others = [
        Configuration("", format_command(replace(group[0].config, seed=PUBLISHED_SEED)), (*group,))
        for key, group in groups.items()
        if key not in placed
    ]
    return sections, others


def _experiment(config: ExperimentConfig) -> str:
    """The same for runs that differ only in their seed."""
    return identify(replace(config, seed=PUBLISHED_SEED))


def tabulate(section: Section, baseline: Splits[np.ndarray] | None = None) -> pd.DataFrame:
    """The table of a section: a line for each row, texts as they are printed."""
    lines = []
    for number, row in ROWS.items():
        line = {"row": str(number), "flags": format_flags(row.flags) or NO_FLAGS}
        configuration = section.configurations.get(number)
        if configuration:
            line |= figures(configuration)
        elif number in section.same:
            line["test %"] = f"as row {section.same[number]}"
        elif section.overrides:
            line["test %"] = "not run"
        if not section.overrides:
            line["published %"] = f"{row.train:.2f} / {row.validation:.2f} / {row.test:.2f}"
            line["published min"] = f"{row.minutes:.2f}"
            line["verdict"] = judge(row, configuration)
        lines.append(line)
    if baseline:
        accuracies = {
            name: mean_and_deviation(100 * getattr(baseline, part).mean(keepdims=True))
            for part, name in ACCURACIES.items()
        }
        interval = {"95 % interval": format_accuracy_interval(baseline.test[None])}
        lines.append({"row": "", "flags": BASELINE, "n": "1", **accuracies, **interval})
    table = pd.DataFrame(lines)
    return table.reindex(columns=[name for name in COLUMNS if name in table]).fillna("")


def figures(configuration: Configuration) -> dict[str, str]:
    """What a table says of a configuration, texts as they are printed."""
    trained = configuration.records[0].result["parameters"]["trained"]
    return {
        "n": str(len(configuration.records)),
        **{
            name: mean_and_deviation(configuration.percent(part))
            for part, name in ACCURACIES.items()
        },
        "95 % interval": format_accuracy_interval(configuration.correct),
        "min": f"{configuration.minutes:.2f}",
        "trained": f"{trained:,}",
    }


def mean_and_deviation(values: np.ndarray) -> str:
    """The mean over seeds, and where there are several, their standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def format_accuracy_interval(correct: np.ndarray) -> str:
    """The 95 % interval of an accuracy as it is printed; ``correct`` is (S, M)."""
    low, high = accuracy_interval(correct)
    return f"{low:.1f} to {high:.1f}{mark_single(len(correct))}"


def mark_single(n_seeds: int) -> str:
    """What an interval says beside itself if it knows nothing of other seeds."""
    return " (messages)" if n_seeds == 1 else ""


def judge(row: Row, configuration: Configuration | None) -> str:
    """How far a row is from its published figures, part by part, in messages.

    Published was one run, with seed 123, on the same messages: it stands beside the run of that
    seed, or else of the lowest. With several seeds, each figure lies within what one more run
    would give or outside it. A figure that no count rounds to is impossible.
    """
    if not configuration:
        n_train = 1045 if "no_padding" in row.flags else 1040  # messages that fill whole batches
        totals = {"train": n_train, "validation": 149, "test": 300}
        impossible = [
            f"{part}: impossible as published"
            for part, total in totals.items()
            if published_count(getattr(row, part), total) is None
        ]
        return "; ".join(["not run", *impossible])
    records = configuration.records
    chosen = next((r for r in records if r.config.seed == PUBLISHED_SEED), records[0])
    verdicts = []
    for part in PARTS:
        here, published = chosen.accuracy(part), getattr(row, part)
        verdict = messages_apart(part, here.correct, here.total, published)
        count = published_count(published, here.total)
        if count is not None and len(records) > 1:
            ends = prediction_interval([record.accuracy(part).correct for record in records])
            place = "within" if ends[0] <= count <= ends[1] else "outside"
            low, high = np.clip(100 * np.array(ends) / here.total, 0, 100)
            verdict += f", {place} {low:.2f} to {high:.2f} % for one more run"
        verdicts.append(verdict)
    seed = chosen.config.seed
    return ("" if seed == PUBLISHED_SEED else f"seed {seed}: ") + "; ".join(verdicts)


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


def require_same_texts(records: Sequence[Record]) -> None:
    """Raise ``RecordError`` unless all records on the same data have the same test texts."""
    first = records[0]
    for record in records[1:]:
        if record.predictions["label"].tolist() != first.predictions["label"].tolist():
            raise RecordError(
                f"{first.folder} and {record.folder} name the same data and have predictions for "
                "other test texts, so one of the two is damaged. Run both again."
            )
