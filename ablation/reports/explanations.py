"""Where two compared rows differ most: the messages, and what each row's kept model says of them
after each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import tiktoken
import torch

from ablation.classifier.saved_models import SavedClassifier, load_classifier, read_saved_config
from ablation.classifier.weight_files import WEIGHTS_NAME
from ablation.config.options import ExperimentConfig
from ablation.config.tables import Name
from ablation.data.corpora import load_encoding
from ablation.finetuning.by_token import ByToken, read_by_token
from ablation.finetuning.classify import class_probabilities
from ablation.finetuning.memory import count_parameters
from ablation.reports.findings import Finding
from ablation.reports.tables import Section
from ablation.reports.token_strip import TokenStrip, make_strip
from ablation.sweeps.records import Record
from ablation.system.errors import (
    ExperimentError,
    TensorFileError,
    describe_error,
    is_out_of_memory,
    logger,
)
from ablation.system.files import checksum_file
from ablation.system.machine import choose_device, free_bytes, set_precision
from data_utils import Corpus, encode_texts

N_TEXTS = 5
# Of parameters times tokens, so many take about half a minute on two cores.
MAX_WORK = 2e12
BYTES = 4  # of a number: models are loaded in fp32
# A model that is loaded takes more than its numbers for a moment.
MARGIN = 1.25
MORE_MEMORY = "Close other programs, or write the report on a machine with more memory."
OTHER_WAY = "predict.py --by_token shows one of them."


@dataclass(frozen=True)
class ExplainedText:
    """A test text on which two rows differ, with the strip of each: of its true class."""

    number: int  # in the test part
    text: str
    label: str
    probabilities: tuple[float, float]  # of the true class
    strips: tuple[TokenStrip, TokenStrip]


@dataclass(frozen=True)
class Explanation:
    """The test texts on which two rows differ most."""

    finding: Finding
    seed: int
    texts: tuple[ExplainedText, ...]

    @property
    def says(self) -> str:
        """What is shown, in words."""
        first, second = self.finding.rows
        return (
            f"Rows {first} and {second} ({self.finding.question}): the test texts on which they "
            f"differ most in the probability that they give the true class, with seed {self.seed}, "
            "the first whose models both have kept."
        )

    @property
    def table(self) -> pd.DataFrame:
        """A line for each text, as they are printed."""
        return pd.DataFrame(
            {
                "message": str(one.number),
                "is": one.label,
                **{
                    f"row {row}, probability": f"{p:.2f}"
                    for row, p in zip(self.finding.rows, one.probabilities, strict=True)
                },
                "text": one.text,
            }
            for one in self.texts
        )


def explain_difference(
    findings: Sequence[Finding], section: Section, corpus: Corpus
) -> Explanation | None:
    """The texts that show the largest of some differences for which both rows have kept a model.

    None where no two rows have kept models of one seed, and on folds. Where models were kept but
    cannot be used, as without their base weights, or where that takes too much time or memory,
    none, and a notice says why: nothing is downloaded.

    Args:
        corpus: whose test part the rows were tested on.
    """
    found = _find_kept(findings, section)
    if not found:
        return None
    finding, records = found
    test = corpus.parts.test
    bounds = [_bound_probabilities(record, len(corpus.class_names)) for record in records]
    candidates = _find_candidates(bounds)
    if not len(candidates):
        return None
    try:
        _require_quick(records, len(candidates))
        for record in records:
            _require_kept(record)
        classifiers = [load_classifier(record.folder, {"offline": True}) for record in records]
        encoding = load_encoding(classifiers[0].config)
        right = [corpus.class_names[label] for label in test["Label"].iloc[candidates]]
        tokens = [*encode_texts(test["Text"].iloc[candidates].tolist(), encoding)]
        a, b = (_measure_probabilities(one, tokens, right) for one in classifiers)
        largest = np.argsort(-np.abs(a - b), kind="stable")[:N_TEXTS]
        chosen = largest[a[largest] != b[largest]]
        texts = test["Text"].iloc[candidates[chosen]].tolist()
        read = [_read_texts(one, encoding, texts) for one in classifiers]
    except (ExperimentError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, ExperimentError) or is_out_of_memory(error)):
            raise
        names = " and ".join(map(str, finding.rows))
        reason = describe_error(error, f"{MORE_MEMORY} {OTHER_WAY}")
        logger.warning("Rows %s are not shown token by token: %s", names, reason)
        return None
    explained = [
        _explain_text(int(candidates[i]), right[i], finding.rows, both)
        for i, *both in zip(chosen, *read, strict=True)
    ]
    return Explanation(finding, records[0].config.seed, (*explained,)) if explained else None


def _explain_text(
    number: int, label: str, rows: Sequence[Name], both: Sequence[ByToken]
) -> ExplainedText:
    strips = tuple(
        make_strip(one, label, f"Message {number}, row {row}: {one.label}")
        for one, row in zip(both, rows, strict=True)
    )
    own = tuple(one.probability_of(label)[-1] for one in both)
    return ExplainedText(number, both[0].text, label, own, strips)


def _find_kept(
    findings: Sequence[Finding], section: Section
) -> tuple[Finding, tuple[Record, Record]] | None:
    """The largest difference for which both rows have kept a model, and their records of the first
    seed with both."""
    if section.fold is not None:
        return None
    for finding in sorted(findings, key=lambda one: -abs(one.difference.points)):
        kept = [
            {
                record.config.seed: record
                for record in section.configurations[row].records
                if record.result.get("kept", {}).get("model")
                and (record.folder / WEIGHTS_NAME).exists()
            }
            for row in finding.rows
        ]
        if seeds := sorted(kept[0].keys() & kept[1].keys()):
            return finding, (kept[0][seeds[0]], kept[1][seeds[0]])
    return None


def _bound_probabilities(record: Record, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most (M,) that a record allows for the probability of each test text's true
    class. Of more than two classes, it has that of the predicted alone."""
    table = record.predictions
    probability = table["probability"].to_numpy()
    if n_classes == 2:  # that of the second
        exact = np.where(table["label"] == 1, probability, 1 - probability)
        return exact, exact
    most = np.where(record.correct, probability, np.minimum(probability, 1 - probability))
    return np.where(record.correct, probability, 0.0), most


def _find_candidates(bounds: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The numbers of the test texts that may be among those on which two probabilities, each
    between its bounds, differ most."""
    (a_least, a_most), (b_least, b_most) = bounds
    least = np.maximum(0, np.maximum(a_least - b_most, b_least - a_most))
    most = np.maximum(a_most - b_least, b_most - a_least)
    enough = np.sort(least)[-N_TEXTS:][0]  # so much at least differ as many as are shown
    return np.flatnonzero((most >= enough) & (most > 0))


def _measure_probabilities(
    classifier: SavedClassifier, tokens: Sequence[Sequence[int]], names: Sequence[str]
) -> np.ndarray:
    """The probability (N,) of each text's true class."""
    set_precision(classifier.config.precision)  # that of what was loaded last, so far
    read = class_probabilities(classifier, tokens).numpy()
    return read[range(len(names)), [classifier.class_names.index(name) for name in names]]


def _read_texts(
    classifier: SavedClassifier, encoding: tiktoken.Encoding, texts: Sequence[str]
) -> list[ByToken]:
    set_precision(classifier.config.precision)
    return [read_by_token(classifier, encoding, text) for text in texts]


def _require_kept(record: Record) -> None:
    """Raise :class:`TensorFileError` unless the model in a run's folder is the one it kept."""
    path = record.folder / WEIGHTS_NAME
    if checksum_file(path) != record.result["kept"]["model"]:
        raise TensorFileError(f"{path} is not the model that this run kept.")


def _require_quick(records: Sequence[Record], n_texts: int) -> None:
    """Raise :class:`TensorFileError` if two models are too large for the memory that is free, or
    take too long for a report that is to be quick. No weights are read to know it."""
    configs = [read_saved_config(record.folder) for record in records]
    n_bytes = sum(BYTES * count_parameters(config) for config in configs)
    device = choose_device(configs[0].device)
    free = min(free_bytes(device), free_bytes(torch.device("cpu")))
    if MARGIN * n_bytes > free:
        raise TensorFileError(
            f"their models take {n_bytes / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            f"free. {MORE_MEMORY} {OTHER_WAY}"
        )
    if max(_count_work(config, n_texts) for config in configs) > MAX_WORK:
        raise TensorFileError(f"that would take too long for a report. {OTHER_WAY}")


def _count_work(config: ExperimentConfig, n_texts: int) -> int:
    """Parameters times tokens, at most: so many texts are classified, and of those that are shown
    each is read once more, without the causal mask by a pass for each of its tokens."""
    n_tokens, n_shown = config.context_length, min(N_TEXTS, n_texts)
    n_steps = n_tokens * (n_tokens + 1) // 2 if config.disable_causal_mask else n_tokens
    n_parameters = 12 * config.gpt.n_layers * config.gpt.emb_dim**2  # of the blocks, but for biases
    return n_parameters * (n_texts * n_tokens + n_shown * (n_steps + n_tokens))
