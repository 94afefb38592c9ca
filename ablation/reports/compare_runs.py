"""The comparison of two runs, or of two rows with all seeds that both have, in words."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ablation.config.published import PUBLISHED_SEED
from ablation.config.rows import ROWS, format_command
from ablation.config.runs import RESULT_NAME
from ablation.reports.comparisons import ALPHA, Difference, compare
from ablation.reports.findings import (
    common_seeds,
    describe_detectable,
    describe_smallest,
    format_interval,
    format_p,
)
from ablation.reports.tables import (
    Configuration,
    Section,
    group_records,
    mean_and_deviation,
    require_one_dataset,
    require_same_texts,
)
from ablation.sweeps.records import read_record, read_records, require_one_base
from ablation.system.errors import RecordError

ROW_WORDS = {str(number): number for number in ROWS}


def compare_runs(a: str, b: str, output_dir: Path) -> str:
    """The comparison of two sides, each a row's number or a run's folder.

    A folder, which may lie in ``output_dir``, is that one run. A number is that row's runs in
    ``output_dir``, with all seeds that the other side has as well: the row as published and,
    apart from it, with each set of flags beside it.

    Raises:
        RecordError: there is no such record or no common seed, a record is damaged or failed, or
            the two do not compare.
    """
    runs = {word: _read_run(word, output_dir) for word in (a, b) if word not in ROW_WORDS}
    if {a, b} <= {*runs}:
        return _describe(runs[a], runs[b])
    sections, _ = group_records([r for r in read_records(output_dir) if r.is_complete])
    texts = []
    for section in sections:
        first, second = (runs.get(word) or _find_row(word, section) for word in (a, b))
        seeds = common_seeds(first, second) if first and second else []
        if seeds and first is not second:
            texts.append(
                f"{section.title}\n{_describe(first.with_seeds(seeds), second.with_seeds(seeds))}"
            )
    if not texts:
        raise RecordError(
            f"--compare {a} {b}: {output_dir} holds no two different experiments of these that "
            "are complete with a seed in common and the same flags beside --rows; run both with "
            "the same --rows, --seeds and flags"
        )
    return "\n\n".join(texts)


def _read_run(word: str, output_dir: Path) -> Configuration:
    folders = [
        folder
        for folder in (Path(word), output_dir / word)
        if os.path.exists(folder / RESULT_NAME)  # False also for what can be no path
    ]
    if not folders:
        raise RecordError(
            f"--compare {word}: no folder of a run, here or in {output_dir}, and no row, 1 to "
            f"{len(ROWS)}"
        )
    record = read_record(folders[0])
    if not record.is_complete:
        raise RecordError(
            f"the run {record.folder} is {record.result['status']}: {record.result['error']}"
        )
    return Configuration("", "", (record,))


def _find_row(word: str, section: Section) -> Configuration | None:
    """A row's runs; those of an earlier row where the section's flags make them equal."""
    number = ROW_WORDS[word]
    return section.configurations.get(section.same.get(number, number))


def _describe(a: Configuration, b: Configuration) -> str:
    """The paired comparison of the runs of two configurations, in words."""
    records = [*a.records, *b.records]
    require_one_dataset(records)
    require_one_base(records)
    require_same_texts(records)
    difference = compare(a.correct, b.correct)
    lines = [f"{name}: {_introduce(side)}" for name, side in (("A", a), ("B", b))]
    points = f"B minus A: {difference.points:+.2f} points, 95 % interval "
    return "\n".join([*lines, *_conclude(difference, points + format_interval(difference))])


def _introduce(side: Configuration) -> str:
    n_messages = side.correct.shape[1]
    config, seeds = side.records[0].config, ""
    if len(side.seeds) > 1:
        config = replace(config, seed=PUBLISHED_SEED)
        seeds = f" with seeds {', '.join(map(str, side.seeds))}"
    accuracy = mean_and_deviation(side.percent("test"))
    return f"{accuracy}% of {n_messages} test messages{seeds}, {format_command(config)}"


def _conclude(difference: Difference, points: str) -> list[str]:
    shown = difference.p < ALPHA
    detectable = [] if shown else [describe_detectable(difference, ALPHA)]
    p = f"= {format_p(difference.p)}" if difference.p >= 0.001 else format_p(difference.p)
    if difference.n_seeds > 1:
        better = f"B is {'better' if difference.points > 0 else 'worse'}"
        verdict = better if shown else "Not distinguishable with this n"
        by_seed = ", ".join(map(format_p, difference.mcnemar))
        return [
            f"{points}; p {p}, the largest of t-tests over seeds, over messages and over both.",
            " ".join([f"{verdict}.", *detectable, f"McNemar p by seed: {by_seed}."]),
        ]
    only_a, only_b = (int((difference.values == sign).sum()) for sign in (-1, 1))
    verdict = "differ" if shown else "cannot be told apart"
    smallest = describe_smallest(difference.n_messages)
    return [
        f"Only A is right on {only_a} messages, only B on {only_b}.",
        f"{points}, for these two runs on other messages; exact McNemar p {p}.",
        " ".join([f"The two runs {verdict}.", *detectable, smallest]),
    ]
