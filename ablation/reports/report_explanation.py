"""How the report is to be read: what its words mean."""

from __future__ import annotations

from ablation.reports.findings import SEEDS_FOR_A_VERDICT

EXPLANATION = (
    ("n", " is the number of seeds; accuracies are their mean ± their standard deviation."),
    (
        "95 % interval",
        ", of a test accuracy: Clopper and Pearson's exact interval for so many messages; with "
        "several seeds the wider, on each side, of this and t-intervals over seeds, over messages "
        "and over both. Of a difference: what the test that decides does not rule out, so it "
        'leaves out 0 exactly where p is below 0.05. "(messages)": with one seed, for other '
        "messages only; other seeds may give something else.",
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
        ": the run with seed 123 (or the lowest) beside the published one, which had the same "
        "messages, split and protocol, so that they are compared message by message and not as "
        'samples. With several seeds, each published figure is "within" or "outside" the 95 % '
        'prediction interval of one more run. "Impossible" is a figure that no count of messages '
        "rounds to. Variants of a row are not compared with what was published.",
    ),
    (
        "p",
        ": with one seed the exact McNemar test on the same test messages; it speaks of these two "
        "runs. With several, the largest of three t-tests: over seeds, over messages, and over "
        "both.",
    ),
    ("p, Holm", " corrects for the number of comparisons in the table."),
    (
        "finding",
        ': "supported" and "contradicted" refer to the direction in which the published figures '
        "differ, at a corrected p below 0.05. Variants of rows have only their own direction. "
        + SEEDS_FOR_A_VERDICT,
    ),
)
