from pathlib import Path

import pandas as pd
import pytest

from ablation.data.data_summary import describe_corpus
from ablation.data.demo import byte_encoding
from ablation.data.sms import read_messages, split_messages
from ablation.system.text_tables import TERMINAL_COLUMNS, display_width
from additional_experiments import main
from data_utils import Corpus, Splits

OWN = ["--weights", "random", "--model_size", "gpt2-tiny (3M)", "--max_steps", "1"]


def part(*texts: tuple[int, str]) -> pd.DataFrame:
    return pd.DataFrame(texts, columns=["Label", "Text"])


PARTS = Splits(
    part((0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "d"), (2, "e")),
    part((1, "f"), (2, "d")),
    part((1, "a"), (1, "g"), (1, "h"), (0, "b"), (1, "h")),
)


def describe(parts: Splits[pd.DataFrame], *class_names: str) -> list[str]:
    return describe_corpus(Corpus(parts, class_names, "my.csv", None), is_own=True).split("\n")


def test_what_is_worth_knowing() -> None:
    """c has two labels within a part, d and a across parts; b and h are only there twice.

    x is the largest class of the training part, though y has more texts.
    """
    assert describe(PARTS, "x", "y", "z", "none") == [
        "my.csv: 6 training, 2 validation and 5 test texts of 4 classes",
        'Largest class: "y", 7 texts; smallest: "none", 0',
        'Always naming "x" is right for 20.00% of the test texts',
        "Test texts that also stand in the training part: 2",
        "Different texts under more than one label: 3 (6 texts in all)",
    ]


def test_classes_of_one_size_are_not_one() -> None:
    every = part((0, "a"), (1, "b"))
    lines = describe(Splits(every, every, every), "x", "y")
    assert lines[1] == 'Largest class: "x", 3 texts; smallest: "y", 3'


def test_labels_of_any_length_are_shown() -> None:
    for line in describe(PARTS, "x" * 5000, "語" * 80, "z\x1b[31m"):
        assert display_width(line) <= TERMINAL_COLUMNS
        assert line.isprintable()


def test_the_real_messages(real_data_dir: Path) -> None:
    parts = split_messages(read_messages(real_data_dir / "SMSSpamCollection"))
    assert describe(parts, "ham", "spam") == [
        "my.csv: 1,045 training, 149 validation and 300 test texts of 2 classes",
        'Largest class: "ham", 747 texts; smallest: "spam", 747',
        'Always naming "ham" is right for 47.00% of the test texts',
        "Test texts that also stand in the training part: 36",  # as the README says
        "Different texts under more than one label: 0 (0 texts in all)",
    ]


def test_a_sweep_says_once_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Row 13 has another context than rows 1 and 2; a number of bytes is a number of tokens."""
    monkeypatch.setattr("ablation.data.corpora.gpt2_encoding", lambda *_: byte_encoding())
    lengths = {"train": [20] * 9 + [40], "val": [41, 1, 40], "test": [2000, 41, 30, 30]}
    paths = {}
    for name, sizes in lengths.items():
        texts = [f"{i:<{n}}" for i, n in enumerate(sizes)]
        labels = ["ab"[i % 2] for i in range(len(texts))]
        paths[name] = tmp_path / f"{name}.csv"
        pd.DataFrame({"Text": texts, "Label": labels}).to_csv(paths[name], index=False)
    flags = ["--dataset", str(paths["train"]), "--val_dataset", str(paths["val"])]
    flags += ["--test_dataset", str(paths["test"]), *OWN, "--output_dir", str(tmp_path / "runs")]
    assert main([*flags, "--rows", "1,2,13", "--batch_size", "5"]) == 0
    printed, said = capsys.readouterr()
    about_texts = (line for line in said.splitlines() if " text" in line)
    assert [line for line in about_texts if not line.startswith("Run ")] == [
        "train.csv: 10 training, 3 validation and 4 test texts of 2 classes",
        'Largest class: "a", 9 texts; smallest: "b", 8',
        'Always naming "a" is right for 50.00% of the test texts',
        "Test texts that also stand in the training part: 0",
        "Different texts under more than one label: 0 (0 texts in all)",
        "Cut to 40 tokens: 0 training, 1 validation and 2 test texts",
        "Cut to 1,024 tokens: 0 training, 0 validation and 1 test texts",
    ]
    assert "Largest class" not in printed
