"""The report's pictures. Each function returns one, or none where there is nothing to show."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from ablation.finetuning.metrics import most_confused
from ablation.reports.drawing import (
    BLUE,
    COLUMN,
    FONT_SIZE,
    INK,
    LINE,
    ORANGE,
    SHADE,
    Form,
    draw_twice,
    put_keys,
    shown,
    with_lines,
    wrap,
)
from ablation.reports.pages import Picture
from ablation.reports.tables import Configuration
from ablation.system.text_tables import cut, display_width

LEAST_COUNTED = 0.26  # inches, of a cell with a count
BASELINE = "linear SVM on characters"
# So close, times are taken for equal.
SAME_TIME = 1.25
LEAST_POINTS = 3  # of accuracies against minutes
KEY_COLUMNS = 3  # of what stands for a name beside its point
MAX_COUNTED_CLASSES = 20  # in a confusion matrix with its counts
MAX_LABEL_COLUMNS = 30
DEEPEST = 0.55  # opacity of shades, on which numbers can be read


@dataclass(frozen=True)
class Point:
    """One configuration in a picture, its published test accuracy where they may be compared, and
    its name in words. Accuracies are of the test messages, in percent."""

    configuration: Configuration
    published: float | None
    name: str

    @property
    def mean(self) -> float:
        """The accuracy, over all seeds."""
        return float(self.configuration.percent("test").mean())

    @property
    def words(self) -> str:
        """Name, accuracy and interval."""
        low, high = self.configuration.interval
        return f"{self.name}: {self.mean:.2f} % ({low:.2f} to {high:.2f})"


# ---------------------------------------------------------------- one line for each configuration


def accuracy(points: Sequence[Point], svm: float) -> Picture | None:
    """Accuracy with its interval, published figures beside it, and the line of the SVM.

    Args:
        svm: the test accuracy of a linear SVM on characters, in percent.
    """
    if not points:
        return None
    published = [(point.published, i) for i, point in enumerate(points) if point.published]

    def draw(form: Form) -> Figure:
        figure, axes, y = with_lines(
            form, [point.name for point in points], [f"{point.mean:.2f}" for point in points], 3
        )
        _mark(axes, points, y, "o", BLUE, "here, with its 95 % interval")
        if published:
            axes.plot(
                [percent for percent, _ in published],
                [y[i] for _, i in published],
                "D",
                color=ORANGE,
                ms=6,
                mfc="none",
                mew=1.5,
                label="published",
            )
        # On a phone it leaves out the lines of names.
        half = LINE / 2 / axes.unit if form.is_narrow else 0.5
        svm_line = {"color": INK, "ls": (0, (3, 2)), "lw": 1.2}
        label = f"{BASELINE}: {svm:.2f} %"
        axes.vlines([svm] * len(y), y - half, y + half, label=label, **svm_line)
        _finish(figure, axes, form)
        return figure

    said = [
        point.words + (f", published {point.published:.2f} %" if point.published else "")
        for point in points
    ]
    description = f"Test accuracy with its 95 % interval. {'. '.join(said)}."
    return draw_twice("accuracy", f"{description} A {BASELINE}: {svm:.2f} %.", draw)


def side_by_side(pairs: Sequence[tuple[Point, Point]], labels: tuple[str, str]) -> Picture | None:
    """Rows of two groups that differ in one flag: an arrow from the accuracy in one group to that
    in the other, with both intervals.

    Args:
        pairs: of each row, named as the first of the two is, in both groups.
        labels: what tells the groups apart, such as "with the mask" and "--disable_causal_mask".
    """
    if not pairs:
        return None
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    labels = tuple(wrap(label) for label in labels)

    def draw(form: Form) -> Figure:
        values = [f"{a.mean:.2f} → {b.mean:.2f}" for a, b in pairs]
        figure, axes, y = with_lines(form, [point.name for point in first], values, 2, LINE)
        apart = 0.4 * LINE / axes.unit
        _mark(axes, first, y - apart, "o", BLUE, labels[0])
        _mark(axes, second, y + apart, "s", ORANGE, labels[1], mfc="none", mew=1.5)
        for (a, b), at in zip(pairs, y, strict=True):
            ends = {"xy": (b.mean, at + apart), "xytext": (a.mean, at - apart)}
            arrow = {"arrowstyle": "->", "color": INK, "lw": 1.2, "shrinkA": 3, "shrinkB": 3}
            axes.annotate("", **ends, arrowprops=arrow)
        _finish(figure, axes, form)
        return figure

    said = [f"{a.words}, against {b.words.removeprefix(f'{b.name}: ')}" for a, b in pairs]
    description = (
        f"Test accuracy with its 95 % interval, {labels[0]} and {labels[1]}. {'. '.join(said)}."
    )
    return draw_twice("side-by-side", description.replace("\n", " "), draw)


def _mark(
    axes: Axes, points: Sequence[Point], y: np.ndarray, form: str, color: str, label: str, **how
) -> None:
    """Accuracies as marks of a form, with their intervals."""
    means = np.array([point.mean for point in points])
    ends = np.array([point.configuration.interval for point in points])
    lengths = np.maximum((ends - means[:, None]) * [-1, 1], 0).T
    axes.errorbar(means, y, xerr=lengths, fmt="none", color=color, lw=1.3, capsize=2.5)
    axes.plot(means, y, form, color=color, ms=5.5, label=label, **how)


def _finish(figure: Figure, axes: Axes, form: Form) -> None:
    """Limits, ticks and legend of what :func:`with_lines` has begun."""
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -1), min(high, 101))
    axes.xaxis.set_major_locator(MaxNLocator(5 if form.is_narrow else 8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("test accuracy, %")
    axes.grid(visible=not form.is_narrow)  # there it would cross the names
    figure.legend(
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=1,
        borderaxespad=0,
        borderpad=0.2,
        labelspacing=0.2,
    )


# ---------------------------------------------------------------- accuracy and time


def minutes(points: Sequence[Point]) -> Picture | None:
    """Accuracy against the time that training took; none of fewer than three, or where all took
    about the same time."""
    times = [point.configuration.minutes for point in points]
    if len(points) < LEAST_POINTS or max(times) <= SAME_TIME * min(times):
        return None
    keys = [point.configuration.label for point in points]
    if not all(0 < display_width(key) <= KEY_COLUMNS for key in keys):
        keys = [str(number) for number in range(1, len(points) + 1)]
    said = [f"{point.words} in {point.configuration.minutes:.2f} minutes" for point in points]

    def draw(form: Form) -> Figure:
        names = [
            shown(f"{key}  {point.name.removeprefix(f'{key} ')}")
            for key, point in zip(keys, points, strict=True)
        ]
        n_columns = 1 if form.is_narrow else 2
        n_lines = -(-len(names) // n_columns)
        plot, below = 3.8, 0.75 + LINE * n_lines
        height = plot + below
        figure = Figure(figsize=(form.width, height))
        axes = figure.add_axes(
            (0.6 / form.width, below / height, 1 - 0.75 / form.width, (plot - 0.1) / height)
        )
        _scatter(axes, points, keys)
        for i, name in enumerate(names):
            column, line = divmod(i, n_lines)
            place = (0.05 / form.width + column / 2, (below - 0.62 - LINE * line) / height)
            figure.text(*place, cut(name, 42), va="top")
        return figure

    return draw_twice("minutes", f"Test accuracy and time. {'. '.join(said)}.", draw)


def _scatter(axes: Axes, points: Sequence[Point], keys: Sequence[str]) -> None:
    times = [point.configuration.minutes for point in points]
    means = np.array([point.mean for point in points])
    axes.plot(times, means, "o", color=BLUE, ms=5.5)
    axes.set_xscale("log")
    axes.margins(0.12, 0.1)
    axes.autoscale_view()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("minutes (logarithmic)")
    axes.set_ylabel("test accuracy, %")
    put_keys(axes, keys, axes.transData.transform(np.column_stack([times, means])))


# ---------------------------------------------------------------- losses


def learning(points: Sequence[Point]) -> Picture | None:
    """Losses by step, a small picture for each configuration, a line for each of its runs; none
    where no run has two of them."""
    drawn = [point for point in points if len(_losses(point.configuration)[0]) > 1]
    if not drawn:
        return None
    kinds = (("train", BLUE, "-"), ("validation", ORANGE, "--"))

    def draw(form: Form) -> Figure:
        n_columns = min(form.n_columns, len(drawn))
        n_lines = -(-len(drawn) // n_columns)
        height = 0.65 + 1.75 * n_lines
        figure = Figure(figsize=(form.width, height), layout="constrained")
        grid = figure.subplots(n_lines, n_columns, sharey=True, squeeze=False)
        for axes, point in zip(grid.flat, drawn, strict=False):
            for losses in _losses(point.configuration):
                steps = [loss["step"] for loss in losses]
                for kind, color, line in kinds:
                    axes.plot(steps, [loss[kind] for loss in losses], line, color=color, lw=1.2)
            axes.set_title(
                wrap(point.name, 19 if form.is_narrow else 24), fontsize=FONT_SIZE, loc="left"
            )
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        for axes in grid.flat[len(drawn) :]:
            axes.set_visible(False)
        figure.legend(
            [mpl.lines.Line2D([], [], color=color, ls=line, lw=1.5) for _, color, line in kinds],
            ["training loss", "validation loss"],
            loc="outside upper left",
            ncols=2,
        )
        figure.supxlabel("step", fontsize=FONT_SIZE)
        figure.supylabel("loss (logarithmic)", fontsize=FONT_SIZE)
        return figure

    said = [f"{point.name}: {_describe_losses(point.configuration)}" for point in drawn]
    return draw_twice("learning", f"Losses by step, means over seeds. {'. '.join(said)}.", draw)


def _losses(configuration: Configuration) -> list[list[dict[str, float]]]:
    """What was measured in each of its runs, the most often measured first."""
    runs = [record.result["history"]["losses"] for record in configuration.records]
    return sorted(runs, key=len, reverse=True)


def _describe_losses(configuration: Configuration) -> str:
    runs = [losses for losses in _losses(configuration) if losses]
    ends = {
        kind: [np.mean([losses[at][kind] for losses in runs]) for at in (0, -1)]
        for kind in ("train", "validation")
    }
    (train, trained), (valid, validated) = ends["train"], ends["validation"]
    return (
        f"training loss from {train:.3f} to {trained:.3f}, "
        f"validation loss from {valid:.3f} to {validated:.3f} in {runs[0][-1]['step']} steps"
    )


# ---------------------------------------------------------------- classes


def confusion_matrix(class_names: Sequence[str], confusion: np.ndarray) -> Picture | None:
    """How many texts of class i (lines) were taken for class j (columns), shaded by their share of
    the class; none where every text is right.

    Args:
        confusion: (C, C), the mean over seeds.
    """
    if not confusion[~np.eye(len(confusion), dtype=bool)].any():
        return None
    n = len(class_names)
    sizes = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    pixels = np.empty((n, n, 4))
    pixels[..., :3] = mpl.colors.to_rgb(SHADE)
    pixels[..., 3] = DEEPEST * confusion / sizes

    def draw(form: Form) -> Figure:
        columns = MAX_LABEL_COLUMNS // 2 if form.is_narrow else MAX_LABEL_COLUMNS
        names = [cut(shown(name), columns) for name in class_names]
        beside = 0.45 + COLUMN * max(map(display_width, names))
        cell = float(np.clip((form.width - beside - 0.1) / n, LINE, 0.6))
        width, height = beside + cell * n + 0.1, beside + cell * n + 0.1
        figure = Figure(figsize=(max(width, 1.5), height))
        place = (beside / figure.get_figwidth(), beside / height)
        axes = figure.add_axes((*place, cell * n / figure.get_figwidth(), cell * n / height))
        axes.imshow(pixels, interpolation="nearest", aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(n), names, rotation=90)
        axes.set_yticks(range(n), names)
        axes.set_xlabel("taken for")
        axes.set_ylabel("class")
        if n <= MAX_COUNTED_CLASSES and cell >= LEAST_COUNTED:
            for i, j in np.ndindex(n, n):
                axes.text(j, i, f"{confusion[i, j]:.3g}", ha="center", va="center")
        return figure

    taken = [
        f'{confusion[i, j]:.3g} of {confusion[i].sum():.0f} texts of "{class_names[i]}" were '
        f'taken for "{class_names[j]}"'
        for i, j in most_confused(confusion)
    ]
    right = 100 * confusion.trace() / confusion.sum()
    description = f"Which class was taken for which: {right:.2f} % are right. Most often, "
    return draw_twice("confusion", f"{description}{'; '.join(taken)}.", draw)
