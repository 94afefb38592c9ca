"""What a report says of single test texts: which are hard, and which stand in the training part."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ablation.reports.headlines import Named
from ablation.reports.row_tables import SVM
from data_utils import Corpus

N_HARDEST = 10


def tabulate_hardest(named: Sequence[Named], corpus: Corpus) -> pd.DataFrame:
    """The test texts that most configurations get wrong, hardest first."""
    if not named:
        return pd.DataFrame()
    # (M,): the share of runs that got each text wrong, each configuration counting the same.
    wrong = np.mean([1 - one.part.correct.mean(axis=0) for one in named], axis=0)
    hardest = [i for i in np.argsort(-wrong, kind="stable")[:N_HARDEST] if wrong[i] > 0]
    texts = corpus.parts.test.iloc[hardest]
    return pd.DataFrame(
        {
            "message": map(str, hardest),
            "wrong": [f"{100 * wrong[i]:.0f} %" for i in hardest],
            "is": [corpus.class_names[label] for label in texts["Label"]],
            "text": texts["Text"],
        }
    )


def tabulate_copies(
    named: Sequence[Named], baseline: np.ndarray, copies: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Accuracies with and without the test texts that stand in the training part.

    Args:
        baseline: (M,): which test texts it gets right.
        copies: (M,) each: of :func:`baseline.copied_texts`.
    """
    n = len(copies["verbatim"])
    left = {
        f"all {n}": np.ones(n, dtype=bool),
        f"without verbatim copies ({(~copies['verbatim']).sum()})": ~copies["verbatim"],
        f"without equal letters ({(~copies['letters']).sum()})": ~copies["letters"],
    }
    lines = [(one.title, one.part.correct) for one in named] + [(SVM, baseline[None])]
    return pd.DataFrame(
        {
            "what": what,
            **{
                name: f"{100 * correct[:, mask].mean():.2f}" if mask.any() else "none left"
                for name, mask in left.items()
            },
        }
        for what, correct in lines
    )
