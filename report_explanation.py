"""How the report is to be read: what its words mean."""

from __future__ import annotations

EXPLANATION = (
    ("n", " is the number of seeds; accuracies are their mean ± their standard deviation."),
    (
        "95 % interval",
        ", of a test accuracy: the wider, on each side, of Clopper and Pearson's exact interval "
        "for so many messages and a bootstrap over seeds and messages. Of a difference: that "
        "bootstrap.",
    ),
    (
        "min",
        ": training and the hidden states of all runs that share them with it: one that needs few "
        "of them (rows 2, 14, 15, 16) is faster alone.",
    ),
    ("trained", ": parameters."),
    ("published %", ": train / validation / test."),
    (
        "verdict",
        ": Fisher's exact test of the run with seed 123 (or the lowest) against the published "
        'counts, corrected (Holm) for the three parts. "Impossible" is a figure that no count of '
        "messages rounds to. Variants of a row are not compared with what was published.",
    ),
    (
        "p",
        ": of one seed the exact McNemar test on the same test messages, of several Welch's test "
        "on the variance over seeds and that over messages. It decides, not the interval, which a "
        "few seeds or a few differing messages make too narrow; two seeds are too few for both.",
    ),
    ("p, Holm", " corrects for the number of comparisons in the table."),
    (
        "finding",
        ': "supported" and "contradicted" refer to the direction in which the published figures '
        "differ, at a corrected p below 0.05. Variants of rows have only their own direction.",
    ),
)
