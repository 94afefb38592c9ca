"""Runs on the folds of one data set, taken together: as one run that tested every text."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import one_hot

from ablation.config.commands import format_command
from ablation.config.identity import identify
from ablation.config.options import read_fold
from ablation.finetuning.metrics import measure_classes
from ablation.finetuning.outcomes import Predictions
from ablation.sweeps.records import Record
from ablation.system.errors import logger
from data_utils import PARTS, Corpus, Splits


def pool_records(records: Sequence[Record]) -> list[Record]:
    """Complete records, those of all folds of one run as one. Runs that lack a fold are named and
    left out.

    The predictions of such a record are those of every text, in the order of folds, with its
    ``fold`` from 1; its counts are sums over folds, its seconds and parameters means, and its
    losses those of the first fold.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[identify(replace(record.config, fold=None))].append(record)
    pooled = []
    for group in groups.values():
        if not group[0].config.fold:
            pooled += group
            continue
        by_fold = {read_fold(record.config.fold)[0]: record for record in group}
        n_folds = read_fold(group[0].config.fold)[1]
        if missing := {*range(1, n_folds + 1)} - {*by_fold}:
            logger.warning(
                "Left out until it is whole: %s lacks %s of %d",
                *(_describe(group[0]), ", ".join(f"fold {i}" for i in sorted(missing)), n_folds),
            )
            continue
        pooled.append(_pool([by_fold[number] for number in sorted(by_fold)]))
    return pooled


def _describe(record: Record) -> str:
    return format_command(replace(record.config, fold=None))


def _pool(records: Sequence[Record]) -> Record:
    tables = [r.predictions.assign(fold=number) for number, r in enumerate(records, start=1)]
    predictions = pd.concat(tables, ignore_index=True)
    predictions["index"] = range(len(predictions))
    results = [record.result for record in records]
    first = results[0]
    names = [part["label"] for part in first["test"]["classes"]]
    labels, predicted = torch.tensor(predictions[["label", "prediction"]].to_numpy()).T
    test = measure_classes(Predictions(one_hot(predicted, len(names)), labels), names)
    return Record(
        records[0].folder,
        {
            **first,
            "flags": {**first["flags"], "fold": None},
            "accuracy": {
                part: _combine([result["accuracy"][part] for result in results], sum)
                for part in PARTS
            },
            "seconds": _combine([result["seconds"] for result in results], np.mean),
            "test": test,
        },
        predictions,
    )


def _combine(figures: Sequence[Mapping[str, Any]], how: Any) -> dict[str, Any]:
    """What all of some figures have, combined."""
    names = set.intersection(*(set(part) for part in figures))
    return {name: how([part[name] for part in figures]) for name in sorted(names)}


def pool_parts(folds: Sequence[Splits[np.ndarray]]) -> Splits[np.ndarray]:
    """What there is of each text of each part, in the order of folds."""
    return Splits(*(np.concatenate([getattr(fold, part) for fold in folds]) for part in PARTS))


def pool_corpora(corpora: Sequence[Corpus]) -> Corpus:
    """The texts of all folds, in their order: each is in the test part once."""
    parts = Splits(*(pd.concat([getattr(c.parts, part) for c in corpora]) for part in PARTS))
    return replace(corpora[0], parts=parts)
