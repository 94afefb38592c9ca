"""The split as files for people. Nothing reads them back."""

from pathlib import Path

import pandas as pd

from ablation.config.options import ExperimentConfig
from ablation.system.errors import logger
from ablation.system.files import write_atomically
from data_utils import PARTS, Corpus, Splits


def write_csv_files(splits: Splits[pd.DataFrame], data_dir: Path) -> None:
    """Write ``train.csv``, ``validation.csv`` and ``test.csv`` of labels and texts."""
    _write({data_dir / f"{part}.csv": rows for part, rows in vars(splits).items()}, "Label", "Text")


def write_split(
    output_dir: Path, corpus: Corpus, config: ExperimentConfig, split_sha256: str
) -> None:
    """Write ``split-<split_sha256, shortened>.csv`` with the columns ``file`` (without its folder),
    ``row`` (of its ``Line``), ``part`` and ``label``; texts are in the order in which they are
    read."""
    first = config.dataset or corpus.name
    sources = (first, config.val_dataset or first, config.test_dataset or first)
    tables = [
        pd.DataFrame(
            {
                "file": Path(source).name,
                "row": texts["Line"],
                "part": part,
                "label": texts["Label"].map(corpus.class_names.__getitem__),
            }
        )
        for source, part, texts in zip(sources, PARTS, vars(corpus.parts).values(), strict=True)
    ]
    _write({output_dir / f"split-{split_sha256[:10]}.csv": pd.concat(tables)})


def _write(tables: dict[Path, pd.DataFrame], *columns: str) -> None:
    """Write columns, or all, of tables where they are not there yet; a folder that cannot be
    written only gets a notice."""
    for path, table in tables.items():
        content = table.to_csv(columns=columns or None, index=False, lineterminator="\n").encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                write_atomically(path, content)
        except OSError as error:
            logger.warning("The split was not written to %s: %s", path, error)
