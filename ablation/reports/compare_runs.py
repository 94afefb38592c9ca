"""The comparison of two runs, or of two rows with all seeds that both have, in words."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ablation.config.commands import format_command
from ablation.config.published import PUBLISHED_SEED
from ablation.config.rows import SOURCE
from ablation.config.runs import RESULT_NAME
from ablation.config.tables import Name, Table, describe_names
from ablation.reports import findings, tables
from ablation.reports.comparisons import ALPHA, Difference
from ablation.reports.pooling import pool_records
from ablation.reports.tables import Configuration
from ablation.sweeps.records import read_record, read_records, require_one_base
from ablation.system.errors import RecordError


def compare_runs(a: str, b: str, output_dir: Path, known: Sequence[Table] = (SOURCE,)) -> str:
    """The comparison of two sides, each a row of a table or a run's folder.

    A folder, which may lie in ``output_dir``, is that one run. A row is its runs in ``output_dir``
    with all seeds that the other side has too: the row as it is, and apart from it the row with
    each set of flags beside it. Raises ``RecordError`` if there is no such record or no common
    seed, a record is damaged or failed, or the two do not compare.
    """
    names = {str(name): name for table in reversed(known) for name in table.rows}
    runs = {word: _read_run(word, output_dir, names) for word in (a, b) if word not in names}
    if {a, b} <= {*runs}:
        return _describe(runs[a], runs[b])
    complete = pool_records([r for r in read_records(output_dir) if r.is_complete])
    sections, _ = tables.group_records(complete, known)
    texts = []
    for section in sections:
        sides = []
        for word in (a, b):
            # An earlier row's runs where the section's flags make the row equal to it.
            name = section.same.get(names.get(word), names.get(word))
            sides.append(runs.get(word) or section.configurations.get(name))
        first, second = sides
        seeds = sorted({*first.seeds} & {*second.seeds}) if first and second else []
        if seeds and first is not second:
            text = _describe(first.with_seeds(seeds), second.with_seeds(seeds))
            texts.append(f"{section.title}\n{text}")
    if not texts:
        raise RecordError(
            f"--compare {a} {b}: {output_dir} holds no two different experiments of these that "
            "are complete with a seed in common and the same flags beside --rows; run both with "
            "the same --rows, --seeds and flags"
        )
    return "\n\n".join(texts)


def _read_run(word: str, output_dir: Path, names: Mapping[str, Name]) -> Configuration:
    for folder in (Path(word), output_dir / word):
        if os.path.exists(folder / RESULT_NAME):  # False also for what can be no path
            break
    else:
        raise RecordError(
            f"--compare {word}: neither a run's folder (here or in {output_dir}) nor a row; give "
            f"{describe_names(names.values())}"
        )
    record = read_record(folder)
    if not record.is_complete:
        raise RecordError(
            f"the run {record.folder} is {record.result['status']}: {record.result['error']}"
        )
    return Configuration("", "", (record,))


def _describe(a: Configuration, b: Configuration) -> str:
    """The paired comparison of the runs of two configurations, in words."""
    records = [*a.records, *b.records]
    tables.require_one_dataset(records)
    if len(folds := {record.config.fold for record in records}) > 1:
        raise RecordError(
            f"The two are of folds {' and '.join(map(str, folds))}, so they have no test text in "
            "common. Compare runs of one fold, or rows by their names, with all folds of each."
        )
    require_one_base(records)
    tables.require_same_texts(records)
    lines = []
    for name, side in (("A", a), ("B", b)):
        config, seeds = side.records[0].config, ""
        if len(side.seeds) > 1:
            config = replace(config, seed=PUBLISHED_SEED)
            seeds = f" with seeds {', '.join(map(str, side.seeds))}"
        accuracy = tables.mean_and_deviation(side.percent("test"))
        n_messages = side.correct.shape[1]
        command = format_command(config)
        lines.append(f"{name}: {accuracy}% of {n_messages} test messages{seeds}, {command}")
    return "\n".join([*lines, *_conclude(findings.compare_configurations(a, b))])


def _conclude(difference: Difference) -> list[str]:
    shown = difference.p < ALPHA
    detectable = [] if shown else [findings.describe_detectable(difference, ALPHA)]
    p = findings.format_p(difference.p)
    p = p if p.startswith("<") else f"= {p}"
    points = (
        f"B minus A: {difference.points:+.2f} points, 95 % interval "
        f"{findings.format_interval(difference)}"
    )
    if not difference.is_of_runs:
        better = f"B is {'better' if difference.points > 0 else 'worse'}"
        verdict = better if shown else "Not distinguishable with this n"
        by_seed = ", ".join(map(findings.format_p, difference.mcnemar))
        views = "over seeds, over messages and over both"
        if not difference.mcnemar:
            views = "over folds, over texts, and over folds and seeds"
        return [
            f"{points}; p {p}, the largest of t-tests {views}.",
            " ".join(
                [f"{verdict}.", *detectable, *([f"McNemar p by seed: {by_seed}."] * bool(by_seed))]
            ),
        ]
    only_a, only_b = (int((difference.values == sign).sum()) for sign in (-1, 1))
    verdict = "differ" if shown else "cannot be told apart"
    smallest = findings.describe_smallest(difference.n_messages)
    return [
        f"Only A is right on {only_a} messages, only B on {only_b}.",
        f"{points}, for these two runs on other messages; exact McNemar p {p}.",
        " ".join([f"The two runs {verdict}.", *detectable, smallest]),
    ]
