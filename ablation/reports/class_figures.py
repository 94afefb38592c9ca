"""Figures by class over the seeds of a configuration, and which classes are taken for which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablation.finetuning.metrics import most_confused
from ablation.system.text_tables import cut_apart

LONGEST = 40  # columns of a name


@dataclass(frozen=True)
class ClassFigures:
    """What :func:`metrics.measure_classes` gave for each of S seeds, on the same test texts."""

    seeds: Sequence[dict[str, Any]]

    @property
    def class_names(self) -> list[str]:
        """Names of the C classes, by number, cut where they are long."""
        return cut_apart([part["label"] for part in self.seeds[0]["classes"]], LONGEST)

    @property
    def confusion(self) -> np.ndarray:
        """(C, C): how many texts of class i were taken for class j, the mean over seeds."""
        return np.mean([seed["confusion"] for seed in self.seeds], axis=0)

    def summary(self) -> dict[str, str]:
        """The figures over all classes that every seed has, in percent, the mean over seeds."""
        figures = pd.DataFrame(self.seeds).filter(["balanced_accuracy", "macro_f1"])
        means = figures.rename(
            columns={"balanced_accuracy": "balanced %", "macro_f1": "macro-F1 %"}
        )
        return (100 * means.dropna(axis=1).mean()).map("{:.2f}".format).to_dict()

    def table(self) -> pd.DataFrame:
        """A line for each class, texts as they are printed: precision and recall in percent, the
        mean over seeds."""
        every = pd.concat(pd.DataFrame(seed["classes"]) for seed in self.seeds)
        shares = 100 * every[["precision", "recall"]].groupby(level=0).mean()
        table = every[["label", "texts"]].iloc[: len(self.class_names)].astype(str)
        table["label"] = self.class_names
        table = table.join(shares.map("{:.2f}".format))
        return table.set_axis(["class", "texts", "precision %", "recall %"], axis=1)

    def confusions(self) -> str:
        """The pairs of classes that are confused most often, in words."""
        names, counts = self.class_names, self.confusion
        worded = [
            f'"{names[i]}" taken for "{names[j]}" ({counts[i, j]:.3g} of '
            f"{counts[i].sum():.0f} texts)"
            for i, j in most_confused(counts)
        ]
        if not worded:
            return "No text was taken for one of another class."
        mean = ", the mean over seeds" if len(self.seeds) > 1 else ""
        return f"Confused most often{mean}: {'; '.join(worded)}."
