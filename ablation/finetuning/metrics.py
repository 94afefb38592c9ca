"""How well each class is told apart, beyond the accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablation.finetuning.outcomes import Predictions
from ablation.system.output import printable
from ablation.system.text_tables import TERMINAL_COLUMNS, align, cut_apart, display_width

ALPHA = 0.05  # of intervals, which so have 95 %
MAX_SHOWN = 12  # classes that are all shown on a terminal
N_WORST = 5  # of more, the worst, and the most frequent confusions
LABEL_COLUMNS = 32  # of a label in a table without the confusion, so that two fit into a line
MIN_LABEL_COLUMNS = 6  # of a label above a column of the confusion


def measure_classes(predictions: Predictions, class_names: Sequence[str]) -> dict[str, Any]:
    """The figures of :func:`measure_confusion` for what a model made of texts."""
    actual, predicted = predictions.labels.numpy(), predictions.classes.numpy()
    confusion = np.zeros((len(class_names), len(class_names)), dtype=int)
    np.add.at(confusion, (actual, predicted), 1)
    return measure_confusion(confusion, class_names)


def measure_counts(
    counts: Mapping[tuple[str, str], int], class_names: Sequence[str]
) -> dict[str, Any]:
    """The same, going by how many texts of one class, the first, were taken for another."""
    confusion = [[counts.get((i, j), 0) for j in class_names] for i in class_names]
    return measure_confusion(np.array(confusion), class_names)


def measure_confusion(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Figures by class, ready for JSON.

    Args:
        confusion: (C, C): how many texts of class i were taken for class j.
        class_names: the names of the C classes, by number.

    Returns:
        ``balanced_accuracy`` and ``macro_f1``, the mean recall and the mean F1 of the classes that
        have texts here; for each class its ``label``, ``texts``, ``precision`` (0 where it was
        never predicted) and ``recall`` (0 where it has no texts), from 0 to 1; and ``confusion``.
    """
    right, texts, found = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = right / np.maximum(found, 1), right / np.maximum(texts, 1)
    f1 = 2 * right / np.maximum(texts + found, 1)
    return {
        "balanced_accuracy": float(recall[texts > 0].mean()),
        "macro_f1": float(f1[texts > 0].mean()),
        "classes": [
            {"label": label, "texts": int(n), "precision": float(p), "recall": float(r)}
            for label, n, p, r in zip(class_names, texts, precision, recall, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def exact_interval(k: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion of which ``k`` out of ``n`` were seen.

    Source: C. Clopper and E. Pearson, "The use of confidence or fiducial limits illustrated in
    the case of the binomial", Biometrika 26 (1934).
    """
    # Without the rest of scipy, which takes a second. Training needs none of it.
    from scipy.special import betaincinv

    # Over several seeds k is a mean and may be no whole number, which scipy's binomtest demands.
    low = betaincinv(k, n - k + 1, ALPHA / 2) if k > 0 else 0.0
    high = betaincinv(k + 1, n - k, 1 - ALPHA / 2) if k < n else 1.0
    return float(low), float(high)


def format_accuracy(metrics: dict[str, Any]) -> str:
    """The line of the accuracy in the figures of :func:`measure_confusion`, with its interval."""
    correct, n = np.trace(metrics["confusion"]), np.sum(metrics["confusion"])
    low, high = exact_interval(correct, n)
    return f"Accuracy: {correct / n:.2%} of {n:,} texts, 95 % interval {low:.2%} to {high:.2%}"


def format_metrics(metrics: dict[str, Any], recorded: bool = True) -> str:
    """The figures of :func:`measure_confusion` as lines of text, none wider than
    ``TERMINAL_COLUMNS``.

    Args:
        recorded: they are of the test of a run, whose record has all of them: of many classes,
            only the worst are shown.
    """
    classes, confusion = metrics["classes"], metrics["confusion"]
    class_names = cut_apart([printable(part["label"]) for part in classes], TERMINAL_COLUMNS)
    balanced, macro = ("Test balanced", "Test macro") if recorded else ("Balanced", "Macro")
    lines = [f"{balanced} accuracy: {metrics['balanced_accuracy']:.2%}"]
    if "macro_f1" in metrics:  # records made before it was measured lack it
        lines.append(f"{macro}-F1: {metrics['macro_f1']:.2%}")
    n_here = sum(part["texts"] > 0 for part in classes)
    if n_here < len(classes):
        lines = [
            f"{line} (over the {n_here} of {len(classes)} classes with texts here)"
            for line in lines
        ]
    head = ["label", "texts", "precision", "recall"]
    figures = []
    for part in classes:
        recall = f"{part['recall']:.2%}" if part["texts"] else "-"
        figures.append([str(part["texts"]), f"{part['precision']:.2%}", recall])

    if len(classes) <= MAX_SHOWN:
        for width in range(TERMINAL_COLUMNS, MIN_LABEL_COLUMNS - 1, -1):
            names = cut_apart(class_names, width)
            rows = [
                [name, *texts, *map(str, counts)]
                for name, texts, counts in zip(names, figures, confusion, strict=True)
            ]
            table = align([head + [f"as {name}" for name in names], *rows])
            if display_width(table[0]) <= TERMINAL_COLUMNS:
                return "\n".join(lines + table)
    names = cut_apart(class_names, LABEL_COLUMNS)
    shown = range(len(classes))
    if len(classes) > MAX_SHOWN and recorded:
        tested = [i for i in shown if classes[i]["texts"]]
        shown = sorted(tested, key=lambda i: (classes[i]["recall"], classes[i]["precision"]))
        shown = shown[:N_WORST]
        lines.append(f"The {len(shown)} worst of {len(classes)} classes; result.json has all:")
    lines += align([head, *([names[i], *figures[i]] for i in shown)])
    pairs = most_confused(np.array(confusion))
    lines += ["Most frequent confusions:"] if pairs else []
    for i, j in pairs:
        n_texts = classes[i]["texts"]
        lines.append(f"  {names[i]} as {names[j]}: {confusion[i][j]} of {n_texts} texts")
    return "\n".join(lines)


def most_confused(confusion: np.ndarray) -> list[tuple[int, int]]:
    """The ``N_WORST`` pairs of different classes in a confusion (C, C) that have the most texts;
    fewer if others have none."""
    counts = confusion * (1 - np.eye(len(confusion)))
    order = np.argsort(-counts, axis=None, kind="stable")[:N_WORST]
    return [divmod(int(at), len(counts)) for at in order if counts.flat[at] > 0]
