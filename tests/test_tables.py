"""Tables as files: read or refused, written by --vary and --cross, kept, and reported on."""

import itertools
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.config.command_line import parse_command_line
from ablation.config.flag_types import Number, Text
from ablation.config.identity import identify
from ablation.config.kept_tables import format_table, keep_table, known_tables
from ablation.config.options import OPTIONS, ExperimentConfig
from ablation.config.rows import ROWS, SOURCE
from ablation.config.runs import Run
from ablation.config.table_files import fixed_because, read_table
from ablation.config.tables import Comparison, Published, Row, Table, differing, parse_rows
from ablation.config.variations import UNNAMED, count_rows, read_changes, vary
from ablation.sweeps.records import read_records
from ablation.sweeps.time_left import Clock
from ablation.system.errors import ConfigError, RecordError
from additional_experiments import main

pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")

TWO = """
title = "Two ways"
[[rows]]
name = "last"
question = "the reference"
flags = { trainable_token_pos = "last" }
published = { test = 95.0 }
[[rows]]
name = "own"
question = "its own?"
flags = { trainable_token_pos = "flexible" }
[[comparisons]]
question = "own against last"
rows = ["last", "own"]
"""


def table_of(folder: Path, text: str | bytes) -> Table:
    path = folder / "table.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path)


def problems_of(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as error:
        table_of(folder, text)
    return str(error.value)


# ---------------------------------------------------------------- files


def test_a_table_is_read(tmp_path: Path) -> None:
    table = table_of(tmp_path, TWO)
    assert table.title == "Two ways"
    assert list(table.rows) == ["last", "own"]
    assert table.rows["last"].config == ExperimentConfig()
    assert table.rows["own"].config == ExperimentConfig(trainable_token_pos="flexible")
    assert table.rows["last"].published == Published(test=95.0)
    assert table.comparisons == (Comparison("own against last", ("last", "own")),)


def test_what_all_rows_have_stands_once_and_a_row_may_differ(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        """
        flags = { model_size = "tiny", weights = "random", average_embeddings = true }
        [[rows]]
        name = 1
        [[rows]]
        name = "2"
        flags = { average_embeddings = false, learning_rate = "1e-3" }
        """,
    )
    assert table.title == "table", "that of the file"
    assert list(table.rows) == [1, 2]
    assert table.rows[1].config.average_embeddings
    assert table.rows[1].config.model_size == "gpt2-tiny (3M)"
    assert not table.rows[2].config.average_embeddings
    assert table.rows[2].config.learning_rate == 1e-3
    assert table.common_flags == {"model_size": "gpt2-tiny (3M)", "weights": "random"}
    assert [comparison.rows for comparison in table.comparisons] == [(1, 2)], "against the first"


ROW = '[[rows]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("title = ", ["not TOML", "line 1"]),
        ('title = "x"\n[[rows]\n', ["not TOML", "line 2"]),
        (b"title = '\xff'", ["not UTF-8, at byte 9"]),
        ("", ["no rows; begin each with [[rows]]"]),
        ("rows = 3", ["rows: begin each with [[rows]]"]),
        ("row = []", ["row: no such key", "title, source, flags, rows, comparisons"]),
        ("title = 3\n" + ROW, ["title: 3: not a text"]),
        (ROW + ROW, ['row "a": there are two of that name']),
        (ROW + '[[rows]]\nname = "b"', ['rows "a" and "b": they are the same experiment']),
        ("[[rows]]\nquestion = 'x'", ["row 1: name: None"]),
        *(
            (f"[[rows]]\nname = {name}", ["row 1: name:", "not all, list or a range"])
            for name in ('"1-5"', '"a,b"', '"all"', '""', '" a"', "1.5", "true", '"--x"', "12345")
        ),
        (ROW + "flags = { learning_rat = 1 }", ['row "a": learning_rat', '"learning_rate"?']),
        (
            ROW + "flags = { learning_rate = 0 }",
            ['row "a": --learning_rate 0.0: not a number above'],
        ),
        (ROW + "flags = { learning_rate = true }", ['row "a": learning_rate: not one value']),
        (ROW + "flags = { batch_size = [1, 2] }", ['row "a": batch_size: not one value']),
        (ROW + "flags = { no_padding = 1 }", ['row "a": no_padding: not a switch, true or false']),
        (ROW + "flags = { no_padding = true }", ['row "a": --no_padding with --batch_size 8']),
        (ROW + "flags = { lora_rank = 4 }", ['row "a": --lora_rank 4', "no LoRA layer"]),
        (ROW + "flags = { balance = true }", ['row "a": --balance: it is about texts of your own']),
        (ROW + 'flags = { model_size = "tiny" }', ['row "a": --weights pretrained with']),
        (ROW + "flags = { seed = 5 }", ['row "a": seed', "--seeds"]),
        (ROW + 'flags = { device = "cpu" }', ['row "a": device', "--device beside the table"]),
        (ROW + "flags = 3", ['row "a": 3: not of the form']),
        (ROW + "published = { test = 101 }", ['row "a": published test: not a number in percent']),
        (ROW + "published = { tests = 1 }", ['row "a": published: tests: no such key']),
        (
            ROW + '[[rows]]\nname = "b"\nflags = { demo = true }',
            ["demo: rows are compared on the same texts"],
        ),
        (TWO + '[[comparisons]]\nrows = ["last", "x"]', ['comparison 2: there is no row "x"']),
        (TWO + '[[comparisons]]\nrows = ["last"]', ["comparison 2: it needs the two rows"]),
        (TWO + '[[comparisons]]\nrows = ["last", "own"]', ["it is there twice"]),
        (TWO + '[[comparisons]]\nrows = ["own", "last"]', ["go round in a circle"]),
        (TWO + '[[comparisons]]\nrows = ["own", "own"]', ["go round in a circle", '"own"']),
        ("x = " + "[" * 100_000, ["not TOML"]),
        (b"\0", ["not TOML"]),
        (f"title = {'9' * 5000}", ["not TOML", "4300 digits"]),
        (f"[[rows]]\nname = 0x{'f' * 5000}", ["row 1: name: a number of thousands of digits"]),
        (
            f"{ROW}flags = {{ batch_size = 0x{'f' * 5000} }}",
            ['row "a": --batch_size a number of thousands of digits: not a whole number'],
        ),
        (f"title{'.a' * 5000} = 1", ["title: a value within thousands of others: not a text"]),
        (f"[[rows]]\nname{'.a' * 5000} = 1", ["row 1: name: a value within thousands of others"]),
        (f"title = 0x{'f' * 5000}", ["title: a number of thousands of digits: not a text"]),
        (
            f"{ROW}published = {{ test = 0x{'f' * 5000} }}",
            ["published test: not a number in percent"],
        ),
    ],
)
def test_what_is_no_table_is_refused(
    text: str | bytes, fragments: list[str], tmp_path: Path
) -> None:
    found = problems_of(tmp_path, text)
    for fragment in fragments:
        assert fragment in found
    assert "Traceback" not in found


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path,
        """
        [[rows]]
        name = "a"
        flags = { batch_size = 0, num_epoch = 3 }
        [[rows]]
        name = "b"
        flags = { lora_rank = 4 }
        """,
    ).splitlines()
    assert len(found) == 3
    assert ['row "a"' in line for line in found] == [True, True, False]
    assert 'row "b"' in found[2]


def test_files_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "large.toml").write_bytes(b"#" * (2**20 + 1))
    for path, words in {
        tmp_path / "none.toml": "no such file",
        tmp_path: "not a file",
        tmp_path / "large.toml": "more than 1,048,576 bytes",
        "x\0y": "null byte",
        "x" * 5000: "name is too long",
    }.items():
        assert main(["--table", str(path), "--dry_run"]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 3, "one problem"


# Quotes, line breaks, what TOML escapes, and any letters.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(title=TEXTS, question=TEXTS, dataset=TEXTS.filter(lambda text: text and "\0" not in text))
def test_a_table_is_written_as_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, title: str, question: str, dataset: str
) -> None:
    flags = {"dataset": dataset, "learning_rate": 1e-05, "drop_incomplete": True}
    rows = {
        "a b": Row("a b", question, flags, Published(minutes=0.5)),
        7: Row(7, "", {**flags, "max_steps": 3}),
    }
    table = Table(title or "x", rows, (Comparison(question, ("a b", 7)),), title)
    folder = tmp_path_factory.mktemp("tables")
    assert table_of(folder, format_table(table)) == table


def test_the_rows_of_the_source_are_a_table_like_others(tmp_path: Path) -> None:
    assert table_of(tmp_path, format_table(SOURCE)) == SOURCE


def test_rows_go_by_their_names(tmp_path: Path) -> None:
    rows = {name: Row(name, "", {"max_steps": i + 1}) for i, name in enumerate(["a b", "c", 3, 5])}
    table = Table("x", rows, ())
    assert parse_rows("a b, c", table) == (["a b", "c"], [])
    assert parse_rows("c 3", table) == (["c", 3], [])
    assert parse_rows("all", table) == (["a b", "c", 3, 5], [])
    _, problems = parse_rows("3-5", table)
    assert "no such row" in str(problems[0]), "there is no row 4"
    _, problems = parse_rows("d", table)
    assert 'give "a b", "c", "3", "5", or all' in problems[0].sentence


# ---------------------------------------------------------------- variations


def test_every_option_can_be_varied_or_says_why_not() -> None:
    """What cannot is what makes no other experiment, or chooses the texts."""
    others = {
        "weights": "random",
        "model_size": "gpt2-medium (355M)",
        "trainable_layers": "all",
        "context_length": 64,
        "precision": "bf16",
    }
    n_varied = 0
    for option in OPTIONS.values():
        if reason := fixed_because(option):
            changes, problems = read_changes([f"{option.name}=1"])
            assert not changes
            assert reason in problems[0].sentence
            continue
        match option.values:
            case None:
                value, text = True, "on"
            case Number(kind=kind):
                value = others.get(option.name) or kind(1.5 * (option.default or 8) + 1)
                text = str(value)
            case Text(names=names):
                value = others.get(option.name) or next(
                    (n for n in names if n != option.default), "other"
                )
                text = value
        changes, problems = read_changes([f"--{option.name}={text}"])
        assert (changes, problems) == ({option.name: [value]}, [])
        given = {"trainable_layers": "lora"} if "lora" in option.tags else {}
        given |= {"batch_size": 1} if option.name == "no_padding" else {}
        table, purpose = vary([UNNAMED], given, changes, crosses=False)
        base, changed = table.rows.values()
        assert differing(changed.config, base) == {option.name: value}
        assert purpose[changed.name] == {**given, option.name: value}
        assert [comparison.rows for comparison in table.comparisons] == [("base", changed.name)]
        assert changed.name.startswith(f"{option.name}=")
        n_varied += 1
    assert n_varied >= 20


def test_each_value_is_one_change_to_each_base() -> None:
    changes, _ = read_changes(["learning_rate=2e-5,5e-5,1e-4", "batch_size=4"])
    table, _ = vary([ROWS[1], ROWS[16]], {"weights": "random"}, changes, crosses=False)
    expected = {
        (position, rate, size)
        for position in ("last", "flexible")
        for rate, size in [(5e-5, 8), (2e-5, 8), (1e-4, 8), (5e-5, 4)]
    }
    configs = {name: row.config for name, row in table.rows.items()}
    found = {(c.trainable_token_pos, c.learning_rate, c.batch_size) for c in configs.values()}
    assert found == expected
    assert {config.weights for config in configs.values()} == {"random"}
    assert len(table.comparisons) == 6, "each against its own base, which has 5e-5 already"
    for question, (first, second) in table.comparisons:
        (changed,) = differing(configs[second], table.rows[first])
        assert question.startswith(changed)
    assert table.rows[1].published == Published(), "with other weights nothing is as published"
    assert vary([ROWS[1]], {}, changes, False)[0].rows[1].published == ROWS[1].published


def test_every_combination_once() -> None:
    changes, _ = read_changes(["learning_rate=2e-5,1e-4", "batch_size=4,16", "no_padding"])
    table, _ = vary([UNNAMED], {"batch_size": 1}, changes, crosses=True)
    found = {
        (row.config.learning_rate, row.config.batch_size, row.config.no_padding)
        for row in table.rows.values()
    }
    assert found == set(itertools.product((5e-5, 2e-5, 1e-4), (1, 4, 16), (False, True)))
    assert len(table.rows) == 18 == count_rows(1, changes, crosses=True)
    assert [c.rows[0] for c in table.comparisons] == ["base"] * 17
    assert parse_rows(",".join(map(str, table.rows)), table) == (list(table.rows), [])


def test_bases_that_are_changes_of_each_other_are_one_row() -> None:
    changes, _ = read_changes(["trainable_layers=last_block,all"])
    table, _ = vary([ROWS[1], ROWS[5]], {}, changes, crosses=False)
    assert list(table.rows) == [1, 5]
    assert [comparison.rows for comparison in table.comparisons] == [(1, 5)]


def test_a_default_is_a_value_where_the_demo_has_another(tmp_path: Path) -> None:
    request = parse_command_line(["--demo", "--vary", "learning_rate=5e-5,1e-3"])
    rates = {"base": 5e-4, "learning_rate=5e-05": 5e-5, "learning_rate=0.001": 1e-3}
    assert {n: row.config.learning_rate for n, row in request.table.rows.items()} == rates
    assert {run.config.learning_rate for run in request.runs} == {*rates.values()}
    assert table_of(tmp_path, format_table(request.table)) == request.table
    for row in request.table.rows.values():
        (run,) = parse_command_line(shlex.split(row.command)[2:]).runs
        assert identify(run.config) == identify(row.config)


def test_the_rates_of_a_table_are_those_of_its_demo() -> None:
    Path("mine.toml").write_text(format_table(two_rows("mine", 1e-3)))
    runs = parse_command_line(["--table", "mine.toml", "--demo"]).runs
    assert [run.config.learning_rate for run in runs] == [5e-4, 1e-3]
    assert {run.config.model_size for run in runs} == {"gpt2-tiny (3M)"}
    (run, _) = parse_command_line(["--table", "mine.toml", "--demo", "--learning_rate", "2"]).runs
    assert run.config.learning_rate == 2


@pytest.mark.parametrize(
    ("flags", "fragments"),
    [
        (
            ["--vary", "learning_rat=1"],
            ['learning_rat: no such option; did you mean "learning_rate"?'],
        ),
        (["--vary", "learning_rate=0"], ["--learning_rate 0.0: not a number above"]),
        (["--vary", "learning_rate="], ["--learning_rate"]),
        (["--vary", "learning_rate"], ["without values; give learning_rate=VALUE,VALUE"]),
        (["--vary", "x" * 9], ["no such option; docs/flags.md has all"]),
        (["--vary", "no_padding=maybe"], ['--no_padding "maybe": give on or off']),
        (["--vary", "no_padding"], ["row no_padding=on: --no_padding with --batch_size 8"]),
        (["--vary", "seed=1,2"], ["--seeds"]),
        (["--vary", "device=cpu"], ["--device beside the table"]),
        (["--vary", "test_fraction=0.1"], ["the same texts"]),
        (["--vary", "learning_rate=5e-5"], ["all values are those of the base already"]),
        (["--vary", "lora_rank=4"], ["no row would have it", "--trainable_layers lora"]),
        (["--vary", "batch_size=1", "batch_size=2"], ["batch_size is varied twice"]),
        (["--vary", "batch_size=1", "--vary", "batch_size=2"], ["batch_size is varied twice"]),
        (["--cross"], ["--cross without --vary"]),
        (["--yes"], ["--yes without --vary"]),
        (["--vary", "batch_size=4", "--table", "none.toml"], ["no such file"]),
        (["--vary", "batch_size=4", "--rows", "20"], ["no such row"]),
        (["--vary", "batch_size=4", "--report"], ["--vary with --report"]),
    ],
)
def test_what_cannot_be_varied_is_refused(
    flags: list[str], fragments: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main([*flags, "--weights", "random"]) == 2
    error = capsys.readouterr().err
    for fragment in fragments:
        assert fragment in error


def test_more_than_a_thousand_runs_are_confirmed(capsys: pytest.CaptureFixture) -> None:
    values = ",".join(map(str, range(1, 500)))
    cross = ["--vary", f"batch_size={values}", f"eval_iter={values}", f"eval_freq={values}"]
    assert main([*cross, "--cross", "--weights", "random"]) == 2
    assert "--vary: up to 125,000,000 runs; give" in capsys.readouterr().err
    few = ["--vary", "batch_size=4", "--num_seeds", "501", "--weights", "random", "--dry_run"]
    with pytest.raises(ConfigError, match="1,002 runs"):
        parse_command_line(few)
    assert len(parse_command_line([*few, "--yes"]).runs) == 1002
    own = ["--vary", "batch_size=4", "--folds", "501", "--weights", "random"]
    with pytest.raises(ConfigError, match="1,002 runs"):
        parse_command_line([*own, "--dataset", "examples/help_desk.csv", "--dry_run"])


# ---------------------------------------------------------------- from the command line


DEMO = ["--demo", "--max_steps", "2", "--eval_freq", "1"]


def test_the_plan_of_a_variation_is_a_table(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    flags = ["--rows", "1,16", "--vary", "batch_size=4", "--seeds", "5", "6", *DEMO]
    assert main([*flags, "--dry_run", "--output_dir", str(tmp_path / "runs")]) == 0
    plan = capsys.readouterr().out
    table = table_of(tmp_path, plan)
    asked = parse_command_line(flags)
    assert table == asked.table
    again = parse_command_line(["--table", str(tmp_path / "table.toml"), "--seeds", "5", "6"])
    assert [identify(run.config) for run in again.runs] == [
        identify(run.config) for run in asked.runs
    ]
    assert plan.count("# to do  python additional_experiments.py") == 8
    assert "# row 16:batch_size=4: batch_size 4 instead of 8" in plan
    assert "8 runs, 0 of them done" in plan
    assert "GFLOP/s, just measured" in plan


def test_a_table_is_run_kept_and_reported(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toml").write_text(TWO)
    flags = ["--table", "two.toml", "--output_dir", "runs", *DEMO]
    assert main([*flags, "--rows", "own"]) == 0
    assert "A variant of row own" in capsys.readouterr().err
    assert main([*flags, "--num_seeds", "2"]) == 0
    printed = capsys.readouterr()
    assert "own, seed 123" not in printed.out, "done already"
    assert "Variants: two ways with --demo" in printed.out
    records = read_records(tmp_path / "runs")
    assert sorted(record.folder.name.split("_")[0] for record in records) == [
        *["row-last"] * 2,
        *["row-own"] * 2,
    ]
    assert {record.result["table"] for record in records} == {"Two ways"}
    (tmp_path / "two.toml").unlink()
    assert main(["--report", "--output_dir", "runs"]) == 0
    report = (tmp_path / "runs" / "report.md").read_text()
    assert "own against last" in report
    assert "The rows" not in report, "nothing was run of these"
    assert main(["--compare", "last", "own", "--output_dir", "runs"]) == 0
    assert "with seeds 123, 124" in capsys.readouterr().out
    (kept,) = (tmp_path / "runs" / "tables").iterdir()
    kept.write_text("title = ")
    assert main(["--report", "--output_dir", "runs"]) == 0
    assert f"Skipped: {kept.relative_to(tmp_path)}: not TOML: " in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_of_two_tables_is_run_once_and_stands_in_both(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    flags = ["--output_dir", str(tmp_path), *DEMO]
    assert main(["--rows", "1,2", *flags]) == 0
    n_records = len(read_records(tmp_path))
    assert main(["--rows", "1", "--vary", "trainable_token_pos=first,flexible", *flags]) == 0
    assert len(read_records(tmp_path)) == n_records + 1
    report = (tmp_path / "report.md").read_text()
    assert "## Variants: the rows with --demo" in report
    assert "## Other values of trainable&#95;token&#95;pos, from 1" in report


def test_a_table_that_another_contains_is_left_out(tmp_path: Path) -> None:
    tables = [
        vary([UNNAMED], {}, {"batch_size": sizes}, crosses=False)[0] for sizes in ([4], [4, 16])
    ]
    for table in tables:
        keep_table(table, tmp_path)
    assert known_tables(tmp_path, SOURCE) == [SOURCE, tables[1]]


# ---------------------------------------------------------------- one folder, several tables


def test_names_that_are_cut_stay_different() -> None:
    words = ["trainable_layers=last_two_blocks", "trainable_token_pos=first", "average_embeddings"]
    changes, problems = read_changes([*words, "learning_rate=1e-4,2e-4,3e-4,4e-4"])
    assert problems == []
    table, _ = vary([UNNAMED], {"disable_causal_mask": True}, changes, crosses=True)
    assert len(table.rows) == 2 * 2 * 2 * 5 == len({str(row.config) for row in table.rows.values()})
    for question, (_, second) in table.comparisons:
        assert f"learning_rate {table.rows[second].config.learning_rate}" in question or (
            "learning_rate" not in question
        )


def two_rows(title: str, learning_rate: float, question: str = "b?") -> Table:
    row = Row("b", question, {"learning_rate": learning_rate})
    rows = {"a": Row("a", "", {}), "b": row}
    return Table(title, rows, (Comparison(question, ("a", "b")),))


def test_a_table_that_was_changed_replaces_its_earlier_version(tmp_path: Path) -> None:
    for question in ("first?", "second?", "third?"):
        keep_table(two_rows("mine", 1e-3, question), tmp_path)
    changed = two_rows("mine", 1e-4)
    keep_table(changed, tmp_path)
    assert known_tables(tmp_path, SOURCE) == [SOURCE, changed]


def test_a_table_with_names_of_its_own_stays_beside_a_larger_one(tmp_path: Path) -> None:
    mine = two_rows("mine", 1e-3)
    keep_table(mine, tmp_path)
    changes, _ = read_changes(["learning_rate=1e-3,1e-4"])
    keep_table(vary([UNNAMED], {}, changes, crosses=False)[0], tmp_path)
    assert mine in known_tables(tmp_path, SOURCE)


def test_variations_of_other_bases_do_not_replace_each_other(tmp_path: Path) -> None:
    changes, _ = read_changes(["batch_size=4"])
    for beside in ({}, {"weights": "random"}):
        keep_table(vary([ROWS[1]], beside, changes, crosses=False)[0], tmp_path)
    assert len(known_tables(tmp_path, SOURCE)) == 3


def test_rows_that_were_run_for_another_table_are_reported_when_asked_for(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    flags = [*DEMO, "--num_seeds", "2", "--output_dir", str(tmp_path)]
    assert main(["--vary", "trainable_token_pos=first", *flags]) == 0
    capsys.readouterr()
    assert main(["--rows", "1,2", *flags, "--fail_unless", "row 1 > row 2"]) in (0, 1, 3)
    printed = capsys.readouterr()
    assert "is done already" in printed.err
    assert "Variants: the rows with --demo" in printed.out
    assert "row 1 > row 2: " in printed.out
    assert "no complete runs" not in printed.out


def test_the_name_of_a_folder_is_short_whatever_the_row_is_called() -> None:
    name = "é😀" * 40
    run = Run(ExperimentConfig(), {}, Table("x", {name: Row(name, "", {})}, ()))
    assert len(run.name) < 120


def test_a_clock_scales_what_is_left_and_takes_runs_that_it_did_not_expect() -> None:
    clock = Clock({"a": 10.0, "b": 30.0, "c": 20.0, "d": 5.0})
    assert clock.left == "65 s"
    clock.end_run("a", 20.0)
    assert clock.left == "2 min", "twice as slow as expected: 2 * 55 s"
    clock.skip("b")
    assert clock.left == "50 s"
    clock.end_run("e", 0.0)
    assert clock.left == "50 s"


def test_a_table_with_the_title_of_the_source_is_a_table_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TWO.replace("Two ways", SOURCE.title))
    flags = ["--table", str(tmp_path / "two.toml"), "--output_dir", str(tmp_path / "runs"), *DEMO]
    assert main([*flags, "--rows", "own", "--seeds", "1", "2"]) == 0
    assert len(read_records(tmp_path / "runs")) == 2


def test_a_path_that_no_table_can_hold_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a\udcff.csv"
    path.write_text("Label,Text\n" + "a,x\nb,y\n" * 20)
    flags = ["--dataset", str(path), "--weights", "random", "--vary", "batch_size=4"]
    assert main(flags) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_table_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "tables").touch()
    with pytest.raises(RecordError, match=r"kept in .*tables .* choose another --output_dir"):
        keep_table(two_rows("mine", 1e-3, "why?"), tmp_path)
