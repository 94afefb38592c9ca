"""What the runs in a folder show, as data frames and pictures, for a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.config.commands import format_flags
from ablation.config.identity import identify_experiment
from ablation.config.kept_tables import known_tables
from ablation.config.rows import SOURCE
from ablation.config.tables import Name
from ablation.interface.given import read_folder, require_switches
from ablation.interface.shown import Shown, show
from ablation.reports import pictures
from ablation.reports.baseline import classify_by_characters
from ablation.reports.findings import compare_rows
from ablation.reports.headlines import Named, name_parts
from ablation.reports.material import read_runs
from ablation.reports.message_map import build_map
from ablation.reports.pooling import pool_corpora, pool_parts
from ablation.reports.tables import Configuration, Section
from ablation.sweeps.records import Record
from data_utils import PARTS, Corpus

RUN = ("run", "row", "seed", "fold")
PREDICTIONS = (*RUN, "index", "line", "label", "prediction", "probability")
FIGURES = (*PARTS, "minutes", "parameters")  # which a run that failed lacks
CLASSES = ("ham", "spam")  # of records that say nothing of them


@dataclass(frozen=True)
class Results:
    """All runs in a folder.

    ::

        results = Results.read("runs")
        results.table.sort_values("test")
    """

    records: Sequence[Record]
    sections: Sequence[Section]  # the rows of each table, and their variants
    others: Sequence[Configuration]  # runs that are of no row
    tested: Sequence[Corpus]  # the texts, of each fold

    @classmethod
    def read(
        cls,
        output_dir: str | Path = "runs",
        *,
        data_dir: str | Path = "data",
        offline: bool = False,
    ) -> "Results":
        """Read all records in a folder, as the report does: one that does not fit its texts is left
        out, and named.

        Args:
            output_dir: the folder that runs were told to write to.
            data_dir: where the SMS messages are, or are downloaded to.
            offline: they are not downloaded.

        Raises:
            ConfigError: what is given is no folder, or no switch.
            RecordError: there are no records, or they do not belong together.
            DataError: the texts are missing or damaged.
        """
        require_switches(offline=offline)
        output_dir = read_folder("output_dir", output_dir)
        data_dir = read_folder("data_dir", data_dir)
        tables = known_tables(output_dir, SOURCE)
        runs = read_runs(output_dir, data_dir, offline, tables)
        return cls(runs.records, runs.sections, runs.others, runs.tested)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A line for each run, also for those that failed.

        Columns are ``run`` (its folder's name), ``row`` (none for a variant of one), ``seed``,
        ``fold``, ``status``, the
        accuracies ``train``, ``validation`` and ``test`` in percent, ``minutes``, ``parameters``
        that were trained, ``command``, and the ``error`` of one that failed.
        """
        return pd.DataFrame(map(_describe_run, self.records)).astype(dict.fromkeys(FIGURES, float))

    @cached_property
    def table(self) -> pd.DataFrame:
        """A line for each configuration, which is all seeds of one experiment.

        Columns are ``section`` (of the report); ``row`` and the ``question`` that it asks;
        ``name``, for pictures; all its ``flags``; ``n`` seeds; the mean accuracies ``train``,
        ``validation`` and ``test`` in percent, with the 95 % interval of the last from ``low`` to
        ``high``; the ``published`` test accuracy, where the row is as it was published;
        ``minutes``, and ``parameters`` that were trained.
        """
        lines = [
            {"section": section.title, **self._describe_row(section, row), **_figures(part)}
            for section in self.sections
            for row, part in section.configurations.items()
        ]
        lines += [
            {"section": "", "name": self._name_of(part), "flags": part.flags, **_figures(part)}
            for part in self.others
        ]
        columns = ["section", "row", "question", "name", "flags", "n", *PARTS]
        columns += ["low", "high", "published", "minutes", "parameters"]
        return pd.DataFrame(lines, columns=columns).astype({"published": float})

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """A line for each question that two rows were made for, if both were run with a seed.

        Columns are ``section``, ``question``, ``first`` and ``second`` row, ``n`` seeds that both
        have, the ``difference`` in test accuracy, second minus first, in points, with its 95 %
        interval from ``low`` to ``high``, ``p``, ``p_corrected`` for the number of questions in the
        section, the ``published`` difference, and the ``finding`` in words.
        """
        lines = [
            {
                "section": section.title,
                "question": finding.question,
                "first": finding.rows[0],
                "second": finding.rows[1],
                "n": len(finding.seeds),
                "difference": finding.difference.points,
                "low": finding.difference.low,
                "high": finding.difference.high,
                "p": finding.difference.p,
                "p_corrected": finding.corrected_p,
                "published": finding.published,
                "finding": finding.sentence,
            }
            for section in self.sections
            for finding in compare_rows(section)
        ]
        columns = ["section", "question", "first", "second", "n", "difference", "low", "high"]
        columns += ["p", "p_corrected", "published", "finding"]
        return pd.DataFrame(lines, columns=columns).astype({"published": float})

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A line for each complete run and test text.

        Columns are ``run`` (its folder's name), ``row``, ``seed``, ``fold``, ``index`` (of the text
        in its test part), ``line`` (of the text in its file), its ``label``, the ``prediction``,
        and ``probability``: of the second of two classes, and with more classes of the predicted.
        """
        tables = [_describe_predictions(record) for record in self.records if record.is_complete]
        none = pd.DataFrame(columns=PREDICTIONS)
        return pd.concat(tables, ignore_index=True) if tables else none

    def plot_accuracy(self) -> Shown | None:
        """Test accuracies with their intervals, beside what was published and a linear SVM.

        This and the other pictures show every experiment of :attr:`table` once; none where there is
        nothing to show.
        """
        parts = [classify_by_characters(corpus.parts) for corpus in self.tested]
        svm = 100 * float(pool_parts(parts).test.mean())
        return show(pictures.accuracy(self._points, svm))

    def plot_learning(self) -> Shown | None:
        """Training and validation losses by step."""
        return show(pictures.learning(self._points))

    def plot_minutes(self) -> Shown | None:
        """Test accuracy against minutes; none of fewer than three experiments."""
        return show(pictures.minutes(self._points))

    def plot_errors(self) -> Shown | None:
        """Which experiment gets which test messages wrong; none of a single one."""
        parts = [point.configuration for point in self._points]
        names = [point.name for point in self._points]
        found = build_map(parts, names, pool_corpora(self.tested))
        return show(found and found.picture)

    def _describe_row(self, section: Section, name: Name) -> dict[str, Any]:
        row = section.table.rows[name]
        return {
            "row": name,
            "question": row.question,
            "name": self._name_of(section.configurations[name]),
            "flags": format_flags({**row.flags, **section.overrides}),
            "published": row.published.test if section.is_published else None,
        }

    def _name_of(self, part: Configuration) -> str:
        """What an experiment is called, also on the report's page: where two sections have it, by
        the first."""
        return self._named[identify_experiment(part.records[0].config)].name

    @cached_property
    def _named(self) -> dict[str, Named]:
        """Each experiment once."""
        named = name_parts([part for part in self.sections if part.configurations], self.others)
        return {identify_experiment(one.part.records[0].config): one for one in named}

    @cached_property
    def _points(self) -> list[pictures.Point]:
        return [pictures.Point(one.part, one.published, one.name) for one in self._named.values()]


def _name_run(record: Record) -> dict[str, Any]:
    values = (record.folder.name, record.result["row"], record.config.seed, record.config.fold)
    return dict(zip(RUN, values, strict=True))


def _describe_run(record: Record) -> dict[str, Any]:
    line = {
        **_name_run(record),
        "status": record.result["status"],
        **dict.fromkeys(FIGURES),
        "command": record.result["command"],
        "error": record.result.get("error"),
    }
    if record.is_complete:
        line |= {part: record.accuracy(part).percent for part in PARTS}
        line["minutes"] = record.minutes
        line["parameters"] = record.result["parameters"]["trained"]
    return line


def _figures(part: Configuration) -> dict[str, Any]:
    low, high = part.interval
    return {
        "n": len(part.records),
        **{name: float(part.percent(name).mean()) for name in PARTS},
        "low": low,
        "high": high,
        "minutes": part.minutes,
        "parameters": part.records[0].result["parameters"]["trained"],
    }


def _describe_predictions(record: Record) -> pd.DataFrame:
    found = [part["label"] for part in record.result.get("test", {}).get("classes") or ()]
    names = dict(enumerate(found or CLASSES))
    table = record.predictions.rename(columns={"row": "line"})
    named = {column: table[column].map(names) for column in ("label", "prediction")}
    table = table.assign(**named, **_name_run(record))
    return table.reindex(columns=[*PREDICTIONS])
