"""--folds: the same runs on K splits, taken together as one that tested every text."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablation.config.command_line import parse_command_line
from ablation.config.rows import SOURCE
from ablation.reports.answers import describe_plan
from ablation.reports.compare_runs import compare_runs
from ablation.reports.folder_report import write_report
from ablation.reports.folds import compare_folds
from ablation.reports.pooling import pool_records
from ablation.reports.tables import group_records
from ablation.sweeps.records import read_records
from ablation.system.errors import ConfigError, RecordError
from additional_experiments import main

pytestmark = pytest.mark.usefixtures("plain_pictures")

CLASSES = {"red": "apple berry cherry", "green": "leaf grass moss", "blue": "sea sky ink"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 1 and 2 with two seeds on three folds of 45 texts."""
    folder = tmp_path_factory.mktemp("folds")
    texts = [
        {"Label": label, "Text": f"{word} {number}"}
        for label, words in CLASSES.items()
        for number, word in enumerate(words.split() * 5)
    ]
    pd.DataFrame(texts).to_csv(folder / "colours.csv", index=False)
    flags = f"--dataset {folder}/colours.csv --model_size tiny --weights random --max_steps 2"
    flags += f" --output_dir {folder}/runs --rows 1,2 --num_seeds 2 --folds 3"
    assert main(flags.split()) == 0
    return folder / "runs"


def test_every_text_is_tested_once_with_each_seed(folder: Path) -> None:
    records = read_records(folder)
    assert len(records) == 12
    pooled = pool_records(records)
    assert len(pooled) == 4
    for record in pooled:
        parts = [
            other
            for fold in ("1/3", "2/3", "3/3")
            for other in records
            if (other.config.fold, other.config.seed) == (fold, record.config.seed)
            and other.config.trainable_token_pos == record.config.trainable_token_pos
        ]
        rows = [row for part in parts for row in part.predictions["row"]]
        assert sorted(rows) == list(range(2, 47)), "all lines of the file behind its first"
        assert record.predictions["row"].tolist() == rows
        assert record.predictions["fold"].tolist() == [1] * 15 + [2] * 15 + [3] * 15
        correct = np.concatenate([part.correct for part in parts])
        assert record.correct.tolist() == correct.tolist()
        assert record.accuracy("test").correct == correct.sum()
        assert record.accuracy("test").total == 45
        assert record.accuracy("train").total == sum(p.accuracy("train").total for p in parts)
        assert record.minutes == pytest.approx(np.mean([part.minutes for part in parts]))
        confusion = sum(np.array(part.result["test"]["confusion"]) for part in parts)
        assert record.result["test"]["confusion"] == confusion.tolist()
        assert record.config.fold is None


def test_a_report_compares_over_folds(folder: Path) -> None:
    report = write_report(folder, folder, tables=[SOURCE])
    (section,) = (part for part in report.sections if part.configurations)
    a, b = section.configurations[1], section.configurations[2]
    assert (a.seeds, a.correct.shape) == ([123, 124], (2, 45))
    expected = compare_folds(a.correct, b.correct, np.repeat([1, 2, 3], 15))
    page = (folder / "report.md").read_text()
    assert f"| {expected.points:+.2f} | {expected.low:+.2f} to {expected.high:+.2f} |" in page
    assert "over folds, over texts, and over folds and seeds" in page
    assert "Single runs that differ" not in page
    assert "What it would take to say more" not in page
    words = compare_runs("1", "2", folder)
    assert "of 45 test messages with seeds 123, 124" in words
    assert f"B minus A: {expected.points:+.2f} points" in words
    assert "McNemar" not in words


def test_groups_are_told_once_for_each_fold(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Where runs load the texts; the report reads them again."""
    rows = [f"{'ab'[i % 2]},text {i},g{i // 4}" for i in range(80)]
    (tmp_path / "a.csv").write_text("\n".join(["Label,Text,who", *rows]))
    flags = f"--dataset {tmp_path}/a.csv --group_column who --model_size tiny --weights random"
    flags += f" --rows 1 --folds 2 --max_steps 1 --output_dir {tmp_path}/runs"
    assert main(flags.split()) == 0
    err = capsys.readouterr().err
    assert err.count('20 groups of "who"') == 2
    assert all(f'Fold {fold}/2: 20 groups of "who"' in err for fold in (1, 2))


def test_one_seed_on_several_folds_is_a_comparison_of_configurations(folder: Path) -> None:
    records = [r for r in pool_records(read_records(folder)) if r.config.seed == 123]
    (section,) = (part for part in group_records(records)[0] if part.configurations)
    assert "(messages)" not in section.configurations[1].shown_interval
    a, b = (section.configurations[row].correct for row in (1, 2))
    assert not compare_folds(a, b, section.fold).is_of_runs


def test_a_plan_takes_only_the_accuracy_from_folds(folder: Path) -> None:
    """A seed's accuracy over folds is a mean over models, so it says little of how runs vary."""
    (section,) = (part for part in group_records(pool_records(read_records(folder)))[0][1:])
    accuracy = np.mean([part.correct.mean() for part in section.configurations.values()])
    plan = " ".join(describe_plan(5.0, folder, [SOURCE], SOURCE).split())
    assert "whose runs are on folds: this takes their accuracy" in plan
    assert f"a test accuracy of {100 * accuracy:.1f} %" in plan


def test_runs_that_lack_a_fold_are_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = read_records(folder)
    lost = next(r for r in records if r.config.fold == "2/3" and r.config.seed == 124)
    pooled = pool_records([record for record in records if record is not lost])
    assert len(pooled) == 3
    assert "lacks fold 2 of 3" in caplog.text
    assert "--seed 124" in caplog.text


def test_runs_of_different_folds_are_not_compared_text_by_text(folder: Path) -> None:
    names = {record.config.fold: record.folder.name for record in read_records(folder)}
    with pytest.raises(RecordError, match="no test text in common"):
        compare_runs(names["1/3"], names["2/3"], folder)


@pytest.mark.slow
def test_folds_and_other_splits_do_not_share_a_table(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = json.loads(next(folder.glob("*/result.json")).read_text())["flags"]
    command = ["--dataset", flags["dataset"], "--model_size", "tiny", "--weights", "random"]
    command += ["--rows", "1", "--num_seeds", "2", "--max_steps", "2", "--output_dir", str(folder)]
    for way in (["--folds", "4"], [], ["--folds", "3", "--val_fraction", "0.2"]):
        assert main([*command, *way]) == 1
        assert "another split" in capsys.readouterr().err
    assert main([*command, "--folds", "3", "--dry_run"]) == 0
    assert "6 runs, 6 of them done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("--folds 3", "--folds without --dataset"),
        ("--folds 1 --dataset examples/help_desk.csv", "--folds 1: not a whole number from 2"),
        ("--folds 3 --fold 1/3 --dataset examples/help_desk.csv", "--folds with --fold"),
        ("--folds 3 --test_fraction 0.1 --dataset examples/help_desk.csv", "--test_fraction out"),
        ("--vary fold=1/3,2/3 --dataset examples/help_desk.csv", "give --seeds, --num_seeds or"),
    ],
)
def test_folds_that_make_no_sense_are_refused(flags: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_command_line([*flags.split(), "--weights", "random"])
    assert problem in str(error.value)


def test_what_leaves_the_test_rows_alone_can_be_varied(tmp_path: Path) -> None:
    """Other columns, and a balanced training part: the same rows are tested, by other texts."""
    table = pd.DataFrame(
        {
            "Label": ["a", "b", "b"] * 20,
            "Text": [f"one {i}" for i in range(60)],
            "other": [f"other {i % 3}" for i in range(60)],
        }
    )
    table.to_csv(tmp_path / "own.csv", index=False)
    flags = f"--dataset {tmp_path}/own.csv --model_size tiny --weights random --max_steps 4"
    flags += f" --output_dir {tmp_path}/runs --batch_size 4 --vary balance text_column=other"
    assert main(flags.split()) == 0
    base, *others = sorted(
        read_records(tmp_path / "runs"), key=lambda r: (r.config.balance, r.config.text_column)
    )
    assert len(others) == 2
    for record in others:
        assert record.predictions["row"].tolist() == base.predictions["row"].tolist()
    assert others[1].accuracy("train").total < base.accuracy("train").total, "balanced"
    assert others[0].predictions["probability"].tolist() != base.predictions["probability"].tolist()
    report = (tmp_path / "runs" / "report.md").read_text()
    assert "| base, balance=on | balance on instead of off |" in report
    assert "| base, text&#95;column=other |" in report


@pytest.mark.slow
def test_columns_that_lack_texts_do_not_share_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [f"{label},text {i},{'' if i == 7 else 'x'}" for i in range(20) for label in "ab"]
    (tmp_path / "own.csv").write_text("\n".join(["Label,Text,other", *rows]))
    flags = f"--dataset {tmp_path}/own.csv --model_size tiny --weights random --max_steps 2"
    flags += f" --drop_incomplete --output_dir {tmp_path}/runs --vary text_column=other"
    assert main(flags.split()) == 1
    assert "one of their --text_column is empty" in capsys.readouterr().err
