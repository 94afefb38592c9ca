"""``--compare``: two runs, or two rows with all seeds that both have."""

from pathlib import Path

import numpy as np
import pytest
from test_report import DATA, write_runs

from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.reports.compare_runs import compare_runs
from ablation.reports.comparisons import compare, mcnemar
from ablation.sweeps.records import read_records, write_incomplete
from ablation.system.errors import RecordError
from additional_experiments import main

VARIANT = {"model_size": "gpt2-tiny (3M)", "weights": "random"}


def folders(folder: Path) -> dict[tuple[int, int], str]:
    """The names of the records' folders by row and seed."""
    return {(r.result["row"], r.config.seed): r.folder.name for r in read_records(folder)}


def test_two_runs(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285])
    write_runs(tmp_path, 2, [277])
    write_incomplete(tmp_path, Run(ROWS[3].config), "failed", "no luck")
    a, b, failed = sorted(read_records(tmp_path), key=lambda record: record.result["row"])
    text = compare_runs(a.folder.name, str(b.folder), tmp_path)
    assert "A: 95.00% of 300 test messages, python additional_experiments.py\n" in text
    assert "Only A is right on 8 messages, only B on 0." in text
    found = compare(a.correct[None], b.correct[None])
    assert (
        f"B minus A: -2.67 points, 95 % interval {found.low:+.2f} to {found.high:+.2f} (messages), "
        f"for these two runs on other messages; exact McNemar p = "
        f"{mcnemar(a.correct, b.correct):.3f}."
    ) in text
    assert text.endswith(
        "The two runs differ. Single runs that differ by fewer than 6 of 300 test texts (2.00 "
        "points) can never be told apart."
    )
    with pytest.raises(RecordError, match="no luck"):
        compare_runs(a.folder.name, failed.folder.name, tmp_path)
    alike = compare_runs(a.folder.name, a.folder.name, tmp_path)
    assert "The two runs cannot be told apart. A difference of 2.0 points would" in alike


@pytest.mark.parametrize("word", ["row-99", "20", "0", "-1", "1" * 5000, "x" * 5000, "\0", ""])
def test_what_is_neither_row_nor_run_is_named(tmp_path: Path, word: str) -> None:
    write_runs(tmp_path, 1, [285])
    with pytest.raises(
        RecordError, match=r"neither a run's folder .* nor a row; give numbers from 1 to 19"
    ):
        compare_runs("1", word, tmp_path)


def test_rows_have_all_seeds_that_both_have(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285, 280, 290, 200])
    write_runs(tmp_path, 16, [295, 294, 296])
    text = compare_runs("1", "16", tmp_path)
    assert "A: 95.00 ± 1.67% of 300 test messages with seeds 123, 124, 125, python" in text
    assert "B: 98.33 ± 0.33% of 300 test messages with seeds 123, 124, 125, python" in text
    assert "--trainable_token_pos flexible\n" in text
    index = np.arange(300)
    a, b = (np.stack([index < k for k in counts]) for counts in ([285, 280, 290], [295, 294, 296]))
    found = compare(a, b)
    assert f"B minus A: +3.33 points, 95 % interval {found.low:+.2f} to {found.high:+.2f};" in text
    assert f"p = {found.p:.3f}, the largest of t-tests" in text
    assert ("B is better." in text) == (found.p < 0.05)
    assert "McNemar p by seed: 0.002, < 0.001, 0.031." in text


def test_a_row_that_is_worse(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285, 284, 286])
    write_runs(tmp_path, 2, [225, 226, 224])
    assert "B is worse." in compare_runs("1", "2", tmp_path)
    assert "B is better." in compare_runs("2", "1", tmp_path)


def test_one_common_seed_is_two_runs(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285, 280])
    write_runs(tmp_path, 2, [277])
    text = compare_runs("1", "2", tmp_path)
    assert "The two runs differ." in text
    assert "-2.67 points" in text


def test_variants_are_compared_apart_from_the_rows(tmp_path: Path) -> None:
    for row, count in ((1, 285), (2, 225)):
        write_runs(tmp_path, row, [count])
        write_runs(tmp_path, row, [count - 60, count - 60], VARIANT)
    published, variants = compare_runs("1", "2", tmp_path).split("\n\n")
    assert published.startswith("The rows\nA: 95.00% of 300")
    assert variants.startswith("Variants: the rows with --model_size")
    assert "A: 75.00 ± 0.00% of 300 test messages with seeds 123, 124," in variants


def test_a_row_beside_a_folder_has_the_folders_seed(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285, 280])
    write_runs(tmp_path, 2, [277, 270])
    text = compare_runs("1", folders(tmp_path)[2, 124], tmp_path)
    assert "A: 93.33% of 300 test messages, python additional_experiments.py --seed 124" in text
    assert "B: 90.00%" in text


def test_rows_without_a_common_seed_are_refused(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285])
    with pytest.raises(RecordError, match=r"--compare 1 2: .*run both with the same --rows"):
        compare_runs("1", "2", tmp_path)
    write_runs(tmp_path, 2, [285], VARIANT)
    with pytest.raises(RecordError, match="--compare 1 2"):
        compare_runs("1", "2", tmp_path)


def test_rows_that_flags_make_equal_are_one_experiment(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285], VARIANT)
    with pytest.raises(RecordError, match="two different experiments"):
        compare_runs("1", "6", tmp_path)  # the size is given, so that row 6 is row 1
    write_runs(tmp_path, 5, [285], VARIANT)
    assert "+0.00 points" in compare_runs("1", "10", tmp_path)  # as row 5


def test_other_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_runs(tmp_path, 1, [285])
    write_runs(tmp_path, 2, [285], data={**DATA, "split_sha256": "1" * 64})
    assert main(["--compare", "1", "2", "--output_dir", str(tmp_path)]) == 1
    assert "different data or another split" in capsys.readouterr().err
