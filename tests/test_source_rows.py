"""Predictions and the split lead back to the lines of the files that texts come from."""

from pathlib import Path

import pandas as pd
import pytest

from ablation.config.identity import identify_data
from ablation.config.options import ExperimentConfig
from ablation.data.corpora import load_corpus
from ablation.data.demo import byte_encoding, demo_messages
from ablation.data.sms import DATASET_NAME, read_messages, split_messages
from ablation.data.split_files import write_split
from ablation.sweeps.records import Record, read_records
from additional_experiments import main

OWN = ["--weights", "random", "--model_size", "gpt2-tiny (3M)", "--max_steps", "1"]


def write_news(path: Path, counts: dict[str, int]) -> Path:
    """Texts of one to three lines, of which only the first holds "news", among blank lines."""
    lines = ["", "Text,Label"]
    for topic, n in counts.items():
        for i in range(n):
            lines += [f"{topic} news {i},{topic}", "", f'"{topic} news\n\r\nof {i}",{topic}']
    path.write_bytes("\n".join(lines).encode())
    return path


def topics_by_line(path: Path) -> dict[int, str]:
    """The topic of each text, by the line where an editor shows its beginning."""
    with open(path) as file:  # \r\n is one line break
        return {
            number: line.strip('"').split()[0]
            for number, line in enumerate(file, start=1)
            if "news" in line
        }


def run(tmp_path: Path, *flags: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Record, Path]:
    """The record of a run on own data, and its split."""
    monkeypatch.setattr("ablation.data.corpora.gpt2_encoding", lambda *_: byte_encoding())
    assert main([*flags, *OWN, "--output_dir", str(tmp_path / "runs")]) == 0
    (record,) = read_records(tmp_path / "runs")
    (split,) = (tmp_path / "runs").glob("split-*.csv")
    assert split.name == f"split-{record.result['data']['split_sha256'][:10]}.csv"
    return record, split


def test_rows_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_news(tmp_path / "a.csv", {"sport": 12, "money": 9})
    record, split = run(tmp_path, "--dataset", str(path), monkeypatch=monkeypatch)
    topics = topics_by_line(path)
    assert len(topics) == 42
    names = ["money", "sport"]
    found = record.predictions
    assert [topics[row] for row in found["row"]] == [names[label] for label in found["label"]]
    table = pd.read_csv(split)
    assert list(table.columns) == ["file", "row", "part", "label"]
    assert dict(zip(table["row"], table["label"], strict=True)) == topics, "each text once"
    assert set(table["file"]) == {"a.csv"}
    assert table["part"].value_counts().to_dict() == {"train": 29, "validation": 4, "test": 9}
    assert table["row"][table["part"] == "test"].tolist() == found["row"].tolist()


def test_rows_of_three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {
        part: write_news(tmp_path / f"{part}.csv", {"sport": n, "money": 2})
        for part, n in (("train", 9), ("validation", 3), ("test", 5))
    }
    flags = (f"--{name}dataset={paths[part]}" for name, part in
             (("", "train"), ("val_", "validation"), ("test_", "test")))  # fmt: skip
    record, split = run(
        tmp_path, *(word for flag in flags for word in flag.split("=")), monkeypatch=monkeypatch
    )
    topics = topics_by_line(paths["test"])
    assert record.predictions["row"].tolist() == list(topics)
    table = pd.read_csv(split)
    for part, path in paths.items():
        rows = table[table["part"] == part]
        assert set(rows["file"]) == {path.name}
        assert dict(zip(rows["row"], rows["label"], strict=True)) == topics_by_line(path)


def test_the_split_is_written_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_news(tmp_path / "a.csv", {"sport": 12, "money": 9})
    config = ExperimentConfig(dataset=str(path))
    corpus = load_corpus(config)
    sha256 = identify_data(corpus)["split_sha256"]
    write_split(tmp_path, corpus, config, sha256)
    (split,) = tmp_path.glob("split-*.csv")
    before = split.stat()
    write_split(tmp_path, corpus, config, sha256)
    assert split.stat() == before
    path.write_bytes(b"\n" + path.read_bytes())
    moved = load_corpus(config)
    assert identify_data(moved)["split_sha256"] == sha256, "the same texts in the same parts"
    write_split(tmp_path, moved, config, sha256)
    assert dict(pd.read_csv(split)[["row", "label"]].values) == topics_by_line(path)
    write_split(path, corpus, config, sha256)
    assert f"The split was not written to {path}" in caplog.text


def test_messages_have_their_lines(real_data_dir: Path) -> None:
    """Each line of the file but those that a quote merges, of which the first counts."""
    lines = (real_data_dir / DATASET_NAME).read_text(encoding="utf-8").split("\n")
    parts = split_messages(read_messages(real_data_dir / DATASET_NAME))
    n_whole = 0
    for part in vars(parts).values():
        for row in part.itertuples():
            label, _, text = lines[row.Line - 1].partition("\t")
            assert label == ("ham", "spam")[row.Label]
            assert text.lstrip('"')[:9] == row.Text[:9].lstrip('"')
            n_whole += text == row.Text
    assert n_whole > 1480


def test_demo_messages_are_counted() -> None:
    messages = demo_messages().set_index("Line")["Text"]
    parts = load_corpus(ExperimentConfig(demo=True)).parts
    for part in vars(parts).values():
        assert messages[part["Line"]].tolist() == part["Text"].tolist()


def test_quotes_merge_lines(tmp_path: Path) -> None:
    path = tmp_path / DATASET_NAME
    path.write_text('ham\ta\nham\t"open\nham\tswallowed\nham\tend"\nspam\tb\n')
    assert read_messages(path)["Line"].tolist() == [1, 2, 5]
