"""What a single run says at its end: what came out, what was published, what to try next."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablation.classifier.weight_files import WEIGHTS_NAME
from ablation.config.commands import SCRIPT, format_flags
from ablation.config.identity import identify
from ablation.config.options import tagged
from ablation.config.published import PUBLISHED_SEED, published_words
from ablation.config.rules import config_problems
from ablation.config.runs import RESULT_NAME, SEEDS_TO_DECIDE, Run
from ablation.config.tables import Name, Row, configure, differing
from ablation.finetuning.metrics import exact_interval
from ablation.sweeps.records import Record
from ablation.sweeps.variants import find_row
from ablation.system.files import parse_json
from ablation.system.output import printable

# Flags beside the options that another run is given, too.
GO_ON = ("output_dir", "checkpoint_every", "save_model", "track", "no_watch")
REPORTED = ("output_dir", "data_dir", "offline")  # those that a report takes

Flags = Mapping[str, Any]


def closing_lines(run: Run, record: Record, output_dir: Path, flags: Flags) -> list[str]:
    """The figure with its interval, the figure that it stands beside, and commands.

    Args:
        record: of the run, complete.
        flags: that the run was asked for with, and their values.
    """
    commands = next_commands(run, record.folder, output_dir, flags)
    width = max(map(len, commands))
    return [
        describe_accuracy(run, record),
        *filter(None, [describe_yardstick(run, record)]),
        "Next:",
        *(f"  {what:<{width}}  {printable(command)}" for what, command in commands.items()),
    ]


def describe_accuracy(run: Run, record: Record) -> str:
    """The test accuracy in words, with its exact interval, which is that of the report."""
    test = record.accuracy("test")
    low, high = (100 * end for end in exact_interval(test.correct, test.total))
    texts = "texts" if run.config.dataset else "messages"
    return (
        f"{_name(run)}: {test.percent:.2f} % of {test.total:,} test {texts} right "
        f"(95 % interval: {low:.1f} to {high:.1f})."
    )


def _name(run: Run) -> str:
    """The row that a run is, or varies, if it was asked for by its row."""
    row = find_row(run)
    changes = differing(run.config, row) if row else {}
    if not row or (changes and run.overrides is None):
        return "This run"
    seed = "" if run.config.seed == PUBLISHED_SEED else f", seed {run.config.seed}"
    beside = f" with {format_flags(run.overrides or changes)}" if changes else ""
    return printable(f"Row {row.name}{beside}{seed}")


def describe_yardstick(run: Run, record: Record) -> str | None:
    """How the accuracy compares with the published one; where there is none, what it takes to be
    better than the most frequent class."""
    row, test = find_row(run), record.accuracy("test")
    own_texts = run.config.demo or run.config.dataset
    if row and row.published.test is not None and not own_texts:
        if changes := differing(run.config, row):
            return (
                f"The published {row.published.test:.2f} % of row {row.name} does not apply, "
                f"because of {printable(format_flags(changes))}."
            )
        return published_words(test.correct, test.total, row.published.test)
    classes = record.result.get("test", {}).get("classes", [])  # which early records lack
    if not classes:
        return None
    largest = max(classes, key=lambda one: one["texts"])
    share = 100 * largest["texts"] / sum(one["texts"] for one in classes)
    return f'Always saying "{printable(largest["label"])}" would get {share:.2f} % right.'


def next_commands(run: Run, folder: Path, output_dir: Path, flags: Flags) -> dict[str, str]:
    """Commands that go on from a run, each by what it is for."""
    asked = {n: _typed(v) for n, v in flags.items() if n not in ("resume", "export_hf")}
    row = find_row(run)
    found = None
    if row and not (run.config.dataset and run.overrides is None):
        found = choose_next(run, row, output_dir, flags)
    commands = {}
    if found:
        name, own = found
        question = run.table.rows[name].question
        words = f"row {name} ({question})" if question else f"row {name}"
        commands[words] = _command({"rows": name, **_only(flags, ("table",)), **own}, flags)
    else:
        commands["how much is chance"] = (
            f"{SCRIPT} {format_flags({**asked, 'num_seeds': SEEDS_TO_DECIDE})}"
        )
    reported = {"report": True, "open": True, **_only(flags, REPORTED)}
    if run.config.demo and "output_dir" not in flags:
        reported["output_dir"] = output_dir
    commands["all runs on a page"] = f"{SCRIPT} {format_flags(reported)}"
    if (folder / WEIGHTS_NAME).exists():
        path = format_flags({"": folder}).removeprefix("-- ")
        commands["the model at work"] = f'python predict.py {path} "a text of yours"'
    else:
        keeping = {**asked, "save_model": True}
        commands["a model to use"] = f"{SCRIPT} {format_flags(keeping)}"
    return {printable(what): command for what, command in commands.items()}


def choose_next(
    run: Run, row: Row, output_dir: Path, flags: Flags
) -> tuple[Name, dict[str, Any]] | None:
    """A row that has no complete record in a folder, and the flags to give it beside its own: first
    the one that this row is compared with, then those compared with this, then any. None if all
    are there.

    Flags that were typed beside a row are kept. Flags without a row may have made the row: they
    are kept where the other rows cannot do without them.
    """
    given = {name: value for name, value in flags.items() if hasattr(run.config, name)}
    beside = {n: v for n, v in given.items() if row.flags.get(n) != v}
    for kept in [given] if "rows" in flags else [beside, given]:
        for name in dict.fromkeys(_neighbours(run, row)):
            config = configure(run.table.rows[name], kept)
            unused = () if config.uses_lora else tagged("lora")
            own = {n: v for n, v in kept.items() if n not in unused}
            other = Run(config, own, run.table)
            same = identify(config) == identify(run.config)
            if not (same or config_problems(config, own) or _is_done(other, output_dir)):
                return name, own
    return None


def _neighbours(run: Run, row: Row) -> Iterator[Name]:
    pairs = [rows for _, rows in run.table.comparisons]
    yield from (first for first, second in pairs if second == row.name)
    yield from (second for first, second in pairs if first == row.name)
    yield from (name for name in run.table.rows if name != row.name)


def _is_done(run: Run, output_dir: Path) -> bool:
    for folder in run.folders(output_dir):
        with suppress(OSError, ValueError, KeyError):
            if parse_json((folder / RESULT_NAME).read_bytes())["status"] == "complete":
                return True
    return False


def _command(chosen: Flags, flags: Flags) -> str:
    return f"{SCRIPT} {format_flags({**chosen, **_only(flags, GO_ON)})}"


def _only(flags: Flags, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: flags[name] for name in names if name in flags}


def _typed(value: Any) -> Any:
    """A value as one types it: several are apart."""
    return " ".join(value) if isinstance(value, tuple) else value
