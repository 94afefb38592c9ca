"""Records of runs -> the table of rows and seeds, and how far they are from what was published."""

import itertools
import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ablation.config.commands import format_command, format_flags
from ablation.config.identity import identify_experiment, identify_tests
from ablation.config.published import PUBLISHED_SEED, messages_apart, published_count
from ablation.config.rows import SOURCE
from ablation.config.tables import Name, Published, Row, Table, configure
from ablation.reports.comparisons import accuracy_interval, prediction_interval
from ablation.reports.folds import accuracy_interval_of_folds
from ablation.sweeps.records import Record
from ablation.system.errors import RecordError
from data_utils import PARTS

OTHERS_TITLE = "Other configurations"
NO_FLAGS = "(none)"
SINGLE = " (messages)"  # beside an interval that knows nothing of other seeds
ACCURACIES = dict(zip(PARTS, ("train %", "val %", "test %"), strict=True))


@dataclass(frozen=True)
class Configuration:
    """The complete runs of one experiment, by seed."""

    label: str  # its row's number, if it has one
    flags: str
    records: tuple[Record, ...]
    question: str = ""  # of its row

    @property
    def name(self) -> str:
        """What it is called in pictures."""
        return f"{self.label} {self.question}".strip() or self.flags

    @property
    def command(self) -> str:
        """Its experiment as a line for a shell, with the published seed."""
        return format_command(replace(self.records[0].config, seed=PUBLISHED_SEED))

    @property
    def title(self) -> str:
        """What it is called in sentences."""
        asks = f" ({self.question})" if self.question else ""
        return f"row {self.label}{asks}" if self.label else f"the run of {self.flags}"

    @property
    def seeds(self) -> list[int]:
        """Of its runs, ascending."""
        return [record.config.seed for record in self.records]

    @cached_property
    def correct(self) -> np.ndarray:
        """(S, M): whether the run with each seed got each test message right."""
        return np.stack([record.correct for record in self.records])

    @cached_property
    def fold(self) -> np.ndarray | None:
        """(M,): the fold in which each text was tested; none of runs on one split."""
        predictions = self.records[0].predictions
        return predictions["fold"].to_numpy() if "fold" in predictions else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the test accuracy, in percent."""
        if self.fold is None:
            return accuracy_interval(self.correct)
        return accuracy_interval_of_folds(self.correct, self.fold)

    @property
    def shown_interval(self) -> str:
        """The same as it is printed."""
        return format_accuracy_interval(*self.interval, self.fold is None and len(self.seeds) == 1)

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
    """The rows of a table with the same flags beside them: none for the rows as they are.

    ``same`` names, for a row that those flags make equal to an earlier one, that earlier row.
    """

    table: Table
    overrides: dict[str, Any]
    configurations: dict[Name, Configuration]  # by row
    same: dict[Name, Name]

    @property
    def title(self) -> str:
        """What its rows have in common."""
        title = self.table.title
        if common := self.table.common_flags:
            title = f"{title}, with {format_flags(common)}"
        if not self.overrides:
            return title
        return f"Variants: {title[:1].lower()}{title[1:]} with {format_flags(self.overrides)}"

    @property
    def fold(self) -> np.ndarray | None:
        """(M,): the fold of each text; none of runs on one split."""
        return next((part.fold for part in self.configurations.values()), None)

    @property
    def is_published(self) -> bool:
        """Whether there is anything that was published of these rows."""
        figures = (row.published != Published() for row in self.table.rows.values())
        return not self.overrides and any(figures)


def group_records(
    records: Sequence[Record],
    tables: Sequence[Table] = (SOURCE,),
    asked: tuple[Table, dict[str, Any]] | None = None,
) -> tuple[list[Section], list[Configuration]]:
    """Complete records by section and row of some tables, and those that belong to no section by
    their flags. Of several tables, those are left out that nothing was run of; and of the first,
    which nobody need have asked for, variants that were run for others only.

    Args:
        asked: a table, and the flags beside its rows, that are not left out.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.config.seed):
        groups[identify_experiment(record.config)].append(record)
    beside = [{}, *(record.result["overrides"] or {} for record in records)]
    beside += [asked[1]] if asked else []
    different = {json.dumps(overrides, sort_keys=True): overrides for overrides in beside}
    sections, placed = [], set()
    for table, overrides in itertools.product(tables, different.values()):
        configurations, same = {}, {}
        first_rows: dict[str, Name] = {}
        for name, row in table.rows.items():
            key = identify_experiment(configure(row, overrides))
            first = first_rows.setdefault(key, name)
            if first != name:
                same[name] = first
            elif key in groups:
                flags = own_flags(row, table)
                configurations[name] = Configuration(
                    str(name), flags, (*groups[key],), row.question
                )
        shown = [record for part in configurations.values() for record in part.records]
        # Flags that contradict no row make no variants.
        is_variant = any(table.row_of(record.config) is None for record in shown)
        titles = {record.result.get("table", SOURCE.title) for record in shown}
        is_asked = table is not tables[0] or table.title in titles or asked == (table, overrides)
        if is_variant and is_asked if overrides else shown or len(tables) == 1:
            sections.append(Section(table, overrides, configurations, same))
            placed |= {identify_experiment(record.config) for record in shown}
    others = [
        Configuration("", format_command(replace(group[0].config, seed=PUBLISHED_SEED)), (*group,))
        for key, group in groups.items()
        if key not in placed
    ]
    return sections, others


def own_flags(row: Row, table: Table) -> str:
    """Flags of a row that not all of its table have."""
    own = {name: v for name, v in row.flags.items() if name not in table.common_flags}
    return format_flags(own) or NO_FLAGS


def figures(configuration: Configuration) -> dict[str, str]:
    """What a table says of a configuration, texts as they are printed."""
    trained = configuration.records[0].result["parameters"]["trained"]
    return {
        "n": str(len(configuration.records)),
        **{
            name: mean_and_deviation(configuration.percent(part))
            for part, name in ACCURACIES.items()
        },
        "95 % interval": configuration.shown_interval,
        "min": f"{configuration.minutes:.2f}",
        "trained": f"{trained:,}",
    }


def mean_and_deviation(values: np.ndarray) -> str:
    """The mean over seeds, and where there are several, their standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def format_accuracy_interval(low: float, high: float, is_single: bool) -> str:
    """The 95 % interval of an accuracy as it is printed; that of a single run is marked."""
    return f"{low:.1f} to {high:.1f}{SINGLE if is_single else ''}"


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
            for part, percent in _published_parts(row).items()
            if not row.config.dataset and published_count(percent, totals[part]) is None
        ]
        return "; ".join(["not run", *impossible])
    verdicts = [judge_part(part, row, configuration) for part in _published_parts(row)]
    seed = _beside_published(configuration).config.seed
    place = "" if seed == PUBLISHED_SEED or not verdicts else f"seed {seed}: "
    return place + "; ".join(verdicts)


def judge_part(part: str, row: Row, configuration: Configuration) -> str:
    """The same of one part, whose figure was published."""
    published = _published_parts(row)[part]
    here = _beside_published(configuration).accuracy(part)
    verdict = messages_apart(part, here.correct, here.total, published)
    count = published_count(published, here.total)
    records = configuration.records
    if count is not None and len(records) > 1:
        ends = prediction_interval([record.accuracy(part).correct for record in records])
        place = "within" if ends[0] <= count <= ends[1] else "outside"
        low, high = np.clip(100 * np.array(ends) / here.total, 0, 100)
        verdict += f", {place} {low:.2f} to {high:.2f} % for one more run"
    return verdict


def _published_parts(row: Row) -> dict[str, float]:
    published = asdict(row.published)
    return {part: published[part] for part in PARTS if published[part] is not None}


def _beside_published(configuration: Configuration) -> Record:
    """The run that stands beside the published one."""
    records = configuration.records
    return next((r for r in records if r.config.seed == PUBLISHED_SEED), records[0])


def require_one_dataset(records: Sequence[Record]) -> None:
    """Raise ``RecordError`` unless all records were made on the same data and split."""
    for record in records[1:]:
        first = records[0]
        texts = [identify_tests(part.config, part.result["data"]) for part in (first, record)]
        if texts[0] != texts[1]:
            raise RecordError(
                f"{first.folder} and {record.folder} were made on different data or another split "
                f"({first.result['data']['name']} and {record.result['data']['name']}), so they do "
                "not belong in one table. Keep them in different folders with --output_dir."
            )


def require_same_texts(records: Sequence[Record]) -> None:
    """Raise ``RecordError`` unless all records on the same data have the same test texts."""
    for record in records[1:]:
        first = records[0]
        tables = (record.predictions, first.predictions)
        shared = [name for name in ("label", "row") if all(name in table for table in tables)]
        if any(tables[0][name].tolist() != tables[1][name].tolist() for name in shared):
            raise RecordError(
                f"{first.folder} and {record.folder} name the same data and have predictions for "
                "other test texts: one of the two is damaged, or in some rows one of their "
                "--text_column is empty. Run both again, or keep them in different folders."
            )
