"""The split as a file for people: which row of which source file is in which part."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from ablation.config.options import ExperimentConfig
from ablation.system.files import write_atomically
from data_utils import PARTS, Corpus

logger = logging.getLogger("experiments")


def write_split(
    output_dir: Path, corpus: Corpus, config: ExperimentConfig, split_sha256: str
) -> None:
    """Write ``split-<split_sha256, shortened>.csv``, unless it is there, with the columns ``file``
    (without its folder), ``row`` (of its ``Line``), ``part`` and ``label``; texts are in the order
    in which they are read.

    Runs need it for nothing, so a folder that cannot be written only gets a notice.
    """
    path = output_dir / f"split-{split_sha256[:10]}.csv"
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
    content = pd.concat(tables).to_csv(index=False, lineterminator="\n").encode()
    try:
        # The same texts may stand in other rows than before.
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
    except OSError as error:
        logger.warning("The split was not written to %s: %s", path, error)
