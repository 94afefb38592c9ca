"""Texts of several columns, groups that stay together, and folds."""

import csv
import itertools
import json
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import config_from_flags

import predict
from ablation.classifier.tensor_files import read_tensors, write_tensors
from ablation.config.commands import format_command
from ablation.config.identity import checksum_json, identify
from ablation.config.options import ExperimentConfig
from ablation.config.rules import option_problems
from ablation.data.own_data import load_own_corpus
from ablation.data.splits import assign_groups
from ablation.sweeps.records import read_records
from ablation.system.errors import DataError
from additional_experiments import main
from data_utils import PARTS, Corpus

pytestmark = pytest.mark.usefixtures("plain_pictures")

TOPICS = ("money", "sport", "weather")


def write(path: Path, rows: list[tuple[str, ...]], names: str = "Label,Text,who") -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([names.split(","), *rows])
    return str(path)


def load(path: str, **options: object) -> Corpus:
    config = ExperimentConfig(dataset=path, **options)
    assert option_problems(config) == []
    return load_own_corpus(config)


def whole(corpus: Corpus) -> pd.DataFrame:
    return pd.concat(vars(corpus.parts).values())


@pytest.fixture
def mails(tmp_path: Path) -> str:
    """300 texts of 60 people, who write about one topic more than about others."""
    draw = np.random.default_rng(7)
    rows = []
    for person, n in enumerate(draw.integers(1, 10, size=60)):
        for topic in draw.choice(TOPICS, size=n, p=np.roll([0.6, 0.3, 0.1], person)):
            rows.append((topic, f"{topic} of mail {len(rows)}", f" p{person} "))
    return write(tmp_path / "a.csv", [rows[i] for i in draw.permutation(len(rows))])


# ---------------------------------------------------------------- groups


def people_of(part: pd.DataFrame, path: str) -> set[str]:
    """Whose texts these are, as the file has it."""
    with open(path, newline="") as file:
        who = {row["Text"]: row["who"].strip() for row in csv.DictReader(file)}
    return {who[text] for text in part["Text"]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"val_fraction": 0.2, "test_fraction": 0.4},
        {"fold": "2/4"},
        {"text_column": "2", "label_column": "1", "group_column": "3", "header": "yes"},
    ],
)
def test_groups_stay_in_one_part(
    mails: str, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    options = {"group_column": "who", **options}
    corpus = load(mails, **options)
    people = [people_of(part, mails) for part in vars(corpus.parts).values()]
    assert sum(map(len, people)) == len(set().union(*people)) == 60
    every = whole(corpus)
    with open(mails, newline="") as file:
        assert sorted(every["Text"]) == sorted(row["Text"] for row in csv.DictReader(file))
    test = 0.25 if "fold" in options else options.get("test_fraction", 0.2)
    wanted = {"validation": options.get("val_fraction", 0.1), "test": test}
    for part, share in wanted.items():
        rows = getattr(corpus.parts, part)
        assert len(rows) == pytest.approx(share * len(every), abs=3)
        assert f"{len(rows) / len(every):.1%} {part} ({share:.1%} asked for)" in caplog.text
        for label, n in Counter(every["Label"]).items():
            assert Counter(rows["Label"])[label] == pytest.approx(share * n, abs=4)
    for seed in (7, 8):
        again = load(mails, **options, seed=seed)
        assert again.parts.test.equals(corpus.parts.test), "the split never follows --seed"
    plain = load(mails, **{**options, "group_column": None})
    assert set(plain.parts.test["Text"]) != set(corpus.parts.test["Text"])


def test_as_near_to_the_shares_as_the_best_of_all_ways() -> None:
    """Of 8 groups in three parts, all 3^8 ways are tried."""
    draw, shares, distances = np.random.default_rng(3), np.array([0.2, 0.2, 0.6]), []
    for _ in range(5):
        groups = np.repeat(np.arange(8), draw.integers(2, 8, size=8))
        labels = draw.integers(0, 2, size=len(groups))
        table = np.zeros((8, 2))
        np.add.at(table, (groups, labels), 1)

        def distance(parts: np.ndarray, table: np.ndarray = table) -> float:
            found = np.array([table[parts == part].sum(axis=0) for part in range(3)])
            wanted = np.outer(shares, table.sum(axis=0))
            return ((found - wanted) ** 2 / wanted).sum() if found.all() else np.inf

        ways = map(np.array, itertools.product(range(3), repeat=8))
        mine = [assign_groups(groups, labels, shares)[groups == group][0] for group in range(8)]
        distances.append((distance(np.array(mine)), min(map(distance, ways))))
    mine, best = np.mean(distances, axis=0)
    assert mine < best + 1


def test_a_split_with_each_class_in_each_part_is_found_where_few_exist() -> None:
    """30 groups share 40 classes. That there is a split is known from how they are made."""
    draw = np.random.default_rng(5)
    for _ in range(3):
        hidden = np.arange(30) % 3
        places = [
            (draw.choice(np.flatnonzero(hidden == part)), label)
            for label in range(40)
            for part in (0, 1, 2, *draw.integers(0, 3, size=2))
        ]
        groups, labels = np.array(sorted(places) * 2).T
        parts = assign_groups(np.unique(groups, return_inverse=True)[1], labels, [0.2, 0.1, 0.7])
        assert len({(part, label) for part, label in zip(parts, labels, strict=True)}) == 120
        assert len({(group, part) for group, part in zip(groups, parts, strict=True)}) == len(
            set(groups)
        )


def test_each_part_has_each_class_if_three_groups_have_it(tmp_path: Path) -> None:
    common = [("a", f"text {i}", f"g{i // 4}") for i in range(80)]
    rare = [("b", f"rare {i}", f"r{i // 5}") for i in range(15)]
    for part in vars(
        load(write(tmp_path / "a.csv", common + rare), group_column="who").parts
    ).values():
        assert Counter(part["Label"])[1] == 5
    path = write(tmp_path / "a.csv", common + rare[:10])
    with pytest.raises(DataError, match=r'"who", no way.* 3 parts texts of the class "b", .* 2 gr'):
        load(path, group_column="who")


def test_a_group_of_most_texts_goes_where_it_fits_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    big = [("ab"[i % 2], f"big {i}", "big") for i in range(160)]
    others = [("ab"[i % 2], f"small {i}", f"g{i // 4}") for i in range(40)]
    corpus = load(write(tmp_path / "a.csv", big + others), group_column="who")
    assert sum(corpus.parts.train["Text"].str.startswith("big")) == 160
    assert "11 groups of" in caplog.text
    assert "the largest with 160 texts" in caplog.text


def test_groups_of_one_text_change_nothing(mails: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    plain, grouped = load(mails), load(mails, group_column="Text")
    for one, other in zip(vars(plain.parts).values(), vars(grouped.parts).values(), strict=True):
        assert one["Text"].tolist() == other["Text"].tolist()
    assert 'Each text has its own "Text", so the split is the one without' in caplog.text


def test_equal_texts_can_be_the_groups(tmp_path: Path) -> None:
    rows = [("ab"[i % 2], f"text {i % 40}", "x") for i in range(120)]
    parts = vars(load(write(tmp_path / "a.csv", rows), group_column="Text").parts).values()
    texts = [set(part["Text"]) for part in parts]
    assert sum(map(len, texts)) == 40


def test_groups_of_several_files(tmp_path: Path, mails: str) -> None:
    test = write(tmp_path / "t.csv", [("money", "new", "someone"), ("sport", "more", "else")])
    corpus = load(mails, group_column="who", test_dataset=test)
    assert corpus.parts.test["Text"].tolist() == ["new", "more"]
    train, validation = (people_of(getattr(corpus.parts, part), mails) for part in PARTS[:2])
    assert len(train) + len(validation) == len(train | validation) == 60
    write(tmp_path / "t.csv", [("money", "new", "someone"), ("sport", "more", "p7")])
    with pytest.raises(DataError, match=r't\.csv has 1 texts of groups .* such as "p7" in line 3'):
        load(mails, group_column="who", test_dataset=test)
    write(tmp_path / "t.csv", [("money", "new")], names="Label,Text")
    with pytest.raises(DataError, match=r't\.csv has no column "who".*or --group_column'):
        load(mails, group_column="who", test_dataset=test)


@pytest.mark.parametrize("flags", ["--text_column {} 3", "--text_column '{} + 3'"])
def test_a_number_with_zeros_is_the_same_column(flags: str, mails: str) -> None:
    others = " --label_column {0} --group_column {1} --header yes"
    configs = [
        config_from_flags(
            ["--dataset", mails, *shlex.split(flags.format(text) + others.format(*o))]
        )
        for text, *o in (("2", "1", "4"), ("02", "01", "004"))
    ]
    assert configs[0] == configs[1]
    assert configs[0].text_column == "2 + 3"


def test_missing_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows = [("ab"[i % 2], f"text {i}", f"g{i // 4}") for i in range(40)]
    path = write(tmp_path / "a.csv", [*rows, ("a", "b", ""), ("", "c", "NA")])
    with pytest.raises(
        DataError, match=r"1 lack a label and 0 a text and 2 a group, .* line 42, 43"
    ):
        load(path, group_column="who")
    assert len(whole(load(path, group_column="who", drop_incomplete=True))) == 40
    assert "2 of 42 rows are left out, which lack a label or a text or a group" in caplog.text


# ---------------------------------------------------------------- folds


@pytest.mark.parametrize("group_column", [None, "who"])
@pytest.mark.parametrize("n", [2, 5, 7])
def test_folds_are_disjoint_and_cover_all(mails: str, group_column: str | None, n: int) -> None:
    folds = [
        load(mails, fold=f"{i}/{n}", val_fraction=0.2, group_column=group_column)
        for i in range(1, n + 1)
    ]
    every = sorted(whole(folds[0])["Line"])
    assert sorted(line for fold in folds for line in fold.parts.test["Line"]) == every
    for fold in folds:
        assert sorted(whole(fold)["Line"]) == every
        assert len(fold.parts.validation) == pytest.approx(0.2 * len(every), abs=2)
    slack = 5 if group_column else 1
    counts = [Counter(fold.parts.test["Label"]) for fold in folds]
    for label in range(3):
        of_class = [count[label] for count in counts]
        assert max(of_class) - min(of_class) <= slack
    sizes = [len(fold.parts.test) for fold in folds]
    assert max(sizes) - min(sizes) <= slack


def test_folds_with_a_file_for_validation_and_too_few_texts(mails: str, tmp_path: Path) -> None:
    other = write(tmp_path / "v.csv", [("money", "new", "someone")])
    parts = load(mails, fold="1/3", val_dataset=other).parts
    assert parts.validation["Text"].tolist() == ["new"]
    assert len(parts.test) == pytest.approx(len(parts.train) / 2, abs=1)
    with pytest.raises(DataError, match=r"fewer than 500: too few for 500 folds.*fewer folds"):
        load(mails, fold="1/500")
    with pytest.raises(DataError, match=r"--val_fraction 0\.49 and 2 folds nothing"):
        load(write(tmp_path / "few.csv", [("ab"[i % 2], f"t{i}", "x") for i in range(8)]),
             fold="1/2", val_fraction=0.49)  # fmt: skip


@pytest.mark.parametrize("n_rare", range(2, 9))
@pytest.mark.parametrize("n_common", [10, 11])  # the fold that has more of the rare class
@pytest.mark.parametrize(
    "options",
    [
        {"fold": "2/2"},
        {"fold": "2/2", "val_fraction": 0.4},
        {"fold": "3/3", "val_fraction": 0.4},
        {"fold": "2/2", "group_column": "who"},
        {"fold": "2/2", "val_dataset": "v.csv"},
    ],
)
def test_what_fails_in_some_fold_fails_in_the_first(
    options: dict, n_common: int, n_rare: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep over folds begins with it, and so ends before its first run."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "v.csv", [("a", "v", "x"), ("b", "w", "y")])
    rows = [("a", f"a{i}", f"g{i // 2}") for i in range(n_common)]
    rows += [("b", f"b{i}", f"h{i // 2}") for i in range(n_rare)]
    path = write(tmp_path / "a.csv", rows)
    problems = []
    for number in range(1, int(options["fold"][-1]) + 1):
        try:
            parts = load(path, **{**options, "fold": f"{number}/{options['fold'][-1]}"}).parts
            problems.append("")
            assert all(set(part["Label"]) == {0, 1} for part in vars(parts).values())
        except DataError as error:
            problems.append(str(error))
    assert problems[0] or not any(problems)
    if n_rare == 3 and options == {"fold": "2/2"}:
        assert 'has 3 texts of the class "b"' in problems[0]
        assert (
            "choose more folds, or leave such classes out with --min_texts_per_class 4"
            in (problems[0])
        )
        load(path, fold="1/3")
    if n_rare == 4 and "group_column" in options:
        assert (
            'give each of 2 parts texts of the class "b", which is in 1 groups outside a'
            in (problems[0])
        )


# ---------------------------------------------------------------- several columns


CELLS = [("a", "Hello", "the body"), ("b", "", " kept "), ("a", "NA", "x"), ("b", "s", "null")] * 3


def test_several_columns_are_one_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = write(tmp_path / "a.csv", CELLS, names="Label,subject,body")
    config = config_from_flags(["--dataset", path, "--text_column", "subject", "body"])
    assert config == ExperimentConfig(dataset=path, text_column="subject + body")
    texts = set(whole(load_own_corpus(config))["Text"])
    assert texts == {"Hello\nthe body", "\n kept ", "\nx", "s\n"}
    assert 'what stands in "subject" and "body", with a line break between' in caplog.text
    turned = load(path, text_column="3 + 2", label_column="1", header="yes")
    assert {"\n".join(reversed(text.split("\n"))) for text in whole(turned)["Text"]} == texts
    write(tmp_path / "a.csv", [*CELLS, ("a", " ", "null")], names="Label,subject,body")
    with pytest.raises(DataError, match="0 lack a label and 1 a text, first in line 14"):
        load(path, text_column="subject + body")
    json_path = tmp_path / "a.jsonl"
    json_path.write_text('{"Label": "a", "body": "x"}\n{"Label": "b", "subject": "s"}\n' * 3)
    assert set(whole(load(str(json_path), text_column="subject + body"))["Text"]) == {"\nx", "s\n"}


def test_a_command_with_several_columns_can_be_pasted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CELLS, names="Label,the subject,body")
    config = config_from_flags(["--dataset", path, "--text_column", "the subject", "body"])
    words = shlex.split(format_command(config))[2:]
    assert config_from_flags(words) == config
    assert identify(config_from_flags(["--dataset", path, "--text_column", "body"])) == identify(
        ExperimentConfig(dataset=path, text_column="body")
    )


def test_a_kept_model_knows_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.csv", CELLS * 2, names="kind,subject,body")
    flags = "--model_size tiny --weights random --max_steps 1 --batch_size 4 --save_model"
    columns = ["--text_column", "subject", "body", "--label_column", "kind"]
    command = ["--dataset", path, *columns, *flags.split(), "--output_dir", str(tmp_path / "runs")]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0
    assert "complete already" in capsys.readouterr().err
    (record,) = read_records(tmp_path / "runs")
    assert record.config.text_column == "subject + body"
    found = []
    for more in ([], ["--column", "subject", "body"], ["--column", "2 + 3", "--header", "yes"]):
        assert predict.main([str(record.folder), "--csv", path, "--format", "jsonl", *more]) == 0
        captured = capsys.readouterr()
        assert "with a line break between them" in captured.err
        found.append([json.loads(line) for line in captured.out.splitlines()])
    assert found[0] == found[1] == found[2]
    assert [line["text"] for line in found[0][:4]] == ["Hello\nthe body", "\n kept ", "\nx", "s\n"]
    content = json.loads((record.folder / "config.json").read_text())
    assert content["data"].pop("text_column") == "subject + body"
    (record.folder / "config.json").write_text(json.dumps(content))
    model = record.folder / "model.safetensors"  # as an earlier version wrote it
    write_tensors(model, read_tensors(model)[1], {"config_sha256": checksum_json(content)})
    Path("old.csv").write_text("Text\nHello\n")
    assert predict.main([str(record.folder), "--csv", "old.csv"]) == 0
    capsys.readouterr()
    assert predict.main(["--csv", path, "--column", "subject", str(record.folder)]) == 2
    assert "RUN_DIR: missing; give the folder of a run with --save_model before all flags" in (
        capsys.readouterr().err
    )
    assert predict.main([str(record.folder), "--csv", path, "--header", "no"]) == 2
    assert '--header no with --column "Text"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--text_column a a", "named twice"),
        ("--text_column a Label", '--text_column "Label" is also the --label_column'),
        ("--text_column a 3", "give names only, or numbers only"),
        ("--group_column Label", '--label_column "Label" is also the --group_column'),
        ("--group_column 3", "give names only, or numbers only"),
        ("--text_column 1 2 --label_column 3 --group_column 3", "is also the --group_column"),
        ("--text_column 1 --label_column 01", '--text_column "1" is also the --label_column'),
        ("--group_column who --header no", "a file without names has numbers"),
        ("--fold 0/3", "--fold 0/3: no fold; give I/K"),
        ("--fold 4/3", "--fold 4/3: no fold"),
        ("--fold 1/1", "--fold 1/1: no fold"),
        ("--fold 2", "--fold 2: no fold"),
        ("--fold 1/2 --val_fraction 0.5", "--val_fraction 0.5 with --fold 1/2: nothing is left"),
        ("--fold 1/3 --test_fraction 0.3", "the fold is the test; leave --test_fraction out"),
        ("--fold 1/3 --test_dataset a.csv", "both say which texts are the test"),
    ],
)
def test_what_makes_no_sense_is_refused(
    flags: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").touch()
    assert main(["--dataset", "a.csv", *flags.split()]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 3, "one problem, named once"
