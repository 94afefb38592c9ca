"""How well each class is told apart, beyond the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from output import printable
from training import Predictions


def measure_classes(predictions: Predictions, labels: Sequence[str]) -> dict[str, Any]:
    """Figures by class, ready for JSON.

    Args:
        labels: the names of the classes, by number.

    Returns:
        ``balanced_accuracy`` (the mean recall of the classes that there are); for each class its
        ``label``, ``texts``, ``precision`` (0 where it was never predicted) and ``recall``, from 0
        to 1; and ``confusion``: how many texts of class i were taken for class j.
    """
    # Takes a while to import, and what is wrong with flags should be said before.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    actual, predicted = predictions.labels.numpy(), predictions.classes.numpy()
    numbers = range(len(labels))
    precision, recall, _, texts = precision_recall_fscore_support(
        actual, predicted, labels=numbers, zero_division=0
    )
    return {
        "balanced_accuracy": float(recall[texts > 0].mean()),
        "classes": [
            {"label": label, "texts": int(n), "precision": float(p), "recall": float(r)}
            for label, n, p, r in zip(labels, texts, precision, recall, strict=True)
        ],
        "confusion": confusion_matrix(actual, predicted, labels=numbers).tolist(),
    }


def format_metrics(metrics: dict[str, Any]) -> str:
    """The figures of :func:`measure_classes` as lines of text."""
    table = pd.DataFrame(metrics["classes"])
    table["label"] = table["label"].map(printable)
    for name in ("precision", "recall"):
        table[name] = table[name].map("{:.2%}".format)
    names = [f"as {label}" for label in table["label"]]
    confusion = pd.DataFrame(metrics["confusion"], columns=names)
    return "\n".join(
        [
            f"Test balanced accuracy: {metrics['balanced_accuracy']:.2%}",
            pd.concat([table, confusion], axis=1).to_string(index=False),
        ]
    )
