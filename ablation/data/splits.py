"""Your own texts in parts: of each class in proportion, and groups in one piece."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ablation.config.options import ExperimentConfig, read_fold
from ablation.system.errors import DataError, logger
from data_utils import PARTS, SPLIT_SEED

Tables = dict[str, pd.DataFrame]  # by the part that they are: Label, Text, Line, and maybe Group
MAX_TRIES, MAX_MOVES = 20, 200  # to find a split; of one group, within one of them
LACKING, LEAST_CHANGE = 1e9, 1e-6  # what a part without a class counts; what makes a move worth it
FLAGS = {"test": "test_fraction", "validation": "val_fraction"}


def split_texts(files: Tables, config: ExperimentConfig, class_names: Sequence[str]) -> Tables:
    """The three parts. Those without a file are taken from the training file: of each class in
    proportion, with at least one text of it in each part, and groups in one piece. Raises
    ``DataError`` if there are too few texts or groups for that, and with fold 1 also if there are
    for another fold, so that a sweep over folds ends before its first run."""
    shares = {part: getattr(config, flag) for part, flag in FLAGS.items() if part not in files}
    if not shares:
        return files
    every = files["train"].sample(frac=1, random_state=SPLIT_SEED)
    grouped = config.group_column is not None and not every["Group"].is_unique
    place = f"Fold {config.fold}: " if config.fold else ""
    if config.group_column and not grouped:
        message = '%sEach text has its own "%s", so the split is the one without --group_column'
        logger.info(message, place, config.group_column)
    rests, parts = [every], dict(files)
    if config.fold:
        number, n_folds = read_fold(config.fold)
        shares["test"] = 1 / n_folds
        folds = number_folds(every, n_folds)
        if grouped:
            folds = _divide(every, [1 / n_folds] * n_folds, config, class_names)
        parts["test"] = every[folds == number - 1]
        tried = [*range(n_folds - 1, 0, -1), 0] if number == 1 else [number - 1]
        rests = (every[folds != fold] for fold in tried)
    taken = {part: share for part, share in shares.items() if part not in parts}
    left = 1 - sum(shares[part] for part in shares.keys() - taken.keys())
    taken = {part: share / left for part, share in taken.items()}

    def take(rows: pd.DataFrame) -> Tables:
        if not (grouped and taken):
            return _take(rows, taken, config)
        sizes = [*taken.values(), 1 - sum(taken.values())]
        numbers = _divide(rows, sizes, config, class_names, " outside a fold" * bool(config.fold))
        return {part: rows[numbers == i] for i, part in enumerate([*taken, "train"])}

    for rest in rests:
        split = take(rest)
    parts |= split
    if grouped:
        asked = {"train": 1 - sum(shares.values()), **shares}
        words = (
            f"{len(parts[part]) / len(every):.1%} {part} ({asked[part]:.1%} asked for)"
            for part in PARTS
            if part in asked
        )
        sizes = every["Group"].value_counts().tolist()
        message = '%s%d groups of "%s", the largest with %d texts, are split into %s'
        logger.info(message, place, len(sizes), config.group_column, sizes[0], ", ".join(words))
    return parts


def _take(rows: pd.DataFrame, shares: Mapping[str, float], config: ExperimentConfig) -> Tables:
    """The parts that are taken from shuffled texts, each with its share, and what is left of them
    for training."""
    classes = rows.groupby("Label")["Text"]
    place, size = classes.cumcount(), classes.transform("size")
    start, parts = 0 * size, {}
    for part, share in shares.items():
        end = start + (share * size).round().clip(lower=1)
        parts[part] = rows[(place >= start) & (place < end)]
        start = end
    if (start >= size).any():
        flags = [f"--{FLAGS[part]} {getattr(config, FLAGS[part]):g}" for part in shares]
        beside, way_out = "", "Choose smaller ones."
        if config.fold:
            flags.append(f"{read_fold(config.fold)[1]} folds")
            beside, way_out = " outside a fold", "Choose a smaller share, or more folds."
        raise DataError(
            f"{config.dataset}: with {' and '.join(flags)} nothing of its smallest class "
            f"({size.min()} texts{beside}) is left for training. {way_out}"
        )
    return {**parts, "train": rows[place >= start]}


def number_folds(rows: pd.DataFrame, n: int) -> np.ndarray:
    """The fold of each of N shuffled texts, from 0 to ``n`` - 1: (N,). Folds differ by one text at
    most, of each class and in all."""
    folds = np.empty(len(rows), dtype=int)
    folds[np.argsort(rows["Label"].to_numpy(), kind="stable")] = np.arange(len(rows)) % n
    return folds


def _divide(
    rows: pd.DataFrame,
    shares: Sequence[float],
    config: ExperimentConfig,
    class_names: Sequence[str],
    where: str = "",
) -> np.ndarray:
    """The number of the part of each text, as :func:`assign_groups` has it; ``where`` says which
    texts. Raises ``DataError`` if not every part gets every class."""
    try:
        return assign_groups(pd.factorize(rows["Group"])[0], rows["Label"].to_numpy(), shares)
    except ValueError as error:
        label, n_groups = error.args
        raise DataError(
            f'{config.dataset}: with --group_column "{config.group_column}", no way was found to '
            f'give each of {len(shares)} parts texts of the class "{class_names[label][:60]}", '
            f"which is in {n_groups:,} groups{where}. Add texts of other groups, or leave out the "
            "class (--min_texts_per_class) or --group_column."
        ) from error


def assign_groups(groups: np.ndarray, labels: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """The number of the part that each of N texts goes to, so that groups stay in one piece, each
    part has each class, and its share of each class as nearly as this finds.

    (StratifiedGroupKFold of scikit-learn makes parts of one size only, and may leave a class out of
    one.)

    Args:
        groups, labels: (N,), numbers from 0; of equal groups, the first one is served first.
        shares: of each part, above 0; their sum is 1.

    Raises:
        ValueError: with a class that is not in every part, and the number of groups it is in.
    """
    counts = np.zeros((groups.max() + 1, labels.max() + 1))  # (G, C)
    np.add.at(counts, (groups, labels), 1)
    wanted = np.outer(shares, counts.sum(axis=0))  # (P, C)
    order = np.argsort(-counts.sum(axis=1), kind="stable")  # the largest first
    generator = np.random.RandomState(SPLIT_SEED)
    n_groups = np.count_nonzero(counts, axis=0)  # of each class
    for _ in range(MAX_TRIES if n_groups.min() >= len(shares) else 1):
        parts, found = _spread(counts, wanted, order)
        if found.all():
            return parts[groups]
        order = generator.permutation(order)
    lacking = np.flatnonzero((found == 0).any(axis=0))
    rarest = lacking[n_groups[lacking].argmin()]
    raise ValueError(int(rarest), int(n_groups[rarest]))


def _spread(
    counts: np.ndarray, wanted: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The part (G,) of each group, and what each part has of each class: (P, C).

    One after the other, groups go where they lower the sum of (found - wanted)² / wanted most.
    Then one moves at a time, for as long as that lowers the sum or gives a part a class it lacks.
    """
    found, parts = np.zeros_like(wanted), np.zeros(len(counts), dtype=int)
    for group in order:
        more = counts[group]  # (found + more - wanted)² - (found - wanted)²
        parts[group] = (more * (2 * (found - wanted) + more) / wanted).sum(axis=1).argmin()
        found[parts[group]] += more
    every, squares = np.arange(len(counts)), counts**2 @ (1 / wanted).T  # (G, P)
    for _ in range(MAX_MOVES):
        slopes = counts @ (2 * (found / wanted - 1)).T  # (G, P)
        change = squares + slopes + (squares - slopes)[every, parts, None]  # if a group moves there
        has = counts > 0
        n_lost = (has & (counts == found[parts])).sum(axis=1)  # classes that its part loses then
        change += LACKING * (n_lost[:, None] - has @ (found == 0).T.astype(float))
        change[every, parts] = 0
        group, part = np.unravel_index(change.argmin(), change.shape)
        if change[group, part] > -LEAST_CHANGE:
            break
        found[parts[group]] -= counts[group]
        found[part] += counts[group]
        parts[group] = part
    return parts, found
