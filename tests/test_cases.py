"""Public files that go wrong; where they are not at hand, tests of small ones say the same."""

import os
from pathlib import Path

import pytest

from ablation.config.options import ExperimentConfig
from ablation.data.own_data import load_own_corpus
from ablation.system.errors import DataError
from data_utils import Corpus

DATA = Path(os.environ.get("SPAM_TEST_DATA", "nowhere"))
CASE = DATA.parent / "cases" / "three_lines_become_one.tsv"
KAGGLE = DATA / "public" / "sms_kaggle_latin1.csv"
GERMEVAL = DATA / "public" / "germeval2018.test.txt"
BANKING = [DATA / "public" / f"banking77_{part}.csv" for part in ("train", "test")]
MESSAGES = DATA / "SMSSpamCollection"


def load(path: Path, label: str, text: str, **options: object) -> Corpus:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    config = ExperimentConfig(dataset=str(path), label_column=label, text_column=text, **options)
    return load_own_corpus(config)


def size(corpus: Corpus) -> int:
    return sum(len(part) for part in vars(corpus.parts).values())


@pytest.mark.parametrize(
    ("path", "label", "text", "option", "message", "n_texts"),
    [
        (CASE, "label", "text", {"quoting": "none"}, r"line 12: .*--quoting none", 13),
        (KAGGLE, "v1", "v2", {"encoding": "cp1252"}, r"line 128: .*--encoding cp1252", 5574),
        (GERMEVAL, "2", "1", {"quoting": "none"}, r"line 9: .*--quoting none", 3532),
        (MESSAGES, "1", "2", {"quoting": "none"}, r"line 283: .*--quoting none", 5574),
    ],
)
def test_refused_with_the_way_out(
    path: Path, label: str, text: str, option: dict[str, str], message: str, n_texts: int
) -> None:
    with pytest.raises(DataError, match=message):
        load(path, label, text)
    assert size(load(path, label, text, **option)) == n_texts


def test_two_files_of_many_classes() -> None:
    corpus = load(BANKING[0], "category", "text", test_dataset=str(BANKING[1]))
    assert len(corpus.class_names) == 77
    assert size(corpus) == 10_003 + 3_080
    assert len(corpus.parts.test) == 3_080
    assert set(corpus.parts.validation["Label"]) == set(range(77))
