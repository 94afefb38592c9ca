"""Your own texts, from up to three files, in place of the SMS Spam Collection.

Nothing is guessed: what may be a mistake is refused or named.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.config.options import OPTIONS, ExperimentConfig, read_fold, split_columns
from ablation.data.separated_values import TextFormat, header_error, merged_rows_error
from ablation.data.splits import Tables, split_texts
from ablation.data.text_files import announce_columns, is_missing, join_cells, read_rows
from ablation.system.errors import ConfigError, DataError, Problem, logger
from ablation.system.files import checksum_file
from data_utils import PADDING_TOKEN, PARTS, SPLIT_SEED, Corpus, Splits

SHOWN = 5  # lines in a message
NUMBER = r"[+-]?[0-9]+(\.[0-9]*)?"


def load_own_corpus(config: ExperimentConfig) -> Corpus:
    """The texts of ``--dataset``; what parts have no file of their own are split off from it.

    The split is stratified and seeded by its own seed, never by ``--seed``. Classes are numbered in
    the order of their names, or of their numbers. Each part has the columns ``Label`` (the number
    of the class), ``Text``, and ``Line``: where it stands in the file that it is from. Raises
    ``DataError`` if a file cannot be read, lacks a column, labels or texts, or has too little of a
    class.
    """
    paths = _source_files(config)
    announce_columns(split_columns(config.text_column))
    tables = {part: _read_table(path, config) for part, path in paths.items()}
    _require_no_names(tables, paths, config)
    tables = {part: _drop_incomplete(tables[part], paths[part], config) for part in paths}
    _warn_of_common_rows(tables, paths)
    _require_separate_groups(tables, paths, config)
    tables = _drop_rare_classes(tables, config.min_texts_per_class or 1, paths["train"])
    n_parts = 1 + len(PARTS) - len(tables)  # that are made of the training file
    n_folds = read_fold(config.fold)[1] if config.fold else 0
    names = _class_names(tables["train"], paths["train"], n_parts, n_folds)
    numbered = {part: _number_classes(tables[part], names, paths[part]) for part in paths}
    parts = split_texts(numbered, config, names)
    if config.balance:
        by_class = parts["train"].groupby("Label")
        parts["train"] = by_class.sample(by_class.size().min(), random_state=SPLIT_SEED)
    return Corpus(Splits(**parts), names, paths["train"].name, checksum_files(config))


def checksum_files(config: ExperimentConfig) -> str:
    """SHA-256 of the file of ``--dataset``; of several files all, joined by "+". Raises
    ``DataError`` if a file cannot be read."""
    try:
        return "+".join(map(checksum_file, _source_files(config).values()))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error


def require_ignored_class(config: ExperimentConfig, class_names: Sequence[str]) -> None:
    """Say which class of your own data ``--ignore_index`` leaves out of the loss.

    Its default leaves out none, and neither does row 18's, which is about the padding token. Raises
    ``ConfigError`` if there is no class of that number.
    """
    number = config.ignore_index
    if 0 <= number < len(class_names):
        name = class_names[number]
        logger.info('--ignore_index %d: the loss leaves out the class "%s"', number, name)
    elif number == PADDING_TOKEN:
        logger.info("--ignore_index %d: there is no such class, and nothing is left out", number)
    elif number != OPTIONS["ignore_index"].default:
        names = ", ".join(f'{i} is "{name[:60]}"' for i, name in enumerate(class_names[:10]))
        sentence = f"there is no such class; {names}"
        raise ConfigError([Problem(f"--ignore_index {number}", sentence)])


def _source_files(config: ExperimentConfig) -> dict[str, Path]:
    """The file of each part; a part without one is taken from that of ``train``."""
    paths = (config.dataset, config.val_dataset, config.test_dataset)
    return {part: Path(path) for part, path in zip(PARTS, paths, strict=True) if path}


def _read_table(path: Path, config: ExperimentConfig) -> pd.DataFrame:
    form = TextFormat(config.delimiter, config.encoding, config.quoting, config.header)
    columns, groups = _columns(config), ["Group"] if config.group_column else []
    end = len(columns) - len(groups)  # of the columns of texts
    labels: dict[str, str] = {}  # each once, however many texts have it
    suspects = []  # rows that may be several

    def read() -> Iterator[tuple[Any, ...]]:
        for row in read_rows(path, columns, form):
            if row.apart:
                suspects.append(row)
            label, group = row.fields[0].strip(), map(str.strip, row.fields[end:])
            yield labels.setdefault(label, label), join_cells(row.fields[1:end]), row.line, *group

    table = pd.DataFrame(read(), columns=["Label", "Text", "Line", *groups])
    for row in suspects:  # whose lines are rows with labels that there are
        if labels.keys() >= {label.strip('" ') for label, *_ in row.apart}:
            raise merged_rows_error(row.line, path)
    return table


def _columns(config: ExperimentConfig) -> list[str]:
    """The columns of a file that are read: labels, texts, and groups, if they are asked for."""
    groups = [config.group_column] if config.group_column else []
    return [config.label_column, *split_columns(config.text_column), *groups]


def _drop_incomplete(rows: pd.DataFrame, path: Path, config: ExperimentConfig) -> pd.DataFrame:
    """The rows with a label, a text and a group, where there are any; rows without one are
    refused, or left out if asked."""
    missing = rows.drop(columns="Line").map(is_missing)
    incomplete = missing.any(axis=1)
    n = int(incomplete.sum())
    if n and not config.drop_incomplete:
        lines = ", ".join(map(str, rows["Line"][incomplete][:SHOWN]))
        counts = " and ".join(f"{n:,} a {name.lower()}" for name, n in missing.sum().items())
        raise DataError(
            f"{path}: of {len(rows):,} rows, {counts.replace(' a ', ' lack a ', 1)}, first in line "
            f"{lines}. What is empty, or "
            "is NA, NaN, None, null or the like, is missing. Fill it in (a class of such a name "
            "needs another one), or leave these rows out with --drop_incomplete."
        )
    if n:
        counts = f"{n:,} of {len(rows):,} rows"
        what = " or ".join(f"a {name.lower()}" for name in missing)
        logger.info("%s: %s are left out, which lack %s", path, counts, what)
    return rows[~incomplete]


def _require_no_names(tables: Tables, paths: dict[str, Path], config: ExperimentConfig) -> None:
    """Raise :class:`DataError` if a first line is read as a text and is evidently one of names:
    its label occurs nowhere else, or all files begin with it."""
    form = TextFormat(header=config.header)
    if config.header == "no" or form.has_names(_columns(config)):
        return
    tables = {part: rows for part, rows in tables.items() if len(rows)}
    every = list(tables.values())
    known = every[0]["Label"][1:].tolist() if every else []
    for part, rows in tables.items():
        first, *others = rows["Label"]
        if first not in {*known, *others} and len(set(known)) < len(known):
            raise header_error(paths[part], rows["Line"].iloc[0], first)
    beginnings = {tuple(rows[["Label", "Text"]].iloc[0]) for rows in every}
    if len(beginnings) == 1 and any(not rows.equals(every[0]) for rows in every):
        raise header_error(paths[next(iter(tables))], every[0]["Line"].iloc[0], first)


def _warn_of_common_rows(tables: Tables, paths: dict[str, Path]) -> None:
    """Say how many rows two files share that are meant to be different parts."""
    for one, other in itertools.combinations(tables, 2):
        first, second = (
            [*zip(tables[part]["Label"], tables[part]["Text"], strict=True)]
            for part in (one, other)
        )
        n_common = sum(map(set(first).__contains__, second))
        if n_common:
            message = f"{n_common:,} of the {len(second):,} rows of %s are also in %s%s"
            same = ": the two files hold the same" if first == second else ""
            logger.warning(message, paths[other], paths[one], same)


def _require_separate_groups(
    tables: Tables, paths: dict[str, Path], config: ExperimentConfig
) -> None:
    """Raise :class:`DataError` if two files that are to be different parts share a group."""
    if not config.group_column:
        return
    for one, other in itertools.combinations(tables, 2):
        rows = tables[other]
        common = rows[rows["Group"].isin(tables[one]["Group"])]
        if len(common):
            raise DataError(
                f"{paths[other]} has {len(common):,} texts of groups that {paths[one]} has, too, "
                f'such as "{common["Group"].iloc[0][:60]}" in line {common["Line"].iloc[0]}. With '
                f'--group_column "{config.group_column}" each group is in one part: take it out of '
                "one of the two files, or leave --group_column out."
            )


def _drop_rare_classes(tables: Tables, least: int, path: Path) -> Tables:
    """The tables without the classes that have fewer than ``least`` texts in the training file."""
    counts = tables["train"]["Label"].value_counts()
    rare = counts[counts < least].index
    kept = {part: rows[~rows["Label"].isin(rare)] for part, rows in tables.items()}
    if len(rare):
        logger.info(
            "%s: %d classes with fewer than %d texts are left out, and their %d texts: %s",
            path,
            len(rare),
            least,
            sum(map(len, tables.values())) - sum(map(len, kept.values())),
            ", ".join(f'"{label[:60]}"' for label in rare),
        )
    return kept


def _class_names(rows: pd.DataFrame, path: Path, n_parts: int, n_folds: int) -> tuple[str, ...]:
    """The classes of the training file, in order: whole numbers as numbers, others by name. Each
    has a text for each part that is made of it, whichever of the folds is the test."""
    counts = rows["Label"].value_counts()
    if len(counts) < 2:
        raise DataError(f"{path} has {len(counts)} classes: there is nothing to tell apart.")
    least, of_what, way_out = n_parts, f"{n_parts} parts", "Add texts"
    if n_folds:  # of three texts, one of two folds has two, and leaves one for two parts
        least = 4 if n_folds == 2 and n_parts == 3 else max(n_parts, n_folds)
        of_what = f"{n_folds} folds"
        way_out = f"Add texts, choose {'more' if n_folds == 2 else 'fewer'} folds"
    rare = counts[counts < least]
    if len(rare):
        raise DataError(
            f'{path} has {rare.iloc[0]} texts of the class "{rare.index[0][:60]}", and '
            f"{len(rare)} of {len(counts)} classes have fewer than {least}: too few for {of_what}. "
            f"{way_out}, or leave such classes out with --min_texts_per_class {least}. "
            "(Is --label_column the right one?)"
        )
    _warn_of_similar(counts.index, path)
    names = sorted(counts.index)
    if all(re.fullmatch(r"[+-]?[0-9]+(\.0*)?", name) for name in names):
        names.sort(key=Decimal)
    return tuple(names)


def _warn_of_similar(class_names: Sequence[str], path: Path) -> None:
    """Name the classes that differ only in case or spaces, or are the same number: they may be
    meant to be one."""
    groups: dict[str | Decimal, list[str]] = {}
    for name in class_names:
        plain = "".join(unicodedata.normalize("NFKC", name).split()).casefold()
        value = Decimal(plain) if re.fullmatch(NUMBER, plain) else plain
        groups.setdefault(value, []).append(f'"{name[:60]}"')
    message = "%s: %s differ only in case or spaces, or are one number, and count as %d classes"
    for similar in groups.values():
        if len(similar) > 1:
            logger.warning(message, path, " and ".join(similar), len(similar))


def _number_classes(rows: pd.DataFrame, names: Sequence[str], path: Path) -> pd.DataFrame:
    """The rows, with the numbers of classes in place of their names."""
    if unknown := sorted(set(rows["Label"]) - set(names)):
        line = rows["Line"][rows["Label"] == unknown[0]].iloc[0]
        raise DataError(
            f'{path}: the class "{unknown[0][:60]}" is not in the training file. It is first '
            f"in line {line}. Add texts of it to the training file, or take them out of this one."
        )
    if rows.empty:
        raise DataError(f"{path}: empty.")
    return rows.assign(Label=rows["Label"].map({name: i for i, name in enumerate(names)}))
