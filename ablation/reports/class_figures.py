"""Figures by class over the seeds of a configuration, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablation.finetuning.metrics import most_confused


@dataclass(frozen=True)
class ClassFigures:
    """What :func:`metrics.measure_classes` gave for each of S seeds, on the same test texts."""

    seeds: Sequence[dict[str, Any]]

    @property
    def labels(self) -> list[str]:
        """Names of the C classes, by number."""
        return [part["label"] for part in self.seeds[0]["classes"]]

    @property
    def confusion(self) -> np.ndarray:
        """(C, C): how many texts of class i were taken for class j, the mean over seeds."""
        return np.mean([seed["confusion"] for seed in self.seeds], axis=0)

    def summary(self) -> dict[str, str]:
        """The figures over all classes, in percent, the mean over seeds."""
        figures = {"balanced %": "balanced_accuracy", "macro-F1 %": "macro_f1"}
        return {
            title: _percent([seed[name] for seed in self.seeds])
            for title, name in figures.items()
            if all(name in seed for seed in self.seeds)
        }

    def table(self) -> pd.DataFrame:
        """A line for each class, texts as they are printed: precision and recall in percent, the
        mean over seeds."""
        return pd.DataFrame(
            {
                "class": label,
                "texts": str(self.seeds[0]["classes"][i]["texts"]),
                **{
                    f"{name} %": _percent([seed["classes"][i][name] for seed in self.seeds])
                    for name in ("precision", "recall")
                },
            }
            for i, label in enumerate(self.labels)
        )

    def confusions(self) -> str:
        """The pairs of classes that are confused most often, in words."""
        counts = self.confusion
        pairs = most_confused(counts)
        if not pairs:
            return "No text was taken for one of another class."
        texts = counts.sum(axis=1)
        worded = [
            f'"{self.labels[i]}" taken for "{self.labels[j]}" ({counts[i, j]:.3g} of '
            f"{texts[i]:.0f} texts)"
            for i, j in pairs
        ]
        mean = ", the mean over seeds" if len(self.seeds) > 1 else ""
        return f"Confused most often{mean}: {'; '.join(worded)}."


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * np.mean(shares):.2f}"
