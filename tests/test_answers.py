"""What a report answers beyond its pairs of rows, and what asks for it on the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import make_result

from ablation.config.command_line import parse_command_line
from ablation.config.expectations import Expectation
from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS, SOURCE
from ablation.config.runs import Run
from ablation.config.tables import configure
from ablation.finetuning.outcomes import LossRecord
from ablation.reports import folder_report
from ablation.reports.answers import answer_options, describe_plan, plan_section
from ablation.reports.findings import compare_rows
from ablation.reports.tables import Section, group_records
from ablation.reports.verdicts import judge_sections
from ablation.sweeps.records import read_records, write_complete
from ablation.system.errors import ConfigError
from additional_experiments import main

pytestmark = pytest.mark.usefixtures("plain_pictures")

DATA = {"name": "demo", "split_sha256": "0" * 64}
N_TEST = 300


def write_runs(
    folder: Path,
    row: int,
    counts: list[int],
    validation: int = 140,
    loss: float = 0.5,
    given: dict | None = None,
) -> list[Run]:
    """A run for each count of right test texts, from seed 123 on; the first texts are right."""
    runs = []
    for seed, count in enumerate(counts, start=123):
        labels = [i % 2 for i in range(N_TEST)]
        classes = [label if i < count else 1 - label for i, label in enumerate(labels)]
        result = make_result(labels, classes, validation=(validation, 149))
        result.history.losses[-1] = LossRecord(1, 50, 0.3, loss)
        runs.append(Run(replace(configure(ROWS[row], given or {}), seed=seed), given or {}))
        write_complete(folder, runs[-1], result, DATA)
    return runs


def section_of(folder: Path, number: int = 0) -> Section:
    return group_records(read_records(folder))[0][number]


# ---------------------------------------------------------------- options


def test_a_value_is_chosen_by_validation(tmp_path: Path) -> None:
    """Of the rows that read another position, the one that is best on validation."""
    write_runs(tmp_path, 1, [270, 276], validation=145)
    write_runs(tmp_path, 2, [290, 290], validation=140)
    write_runs(tmp_path, 16, [282, 285], validation=146)
    (line,) = answer_options(section_of(tmp_path))["choices"].to_dict("records")
    assert line["option"] == "trainable_token_pos"
    assert (line["values"], line["the first is row"]) == ("last, first, flexible", "1")
    assert (line["chosen"], line["its row"]) == ("flexible", "16")
    assert line["val %"].startswith("97.99")
    assert line["test %"].startswith("94.50")
    assert line["best of test"] == "first: 96.67"
    low, high = map(float, line["95 % interval"].split(" to "))
    assert low < 94.5 < high


def test_the_last_loss_breaks_a_tie(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [280], loss=0.4)
    write_runs(tmp_path, 17, [280], loss=0.3)
    (line,) = answer_options(section_of(tmp_path))["choices"].to_dict("records")
    assert (line["option"], line["chosen"]) == ("disable_causal_mask", "on (by loss)")
    assert line["values"] == "off, on"
    assert line["best of test"] == "off, on: 93.33"
    assert line["95 % interval"].endswith("(messages)")


def test_effects_are_those_over_two_contexts(tmp_path: Path) -> None:
    """Rows 1 and 8, and 5 and 9: the largest model with one block, and with all layers."""
    for row, count in ((1, 240), (5, 246), (8, 276), (9, 285)):
        write_runs(tmp_path, row, [count, count + 1, count + 2])
    effects = answer_options(section_of(tmp_path))["effects"].set_index("option")
    size = effects.loc["model_size"]
    assert (size["value"], size["against"]) == ("gpt2-xl (1558M)", "gpt2-small (124M)")
    assert (size["contexts"], size["seeds"]) == ("2", "3")
    assert size["difference"] == "+12.50"  # (36 + 39) / 2 of 300
    assert effects.loc["trainable_layers"]["difference"] == "+2.50"
    assert size["finding"] == "gpt2-xl (1558M) is better on average."


def test_rows_that_differ_in_more_than_one_option_say_nothing(tmp_path: Path) -> None:
    write_runs(tmp_path, 2, [240])
    write_runs(tmp_path, 5, [250])
    answers = answer_options(section_of(tmp_path))
    assert answers["effects"].empty
    assert answers["choices"].empty


# ---------------------------------------------------------------- plans


def test_a_plan_stands_where_a_comparison_is_open(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [240, 242, 244, 246])
    write_runs(tmp_path, 16, [290, 291, 292, 293])
    section = section_of(tmp_path)
    assert plan_section(section, compare_rows(section)) is None
    write_runs(tmp_path, 17, [243, 242, 245, 244])
    section = section_of(tmp_path)
    plan = plan_section(section, compare_rows(section))
    # Row 16 is decided, so it is nothing that the plan rests on.
    assert plan["rests_on"].startswith("From 4 seeds of rows 1, 17, which are too few")
    assert "a test accuracy of 81.1 %" in plan["rests_on"]
    assert "the first of 2 comparisons" in plan["says"]
    assert plan["table"].columns.tolist() == [
        "seeds",
        "1 point",
        "2 points",
        "3 points",
        "5 points",
    ]


def test_a_plan_from_one_seed_says_what_it_assumes(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [240])
    write_runs(tmp_path, 16, [290])
    section = section_of(tmp_path)
    rests_on = plan_section(section, compare_rows(section))["rests_on"]
    assert "From one seed of rows 1, 16" in rests_on
    assert "assumes the rest" in rests_on


@pytest.mark.slow
def test_a_plan_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--plan", "3", "--output_dir", str(tmp_path / "none")]) == 0
    printed = capsys.readouterr().out
    assert "this assumes a test accuracy of 95.0 %" in " ".join(printed.split())
    assert "3 points, first of 18" in printed
    assert not (tmp_path / "none").exists()
    write_runs(tmp_path, 1, [240, 245])
    write_runs(tmp_path, 16, [250, 255, 252])
    write_runs(tmp_path, 17, [150, 155, 152])
    assert main(["--plan", "3", "--rows", "1,16", "--output_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"From 2 to 3 seeds of rows 1, 16 in {tmp_path}" in " ".join(printed.split())
    assert "first of 2" in printed
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[-5:]] == ["2", "3", "5", "10", "20"]


def test_a_plan_counts_the_comparisons_of_the_rows_asked_for(tmp_path: Path) -> None:
    alone = describe_plan(2.0, tmp_path, [SOURCE], SOURCE, [1, 16])
    assert "first of" not in alone
    assert "first of 3" in describe_plan(2.0, tmp_path, [SOURCE], SOURCE, [1, 2, 16, 17])


def test_a_plan_from_runs_of_no_row(tmp_path: Path) -> None:
    for seed, count in enumerate((240, 250, 245)):
        labels = [i % 2 for i in range(N_TEST)]
        classes = [label if i < count else 1 - label for i, label in enumerate(labels)]
        run = Run(ExperimentConfig(num_epochs=7, seed=seed))
        write_complete(tmp_path, run, make_result(labels, classes), DATA)
    text = describe_plan(2.0, tmp_path, [SOURCE], SOURCE)
    assert text.startswith("Other configurations")
    assert "From 3 seeds of 1 configuration in" in " ".join(text.split())
    assert "a test accuracy of 81.7 %" in " ".join(text.split())


# ---------------------------------------------------------------- verdicts

UP = Expectation("16 > 1", "16", "1")


def test_all_sections_are_judged_or_those_of_the_runs(tmp_path: Path) -> None:
    for row, count in ((1, 240), (16, 290)):
        write_runs(tmp_path, row, [count, count + 1, count + 2, count])
    given = {"model_size": "gpt2-tiny (3M)"}
    runs = [
        *write_runs(tmp_path, 1, [240, 240], given=given),
        *write_runs(tmp_path, 16, [200, 280], given=given),
    ]
    sections, _ = group_records(read_records(tmp_path))
    assert [v.outcome for v in judge_sections([UP], sections)] == ["supported", "undecided"]
    assert [v.outcome for v in judge_sections([UP], sections, runs)] == ["undecided"]
    assert judge_sections([], sections) == []


@pytest.mark.parametrize(
    ("expressions", "status", "lines"),
    [
        (["row 16 > row 1"], 0, ["row 16 > row 1: supported. Row 16 minus row 1: +16.67 points"]),
        (["16 < 1"], 1, ["16 < 1: contradicted."]),
        (["17 > 1"], 3, ["17 > 1: undecided. Row 17 minus row 1"]),
        (["2 > 1"], 3, ["2 > 1: undecided. There are no complete runs"]),
        (["16 > 1", "17 > 1"], 3, ["16 > 1: supported", "17 > 1: undecided"]),
        (["17 > 1", "16 < 1", "16 > 1"], 1, ["17 > 1: undecided", "16 < 1: contradicted"]),
    ],
)
def test_the_exit_status_is_what_the_report_finds(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    expressions: list[str],
    status: int,
    lines: list[str],
) -> None:
    write_runs(tmp_path, 1, [240, 242, 244])
    write_runs(tmp_path, 16, [290, 292, 294])
    write_runs(tmp_path, 17, [241, 243, 242])
    sections = group_records(read_records(tmp_path))[0]
    summary = folder_report.Summary("the report", sections)
    monkeypatch.setattr(folder_report, "write_report", lambda *_: summary)
    arguments = ["--report", "--output_dir", str(tmp_path), "--fail_unless", *expressions]
    assert main(arguments) == status
    first, *printed = capsys.readouterr().out.splitlines()
    assert first == "the report"
    assert len(printed) == len(expressions)
    for line, expected in zip(printed, lines, strict=False):
        assert line.startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--plan", "0"], "--plan 0.0: not a number above 0"),
        (["--plan", "51"], "--plan 51.0: not a number above 0, up to 50"),
        (["--plan", "nan"], "--plan nan: not a number"),
        (["--plan", "two"], "--plan two: not a number"),
        (["--plan", "2", "--report"], "--report with --plan: give one of them"),
        (["--plan", "2", "--num_seeds", "5"], "--num_seeds with --plan: nothing is run"),
        (["--plan", "2", "--rows", "77"], "no such row"),
        (["--plan", "2", "--fail_unless", "16 > 1"], "--fail_unless with --plan: nothing is run"),
        (["--report", "--fail_unless", "row", "16"], '"row": cannot be read'),
        (["--report", "--fail_unless", "16 > 99"], 'the table has no row "99"'),
        (
            ["--report", "--fail_unless", "16 > 2"],
            "does not compare these rows; it compares",
        ),
        (["--rows", "1,16", "--fail_unless", "16 > 16"], "names one row twice"),
        (["--rows", "1", "--fail_unless", "16 > 1"], "--fail_unless with a single run"),
        (["--fail_unless", "16 > 1"], "--fail_unless with a single run"),
        (
            ["--rows", "1,16", "--dry_run", "--fail_unless", "16 > 1"],
            "--fail_unless with --dry_run",
        ),
        (["--compare", "1", "16", "--fail_unless", "16 > 1"], "--fail_unless with --compare"),
        (["--report", "--fail_unless"], "expected at least one argument"),
        (["--report", "--fail_unless", ""], "empty"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_command_line(arguments)
    assert problem in str(error.value)


def test_rows_of_a_variation_can_be_expected() -> None:
    arguments = ["--vary", "learning_rate=1e-4", "--num_seeds", "2", "--fail_unless"]
    request = parse_command_line([*arguments, "learning_rate=0.0001 > base"])
    (expectation,) = request.expectations
    assert (expectation.better, expectation.worse) == ("learning_rate=0.0001", "base")
    with pytest.raises(ConfigError, match="no row"):
        parse_command_line([*arguments, "learning_rate=0.0002 > base"])


def test_rows_of_a_table_beside_it(tmp_path: Path) -> None:
    """A pair that the table does not compare is refused before anything runs."""
    path = tmp_path / "table.toml"
    rows = "".join(
        f'[[rows]]\nname = "{n}"\nflags = {{ num_epochs = {i} }}\n' for i, n in enumerate("abc", 1)
    )
    path.write_text(f'title = "three"\n{rows}')
    arguments = ["--table", str(path), "--num_seeds", "2", "--fail_unless"]
    assert parse_command_line([*arguments, "b > a", "a > c"]).expectations[1].worse == "c"
    with pytest.raises(ConfigError, match="does not compare"):
        parse_command_line([*arguments, "b > c"])
