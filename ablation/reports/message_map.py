"""The map of rows and messages: which row gets which message wrong. A picture, and, for a page's
script, what there is to say of each message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ablation.reports.drawing import FAINT, LINE, SHADE, Form, draw_twice, with_lines
from ablation.reports.pages import Picture, visible
from ablation.reports.tables import Configuration
from data_utils import Corpus

MAX_MESSAGES = 300
MAX_TEXT = 500  # characters of a message
PALEST = 0.45  # opacity of a message that one of many seeds gets wrong


@dataclass(frozen=True)
class MessageMap:
    """What a page shows of rows and messages.

    ``strips`` says where the messages are in the wide picture and in the narrow one: their left end
    and their width, in percent of the picture's. ``data`` is what the script reads, ready for JSON:
    the names of ``classes`` and ``rows``, the number of ``seeds`` of each row, and ``messages``,
    each with its ``number``, ``text``, ``label``, and what each row has ``given``: the class of
    most seeds, the mean probability that these gave it, and how many seeds were wrong.
    """

    picture: Picture
    strips: dict[str, tuple[float, float]]
    data: dict[str, Any]


def build_map(
    parts: Sequence[Configuration], names: Sequence[str], corpus: Corpus
) -> MessageMap | None:
    """The map of R configurations, by their names, and the messages that any gets wrong, at most
    ``MAX_MESSAGES`` and the hardest first; none of fewer than two, or where nothing is wrong.

    Args:
        corpus: its test part has the messages.
    """
    # (R, M): the share of seeds that got each message wrong.
    wrong = np.stack([1 - part.correct.mean(axis=0) for part in parts]) if parts else np.zeros((0,))
    if len(parts) < 2 or not wrong.any():
        return None
    order = np.argsort(-wrong.mean(axis=0), kind="stable")
    order = order[wrong[:, order].any(axis=0)]
    hardest = order[:MAX_MESSAGES]
    given = [_given(part, hardest, len(corpus.class_names)) for part in parts]
    texts = corpus.parts.test.iloc[hardest]
    messages = [
        {
            "number": int(number),
            "text": _cut(visible(text)),
            "label": int(label),
            "given": [row[i] for row in given],
        }
        for i, (number, text, label) in enumerate(
            zip(hardest, texts["Text"], texts["Label"], strict=True)
        )
    ]
    picture, strips = _draw(names, wrong, hardest, len(order))
    data = {
        "classes": [visible(name) for name in corpus.class_names],
        "rows": [visible(name) for name in names],
        "seeds": [len(part.seeds) for part in parts],
        "messages": messages,
    }
    return MessageMap(picture, strips, data)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _given(
    part: Configuration, messages: np.ndarray, n_classes: int
) -> list[tuple[int, float, int]]:
    """For each message: the class that most seeds gave it (of equal ones the first), the mean
    probability that these seeds gave it, and how many seeds were wrong."""
    tables = [record.predictions.iloc[messages] for record in part.records]
    classes = np.stack([table["prediction"] for table in tables])  # (S, N)
    probabilities = np.stack([_of_prediction(table, n_classes) for table in tables])
    votes = np.stack([(classes == c).sum(axis=0) for c in range(n_classes)])
    most = votes.argmax(axis=0)
    voted = classes == most
    means = (probabilities * voted).sum(axis=0) / voted.sum(axis=0)
    n_wrong = (~part.correct[:, messages]).sum(axis=0)
    return [
        (int(c), round(float(p), 3), int(n)) for c, p, n in zip(most, means, n_wrong, strict=True)
    ]


def _of_prediction(table: pd.DataFrame, n_classes: int) -> np.ndarray:
    """The probability of the predicted class; of two classes, records hold that of the second."""
    probability = table["probability"].to_numpy()
    is_other = (n_classes == 2) & (table["prediction"].to_numpy() == 0)
    return np.where(is_other, 1 - probability, probability)


def _draw(
    names: Sequence[str], wrong: np.ndarray, hardest: np.ndarray, n_any: int
) -> tuple[Picture, dict[str, tuple[float, float]]]:
    """The picture of messages ``hardest`` (N,) of the ``n_any`` that any row gets wrong, and where
    in it these are, as :class:`MessageMap` has it.

    Args:
        wrong: (R, M): the share of seeds that got each message wrong.
    """
    strips = {}
    shares = wrong[:, hardest]
    pixels = np.empty((*shares.shape, 4))
    pixels[..., :3] = mpl.colors.to_rgb(SHADE)
    pixels[..., 3] = np.where(shares > 0, PALEST + (1 - PALEST) * shares, 0)
    counts = [f"{count:.4g}" for count in wrong.sum(axis=1)]
    n = len(hardest)

    def draw(form: Form) -> Figure:
        figure, axes, y = with_lines(form, names, counts, 1)
        box = axes.get_position()
        strips["narrow" if form.is_narrow else "wide"] = (100 * box.x0, 100 * box.width)
        half = 0.5 * LINE / axes.unit
        limits = axes.get_ylim()
        for row, at in zip(pixels, y, strict=True):
            extent = (0, n, at + half, at - half)
            axes.imshow(row[None], extent=extent, aspect="auto", interpolation="nearest")
            axes.add_patch(Rectangle((0, at - half), n, 2 * half, fill=False, ec=FAINT, lw=0.8))
        axes.set_xlim(0, n)
        axes.set_ylim(limits)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.grid(visible=False)
        axes.set_xlabel("one column a message, the hardest at the left")
        figure.text(
            1 - 0.05 / form.width, 1 - 0.06 / figure.get_figheight(), "wrong", ha="right", va="top"
        )
        return figure

    which = f"the {n} hardest of {n_any}" if n < n_any else f"the {n_any}"
    said = [f"{name}: {count}" for name, count in zip(names, counts, strict=True)]
    description = (
        f"Which rows get which of {wrong.shape[1]} test messages wrong: {which} that any row gets "
        f"wrong, the darker the more of its seeds. Wrong by row, the mean over seeds: "
        f"{'; '.join(said)}."
    )
    return draw_twice("messages", description, draw), strips
