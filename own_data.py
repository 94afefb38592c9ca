"""Texts of one's own: CSV or TSV files in place of the SMS Spam Collection."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_utils import SPLIT_SEED, Corpus, Splits
from errors import DataError
from experiment_config import ExperimentConfig
from files import checksum_file

logger = logging.getLogger("experiments")

MIN_TEXTS_OF_A_CLASS = 3  # one for each part


def load_own_corpus(config: ExperimentConfig) -> Corpus:
    """The texts of ``--dataset``: split here, or in three files already.

    The split is stratified and seeded by its own seed, never by ``--seed``. Classes are
    numbered in the order of their names.

    Raises:
        DataError: a file cannot be read, lacks a column, or has too little of a class.
    """
    paths = _paths(config)
    columns = (config.label_column, config.text_column)
    names = ["Line", "Label", "Text"]
    tables = [pd.DataFrame(read_rows(path, columns), columns=names) for path in paths]
    least = MIN_TEXTS_OF_A_CLASS if len(tables) == 1 else 1
    labels = _class_names(tables[0], paths[0], least)
    for table, path in zip(tables, paths, strict=True):
        _number_classes(table, labels, path)
    if config.balance:
        tables[0] = _undersample(tables[0])
    parts = Splits(*tables) if len(tables) == 3 else _split(tables[0], config)
    return Corpus(
        parts=parts,
        labels=labels,
        name=paths[0].name,
        file_sha256=checksum_files(config),
    )


def checksum_files(config: ExperimentConfig) -> str:
    """SHA-256 of the file of ``--dataset``; of three files all, joined by "+".

    Raises:
        DataError: a file cannot be read.
    """
    try:
        return "+".join(map(checksum_file, _paths(config)))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _paths(config: ExperimentConfig) -> list[Path]:
    paths = (config.dataset, config.val_dataset, config.test_dataset)
    return [Path(path) for path in paths if path]


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The fields of some columns, as :func:`read_rows` has them, without the lines."""
    for _, *fields in read_rows(path, columns):
        yield fields


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[list[Any]]:
    """The rows of a CSV or TSV file: the line that each begins in, from 1, and the fields of some
    columns.

    Args:
        path: a UTF-8 file. Names that end with .csv or .tsv say what it is; of others, a tab in
            the first line does.
        columns: names in the first line; or, if all are numbers, positions counted from 1, and
            then the first line is data.

    Raises:
        DataError: it cannot be read, lacks a column, or a row is not as long as the first.
    """
    csv.field_size_limit(2**31 - 1)  # a long text is no damage; more does not fit everywhere
    line = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            is_tab = _is_tab_separated(path, file.readline())
            file.seek(0)
            reader = csv.reader(_refuse_nul(file), delimiter="\t" if is_tab else ",", strict=True)
            first = next((row for row in reader if row), None)
            if first is None:
                raise DataError(f"{path} is empty.")
            has_header = not all(name.isdecimal() for name in columns)
            line = reader.line_num
            at = _find_columns(first, columns, has_header, path)
            if not has_header:
                yield [line, *(first[i] for i in at)]
            for row in reader:
                begin, line = line + 1, reader.line_num
                if not row and len(first) > 1:  # where a row is one text, it may be empty
                    continue
                row = row or [""]
                if len(row) != len(first):
                    raise DataError(
                        f"{path}, line {line}: {len(row)} fields, where the first line has "
                        f"{len(first)}. A text that holds a {'tab' if is_tab else 'comma'} or a "
                        'line break needs quotes around it: "...".'
                    )
                yield [begin, *(row[i] for i in at)]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: after line {line}, {error.reason}, byte "
            f"0x{error.object[error.start]:02x}. Save it with the encoding UTF-8."
        ) from error
    except csv.Error as error:
        reason = "a quote is opened and never closed" if "end of data" in str(error) else error
        raise DataError(
            f"{path}, after line {line}: {reason}. A field that begins with a quote must end with "
            "one, and quotes inside of it are doubled."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _is_tab_separated(path: Path, first_line: str) -> bool:
    suffix = path.suffix.lower()
    return suffix == ".tsv" or (suffix != ".csv" and "\t" in first_line)


def _refuse_nul(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise csv.Error("a NUL byte, which no text file holds")
        yield line


def _find_columns(
    first: Sequence[str], columns: Sequence[str], has_header: bool, path: Path
) -> list[int]:
    """Where the columns are in a row."""
    if not has_header:
        wrong = [name for name in columns if not 1 <= int(name) <= len(first)]
        if wrong:
            raise DataError(f"{path} has no column {wrong[0]}: its rows have {len(first)} fields.")
        return [int(name) - 1 for name in columns]
    names = [name.strip() for name in first]
    for name in columns:
        if names.count(name) != 1:
            found = ", ".join(f'"{found[:40]}"' for found in names[:10])
            raise DataError(
                f'{path} has {names.count(name)} columns "{name}"; its first line names {found}. '
                "Name others with --label_column and --text_column (--column for predict.py), or, "
                "if the file has no line of names, give positions: 1, 2, ..."
            )
    return [names.index(name) for name in columns]


def _class_names(table: pd.DataFrame, path: Path, least: int) -> tuple[str, ...]:
    counts = table["Label"].value_counts()
    if len(counts) < 2:
        raise DataError(f"{path} has {len(counts)} classes: there is nothing to tell apart.")
    rare = counts[counts < least]
    if len(rare):
        raise DataError(
            f'{path} has {rare.iloc[0]} texts of the class "{rare.index[0][:60]}", and '
            f"{len(rare)} of {len(counts)} classes have fewer than {least}: too few "
            "for three parts. Add texts, or leave the class out. (Is --label_column the right one?)"
        )
    return tuple(sorted(counts.index))


def _number_classes(table: pd.DataFrame, labels: Sequence[str], path: Path) -> None:
    """Turn names of classes into their numbers, in place."""
    unknown = sorted(set(table["Label"]) - set(labels))
    if unknown or table.empty:
        reason = (
            f'the class "{unknown[0][:60]}" is not in the training file' if unknown else "empty"
        )
        raise DataError(f"{path}: {reason}.")
    table["Label"] = table["Label"].map(labels.index)


def _undersample(table: pd.DataFrame) -> pd.DataFrame:
    """As many texts of each class as of the rarest."""
    smallest = table["Label"].value_counts().min()
    return table.groupby("Label").sample(smallest, random_state=SPLIT_SEED)


def _split(table: pd.DataFrame, config: ExperimentConfig) -> Splits[pd.DataFrame]:
    """Split each class in proportion, with at least one text of it in each part."""
    shuffled = table.sample(frac=1, random_state=SPLIT_SEED)
    classes = shuffled.groupby("Label")["Text"]
    place, size = classes.cumcount(), classes.transform("size")
    test_end = (config.test_fraction * size).round().clip(lower=1)
    validation_end = test_end + (config.val_fraction * size).round().clip(lower=1)
    if (validation_end >= size).any():
        raise DataError(
            f"{config.dataset}: with --val_fraction {config.val_fraction:g} and --test_fraction "
            f"{config.test_fraction:g} nothing of its smallest class ({size.min()} texts) is left "
            "for training. Choose smaller ones."
        )
    return Splits(
        shuffled[place >= validation_end],
        shuffled[(place >= test_end) & (place < validation_end)],
        shuffled[place < test_end],
    )
