"""The sample report is that on results/, and none of the messages is in it."""

import re
import sys
from pathlib import Path

import pytest

from ablation.system.version import PROJECT

sys.path.insert(0, str(PROJECT / "docs"))

import sample

SAMPLE = PROJECT / "docs" / "sample-report.html"


def without_pictures(page: str) -> str:
    """A page but for its pictures, which are not the same with each version of Matplotlib; their
    descriptions have their figures."""
    return re.sub(r'"data:[^"]*"', "", page)


@pytest.mark.slow
def test_the_sample_is_made_from_results(real_data_dir: Path) -> None:
    page = sample.sample_report(real_data_dir)
    assert without_pictures(page) == without_pictures(SAMPLE.read_text()), (
        "run python docs/sample.py DATA_DIR"
    )


@pytest.mark.slow
def test_no_message_is_in_the_sample(real_data_dir: Path) -> None:
    page = without_pictures(SAMPLE.read_text())
    lines = (real_data_dir / "SMSSpamCollection").read_text().splitlines()
    texts = [line.split("\t")[1].strip() for line in lines]
    long = {text for text in texts if len(text) > 30}
    assert len(long) > 4000
    assert [text for text in long if text in page] == []


def test_the_pictures_of_the_guide_are_there() -> None:
    guide = (PROJECT / "docs" / "report.md").read_text()
    named = set(re.findall(r"\]\(report/([\w-]+\.png)\)", guide))
    assert named == {path.name for path in (PROJECT / "docs" / "report").iterdir()}
    # What a picture shows is also said in words.
    assert all(len(words) > 60 for words in re.findall(r"!\[([^\]]*)\]", guide))
