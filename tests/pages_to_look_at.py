"""Reports on made-up runs, for browsers to look at: each function writes one into a folder."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from helpers import make_result, sizes_of

from ablation.config.identity import identify_data
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.tables import configure
from ablation.data.corpora import load_corpus
from ablation.finetuning.outcomes import History, LossRecord
from ablation.reports.folder_report import write_report
from ablation.sweeps.records import write_complete, write_incomplete

LOSSES = [LossRecord(1, 50 * i, 0.7 * 0.6**i, 0.8 * 0.7**i) for i in range(5)]
EVIL = "<img src=x onerror=document.title='hacked'>"


def write_runs(
    folder: Path, rows: Iterable[int], given: dict[str, Any], n_seeds: int, share_right: float = 0.9
) -> None:
    """Runs of some rows, with flags beside them, that get about this share of the texts right;
    row 2 much less."""
    corpus = load_corpus(configure(ROWS[1], given))
    data, labels = identify_data(corpus), corpus.parts.test["Label"].to_numpy()
    n_train, n_classes = len(corpus.parts.train), len(corpus.class_names)
    for row in rows:
        for seed in range(123, 123 + n_seeds):
            config = replace(configure(ROWS[row], given), seed=seed)
            draw = np.random.default_rng([row, seed])
            is_wrong = draw.random(len(labels)) > (share_right if row != 2 else 0.6)
            classes = np.where(is_wrong, (labels + 1) % n_classes, labels).tolist()
            result = make_result(
                labels.tolist(),
                classes,
                **{**sizes_of(corpus), "train": 2 * (n_train - n_train % config.batch_size,)},
                labels_of_classes=corpus.class_names,
            )
            result = replace(
                result,
                history=History(LOSSES),
                seconds={"features": 5.0 * row, "training": 20.0 * row, "evaluation": 1.0},
            )
            write_complete(folder, Run(config, given), result, data)


def many_rows(folder: Path) -> None:
    """All rows with two seeds, and one that failed."""
    given = {"demo": True}
    write_runs(folder, [row for row in ROWS if row != 12], given, 2)
    write_incomplete(folder, Run(configure(ROWS[12], given), given), "failed", "out of memory")
    write_report(folder, folder)


def one_row(folder: Path) -> None:
    """One run of one row."""
    write_runs(folder, [1], {"demo": True}, 1)
    write_report(folder, folder)


def two_groups(folder: Path) -> None:
    """Rows with and without the mask."""
    for given in ({"demo": True}, {"demo": True, "disable_causal_mask": True}):
        write_runs(folder, [1, 2, 5], given, 2, 0.8 if len(given) > 1 else 0.95)
    write_report(folder, folder)


def hostile(folder: Path) -> None:
    """One's own data, whose file, columns, classes and texts are hostile."""
    file = folder.parent / f"{EVIL}{folder.name}.csv"
    texts = [
        f"</script><script>alert(1)</script>{EVIL}<!--\u2028\u202e{'x' * i}" for i in range(40)
    ]
    labels = [f"--></td>{EVIL}`|{i % 3}" for i in range(40)]
    lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    file.write_text("\n".join([f"{EVIL}text,{EVIL}label", *lines]))
    given = {
        **{"model_size": "gpt2-tiny (3M)", "weights": "random", "dataset": str(file)},
        **{"text_column": f"{EVIL}text", "label_column": f"{EVIL}label"},
    }
    write_runs(folder, [1, 2], given, 2, 0.5)
    write_incomplete(folder, Run(configure(ROWS[3], given), given), "failed", EVIL)
    write_report(folder, folder)


PAGES: dict[str, Callable[[Path], None]] = {
    function.__name__: function for function in (many_rows, one_row, two_groups, hostile)
}
