"""Running rows from Python, as the command line runs them."""

from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

from ablation.config.choices import Choice, make_runs
from ablation.config.commands import typed_options
from ablation.config.options import OPTIONS, without
from ablation.config.rows import SOURCE
from ablation.config.runs import EPOCH, OutputOptions, Run
from ablation.config.tables import Name, configure, parse_rows
from ablation.interface.given import (
    read_option,
    read_options,
    read_output_dir,
    read_several,
    require_switches,
)
from ablation.interface.results import Results
from ablation.sweeps import sweep
from ablation.sweeps.records import Record, read_record, require_writable
from ablation.system.errors import ConfigError, ExperimentError, Problem, shorten
from ablation.system.output import count


def run_row(
    row: Name | None = None,
    *,
    output_dir: str | Path = "runs",
    resume: bool = False,
    save_model: bool = False,
    **options: Any,
) -> Record:
    """Run a row of the table, or with options alone an experiment of its own, and write its record.

    It prints what the command line prints.

    Args:
        row: its number; by default no row, only ``options``.
        output_dir: where its record goes.
        resume: take what is done already, and go on from a checkpoint.
        save_model: keep the classifier in the run's folder, for :class:`Classifier`.
        options: fields of ``ExperimentConfig``, which win over the row's. Texts are read as flags
            are, so that ``model_size="tiny"`` is enough.

    Raises:
        ConfigError: the row or options break rules; nothing was started.
        ExperimentError: the run failed, or its record cannot be written.
    """
    require_switches(resume=resume, save_model=save_model)
    output_dir = read_output_dir(output_dir)
    (run,) = _make_runs([row], [options.pop("seed", OPTIONS["seed"].default)], options)
    require_writable(output_dir)
    given = _without_own([row], read_options(options)[0])
    flags = {**_flags_of(row, run, given), "output_dir": output_dir}
    flags |= {"save_model": True} if save_model else {}
    sweep.run_one(run, output_dir, _output(resume, save_model), flags)
    return read_record(run.folder(output_dir))


def run_rows(
    rows: str | Iterable[Name],
    *,
    seeds: Iterable[int] = (OPTIONS["seed"].default,),
    output_dir: str | Path = "runs",
    save_model: bool = False,
    **options: Any,
) -> Results:
    """Run rows of the table with some seeds, what they have in common once, and leave what is done
    alone. Returns all results in ``output_dir``.

    Args:
        rows: their numbers, or a text such as ``"1-5,16"`` or ``"all"``.
        seeds: each row is run with each of them.
        output_dir, save_model, options: as for :func:`run_row`.

    Raises:
        ConfigError: rows or options break rules; nothing was started.
        ExperimentError: a run failed, and the others went on; or records cannot be written.
    """
    require_switches(save_model=save_model)
    output_dir = read_output_dir(output_dir)
    if "seed" in options:
        sentence = "each row is run with several; give seeds, such as [123, 124]"
        raise ConfigError([Problem("seed", sentence)])
    if isinstance(rows, str) and rows:
        names, problems = parse_rows(rows, SOURCE)
        if problems:
            raise ConfigError(problems)
    else:
        names = read_several("rows", rows, '[1, 2], or a text such as "1-5,16"')
    if None in names:
        sentence = "None is no row; use run_row for an experiment of its own"
        raise ConfigError([Problem("rows", sentence)])
    runs = _make_runs(names, read_several("seeds", seeds, "[123, 124]"), options)
    runs = sweep.order_runs(runs)
    require_writable(output_dir)
    if failed := sweep.run_sweep(runs, output_dir, _output(True, save_model)):
        raise ExperimentError(
            f"{count(len(failed), 'run')} of {len(runs)} failed: "
            f"{', '.join(run.name for run in failed)}. Their records say why."
        )
    config = runs[0].config
    return Results.read(output_dir, data_dir=config.data_dir, offline=config.offline)


def _make_runs(names: list[Any], seeds: list[Any], options: dict[str, Any]) -> list[Run]:
    """The runs of rows with options beside them. Raises ``ConfigError`` with every problem."""
    given, problems = read_options(options)
    problems += [
        Problem(
            f"row {shorten(name, form=repr)}",
            f"no such row; give a number from 1 to {len(SOURCE.rows)}",
        )
        for name in names
        if not (name is None or _is_row(name))
    ]
    found = [read_option("seed", seed) for seed in seeds]
    problems += [problem for _, problem in found if problem]
    seeds = list(dict.fromkeys(seed for seed, _ in found))
    if problems:
        raise ConfigError(problems)
    given = _without_own(names, given)
    beside = {name: given[name] for name in given if name in without("circumstance", "repeat")}
    choice = Choice(SOURCE, names, given, {}, None if names == [None] else beside)
    runs, problems = make_runs(choice, seeds, {})
    if problems:
        raise ConfigError(problems)
    return runs


def _is_row(name: Any) -> bool:
    """Whether it names a row: True is no 1."""
    return isinstance(name, Integral) and not isinstance(name, bool) and name in SOURCE.rows


def _without_own(names: list[Name | None], given: dict[str, Any]) -> dict[str, Any]:
    """Options, without those that all rows have. In Python one says False as easily as True, and
    what all rows have makes variants of none."""
    rows = [SOURCE.rows[name].config for name in names if name is not None]
    return {
        name: value
        for name, value in given.items()
        if not rows or any(getattr(config, name) != value for config in rows)
    }


def _flags_of(row: Name | None, run: Run, given: dict[str, Any]) -> dict[str, Any]:
    """What one types for a run. Python can switch off what a row has on, which no flag can: then it
    is typed without its row."""
    flags = {n: v for n, v in given.items() if v is not None and v is not False}
    if run.config.seed != OPTIONS["seed"].default:
        flags["seed"] = run.config.seed
    if configure(SOURCE.rows.get(row), flags) == run.config:
        return flags if row is None else {"rows": (str(row),), **flags}
    return typed_options(run.config)


def _output(resume: bool, save_model: bool) -> OutputOptions:
    every = EPOCH if resume or save_model else None
    return OutputOptions(resume=resume, save_model=save_model, checkpoint_every=every)
