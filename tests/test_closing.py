"""What a single run says at its end, and --open."""

import logging
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import make_result
from scipy import stats

from ablation.config.command_line import parse_command_line
from ablation.config.runs import Run
from ablation.data.demo import demo_messages
from ablation.data.sms import split_messages
from ablation.reports.folder_report import Summary
from ablation.sweeps import sweep
from ablation.sweeps.closing import closing_lines, next_commands
from ablation.sweeps.records import read_record, write_complete
from additional_experiments import main
from data_utils import Corpus

ROOT = Path(__file__).parent.parent
SCRIPT = "python additional_experiments.py"
N_RIGHT = 268
DATA = {"name": "messages", "file_sha256": None, "split_sha256": "0" * 64}


def record(flags: list[str]) -> Run:
    """A run that came to its end, and got 268 of 300 right: 150 of "ham", and 150 of "spam"."""
    (run,) = parse_command_line([*flags, "--dry_run"]).runs
    labels = [0] * 150 + [1] * 150
    result = make_result(labels, [1] * 32 + labels[32:])
    data = {**DATA, "file_sha256": "1" * 64 if run.config.dataset else None}
    write_complete(Path("runs"), run, result, data)
    return run


def closing(flags: list[str], *before: list[str]) -> list[str]:
    """The last lines of a run, with others recorded before it."""
    for others in before:
        record(others)
    run = record(flags)
    given = parse_command_line([*flags, "--dry_run"]).flags
    del given["dry_run"]
    folder = run.folder(Path("runs"))
    return closing_lines(run, read_record(folder), Path("runs"), given)


def test_a_row() -> None:
    assert closing(["--rows", "16"]) == [
        "Row 16: 89.33 % of 300 test messages right (95 % interval: 85.3 to 92.6).",
        "Published: 98.33 %, 27 messages more.",
        "Next:",
        f"  row 1 (the reference)  {SCRIPT} --rows 1",
        f"  all runs on a page     {SCRIPT} --report --open",
        f"  a model to use         {SCRIPT} --rows 16 --save_model",
    ]
    test = stats.binomtest(N_RIGHT, 300).proportion_ci(0.95, "exact")
    assert (f"{100 * test.low:.1f}", f"{100 * test.high:.1f}") == ("85.3", "92.6")


def test_a_variant_keeps_its_flags() -> None:
    flags = ["--rows", "16", "--weights", "random", "--seed", "7", "--output_dir", "my runs"]
    assert closing([*flags, "--resume", "--data_dir", "d"]) == [
        "Row 16 with --weights random, seed 7: 89.33 % of 300 test messages right (95 % interval: "
        "85.3 to 92.6).",
        "The published 98.33 % of row 16 does not apply, because of --weights random.",
        "Next:",
        f"  row 1 (the reference)  {SCRIPT} --rows 1 --weights random --data_dir d --seed 7 "
        '--output_dir "my runs"',
        f'  all runs on a page     {SCRIPT} --report --open --output_dir "my runs" --data_dir d',
        f'  a model to use         {SCRIPT} --rows 16 --output_dir "my runs" --weights random '
        "--data_dir d --seed 7 --save_model",
    ]


def test_own_data() -> None:
    own = ["--dataset", str(ROOT / "examples" / "help_desk.csv"), "--model_size", "tiny"]
    flags = [*own, "--text_column", "message", "--label_column", "topic", "--weights", "random"]
    typed = shlex.join(["--model_size", "gpt2-tiny (3M)"]).replace("'", '"')
    typed = f"{typed} --weights random {shlex.join(own[:2])} --text_column message"
    lines = closing(flags)
    assert lines[:5] == [
        "This run: 89.33 % of 300 test texts right (95 % interval: 85.3 to 92.6).",
        'Always saying "ham" would get 50.00 % right.',
        "Next:",
        f"  how much is chance  {SCRIPT} {typed} --label_column topic --num_seeds 5",
        f"  all runs on a page  {SCRIPT} --report --open",
    ]
    rows = closing([*flags, "--rows", "16"])
    assert rows[3].endswith(f"  {SCRIPT} --rows 2 {typed} --label_column topic"), "1 is there"


def test_the_demo_and_a_kept_model() -> None:
    (run,) = parse_command_line(["--demo", "--dry_run"]).runs
    folder = run.folder(Path("runs"))
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    lines = closing(["--demo", "--save_model"])
    assert lines[0].startswith("This run: 89.33 % of 300 test messages right")
    assert lines[3:] == [
        f"  row 2 (first or last token?)  {SCRIPT} --rows 2 --demo --save_model",
        f"  all runs on a page            {SCRIPT} --report --open --output_dir runs",
        f'  the model at work             python predict.py {folder} "a text of yours"',
    ]


def next_row(*arguments: list[str]) -> str:
    return closing(*arguments)[3].split(SCRIPT)[1].strip()


def test_the_next_row_is_a_neighbour_that_is_not_there_yet() -> None:
    one = ["--rows", "1", "--weights", "random"]
    assert next_row(one) == "--rows 2 --weights random"
    assert next_row(one, ["--rows", "2", "--weights", "random"]) == "--rows 3 --weights random"
    assert next_row(["--rows", "12"]) == "--rows 9", "the row that it is compared with"
    assert next_row(["--rows", "12"], ["--rows", "9"]) == "--rows 1", "which is no neighbour"
    assert next_row(["--trainable_layers", "all"]) == "--rows 1", "row 5 by its flags"
    tiny = ["--rows", "6", "--model_size", "tiny", "--weights", "random"]
    typed = '--model_size "gpt2-tiny (3M)" --weights random'
    assert next_row(tiny) == f"--rows 2 {typed}", "row 1 is the same with it"


def test_the_rows_of_a_table() -> None:
    path = str(ROOT / "examples" / "three_ways_to_read.toml")
    table = Path(path).read_text().replace("examples/", f"{ROOT}/examples/")
    Path("t.toml").write_text(table)
    flags = ["--table", "t.toml", "--rows"]
    first, second, third = list(parse_command_line([*flags[:2], "--dry_run"]).table.rows)
    assert next_row([*flags, second]) == f"--rows {first} --table t.toml"
    assert next_row([*flags, second], [*flags, first]) == f"--rows {third} --table t.toml"
    lines = closing([*flags, third])
    assert lines[3] == f"  how much is chance  {SCRIPT} --rows {third} --table t.toml --num_seeds 5"
    assert lines[0].startswith(f"Row {third}: 89.33 % of 300 test texts right")


OWN_DATA = ["--dataset", str(ROOT / "examples" / "help_desk.csv"), "--text_column", "message"]
OWN_DATA += ["--label_column", "topic"]
TINY = ["--model_size", "tiny", "--weights", "random"]
OWN_TABLE = f"""
title = "of my own"
[[rows]]
name = "both as they are"
question = "what?"
flags = {{ dataset = "{OWN_DATA[1]}", text_column = "message", label_column = "topic" }}
[[rows]]
name = "LoRA"
question = "LoRA?"
[rows.flags]
dataset = "{OWN_DATA[1]}"
text_column = "message"
label_column = "topic"
trainable_layers = "lora"
weights = "random"
"""


@pytest.mark.parametrize(
    "flags",
    [
        *([*TINY, "--rows", str(row)] for row in range(1, 20)),
        *(["--demo", "--rows", str(row)] for row in range(1, 20)),
        *([*TINY, *OWN_DATA, "--rows", str(row)] for row in range(1, 20)),
        *([*TINY, "--lora_rank", "4", "--rows", row] for row in ("11", "12")),
        [*TINY, "--trainable_layers", "all"],
        [*TINY, "--table", "t.toml", "--rows", "both as they are"],
        [*TINY, "--table", "t.toml", "--rows", "LoRA", "--lora_rank", "4"],
        ["--demo"],
    ],
    ids=" ".join,
)
def test_what_is_offered_can_be_run(flags: list[str]) -> None:
    Path("t.toml").write_text(OWN_TABLE)
    request = parse_command_line(flags)
    (run,) = request.runs
    commands = next_commands(run, Path("runs/one"), Path("runs"), request.flags)
    assert next(iter(commands)).startswith("row ")
    for command in commands.values():
        following = parse_command_line(shlex.split(command.removeprefix(SCRIPT)))
        for other in following.runs:
            kept = ("model_size", "weights", "demo", "dataset", "text_column")
            for name in request.flags.keys() & {*kept}:
                assert getattr(other.config, name) == getattr(run.config, name), command


def test_what_has_no_use_beside_a_row_is_left_out() -> None:
    assert next_row(["--rows", "11", "--lora_rank", "4"]) == "--rows 5", "it has no LoRA"
    assert next_row(["--rows", "12", "--lora_rank", "4"], ["--rows", "9"]) == "--rows 1"


def test_a_damaged_neighbour_is_not_done() -> None:
    neighbour = record(["--rows", "1"]).folder(Path("runs")) / "result.json"
    neighbour.write_text("[" * 100_000)
    assert f"  row 1 (the reference)  {SCRIPT} --rows 1" in closing(["--rows", "16"])


def test_what_cannot_be_said_never_costs_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run_and_lose(run: Run, output_dir: Path, **_: object) -> None:
        (record(["--rows", "16"]).folder(output_dir) / "predictions.csv").unlink()

    monkeypatch.setattr(sweep, "run_and_record", run_and_lose)
    assert main(["--rows", "16"]) == 0
    assert caplog.messages[-1].startswith("What came out cannot be said here: ")
    assert caplog.messages[-1].endswith("predictions.csv: there is no such file")


# ---------------------------------------------------------------- --open


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are opened; reports are written already."""
    addresses: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: addresses.append(address) or True)
    monkeypatch.setattr(
        "ablation.reports.folder_report.write_report", lambda *_: Summary("Report", [])
    )
    result = make_result([0] * 300, [1] * 6 + [0] * 294)
    corpus = Corpus(split_messages(demo_messages()), ("ham", "spam"), "messages", None)
    monkeypatch.setattr(sweep, "SharedWork", lambda configs: SimpleNamespace(corpus=corpus))
    monkeypatch.setattr(sweep, "run_experiment", lambda *_: result)
    return addresses


def test_the_page_is_opened(opened: list[str]) -> None:
    assert main(["--report", "--output_dir", "a b"]) == 0
    assert opened == []
    assert main(["--report", "--open", "--output_dir", "a b"]) == 0
    page = (Path.cwd() / "a b" / "report.html").as_uri()
    assert opened == [page]
    assert page.startswith("file:///")
    assert page.endswith("a%20b/report.html")
    assert main(["--rows", "1,2", "--open", "--demo"]) == 0
    assert opened[1:] == [(Path.cwd() / "runs" / "demo" / "report.html").as_uri()]


def test_without_a_browser_it_says_where_the_page_is(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "experiments")

    def fail(address: str) -> bool:
        raise OSError("no display")

    for broken in (lambda address: False, fail):
        monkeypatch.setattr("webbrowser.open", broken)
        assert main(["--report", "--open"]) == 0
        page = Path.cwd() / "runs" / "report.html"
        assert caplog.messages[-1] == f"No browser could be opened. The page is {page}"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--open"], "--open with a single run: no page is written; give --rows, or --report"),
        (["--rows", "1,2", "--open", "--dry_run"], "--open with --dry_run: nothing is run"),
        (["--compare", "1", "2", "--open"], "--open with --compare: nothing is run"),
    ],
)
def test_open_needs_a_page(
    flags: list[str], problem: str, opened: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main(flags) == 2
    assert problem in capsys.readouterr().err
    assert opened == []
