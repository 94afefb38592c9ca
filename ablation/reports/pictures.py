"""The report's pictures. Each function returns one, as SVG."""

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ablation.reports.tables import Configuration
from ablation.system.output import printable
from ablation.system.text_tables import cut

BLUE, ORANGE, GREY = "#1f6f9f", "#d9730d", "#6b6b6b"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "svg.hashsalt": "report",  # the same picture from the same records
}
MAX_COUNTED_CLASSES = 20  # in a confusion matrix with its counts
MAX_LABEL_COLUMNS = 30


@dataclass(frozen=True)
class Point:
    """One configuration in a picture, and its published test accuracy where they may be compared.
    Accuracies are of the test messages, in percent."""

    configuration: Configuration
    published: float | None

    @property
    def mean(self) -> float:
        """The accuracy, over all seeds."""
        return float(self.configuration.percent("test").mean())


def _draw(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
    return picture.getvalue()


@mpl.rc_context(STYLE)
def accuracy_by_row(points: Sequence[Point]) -> bytes:
    """Accuracy with its interval, one line a row, published figures beside it."""
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(points)))
    axes = figure.subplots()
    y = np.arange(len(points))
    _with_intervals(axes, [point.mean for point in points], y, points, horizontal=True)
    published = [(point.published, i) for i, point in enumerate(points) if point.published]
    if published:
        axes.plot(
            *zip(*published, strict=True), "D", color=ORANGE, ms=5, mfc="none", label="published"
        )
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    axes.set_yticks(y, [point.configuration.label for point in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set_xlabel("test accuracy, %, with 95 % interval")
    return _draw(figure)


@mpl.rc_context(STYLE)
def accuracy_by_minutes(points: Sequence[Point]) -> bytes:
    """Accuracy against the time that training took."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    minutes = [point.configuration.minutes for point in points]
    _with_intervals(axes, minutes, [point.mean for point in points], points, horizontal=False)
    for at, labels in _put_labels_together(points):
        axes.annotate(labels, at, textcoords="offset points", xytext=(5, 4))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("minutes (logarithmic)")
    axes.set_ylabel("test accuracy, %")
    return _draw(figure)


def _put_labels_together(points: Sequence[Point]) -> list[tuple[tuple[float, float], str]]:
    """Where labels stand: one for points so close that theirs would hide each other."""
    places: dict[tuple[int, int], list[Point]] = {}
    height = max(1.0, max(p.mean for p in points) - min(p.mean for p in points)) / 15
    for point in points:
        minutes = max(point.configuration.minutes, 1e-3)
        place = (round(8 * math.log(minutes)), round(point.mean / height))
        places.setdefault(place, []).append(point)
    return [
        (
            (near[0].configuration.minutes, near[0].mean),
            ", ".join(p.configuration.label for p in near),
        )
        for near in places.values()
    ]


def _with_intervals(
    axes: mpl.axes.Axes,
    x: Sequence[float],
    y: Sequence[float],
    points: Sequence[Point],
    horizontal: bool,
) -> None:
    intervals = np.array([point.configuration.interval for point in points])
    means = np.array([[point.mean] for point in points])
    lengths = np.maximum((intervals - means) * [-1, 1], 0).T
    bars = {"xerr" if horizontal else "yerr": lengths}
    axes.errorbar(x, y, **bars, fmt="o", color=BLUE, ms=4, lw=1, label="reproduced")


@mpl.rc_context(STYLE)
def learning_curves(configurations: Sequence[Configuration]) -> bytes:
    """Losses by step, a small picture for each configuration, a line for each of its runs."""
    n_columns = min(4, len(configurations))
    n_lines = -(-len(configurations) // n_columns)
    figure = Figure(figsize=(max(3.5, 2.1 * n_columns), 0.6 + 1.6 * n_lines), layout="constrained")
    grid = figure.subplots(n_lines, n_columns, sharey=True, squeeze=False)
    for axes, configuration in zip(grid.flat, configurations, strict=False):
        for record in configuration.records:
            losses = record.result["history"]["losses"]
            steps = [loss["step"] for loss in losses]
            for name, color in (("train", BLUE), ("validation", ORANGE)):
                marker = "." if len(steps) == 1 else None  # it would be no line
                values = [loss[name] for loss in losses]
                axes.plot(steps, values, color=color, lw=1, alpha=0.8, marker=marker)
        axes.set_title(configuration.label, fontsize=9)
        axes.set_yscale("log")
    for axes in grid.flat[len(configurations) :]:
        axes.set_visible(False)
    figure.legend(
        [mpl.lines.Line2D([], [], color=color, lw=1.5) for color in (BLUE, ORANGE)],
        ["training loss", "validation loss"],
        loc="outside upper center",
        ncols=2,
        frameon=False,
    )
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("loss (logarithmic)", fontsize=9)
    return _draw(figure)


@mpl.rc_context(STYLE)
def error_map(row_labels: Sequence[str], wrong: np.ndarray) -> bytes:
    """Which messages which configurations get wrong, the hardest messages on the left.

    Args:
        wrong: (configurations, messages): the share of seeds that got it wrong.
    """
    hardest = np.argsort(-wrong.mean(axis=0), kind="stable")
    hardest = hardest[wrong[:, hardest].any(axis=0)]
    figure = Figure(figsize=(7, 1.2 + 0.22 * len(row_labels)))
    axes = figure.subplots()
    image = axes.imshow(
        wrong[:, hardest], aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.grid(visible=False)
    axes.set_yticks(range(len(row_labels)), row_labels)
    axes.set_xlabel(f"the {len(hardest)} test messages that any gets wrong, hardest first")
    figure.colorbar(image, label="share of seeds wrong")
    return _draw(figure)


# Names may be of any script, so they are drawn in the reader's fonts, and may hold dollars.
@mpl.rc_context({**STYLE, "svg.fonttype": "none", "text.parse_math": False})
def confusion_matrix(class_names: Sequence[str], confusion: np.ndarray) -> bytes:
    """How many texts of class i (lines) were taken for class j (columns), shaded by their share of
    the class.

    Args:
        confusion: (C, C), the mean over seeds.
    """
    n = len(class_names)
    cell = 0.5 if n <= MAX_COUNTED_CLASSES else 0.14  # inches
    figure = Figure(figsize=(1.5 + cell * n, 1 + cell * n))
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(visible=False)
    names = [cut(printable(name), MAX_LABEL_COLUMNS) for name in class_names]
    size = 9 if n <= MAX_COUNTED_CLASSES else 7
    axes.set_xticks(range(n), names, rotation=90, fontsize=size)
    axes.set_yticks(range(n), names, fontsize=size)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if n <= MAX_COUNTED_CLASSES:
        for i, j in np.ndindex(n, n):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{confusion[i, j]:.3g}", ha="center", va="center", color=color)
    figure.colorbar(image, label="share of the class", shrink=0.6, aspect=30, pad=0.01)
    with warnings.catch_warnings():
        # Matplotlib only measures with its own font, which lacks most scripts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        return _draw(figure)
