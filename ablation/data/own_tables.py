"""What is asked of a table of one's own texts before it is used: nothing is guessed."""

from __future__ import annotations

import itertools
import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pandas as pd

from ablation.config.options import ExperimentConfig
from ablation.data.separated_values import Row, TextFormat, merged
from ablation.data.text_files import read_rows
from ablation.system.errors import DataError

logger = logging.getLogger("experiments")

# What pandas takes for a missing value, and the text of none.
MISSING = {
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
SHOWN = 5  # lines or classes in a message


@dataclass(frozen=True)
class Table:
    """Labelled texts of one file, each with its line there: ``Label``, ``Text``, ``Line``."""

    path: Path
    rows: pd.DataFrame


def read_table(path: Path, config: ExperimentConfig) -> Table:
    """The texts of a file, with their labels in words.

    Raises:
        DataError: it cannot be read, or quotes may have merged rows.
    """
    form = TextFormat(config.delimiter, config.encoding, config.quoting, config.header)
    columns = (config.label_column, config.text_column)
    rows = [row._replace(cells=()) for row in read_rows(path, columns, form)]
    labels = [row.fields[0].strip() for row in rows]
    _require_single_rows(rows, set(labels), path)
    data = {
        "Label": labels,
        "Text": [row.fields[1] for row in rows],
        "Line": [row.line for row in rows],
    }
    return Table(path, pd.DataFrame(data))


def _require_single_rows(rows: Sequence[Row], labels: set[str], path: Path) -> None:
    """Raise :class:`DataError` if each line of a text could be a row with a label that there is."""
    for row in rows:
        if row.apart and labels.issuperset(label.strip('" ') for label, _ in row.apart):
            raise merged(row.line, path)


def require_no_names(tables: Sequence[Table], config: ExperimentConfig) -> None:
    """Raise :class:`DataError` if a first line is read as a text and is evidently one of names:
    its label occurs nowhere else, or all files begin with it."""
    form = TextFormat(header=config.header)
    if config.header == "no" or form.has_names((config.label_column, config.text_column)):
        return
    tables = [table for table in tables if len(table.rows)]
    known = tables[0].rows["Label"][1:].tolist() if tables else []
    for table in tables:
        first, *others = table.rows["Label"]
        if first not in {*known, *others} and len(set(known)) < len(known):
            raise names_evident(table.path, table.rows["Line"].iloc[0], first)
    beginnings = {tuple(table.rows[["Label", "Text"]].iloc[0]) for table in tables}
    differ = any(not table.rows.equals(tables[0].rows) for table in tables)
    if len(beginnings) == 1 and differ:
        raise names_evident(tables[0].path, tables[0].rows["Line"].iloc[0], first)


def names_evident(path: Path, line: int, cell: str) -> DataError:
    """The error for names of columns where there should be none."""
    return DataError(
        f'{path}, line {line}: "{cell[:60]}" seems to be the name of a column, and positions of '
        "columns mean a file without names. Add --header yes if that line has names, or --header "
        "no if it has none."
    )


def drop_incomplete(table: Table, config: ExperimentConfig) -> Table:
    """The table without rows that lack a label or a text.

    Raises:
        DataError: there are some, and the configuration does not say that they are left out.
    """
    rows = table.rows
    missing = rows[["Label", "Text"]].map(lambda value: value.strip() in MISSING)
    is_missing = missing.any(axis=1)
    n = int(is_missing.sum())
    if n and not config.drop_incomplete:
        lines = ", ".join(map(str, rows["Line"][is_missing][:SHOWN]))
        raise DataError(
            f"{table.path}: of {len(rows):,} rows, {int(missing['Label'].sum()):,} lack a label "
            f"and {int(missing['Text'].sum()):,} a text, first in line {lines}. What is empty, or "
            "is NA, NaN, None, null or the like, is missing. Fill it in (a class of such a name "
            "needs another one), or leave these rows out with --drop_incomplete."
        )
    if n:
        logger.info(
            "%s: %s of %s rows are left out, which lack a label or a text",
            table.path,
            f"{n:,}",
            f"{len(rows):,}",
        )
    return Table(table.path, rows[~is_missing].reset_index(drop=True))


def drop_rare_classes(tables: Sequence[Table], least: int) -> list[Table]:
    """The tables without the classes that have fewer than ``least`` texts in the first."""
    counts = tables[0].rows["Label"].value_counts()
    rare = counts[counts < least]
    if not len(rare):
        return list(tables)
    is_rare = [table.rows["Label"].isin(rare.index) for table in tables]
    logger.info(
        "%s: %d classes with fewer than %d texts are left out, and their %d texts: %s",
        tables[0].path,
        len(rare),
        least,
        sum(int(rows.sum()) for rows in is_rare),
        ", ".join(f'"{label[:60]}"' for label in rare.index),
    )
    return [
        Table(table.path, table.rows[~rows].reset_index(drop=True))
        for table, rows in zip(tables, is_rare, strict=True)
    ]


def sort_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels in the order of their classes: whole numbers as numbers, others by name."""
    if all(re.fullmatch(r"[+-]?[0-9]+(\.0*)?", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (Decimal(label), label)))
    return tuple(sorted(labels))


def warn_of_similar(labels: Sequence[str], path: Path) -> None:
    """Name the labels that differ only in case or spaces: they may be meant to be one."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        plain = "".join(unicodedata.normalize("NFKC", label).split()).casefold()
        groups.setdefault(plain, []).append(label)
    for similar in groups.values():
        if len(similar) > 1:
            names = " and ".join(f'"{label[:60]}"' for label in similar)
            logger.warning(
                "%s: %s differ only in case or spaces, and count as %d classes",
                path,
                names,
                len(similar),
            )


def warn_of_common_rows(tables: Sequence[Table]) -> None:
    """Say how many rows stand in two files that are meant to be different parts."""
    for one, other in itertools.combinations(tables, 2):
        rows, others = ([*zip(t.rows["Label"], t.rows["Text"], strict=True)] for t in (one, other))
        n_common = sum(map(set(rows).__contains__, others))
        if n_common:
            logger.warning(
                "%s of the %s rows of %s stand in %s, too%s",
                f"{n_common:,}",
                f"{len(others):,}",
                other.path,
                one.path,
                ": the two files hold the same" if rows == others else "",
            )
