"""Where two compared rows differ most: the messages, and what each row's kept model says of them
after each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablation.classifier.saved_models import SavedClassifier, load_classifier
from ablation.classifier.weight_files import WEIGHTS_NAME
from ablation.data.corpora import load_encoding
from ablation.finetuning.by_token import ByToken, read_by_token
from ablation.reports.findings import Finding
from ablation.reports.tables import Section
from ablation.reports.token_strip import TokenStrip, make_strip
from ablation.sweeps.records import Record
from ablation.system.errors import (
    CheckpointError,
    ExperimentError,
    describe_error,
    is_out_of_memory,
    logger,
)
from data_utils import Corpus

N_TEXTS = 5
# Without the causal mask each position takes a pass of its own. Of parameters times tokens, so many
# take about half a minute on two cores.
MAX_WORK = 2e12


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
                    f"row {row} gives that": f"{p:.2f}"
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

    Their five texts are chosen by the records, and then read by the two models. None where no two
    rows have kept models of one seed, and on folds. Where models were kept but cannot be used, as
    without their base weights, none, and a notice says why: nothing is downloaded.

    Args:
        corpus: whose test part the rows were tested on.
    """
    found = _find_kept(findings, section)
    if not found:
        return None
    finding, records = found
    a, b = (_true_probabilities(record, len(corpus.class_names)) for record in records)
    largest = np.argsort(-np.abs(a - b), kind="stable")[:N_TEXTS]
    chosen = [int(number) for number in largest if a[number] != b[number]]
    texts = corpus.parts.test.iloc[chosen]
    try:
        # One model after the other, so that only one takes memory.
        read = [_read_texts(record, texts["Text"].tolist()) for record in records]
    except (ExperimentError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, ExperimentError) or is_out_of_memory(error)):
            raise
        names = " and ".join(map(str, finding.rows))
        reason = describe_error(error, "The report needs more than there is.")
        logger.warning("Rows %s are not shown token by token: %s", names, reason)
        return None
    explained = []
    for number, text, label, *both in zip(
        chosen, texts["Text"], texts["Label"], *read, strict=True
    ):
        name = corpus.class_names[label]
        own = tuple(one.probability_of(name)[-1] for one in both)
        strips = tuple(
            make_strip(one, name, f"Message {number}, row {row}: {one.label}")
            for one, row in zip(both, finding.rows, strict=True)
        )
        explained.append(ExplainedText(number, text, name, own, strips))
    return Explanation(finding, records[0].config.seed, (*explained,)) if explained else None


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


def _true_probabilities(record: Record, n_classes: int) -> np.ndarray:
    """The probability (M,) of each test text's true class. Of more than two classes, the record has
    that of the predicted alone: where that is wrong, the true one counts as 0."""
    table = record.predictions
    probability = table["probability"].to_numpy()
    if n_classes == 2:  # that of the second
        return np.where(table["label"] == 1, probability, 1 - probability)
    return np.where(record.correct, probability, 0.0)


def _read_texts(record: Record, texts: Sequence[str]) -> list[ByToken]:
    """What a record's model says of texts. Raises ``ExperimentError`` if it cannot be used."""
    classifier = load_classifier(record.folder, {"offline": True})
    _require_quick(classifier, len(texts))
    encoding = load_encoding(classifier.config)
    return [read_by_token(classifier, encoding, text) for text in texts]


def _require_quick(classifier: SavedClassifier, n_texts: int) -> None:
    """Raise :class:`CheckpointError` if a model without the causal mask is too large for a report
    that is to be quick."""
    n_tokens = n_texts * classifier.max_tokens * (classifier.max_tokens + 1) // 2
    n_parameters = sum(parameter.numel() for parameter in classifier.model.gpt.blocks.parameters())
    if not classifier.model.reading.causal and n_tokens * n_parameters > MAX_WORK:
        raise CheckpointError(
            "without the causal mask each token takes a pass of its own, and that is too long for "
            "a report; predict.py --by_token does it."
        )
