"""Texts of one's own, from up to three files, in place of the SMS Spam Collection."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ablation.config.options import OPTIONS, ExperimentConfig
from ablation.data.own_tables import (
    Table,
    drop_incomplete,
    drop_rare_classes,
    read_table,
    require_no_names,
    sort_labels,
    warn_of_common_rows,
    warn_of_similar,
)
from ablation.system.errors import ConfigError, DataError
from ablation.system.files import checksum_file
from data_utils import PADDING_TOKEN, PARTS, SPLIT_SEED, Corpus, Splits

logger = logging.getLogger("experiments")


def load_own_corpus(config: ExperimentConfig) -> Corpus:
    """The texts of ``--dataset``; what parts have no file of their own are split off from it.

    The split is stratified and seeded by its own seed, never by ``--seed``. Classes are
    numbered in the order of their names, or of their numbers. Each part has the columns ``Label``
    (the number of the class), ``Text``, and ``Line``: where it stands in the file that it is from.

    Raises:
        DataError: a file cannot be read, lacks a column, labels or texts, or has too little of a
            class.
    """
    paths = source_files(config)
    tables = [read_table(path, config) for path in paths.values()]
    require_no_names(tables, config)
    tables = [drop_incomplete(table, config) for table in tables]
    warn_of_common_rows(tables)
    tables = drop_rare_classes(tables, config.min_texts_per_class or 1)
    labels = _class_names(tables[0], n_parts=1 + len(PARTS) - len(tables))
    numbered = dict(zip(paths, [_number_classes(table, labels) for table in tables], strict=True))
    parts = Splits(**_split(numbered, config))
    if config.balance:
        parts = replace(parts, train=_undersample(parts.train))
    return Corpus(
        parts=parts,
        class_names=labels,
        name=paths["train"].name,
        file_sha256=checksum_files(config),
    )


def checksum_files(config: ExperimentConfig) -> str:
    """SHA-256 of the file of ``--dataset``; of several files all, joined by "+".

    Raises:
        DataError: a file cannot be read.
    """
    try:
        return "+".join(map(checksum_file, source_files(config).values()))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error


def require_ignored_class(config: ExperimentConfig, labels: Sequence[str]) -> None:
    """Say which class of one's own data ``--ignore_index`` leaves out of the loss.

    Its default leaves out none, and neither does row 18's, which is about the padding token.

    Raises:
        ConfigError: there is no class of that number.
    """
    number = config.ignore_index
    if 0 <= number < len(labels):
        logger.info('--ignore_index %d: the loss leaves out the class "%s"', number, labels[number])
    elif number == PADDING_TOKEN:
        logger.info("--ignore_index %d: there is no such class, and nothing is left out", number)
    elif number != OPTIONS["ignore_index"].default:
        names = ", ".join(f'{i} is "{label[:60]}"' for i, label in enumerate(labels[:10]))
        raise ConfigError([f"--ignore_index {number}: there is no such class; {names}"])


def source_files(config: ExperimentConfig) -> dict[str, Path]:
    """The files by the part that they are; what has none is taken from that of ``train``."""
    paths = (config.dataset, config.val_dataset, config.test_dataset)
    return {part: Path(path) for part, path in zip(PARTS, paths, strict=True) if path}


def _class_names(table: Table, n_parts: int) -> tuple[str, ...]:
    """The classes of the training file, each with a text for each part that is made of it."""
    counts = table.rows["Label"].value_counts()
    if len(counts) < 2:
        raise DataError(f"{table.path} has {len(counts)} classes: there is nothing to tell apart.")
    rare = counts[counts < n_parts]
    if len(rare):
        raise DataError(
            f'{table.path} has {rare.iloc[0]} texts of the class "{rare.index[0][:60]}", and '
            f"{len(rare)} of {len(counts)} classes have fewer than {n_parts}: too few for "
            f"{n_parts} parts. Add texts, or leave such classes out with --min_texts_per_class "
            f"{n_parts}. (Is --label_column the right one?)"
        )
    warn_of_similar(counts.index, table.path)
    return sort_labels(counts.index)


def _number_classes(table: Table, labels: Sequence[str]) -> pd.DataFrame:
    """The rows, with the numbers of classes in place of their names."""
    rows = table.rows
    unknown = sorted(set(rows["Label"]) - set(labels))
    if unknown:
        line = rows["Line"][rows["Label"] == unknown[0]].iloc[0]
        raise DataError(
            f'{table.path}: the class "{unknown[0][:60]}" is not in the training file. It is first '
            f"in line {line}. Add texts of it to the training file, or take them out of this one."
        )
    if rows.empty:
        raise DataError(f"{table.path}: empty.")
    return rows.assign(Label=rows["Label"].map({name: i for i, name in enumerate(labels)}))


def _undersample(rows: pd.DataFrame) -> pd.DataFrame:
    """As many texts of each class as of the rarest."""
    smallest = rows["Label"].value_counts().min()
    return rows.groupby("Label").sample(smallest, random_state=SPLIT_SEED)


def _split(files: dict[str, pd.DataFrame], config: ExperimentConfig) -> dict[str, pd.DataFrame]:
    """The three parts. Those without a file are taken from the training file: of each class in
    proportion, with at least one text of it in each part."""
    flags = {"test": "test_fraction", "validation": "val_fraction"}
    missing = {part: flag for part, flag in flags.items() if part not in files}
    if not missing:
        return files
    shuffled = files["train"].sample(frac=1, random_state=SPLIT_SEED)
    classes = shuffled.groupby("Label")["Text"]
    place, size = classes.cumcount(), classes.transform("size")
    start, taken = 0, {}
    for part, flag in missing.items():
        end = start + (getattr(config, flag) * size).round().clip(lower=1)
        taken[part] = shuffled[(place >= start) & (place < end)]
        start = end
    if (start >= size).any():
        shares = " and ".join(f"--{flag} {getattr(config, flag):g}" for flag in missing.values())
        raise DataError(
            f"{config.dataset}: with {shares} nothing of its smallest class ({size.min()} texts) "
            "is left for training. Choose smaller ones."
        )
    return {**files, **taken, "train": shuffled[place >= start]}
