"""The texts that runs were made on, and whether their records fit them."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation.config.identity import corpus_of, identify_data
from ablation.config.options import read_fold
from ablation.data.corpora import load_corpus
from ablation.sweeps.records import Record
from ablation.system.errors import RecordError, logger, quietly
from data_utils import PARTS, Corpus, Splits


def load_corpora(
    records: Sequence[Record], data_dir: Path, offline: bool
) -> tuple[list[Corpus], dict[tuple[Any, ...], Corpus]]:
    """The texts that the first run was made on, with all folds; and those of each, by
    :func:`identity.corpus_of`.

    Args:
        data_dir: of the messages; ``offline``, they are not downloaded to it.

    Raises:
        DataError: the texts are missing or damaged.
        RecordError: they are not those that the runs were made on.
    """
    complete = [record for record in records if record.is_complete]
    first = (complete or records)[0].config
    folds = [first.fold]
    if first.fold:
        n_folds = read_fold(first.fold)[1]
        folds = [f"{number}/{n_folds}" for number in range(1, n_folds + 1)]
    configs = [replace(first, fold=fold) for fold in folds] + [r.config for r in complete]
    corpora: dict[tuple[Any, ...], Corpus] = {}
    for config in configs:
        if corpus_of(config) not in corpora:
            here = replace(config, data_dir=str(data_dir), offline=offline)
            with quietly() if config.dataset else nullcontext():  # the runs have said it
                corpora[corpus_of(config)] = load_corpus(here)
    found = {key: identify_data(corpus) for key, corpus in corpora.items()}
    if any(record.result["data"] != found[corpus_of(record.config)] for record in complete):
        way_out = "Put the old file back" if first.dataset else "Name their folder with --data_dir"
        raise RecordError(
            f"The texts in {first.dataset or data_dir}, as this version splits them, are not those "
            f"that the runs were made on. {way_out}."
        )
    return list(corpora.values())[: len(folds)], corpora


def fits(record: Record, corpora: Mapping[tuple[Any, ...], Corpus]) -> bool:
    """Whether a record's texts and classes are those of its corpus; if not, it is damaged, and
    named."""
    if not record.is_complete:
        return True
    corpus = corpora[corpus_of(record.config)]
    sizes = corpus.parts.map(len)
    # For training, a batch that is not full is left out.
    sizes = replace(sizes, train=sizes.train - sizes.train % record.config.batch_size)
    classes = record.result.get("test", {}).get("classes")
    fits = (
        Splits(*PARTS).map(lambda part: record.accuracy(part).total) == sizes
        and record.predictions["label"].tolist() == corpus.parts.test["Label"].tolist()
        and (classes is None or [part["label"] for part in classes] == list(corpus.class_names))
    )
    if not fits:
        logger.warning(
            "Skipped: the record %s is damaged (its texts or classes are not those of the data); "
            "run it again, or delete it",
            record.folder,
        )
    return fits
