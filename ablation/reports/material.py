"""What a report is made of: the records of a folder, by rows, and the texts that they are on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablation.config.rows import SOURCE
from ablation.config.runs import RESULT_NAME
from ablation.config.tables import Table
from ablation.reports.baseline import classify_by_characters, copied_texts
from ablation.reports.pooling import pool_corpora, pool_parts, pool_records
from ablation.reports.tables import (
    Configuration,
    Section,
    group_records,
    require_one_dataset,
    require_same_texts,
)
from ablation.reports.tested_texts import fits, load_corpora
from ablation.sweeps.records import Record, read_records, require_one_base
from ablation.system.errors import RecordError
from data_utils import Corpus


@dataclass(frozen=True)
class Runs:
    """What was run: the records of a folder that fit their texts, by rows."""

    records: list[Record]  # complete or not
    sections: list[Section]
    others: list[Configuration]  # that belong to no section
    tested: list[Corpus]  # that of each fold, or the one


@dataclass(frozen=True)
class Material:
    """What a report is made of."""

    output_dir: Path
    records: list[Record]  # complete or not
    sections: list[Section]
    others: list[Configuration]  # that belong to no section
    corpus: Corpus  # its test part has the M texts that all runs were tested on
    baseline: np.ndarray  # (M,): which of these a linear SVM on characters gets right
    copies: dict[str, np.ndarray]  # (M,) each: which stand in the training part


def read_runs(
    output_dir: Path,
    data_dir: Path,
    offline: bool = False,
    tables: Sequence[Table] = (SOURCE,),
    asked: tuple[Table, dict[str, Any]] | None = None,
) -> Runs:
    """What was run in a folder, by the rows of tables.

    Args:
        data_dir: of the messages, which records are held to.
        offline: they are not downloaded to it.
        asked: as for :func:`group_records`.

    Raises:
        RecordError: there are no records, or they do not belong together.
        DataError: the texts are missing or damaged.
    """
    records = read_records(output_dir)
    if not records and (output_dir / RESULT_NAME).exists():
        above = Path(os.path.abspath(output_dir)).parent
        raise RecordError(
            f"--output_dir {output_dir} is the folder of one run. Name the folder that it lies in: "
            f"{above}"
        )
    if not records:
        raise RecordError(
            f"--output_dir {output_dir} holds no records of runs. Run something first, or name "
            "another folder."
        )
    complete = [record for record in records if record.is_complete]
    require_one_dataset(complete)
    require_one_base(complete)
    tested, corpora = load_corpora(records, data_dir, offline)
    records = [record for record in records if fits(record, corpora)]
    if not records:
        raise RecordError(f"--output_dir {output_dir} holds no record that fits its data.")
    complete = pool_records([record for record in records if record.is_complete])
    require_same_texts(complete)
    sections, others = group_records(complete, tables, asked)
    return Runs(records, sections, others, tested)


def read_material(
    output_dir: Path,
    data_dir: Path,
    offline: bool = False,
    tables: Sequence[Table] = (SOURCE,),
    asked: tuple[Table, dict[str, Any]] | None = None,
) -> Material:
    """What there is in a folder. Arguments and errors are those of :func:`read_runs`; the baseline
    and the audit read the texts, too."""
    runs = read_runs(output_dir, data_dir, offline, tables, asked)
    copies = [copied_texts(part.parts) for part in runs.tested]
    return Material(
        output_dir,
        runs.records,
        runs.sections,
        runs.others,
        pool_corpora(runs.tested),
        pool_parts([classify_by_characters(part.parts) for part in runs.tested]).test,
        {name: np.concatenate([part[name] for part in copies]) for name in copies[0]},
    )
