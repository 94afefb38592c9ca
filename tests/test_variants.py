"""What a run says at its end of the figures that were published for its row."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import make_result

from ablation.config.command_line import parse_command_line
from ablation.data.demo import demo_messages
from ablation.data.sms import split_messages
from ablation.reports.folder_report import Summary
from ablation.sweeps import sweep
from ablation.sweeps.records import RESULT_NAME
from ablation.sweeps.variants import compare_with_published
from additional_experiments import main
from data_utils import Corpus

pytestmark = pytest.mark.usefixtures("plain_pictures")

VARIANT = "A variant of row {} ({}): its published {} % does not apply"


@pytest.mark.parametrize(
    ("flags", "correct", "sentence"),
    [
        (["--rows", "16"], 294, "Row 16: test 98.00 % here, 98.33 % published: one message apart"),
        (["--rows", "16"], 296, "Row 16: test 98.67 % here, 98.33 % published: one message apart"),
        (["--trainable_token_pos", "flexible"], 295, "Row 16: test 98.33 %, as published"),
        ([], 300, "Row 1: test 100.00 % here, 95.00 % published: 15 messages apart"),
        (["--rows", "3"], 0, "Row 3: test 0.00 % here, 72.00 % published: 216 messages apart"),
        (["--rows", "8", "--device", "cpu"], 295, "Row 8: test 98.33 %, as published"),
        (["--seed", "7"], 285, "Row 1, seed 7: test 95.00 %, as published"),
        (["--rows", "11", "--lora_rank", "4"], 290, VARIANT.format(11, "--lora_rank 4", "96.67")),
        (
            ["--rows", "3", "--trainable_token_pos", "first"],  # as near to row 2
            290,
            VARIANT.format(3, "--trainable_token_pos first", "72.00"),
        ),
        (["--max_steps", "5"], 150, VARIANT.format(1, "--max_steps 5", "95.00")),
        (
            ["--rows", "16", "--max_steps", "650"],
            295,
            VARIANT.format(16, "--max_steps 650", "98.33"),
        ),
        (["--weights", "random"], 270, VARIANT.format(1, "--weights random", "95.00")),
        (["--rows", "5", "--weights", "random"], 281, "Row 10: test 93.67 %, as published"),
        (
            ["--trainable_layers", "all", "--weights", "random", "--num_epochs", "1"],
            270,
            VARIANT.format(10, "--num_epochs 1", "93.67"),
        ),
        (["--demo"], 100, None),
        (["--rows", "16", "--demo"], 100, None),
        (["--rows", "16", "--dataset", __file__], 100, None),
    ],
)
def test_the_sentence(flags: list[str], correct: int, sentence: str | None) -> None:
    (run,) = parse_command_line([*flags, "--dry_run"]).runs
    assert compare_with_published(run, correct, 300) == sentence


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every run gets 294 of 300 messages right."""
    result = make_result([0] * 300, [1] * 6 + [0] * 294)
    corpus = Corpus(split_messages(demo_messages()), ("ham", "spam"), "messages", None)
    monkeypatch.setattr(sweep, "SharedWork", lambda configs: SimpleNamespace(corpus=corpus))
    monkeypatch.setattr(sweep, "run_experiment", lambda *_: result)
    monkeypatch.setattr(
        "ablation.reports.folder_report.write_report", lambda *_: Summary("Report", [])
    )


def test_a_run_says_it_once_at_its_end(results: None, capsys: pytest.CaptureFixture) -> None:
    flags = ["--rows", "16", "--weights_dir", ".", "--offline", "--resume"]
    for _ in range(2):
        assert main(flags) == 0
        out, err = capsys.readouterr()
        assert err.count("98.33 %") == 1
        record, accuracy, published, *_ = err.splitlines()[-7:]
        assert record.startswith("Record")
        assert accuracy == (
            "Row 16: 98.00 % of 300 test messages right (95 % interval: 95.7 to 99.3)."
        )
        assert published == "Published: 98.33 %, one message more."
        assert "ublished" not in out
        assert len(list(Path("runs").glob(f"*/{RESULT_NAME}"))) == 1
    assert record.startswith("Record, complete already: ")


def test_each_run_of_a_sweep_says_it(results: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["--rows", "1,16", "--seeds", "123", "4"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "published" in line]
    assert said == [
        "Row 1: test 98.00 % here, 95.00 % published: 9 messages apart",
        "Row 1, seed 4: test 98.00 % here, 95.00 % published: 9 messages apart",
        "Row 16: test 98.00 % here, 98.33 % published: one message apart",
        "Row 16, seed 4: test 98.00 % here, 98.33 % published: one message apart",
    ]


def test_a_run_that_is_no_row_says_its_command_first(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "experiments")
    command = "python additional_experiments.py --weights random"
    parse_command_line(["--weights", "random"])
    assert caplog.messages == [f"Running: {command}"]
    parse_command_line(["--rows", "2", "--weights", "random"])
    variant = "A variant of row 2, not the row, because of --weights random"
    assert caplog.messages[1:] == [variant]
    parse_command_line(["--demo"])
    assert len(caplog.messages) == 2
