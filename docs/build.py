"""What is computed in README.md and docs/: tables and pictures.

    python docs/build.py

writes each piece between the two comments that name it, and the pictures. A test fails when a
piece is stale. Figures come from the rows, the flags, the records in results/ and docs/lesson/,
and benchmarks/measured.json.
"""

import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import predict
from ablation.config.flag_types import Option
from ablation.config.flags import ACTIONS
from ablation.config.kept_tables import known_tables
from ablation.config.options import OPTIONS
from ablation.config.rows import ROWS, SOURCE
from ablation.config.runs import Run
from ablation.config.tables import Name
from ablation.finetuning.outcomes import History
from ablation.reports.findings import compare_rows, format_interval
from ablation.reports.pages import markdown_table
from ablation.reports.tables import Configuration, figures, group_records, mean_and_deviation
from ablation.sweeps.panel import Panel
from ablation.sweeps.records import Record, read_records
from ablation.system.version import PROJECT
from data_utils import PARTS
from docs.drawings import describe_picture, draw_masks, draw_rows, point_of

PICTURE, MASK, WATCHING = "docs/rows.svg", "docs/mask.svg", "docs/watching.svg"
# The piece of each name is in this file.
PLACES = {
    "picture": "README.md",
    "rows": "README.md",
    "costs": "README.md",
    "commands": "docs/rows.md",
    "random weights": "docs/rows.md",
    "flags": "docs/flags.md",
    "flags of predict.py": "docs/flags.md",
    "lesson": "docs/lesson.md",
    "learning rates": "docs/sweeps.md",
}


def build() -> dict[str, str]:
    """What each file should hold, by its path from the project's folder."""
    records = read_records(PROJECT / "results")
    measured = random_weights(records)
    points = [point_of(number, measured.get(number)) for number in ROWS]
    pieces = {
        "picture": f"![{describe_picture(points)}]({PICTURE})",
        "rows": short_table(measured),
        "costs": costs(),
        "commands": commands_table(records),
        "random weights": variants_table(records),
        "flags": flags_table([*ACTIONS.values(), *OPTIONS.values()]),
        "flags of predict.py": flags_table(predict.FLAGS.values()),
        "lesson": lesson_table(read_records(PROJECT / "docs" / "lesson")),
        "learning rates": rates_table(PROJECT / "docs" / "learning_rates"),
    }
    files = {path: (PROJECT / path).read_text() for path in PLACES.values()}
    for name, piece in pieces.items():
        start, end = f"<!-- {name}: docs/build.py writes this -->", f"<!-- end of {name} -->"
        before, rest = files[PLACES[name]].split(start)
        files[PLACES[name]] = f"{before}{start}\n{piece}\n{end}{rest.split(end)[1]}"
    return {**files, PICTURE: draw_rows(points), MASK: draw_masks(), WATCHING: draw_panel(records)}


# ---------------------------------------------------------------- a run at work


def draw_panel(records: Sequence[Record]) -> str:
    """What a terminal of 84 columns showed of row 10 in its fourth epoch, as SVG."""
    (record,) = (record for record in records if record.result["row"] == 10)
    history = History.from_json(record.result["history"])
    done, total = 470, 650
    left = record.result["seconds"]["training"] * (total - done) / total
    panel = Panel(
        Run(record.config),
        place="run 4 of 19",
        history=History(
            [loss for loss in history.losses if loss.step < done], history.epoch_accuracies[:3]
        ),
        epoch_ends=list(range(total // 5, total + 1, total // 5)),
        work=SimpleNamespace(
            what="training", unit="steps", done=done, total=total, seconds_left=left
        ),
    )
    console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True)
    for line in panel.lines(84, 24):
        console.print(line, soft_wrap=True)
    # Without the fonts that rich would load from elsewhere.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(
        title="A run at work", theme=MONOKAI, unique_id="panel", code_format=form
    )
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


# ---------------------------------------------------------------- tables


def random_weights(records: Sequence[Record]) -> dict[int, Configuration]:
    """The runs of rows with random weights, by row; those of row 10 are its own."""
    sections, _ = group_records(records)
    (section,) = (part for part in sections if part.overrides == {"weights": "random"})
    return {**section.configurations, 10: section.configurations[5]}


def short_table(measured: dict[int, Configuration]) -> str:
    """The README's table: each row's question, and its test accuracies."""
    lines = [
        "| row | question | to run it | published | random weights, measured |",
        "| --: | --- | --- | --: | --: |",
    ]
    for number, row in ROWS.items():
        configuration = measured.get(number)
        here = mean_and_deviation(configuration.percent("test")) if configuration else "not run"
        lines.append(
            f"| {number} | {row.question} | `--rows {number}` | {row.published.test:.2f} | {here} |"
        )
    return "\n".join(lines)


def costs() -> str:
    """What rows 1 and 16 take as a whole process, from the benchmarks."""
    measured = json.loads((PROJECT / "benchmarks" / "measured.json").read_text())
    taken = []
    for number in (1, 16):
        (seconds,) = (run["seconds"] for run in measured["run_seconds"] if run["row"] == number)
        (memory,) = (
            run["gigabytes"]
            for run in measured["peak_memory"]
            if run["row"] == number and not run["options"]
        )
        taken.append(f"row {number} takes {seconds / 60:.1f} minutes and {memory:.1f} GB of memory")
    return (
        f"On two cores (AMD EPYC, Zen 4), fewer than a laptop has, and no GPU, {taken[0]},\n"
        f"{taken[1]} ([measured](benchmarks/README.md) with random weights, which cost the same)."
    )


def commands_table(records: Sequence[Record]) -> str:
    """Each row's command, all of its published figures, and what was reproduced."""
    (section, *_), _ = group_records(records)
    lines = [
        "| row | question | command | train % | val % | test % | min | reproduced |",
        "| --: | --- | --- | --: | --: | --: | --: | --- |",
    ]
    for number, row in ROWS.items():
        published = " | ".join(f"{value:.2f}" for value in asdict(row.published).values())
        configuration = section.configurations.get(number)
        reproduced = "not run"
        if configuration:
            accuracies = " / ".join(mean_and_deviation(configuration.percent(p)) for p in PARTS)
            n = len(configuration.records)
            reproduced = f"{accuracies} ({n} seed{'s' if n > 1 else ''})"
        lines.append(
            f"| {number} | {row.question} | `{row.command}` | {published} | {reproduced} |"
        )
    return "\n".join(lines)


def variants_table(records: Sequence[Record]) -> str:
    """The rows with random weights that were run, with intervals and minutes."""
    sections, _ = group_records(records)
    (section,) = (part for part in sections if part.overrides == {"weights": "random"})
    lines = [
        {"row": str(name), "flags": part.flags, **figures(part)}
        for name, part in section.configurations.items()
    ]
    return markdown_table(pd.DataFrame(lines).drop(columns=["n", "trained"]))


def flags_table(options: Iterable[Option]) -> str:
    """Every flag of a script."""
    lines = ["| flag | default | what it is |", "| --- | --- | --- |"]
    for option in options:
        lines.append(f"| `--{option.name}` | {option.shown_default} | {option.help} |")
    return "\n".join(lines)


def lesson_table(records: Sequence[Record]) -> str:
    """The lesson's four configurations: what is read, and whether the mask is on."""
    lines = [
        "| read | causal mask | seed 123, % | seed 124, % | mean, % |",
        "| --- | --- | --: | --: | --: |",
    ]
    for position in ("first", "last"):
        for unmasked in (False, True):
            percents = [
                record.accuracy("test").percent
                for record in sorted(records, key=lambda record: record.config.seed)
                if record.config.trainable_token_pos == position
                and record.config.disable_causal_mask == unmasked
            ]
            figures = " | ".join(f"{percent:.2f}" for percent in percents)
            mask = "off" if unmasked else "on"
            lines.append(f"| {position} token | {mask} | {figures} | {np.mean(percents):.1f} |")
    return "\n".join(lines)


def rates_table(folder: Path) -> str:
    """The learning rates of each row in the example of --vary, and what is found of them."""
    (section,), _ = group_records(read_records(folder), known_tables(folder, SOURCE))
    lines = [
        "| row | learning rate | validation, % | test, % | against 5e-5, points | finding |",
        "| --: | --: | --: | --: | --: | --- |",
    ]
    found = {finding.rows[1]: finding for finding in compare_rows(section)}
    for name, part in sorted(section.configurations.items(), key=rate_order):
        means = " | ".join(mean_and_deviation(part.percent(p)) for p in ("validation", "test"))
        rate, row = part.records[0].config.learning_rate, str(name).partition(":")[0]
        difference, words = "", ""
        if name in found:
            difference = found[name].difference
            difference = f"{difference.points:+.2f} ({format_interval(difference)})"
            words = found[name].verdict.removeprefix(f"row {name} is ")
        lines.append(f"| {row} | {rate:g} | {means} | {difference} | {words} |")
    return "\n".join(lines)


def rate_order(configuration: tuple[Name, Configuration]) -> tuple[int, float]:
    """By row, and the learning rate."""
    name, part = configuration
    return int(str(name).partition(":")[0]), part.records[0].config.learning_rate


if __name__ == "__main__":
    for path, content in build().items():
        (PROJECT / path).write_text(content)
