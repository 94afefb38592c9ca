"""The report on records, of which most are made up."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import make_result, sizes_of
from sklearn.svm import LinearSVC

from ablation.config.identity import identify_data
from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.tables import configure
from ablation.data import corpora
from ablation.data.corpora import load_corpus
from ablation.data.demo import demo_messages
from ablation.data.sms import read_messages, split_messages
from ablation.reports.baseline import classify_by_characters, copied_texts, keep_letters
from ablation.reports.comparisons import compare
from ablation.reports.findings import (
    compare_rows,
    describe_detectable,
    describe_smallest,
    tabulate_findings,
)
from ablation.reports.folder_report import write_report
from ablation.reports.row_tables import show_not_run, show_rows
from ablation.reports.tables import figures, group_records, judge
from ablation.sweeps.records import read_records, write_complete, write_incomplete
from ablation.system.errors import RecordError
from additional_experiments import main
from data_utils import Splits

DATA = {"name": "demo", "split_sha256": "0" * 64}
N_TEST = 300
rng = np.random.default_rng(2)


def write_runs(
    folder: Path, row: int, counts: list[int], given: dict | None = None, data: dict = DATA, **parts
) -> None:
    """A run for each count of right test messages, with seeds from 123 on; the first are right."""
    given = given or {}
    for seed, count in enumerate(counts, start=123):
        labels = [i % 2 for i in range(N_TEST)]
        classes = [label if i < count else 1 - label for i, label in enumerate(labels)]
        run = Run(replace(configure(ROWS[row], given), seed=seed), overrides=given)
        write_complete(folder, run, make_result(labels, classes, **parts), data)


def table_of(folder: Path, section: int = 0) -> dict[str, dict[str, str]]:
    sections, _ = group_records(read_records(folder))
    return {
        str(name): {**figures(part), "flags": part.flags, "verdict": judge(ROWS[name], part)}
        for name, part in sections[section].configurations.items()
    }


def test_a_line_is_mean_deviation_and_interval(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [282, 285, 291])
    line = table_of(tmp_path)["1"]
    assert line["n"] == "3"
    # 94, 95 and 97 %: mean 95.33, deviation sqrt((16/9 + 1/9 + 25/9) / 2)
    assert line["test %"] == "95.33 ± 1.53"
    assert line["train %"] == "96.15 ± 0.00"
    low, high = map(float, line["95 % interval"].split(" to "))
    # t of 2 degrees of freedom: 95.33 ± 4.303 · 1.53 / sqrt(3), and more for other messages
    assert 89 < low < 91.6
    assert 99 < high <= 100
    assert line["min"] == "1.50"
    assert line["flags"] == "(none)"


def test_verdicts(tmp_path: Path) -> None:
    """Published for row 1: 1005 of 1040, 148 of 149, 285 of 300."""
    write_runs(tmp_path, 1, [285], train=(1005, 1040), validation=(147, 149))
    write_runs(tmp_path, 2, [270], train=(816, 1040), validation=(120, 149))  # published 225
    write_runs(tmp_path, 8, [295], train=(1038, 1040), validation=(148, 149))
    lines = table_of(tmp_path)
    assert lines["1"]["verdict"] == (
        "train 96.63 %, as published; validation 98.66 % here, 99.33 % published: one message "
        "apart; test 95.00 %, as published"
    )
    assert lines["2"]["verdict"].endswith("test 90.00 % here, 75.00 % published: 45 messages apart")
    assert (
        "the published 99.81 % is impossible: no count out of 149 gives it" in lines["8"]["verdict"]
    )
    assert lines.keys() == {"1", "2", "8"}
    assert judge(ROWS[3], None) == "not run"
    assert judge(ROWS[8], None) == "not run; validation: impossible as published"


def test_the_run_with_the_published_seed_is_judged(tmp_path: Path) -> None:
    counts = {"train": (1005, 1040), "validation": (148, 149)}
    write_runs(tmp_path, 1, [285, 150, 150], **counts)
    verdict = table_of(tmp_path)["1"]["verdict"]
    assert verdict.startswith("train 96.63 %, as published, within")
    assert "; test 95.00 %, as published, within 0.00 to 100.00 % for one more run" in verdict
    other = tmp_path / "other"
    write_runs(other, 1, [150, 285], **counts)
    shutil.rmtree(next(other.glob("*seed-123*")))
    assert table_of(other)["1"]["verdict"].startswith("seed 124: train 96.63 %, as published; ")


@pytest.mark.parametrize(
    ("counts", "place"),
    [
        # mean 280, deviation 2: 280 ± 4.3027 · 2 · sqrt(4 / 3) = 280 ± 9.94; published 285
        ([278, 280, 282], "within 90.02 to 96.65 %"),
        # mean 280, deviation 1: 280 ± 4.97, just below 285
        ([279, 280, 281], "outside 91.68 to 94.99 %"),
        # mean 280.67, deviation 1.15: ± 5.74, so that 285 is within
        ([280, 280, 282], "within 91.64 to 95.47 %"),
        # from above: mean 290, deviation 1
        ([289, 290, 291], "outside 95.01 to 98.32 %"),
        ([289, 289, 291], "within 94.64 to 98.47 %"),
        # all alike: what rounding hides, 285.0 ± 4.3027 · sqrt(1 / 12) · sqrt(4 / 3)
        ([285, 285, 285], "within 94.52 to 95.48 %"),
        ([287, 287, 287], "outside 95.19 to 96.14 %"),
    ],
)
def test_where_a_published_figure_differs(tmp_path: Path, counts: list[int], place: str) -> None:
    """Row 1 was published with 285 of 300."""
    write_runs(tmp_path, 1, counts)
    verdict = table_of(tmp_path)["1"]["verdict"]
    assert f", {place} for one more run" in verdict.split("; test ")[1]


def test_variants_are_never_compared_with_the_published_figures(tmp_path: Path) -> None:
    given = {"model_size": "gpt2-tiny (3M)", "weights": "random"}
    for row in (1, 6, 2):
        write_runs(tmp_path, row, [280], given)
    sections, others = group_records(read_records(tmp_path))
    assert others == []
    assert [list(part.configurations) for part in sections] == [[], [1, 2]]
    assert sections[1].same == {6: 1, 7: 1, 8: 1, 9: 5, 10: 5}
    shown, not_run = show_rows(sections[1], [], np.ones(N_TEST, bool)), show_not_run(sections[1])
    named = {*shown.lines.columns, *not_run.columns, *(key for row in shown.details for key in row)}
    assert named.isdisjoint({"published", "published %", "verdict", "beside it"})
    asked = dict(zip(not_run["row"], not_run["question"], strict=True))
    assert asked["6"].endswith("(here as row 1)")
    assert asked["3"] == ROWS[3].question
    assert show_not_run(sections[0])["published"][7].endswith(
        "; validation: impossible as published"
    )


def test_a_row_reached_by_other_flags_is_the_row(tmp_path: Path) -> None:
    write_runs(tmp_path, 5, [281], {"weights": "random"})
    sections, _ = group_records(read_records(tmp_path))
    assert list(sections[0].configurations) == [10]
    assert len(sections) == 1, "flags that make a row make no variant"


def test_what_is_no_row_stands_under_its_flags(tmp_path: Path) -> None:
    run = Run(ExperimentConfig(batch_size=4))
    write_complete(tmp_path, run, make_result([0, 1], [0, 1]), DATA)
    _, others = group_records(read_records(tmp_path))
    assert [other.flags for other in others] == ["python additional_experiments.py --batch_size 4"]


# ---------------------------------------------------------------- comparisons


def findings_of(folder: Path) -> dict[tuple[int, int], object]:
    sections, _ = group_records(read_records(folder))
    return {finding.rows: finding for finding in compare_rows(sections[0])}


def test_one_seed_speaks_of_two_runs(tmp_path: Path) -> None:
    counts = {1: 285, 2: 225, 3: 290, 4: 290, 5: 285, 10: 281, 18: 285}
    for row, count in counts.items():
        write_runs(tmp_path, row, [count])
    findings = findings_of(tmp_path)
    assert set(findings) == {(1, 2), (1, 3), (1, 4), (1, 5), (1, 10), (5, 10), (1, 18)}
    worse = findings[1, 2]
    # 60 messages, all one way; the smallest of 7 p-values, so times 7
    assert worse.difference.points == pytest.approx(-20)
    assert worse.difference.p == pytest.approx(2 / 2**60)
    assert worse.corrected_p == pytest.approx(7 * 2 / 2**60)
    assert worse.sentence == "Published: row 2 worse. These two runs differ: -20.00 points."
    better = findings[1, 3]  # published: far worse
    assert better.difference.p == pytest.approx(2 / 2**5)
    assert better.corrected_p == pytest.approx(6 * 2 / 2**5)
    # 5 discordant messages never make p < 0.05 / 7; 9 do, all one way: 2 / 2 ** 9 = 0.004
    assert better.sentence == (
        "Published: row 3 worse. These two runs cannot be told apart: +1.67 points. A difference "
        "of 3.0 points would have shown."
    )
    same = findings[1, 18]
    assert (same.difference.points, same.corrected_p) == (0, 1)
    assert same.sentence.startswith("Published: row 18 equal. These two runs cannot be told apart")
    intervals = tabulate_findings([worse, same])["95 % interval"]
    assert all(interval.endswith(" (messages)") for interval in intervals)


def test_several_seeds_support_or_contradict(tmp_path: Path) -> None:
    write_runs(tmp_path / "a", 1, [285, 284, 286])
    write_runs(tmp_path / "a", 2, [225, 226, 224])
    write_runs(tmp_path / "b", 1, [225, 226, 224])
    write_runs(tmp_path / "b", 2, [285, 284, 286])
    supported, contradicted = (findings_of(tmp_path / name)[1, 2] for name in "ab")
    assert supported.sentence == "Published: row 2 worse. Supported: -20.00 points."
    assert contradicted.verdict == "contradicted"
    table = tabulate_findings([supported])
    assert not table["95 % interval"][0].endswith("(messages)")


def test_where_no_difference_could_have_shown_the_sentence_says_so(tmp_path: Path) -> None:
    """38 points between two seeds that vary as much as that, and four test texts."""
    write_runs(tmp_path, 1, [290, 290])
    write_runs(tmp_path, 2, [120, 232])
    finding = findings_of(tmp_path)[1, 2]
    assert finding.sentence == (
        "Published: row 2 worse. Not distinguishable with this n: -38.00 points. No difference "
        "could have shown with 300 test texts and 2 seeds."
    )
    few = [[True, True, False, True], [True, False, True, True]]
    difference = compare(np.array(few[:1]), np.array(few[1:]))
    assert describe_detectable(difference, 0.05) == (
        "No difference could have shown with 4 test texts and 1 seed."
    )
    assert describe_smallest(4) == "No two single runs can be told apart with 4 test texts."
    assert describe_smallest(8, 18) == (
        "No two single runs can be told apart with 8 test texts, as the first of 18 corrected "
        "comparisons."
    )
    assert describe_smallest(300) == (
        "Single runs that differ by fewer than 6 of 300 test texts (2.00 points) can never be "
        "told apart."
    )


def test_what_would_have_shown_is_rounded_up() -> None:
    a = np.arange(299)[None] < 280
    difference = compare(a, a)
    # six of 299 are 2.0067 points
    assert describe_detectable(difference, 0.05) == ("A difference of 2.1 points would have shown.")


def test_variants_have_only_their_own_direction(tmp_path: Path) -> None:
    given = {"model_size": "gpt2-tiny (3M)", "weights": "random"}
    for row, count in ((1, 240), (5, 290), (11, 240), (12, 290)):
        write_runs(tmp_path, row, [count, count + 1, count - 1], given)
    sections, _ = group_records(read_records(tmp_path))
    found = {finding.rows: finding.sentence for finding in compare_rows(sections[1])}
    # Rows 8, 9 and 10 are rows 1 and 5 here, and their questions are none.
    assert set(found) == {(1, 5), (5, 11)}
    assert found[1, 5] == "Row 5 is better: +16.67 points."
    assert found[5, 11] == "Row 11 is worse: -16.67 points."


def test_seeds_are_paired(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285, 290, 280])
    write_runs(tmp_path, 2, [250, 290])
    finding = findings_of(tmp_path)[1, 2]
    assert finding.seeds == [123, 124]
    assert finding.difference.mcnemar[1] == 1
    assert finding.difference.points == pytest.approx(100 * (540 - 575) / 600)


# ---------------------------------------------------------------- the page


class Page(HTMLParser):
    """What a page refers to and what it nests wrongly."""

    VOID = ("meta", "img", "br", "hr", "source", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.open, self.tags, self.wrong = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def test_the_page_is_whole_and_self_contained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "<script>alert(1)</script> | a *b* `c` ![x](http://y)"
    messages = demo_messages()
    messages.loc[:, "Text"] = [f"{text} {i} {hostile}" for i, text in enumerate(messages["Text"])]
    monkeypatch.setattr(corpora, "demo_messages", lambda: messages)
    corpus = load_corpus(ExperimentConfig(demo=True))
    data, labels = identify_data(corpus), corpus.parts.test["Label"].tolist()
    n_test = len(labels)
    for row in (1, 2, 10):
        for seed in (123, 124):
            classes = rng.integers(0, 2, n_test).tolist()
            config = replace(configure(ROWS[row], {"demo": True}), seed=seed)
            run = Run(config, {"demo": True})
            write_complete(tmp_path, run, make_result(labels, classes, **sizes_of(corpus)), data)
    write_incomplete(tmp_path, Run(ROWS[3].config), "failed", "no | luck, and none to be had")
    monkeypatch.setattr(
        "ablation.reports.material.copied_texts",
        lambda m: {"verbatim": np.arange(n_test) < 3, "letters": np.arange(n_test) < 5},
    )
    printed = write_report(tmp_path, tmp_path).text
    assert printed.endswith(f"Report: {tmp_path / 'report.html'}")
    page = (tmp_path / "report.html").read_text()
    found = Page(page)
    assert found.wrong == []
    own = ['<script type="application/json">', "<script>"]
    assert re.findall("<script[^>]*>", page) == own
    assert found.sources
    own = ("data:image/svg+xml;base64,", "#")
    assert all(source.startswith(own) for source in found.sources)
    assert page.count("<img ") == 3  # all took the same time
    text = (tmp_path / "report.md").read_text()
    pictures = re.findall(r"\]\((report_pictures/.*?)\)", text)
    assert len(pictures) == 3
    assert all((tmp_path / picture).exists() for picture in pictures)
    padded_lengths = {line.count("|") for line in text.splitlines() if "alert(1)" in line}
    assert len(padded_lengths) == 1, "a message's own signs make no cells"
    assert "3 stand in the training part word for word, and 5 when" in text
    assert f"without verbatim copies ({n_test - 3})" in text
    assert "no &#124; luck, and none to be had" in text
    # Rows 1 and 2 differ in one option, and nothing can be told apart.
    _, chosen = text.split("**What validation would choose, with its test accuracy**\n")
    assert re.search(r"\| trainable&#95;token&#95;pos \| last, first \| 1 \| 2 \|", chosen)
    assert "Mean effect of each option" not in text
    _, plan = text.split("## What it would take to say more\n")
    assert f"with {n_test} test texts" in plan
    assert re.search(r"\| 20 \| (.* \(\d+ %\) \|){4}", plan)


def test_a_record_of_other_sizes_is_no_report(tmp_path: Path) -> None:
    corpus = load_corpus(ExperimentConfig(demo=True))
    labels = corpus.parts.test["Label"].tolist()
    result = make_result(labels, labels)  # of as many training texts as the real messages are
    run = Run(ExperimentConfig(demo=True))
    write_complete(tmp_path, run, result, identify_data(corpus))
    with pytest.raises(RecordError, match="holds no record that fits"):
        write_report(tmp_path, tmp_path)


@pytest.mark.usefixtures("plain_pictures")
def test_a_report_on_four_test_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = pd.concat([demo_messages()[:10], demo_messages()[-10:]], ignore_index=True)
    monkeypatch.setattr(corpora, "demo_messages", lambda: messages)
    corpus = load_corpus(ExperimentConfig(demo=True))
    data = identify_data(corpus)
    labels = split_messages(messages).test["Label"].tolist()
    assert len(labels) == 4
    for row, wrong in ((1, 0), (2, 3)):
        classes = [1 - label if i < wrong else label for i, label in enumerate(labels)]
        for seed in (123, 124):
            config = replace(configure(ROWS[row], {"demo": True}), seed=seed)
            result = make_result(labels, classes, **sizes_of(corpus))
            write_complete(tmp_path, Run(config, {"demo": True}), result, data)
    write_report(tmp_path, tmp_path)
    text = (tmp_path / "report.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "-75.00 points. No difference could have shown with 4 test texts and 2 seeds." in text
    assert "No two single runs" not in text, "there are none"
    assert "One seed tells two runs apart, and not two choices" in text


def test_other_data_or_another_split_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_runs(tmp_path, 1, [285])
    write_runs(tmp_path, 2, [285], data={**DATA, "split_sha256": "1" * 64})
    assert main(["--report", "--output_dir", str(tmp_path)]) == 1
    assert "different data or another split" in capsys.readouterr().err
    a, b = (record.folder.name for record in read_records(tmp_path))
    assert main(["--compare", a, b, "--output_dir", str(tmp_path)]) == 1


@pytest.mark.usefixtures("plain_pictures")
def test_a_report_on_failed_runs_only(tmp_path: Path) -> None:
    for row in (1, 2):
        write_incomplete(tmp_path, Run(configure(ROWS[row], {"demo": True})), "failed", "unlucky")
    write_report(tmp_path, tmp_path)
    assert (tmp_path / "report.md").read_text().count("unlucky") == 2


@pytest.mark.usefixtures("plain_pictures")
def test_a_failed_run_does_not_choose_the_data(tmp_path: Path) -> None:
    write_incomplete(tmp_path, Run(ExperimentConfig()), "failed", "no luck")
    config = ExperimentConfig(demo=True)
    corpus = load_corpus(config)
    labels = corpus.parts.test["Label"].tolist()
    run = Run(configure(ROWS[1], {"demo": True}))
    result = make_result(labels, labels, **sizes_of(corpus))
    write_complete(tmp_path, run, result, identify_data(corpus))
    assert "Report: " in write_report(tmp_path, tmp_path).text


def test_a_report_on_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--report", "--output_dir", str(tmp_path)]) == 1
    assert "holds no records" in capsys.readouterr().err


# ---------------------------------------------------------------- the messages alone


def test_copies_are_found() -> None:
    def part(*texts: str) -> pd.DataFrame:
        return pd.DataFrame({"Text": texts, "Label": [0, 1, 0][: len(texts)]})

    messages = Splits(
        part("Win it", "hello", "42!"), part("x"), part("Win it", "WIN-IT!", "helloo")
    )
    copies = copied_texts(messages)
    assert copies["verbatim"].tolist() == [True, False, False]
    assert copies["letters"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("text", "same", "other"),
    [
        ("Привет, Мир!", "ПРИВЕТ мир", "Привет, Дом!"),
        ("你好, 世界", "「你好」世界。", "你好, 世間"),
        ("مرحبا بالعالم", "مرحبا، بالعالم!", "وداعا بالعالم"),
        ("Straße 5", "STRASSE", "Strase 5"),
        ("cafe\u0301", "CAF\u00c9!", "cafe"),
        ("ﬁne", "FINE", "ine"),
        ("की", "की!", "का"),  # told apart by a vowel sign, which is no letter by itself
        ("love \u2764\ufe0f", "love", "loved"),  # the mark belongs to no letter
        ("12:30", "12:30", "12:31"),
        ("👍", "👍", "👎"),
        ("", "", " "),
    ],
)
def test_letters_of_every_script_are_compared(text: str, same: str, other: str) -> None:
    assert keep_letters(text) == keep_letters(same)
    assert keep_letters(text) != keep_letters(other)


def test_copies_of_real_messages(real_data_dir: Path) -> None:
    copies = copied_texts(split_messages(read_messages(real_data_dir / "SMSSpamCollection")))
    assert (copies["verbatim"].sum(), copies["letters"].sum()) == (36, 54)


@pytest.mark.slow
def test_the_real_messages(real_data_dir: Path) -> None:
    messages = split_messages(read_messages(real_data_dir / "SMSSpamCollection"))
    right = classify_by_characters(messages)
    assert int(right.test.sum()) == 293, "97.67 %, as the README has it"


def character_runs(text: str, shortest: int, longest: int) -> list[str]:
    """The runs of characters in each word between spaces, by hand."""
    words = [f" {word} " for word in text.lower().split()]
    return [
        word[start : start + n]
        for word in words
        for n in range(shortest, longest + 1)
        for start in range(len(word) - n + 1)
    ]


def right_by_hand(
    messages: Splits[pd.DataFrame], shortest: int, longest: int, across_words: bool = False
) -> np.ndarray:
    """The baseline, its TF-IDF written out."""
    runs = {
        part: [
            character_runs(text.replace(" ", "_") if across_words else text, shortest, longest)
            for text in getattr(messages, part)["Text"]
        ]
        for part in ("train", "test")
    }
    known = sorted({run for text in runs["train"] for run in text})
    counts = {
        part: np.array([[text.count(run) for run in known] for text in texts], dtype=float)
        for part, texts in runs.items()
    }
    n_texts = len(runs["train"])
    weights = np.log((1 + n_texts) / (1 + (counts["train"] > 0).sum(axis=0))) + 1
    for part, found in counts.items():
        counts[part] = found * weights / np.linalg.norm(found * weights, axis=1, keepdims=True)
    machine = LinearSVC(random_state=0).fit(counts["train"], messages.train["Label"])
    return machine.predict(counts["test"]) == messages.test["Label"].to_numpy()


def test_the_baseline_reads_runs_of_2_to_5_characters_within_words() -> None:
    """On texts so hard that every other choice of runs gets other messages right."""
    draw = np.random.default_rng(4)

    def part(n_texts: int) -> pd.DataFrame:
        labels = draw.integers(0, 2, n_texts)
        letters = [
            draw.choice(list("abc"), 30, p=[0.4 - 0.1 * y, 0.3, 0.3 + 0.1 * y]) for y in labels
        ]
        spaced = [np.where(draw.random(30) < 0.15, " ", text) for text in letters]
        return pd.DataFrame(
            {"Text": ["x" + "".join(text) + "x" for text in spaced], "Label": labels}
        )

    messages = Splits(part(80), part(2), part(300))
    found = classify_by_characters(messages).test
    assert (found == right_by_hand(messages, 2, 5)).mean() > 0.995
    for others in ((1, 5), (3, 5), (2, 4), (2, 6), (2, 5, True)):
        assert (found == right_by_hand(messages, *others)).mean() < 0.99, others


def test_the_baseline_learns() -> None:
    right = classify_by_characters(split_messages(demo_messages()))
    assert right.train.mean() == 1
    assert 0.8 < right.test.mean() <= 1


@pytest.mark.usefixtures("plain_pictures")
def test_a_report_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    write_incomplete(tmp_path, Run(configure(ROWS[1], {"demo": True})), "failed", "unlucky")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RecordError, match=r"cannot be written .* move what is in its way"):
        write_report(tmp_path, tmp_path)
