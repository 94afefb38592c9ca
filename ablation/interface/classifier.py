"""A trained classifier, for a notebook."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablation.classifier.saved_models import SavedClassifier, load_classifier
from ablation.config.options import tagged
from ablation.data.corpora import load_encoding
from ablation.finetuning.by_token import ByToken, read_by_token, readable
from ablation.finetuning.classify import classify_texts
from ablation.interface.given import read_folder, read_options, read_text, read_texts
from ablation.reports.token_strip import make_strip, render_for_notebook
from ablation.system.errors import ConfigError, Problem
from ablation.system.output import count


@dataclass(frozen=True, repr=False)
class Strips:
    """Texts as strips of tokens: a notebook shows them."""

    texts: Sequence[ByToken]

    def __repr__(self) -> str:
        return f"{count(len(self.texts), 'strip')} of tokens, which a notebook shows"

    def _repr_html_(self) -> str:
        return render_for_notebook([make_strip(text) for text in self.texts])


class Classifier:
    """What a run kept with ``--save_model``, to label texts with.

    ::

        classifier = Classifier.load("runs/row-16_seed-123_3701573a6f")
        classifier.predict(["WIN a prize!", "See you at noon?"])
    """

    def __init__(self, saved: SavedClassifier) -> None:
        self._saved = saved
        self._encoding = load_encoding(saved.config)

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> "Classifier":
        """Read the model in a run's folder.

        Args:
            folder: of the run.
            options: of this machine, as flags of predict.py have them: ``device``, ``weights``,
                ``weights_dir``, ``offline``.

        Raises:
            ConfigError: that is no folder, an option is none of these, or this machine cannot do
                it.
            TensorFileError: there is no model, it is damaged, or its base weights are others.
            DataError: the base weights or the vocabulary are missing.
        """
        known = tagged("machine")
        own = {name: v for name, v in options.items() if name in known and v is not None}
        given, problems = read_options(own)
        problems += [
            Problem(name, f"no option of a kept model; give {', '.join(known)}")
            for name in options
            if name not in known
        ]
        if problems:
            raise ConfigError(problems)
        return cls(load_classifier(read_folder("folder", folder), given))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that it tells apart."""
        return self._saved.class_names

    def predict(self, texts: str | Iterable[str]) -> pd.DataFrame:
        """A line for each text: ``text``, ``label``, its ``probability``, and the probability of
        each class, in a column of its name.

        Raises:
            ConfigError: that is neither a text nor a list of texts.
            DataError: one of them is missing, no text, or not Unicode.
        """
        found = [
            *classify_texts(
                self._saved, self._encoding, read_texts(texts), top=len(self.class_names)
            )
        ]
        table = pd.DataFrame(
            {
                "text": [one.text for one in found],
                "label": [one.label for one in found],
                "probability": np.array([one.probability for one in found], dtype=float),
            }
        )
        columns = {
            _column(name): np.array([one.probabilities[name] for one in found], dtype=float)
            for name in self.class_names
        }
        return table.assign(**columns)

    def by_token(self, text: str) -> pd.DataFrame:
        """What it would say after each token: a line for each position.

        Columns are ``position`` from 1; ``token`` as it can be seen, empty for padding;
        ``is_padding``; ``label``, the best class there; and the probability of each class, in a
        column of its name. The last line is the answer. Raises ``DataError`` if that is no text,
        or not Unicode.
        """
        read = read_by_token(self._saved, self._encoding, read_text(text))
        tokens = [*map(readable, read.tokens), *[""] * read.n_padding]
        table = pd.DataFrame(
            {
                "position": range(1, len(tokens) + 1),
                "token": tokens,
                "is_padding": np.arange(len(tokens)) >= len(read.tokens),
                "label": read.predicted,
            }
        )
        columns = zip(map(_column, self.class_names), read.probabilities.T, strict=True)
        return table.assign(**dict(columns))

    def strip(self, texts: str | Iterable[str]) -> Strips:
        """The same of some texts, as strips of tokens that a notebook shows. Raises as
        :meth:`predict` does."""
        return Strips(
            [
                read_by_token(self._saved, self._encoding, text, number)
                for number, text in enumerate(read_texts(texts), start=1)
            ]
        )


OWN_COLUMNS = ("text", "label", "probability", "position", "token", "is_padding")


def _column(name: str) -> str:
    """The column of a class: its name, unless another column has it."""
    return f"class {name}" if name in OWN_COLUMNS else name
