"""What a notebook uses: it says what the command line and the records say."""

import json
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from helpers import config_from_flags

from ablation.classifier.saved_models import load_classifier
from ablation.config.command_line import parse_command_line
from ablation.config.commands import format_flags
from ablation.config.runs import Run
from ablation.data.demo import byte_encoding
from ablation.finetuning.by_token import read_by_token
from ablation.finetuning.classify import classify_texts
from ablation.interface import running
from ablation.interface.classifier import Classifier
from ablation.interface.results import Results
from ablation.interface.running import run_row, run_rows
from ablation.reports.contents import Gallery, report_values
from ablation.reports.findings import compare_rows
from ablation.reports.material import read_material
from ablation.sweeps.closing import _typed
from ablation.sweeps.records import RESULT_NAME, read_record
from ablation.system.errors import (
    ConfigError,
    DataError,
    ExperimentError,
    RecordError,
    TensorFileError,
    shorten,
)

DEMO = {"demo": True, "max_steps": 2}
TEXTS = ["WIN £5 now", "", "See you"]
HUGE = 10**5000  # which Python does not write out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, few_messages: pd.DataFrame) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablation.data.corpora.demo_messages", lambda: few_messages)
        run_rows("1-2", seeds=(1, 2), output_dir=folder, save_model=True, **DEMO)
    return folder


# ---------------------------------------------------------------- a classifier


@pytest.fixture
def kept(runs: Path) -> Path:
    return sorted(runs.glob("row-01*"))[0]


@pytest.fixture(scope="module")
def loaded(runs: Path) -> Classifier:
    return Classifier.load(sorted(runs.glob("row-01*"))[0])


def test_texts_are_classified_as_elsewhere(kept: Path) -> None:
    table = Classifier.load(str(kept)).predict(iter(TEXTS))
    expected = list(classify_texts(load_classifier(kept, {}), byte_encoding(), TEXTS, top=2))
    assert list(table.columns) == ["text", "label", "probability", "ham", "spam"]
    assert table["text"].tolist() == TEXTS
    assert table["label"].tolist() == [one.label for one in expected]
    assert table["probability"].tolist() == [one.probability for one in expected]
    assert table["spam"].tolist() == [one.probabilities["spam"] for one in expected]
    assert len(Classifier.load(kept).predict("one text")) == 1
    assert Classifier.load(kept).predict([]).empty


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", None], "Text 2 is missing (None)"),
        (pd.Series(["a", np.nan]), "Text 2 is missing (nan)"),
        (pd.Series(["a", pd.NA], dtype="string"), "Text 2 is missing (<NA>)"),
        ([1], "Text 1=1: no text, but int"),
        ([["a", "b"]], "Text 1=['a', 'b']: no text, but list"),
        (pd.DataFrame({"message": ["a"]}), "give one of its columns (message)"),
        ({"a": 1}, "give a text, or a list of texts"),
        (b"a", "give a text, or a list of texts"),
        (5, "texts=5: give a text, or a list of texts"),
        (None, "texts=None: give a text, or a list of texts"),
    ],
    ids=str,
)
def test_what_is_no_text(loaded: Classifier, texts: object, words: str) -> None:
    for use in (loaded.predict, loaded.strip):
        with pytest.raises((ConfigError, DataError)) as error:
            use(texts)
        assert words in str(error.value)
    with pytest.raises(DataError, match="text"):
        loaded.by_token(texts)


def test_by_token_is_a_frame_and_a_strip(kept: Path) -> None:
    classifier = Classifier.load(kept)
    table = classifier.by_token(TEXTS[0])
    read = read_by_token(load_classifier(kept, {}), byte_encoding(), TEXTS[0])
    assert table["spam"].tolist() == read.probability_of("spam")
    assert table["label"].tolist() == read.predicted
    assert table["is_padding"].sum() == read.n_padding > 0
    assert table["token"].tolist()[:7] == ["W", "I", "N", "·", r"\xc2", r"\xa3", "5"]
    assert table["position"].iloc[-1] == len(table)
    html = classifier.strip(TEXTS)._repr_html_()
    assert html.count('<div class="strip">') == len(TEXTS)
    assert "<html" not in html
    assert "<script" not in html
    with pytest.raises(DataError, match="Text 2,"):
        classifier.strip(["a", "\udce9"])


def test_a_class_may_have_the_name_of_a_column(kept: Path) -> None:
    classifier = Classifier.load(kept)
    object.__setattr__(classifier._saved, "class_names", ("label", "token"))
    assert {"label", "class label", "class token"} <= {*classifier.predict("a")}
    assert {"label", "class label", "class token"} <= {*classifier.by_token("a")}


def test_what_cannot_be_loaded(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="holds no saved model"):
        Classifier.load(tmp_path)
    with pytest.raises(TensorFileError, match="holds no saved model"):
        Classifier.load(kept / RESULT_NAME)
    with pytest.raises(TensorFileError, match="These runs in it keep a model") as error:
        Classifier.load(kept.parent)
    assert str(error.value).count(f"{kept.parent}/row-") == 4
    with pytest.raises(ConfigError, match="seed: no option of a kept model"):
        Classifier.load(kept, seed=1)
    with pytest.raises(ConfigError, match='--device "gpu"'):
        Classifier.load(kept, device="gpu")


# ---------------------------------------------------------------- results


def test_a_line_for_each_run(runs: Path, few_demo_messages: None) -> None:
    table = Results.read(runs).runs
    assert len(table) == 4
    for line in table.itertuples():
        record = read_record(runs / line.run)
        assert (line.seed, line.status) == (record.config.seed, "complete")
        assert line.test == record.accuracy("test").percent
        assert line.minutes == record.minutes
        assert line.command == record.result["command"]


def test_a_line_for_each_configuration(runs: Path, few_demo_messages: None) -> None:
    results = Results.read(str(runs))
    assert results.table["row"].tolist() == [1, 2]
    assert results.table["n"].tolist() == [2, 2]
    *_, section = results.sections
    for line in results.table.itertuples():
        part = section.configurations[line.row]
        assert line.test == pytest.approx(part.percent("test").mean())
        assert (line.low, line.high) == part.interval
        assert np.isnan(line.published)
    assert results.table["name"].iloc[1] == "2 first or last token?"
    assert results.table["flags"].iloc[1] == "--trainable_token_pos first --demo --max_steps 2"
    (finding,) = compare_rows(section)
    (line,) = results.comparisons.itertuples()
    assert (line.first, line.second, line.n) == (1, 2, 2)
    assert (line.difference, line.p) == (finding.difference.points, finding.difference.p)
    assert (line.low, line.high) == (finding.difference.low, finding.difference.high)


def test_predictions_are_in_words(runs: Path, few_demo_messages: None) -> None:
    table = Results.read(runs).predictions
    for run, lines in table.groupby("run"):
        own = read_record(runs / run).predictions
        for column in ("label", "prediction"):
            assert [["ham", "spam"].index(name) for name in lines[column]] == own[column].tolist()
        assert lines["probability"].tolist() == own["probability"].tolist()
        assert lines["line"].tolist() == own["row"].tolist()


def test_runs_on_the_messages(real_data_dir: Path) -> None:
    lesson = Path(__file__).parent.parent / "docs" / "lesson"
    results = Results.read(lesson, data_dir=real_data_dir, offline=True)
    # Row 1 without the mask is row 17, so it has a line of its own in both sections.
    assert results.table["row"].tolist() == [1, 2, 17, 1, 2]
    assert results.table["test"].nunique() == 3
    assert "training loss" in results.plot_learning()._repr_svg_()
    with pytest.raises(DataError, match="nothing is downloaded"):
        Results.read(lesson, data_dir="nowhere", offline=True)


def test_runs_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablation.sweeps.sweep.run_experiment", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_row(1, output_dir=tmp_path, **DEMO)
    with pytest.raises(ExperimentError, match=r"1 run of 1 failed: .*seed-123"):
        run_rows([1], output_dir=tmp_path, **DEMO)
    results = Results.read(tmp_path)
    assert results.runs["error"].tolist() == ["ZeroDivisionError: division by zero"]
    assert results.table.empty
    assert results.comparisons.empty
    assert results.predictions.query("label != prediction").empty
    assert results.plot_accuracy() is results.plot_errors() is results.plot_learning() is None


def test_a_record_that_does_not_fit_its_texts_is_left_out(
    runs: Path, tmp_path: Path, few_demo_messages: None, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = Path(shutil.copytree(runs, tmp_path / "runs"))
    folder = sorted(damaged.glob("row-02*"))[0]
    record = json.loads((folder / RESULT_NAME).read_text())
    record["accuracy"]["validation"]["total"] += 1
    (folder / RESULT_NAME).write_text(json.dumps(record))
    results = Results.read(damaged)
    assert folder.name not in results.runs["run"].tolist()
    assert results.table["n"].tolist() == [2, 1]
    assert f"Skipped: the record {folder} is damaged" in caplog.text


def test_pictures_are_those_of_the_report(runs: Path, few_demo_messages: None) -> None:
    results = Results.read(runs)
    for shown in (results.plot_accuracy(), results.plot_errors()):
        svg = shown._repr_svg_()
        root = ElementTree.fromstring(svg)
        texts = " ".join(root.itertext())
        assert "first or last token?" in texts
        assert '<rect width="100%" height="100%" fill="white"/>' in svg
        assert "prefers-color-scheme" not in svg
        assert "first or last token?" in repr(shown)
    assert results.plot_minutes() is None, "of two there is nothing to see"
    (name,) = (point.name for point in results._points if "first" in point.name)
    mean = results.table["test"].iloc[1]
    assert f"{name}: {mean:.2f} %" in repr(results.plot_accuracy())
    results.plot_errors().save("a.svg")
    assert Path("a.svg").read_text() == results.plot_errors()._repr_svg_()
    for path in ("a.png", "a", None):
        with pytest.raises(ConfigError, match=r"a picture is SVG; .* ends in \.svg"):
            results.plot_errors().save(path)
    with pytest.raises(DataError, match=r"nowhere/a\.svg cannot be written: the folder /"):
        results.plot_errors().save(Path("nowhere/a.svg"))
    assert not Path("a.png").exists()


def test_names_are_those_of_the_page(runs: Path, tmp_path: Path, few_demo_messages: None) -> None:
    folder = shutil.copytree(runs, tmp_path / "runs")
    options = {"seeds": (1,), "output_dir": folder, **DEMO}
    run_rows([17], **options)
    run_rows([2], disable_causal_mask=True, **options)
    results = Results.read(folder)
    names = [point.name for point in results._points]
    assert len(names) == len({*names}) == 4, "row 17 is row 1 without the mask, too"
    assert {*results.table["name"]} == {*names}
    assert names[1] == "2 first or last token?", "flags that all have are in no name"
    assert names[3] == "2 first or last token? with --disable_causal_mask"
    material = read_material(Path(folder), tmp_path)
    page = report_values(material, Gallery())["overview"]
    assert page.description == repr(results.plot_accuracy())


def test_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no records"):
        Results.read(tmp_path)


def test_the_folder_of_one_run(kept: Path) -> None:
    with pytest.raises(RecordError, match=f"is the folder of one run.* lies in: {kept.parent}$"):
        Results.read(kept)


# ---------------------------------------------------------------- running


@pytest.mark.usefixtures("few_demo_messages")
def test_a_row_is_run_as_the_command_line_runs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "experiments")
    record = run_row(12, demo=True, max_steps=1, seed=5, lora_rank=2, output_dir=str(tmp_path))
    flags = ["--rows", "12", "--demo", "--max_steps", "1", "--seed", "5", "--lora_rank", "2"]
    config = config_from_flags(flags)
    assert record.config == config
    assert record.folder == Run(config).folder(tmp_path)
    assert record.result["overrides"] == {"demo": True, "max_steps": 1, "lora_rank": 2}
    captured = capsys.readouterr()
    assert "Test accuracy" in captured.out
    again = f"--rows 12 --demo --max_steps 1 --lora_rank 2 --seed 5 --output_dir {tmp_path}"
    assert f"{again} --save_model" in captured.err + caplog.text
    assert not (record.folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("row", "options", "typed"),
    [
        (1, {}, "--rows 1 --output_dir runs"),
        (2, {"model_size": "tiny", "weights": "random", "batch_size": 8}, "--rows 2 --model_size"),
        (1, {"weights_dir": None, "offline": False}, "--rows 1 --output_dir"),
        (None, {"demo": True, "seed": 7, "offline": False}, "--demo --seed 7 --output_dir"),
        (None, {"demo": True, "learning_rate": 5e-5}, "--demo --learning_rate 5e-05 --output_dir"),
        (17, {"disable_causal_mask": False}, "--output_dir"),
        (17, {"disable_causal_mask": False, "demo": True, "learning_rate": 5e-5}, "--"),
    ],
)
def test_what_is_typed_for_a_run_repeats_it(
    row: int | None, options: dict, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(running.sweep, "run_one", lambda *given: seen.append(given))
    monkeypatch.setattr(running, "read_record", lambda folder: folder)
    run_row(row, save_model=True, **options)
    ((run, _, _, flags),) = seen
    words = format_flags({name: _typed(value) for name, value in flags.items()})
    assert words.startswith(typed)
    request = parse_command_line(shlex.split(words))
    assert (request.runs[0].config, request.output_dir) == (run.config, Path("runs"))
    assert request.output.save_model


def test_what_is_done_is_taken_as_it_is(
    runs: Path, monkeypatch: pytest.MonkeyPatch, few_demo_messages: None
) -> None:
    monkeypatch.setattr("ablation.sweeps.sweep.run_experiment", lambda *_: 1 / 0)
    record = run_row(2, seed=2, output_dir=runs, resume=True, save_model=True, **DEMO)
    assert json.loads((record.folder / RESULT_NAME).read_text()) == record.result
    assert len(run_rows([1, 2], seeds=[1, 2], output_dir=runs, **DEMO).table) == 2


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        (77, {}, "row 77: no such row; give a number from 1 to 19"),
        (1, {"lerning_rate": 1.0}, 'lerning_rate: no such option; did you mean "learning_rate"?'),
        (1, {"model_size": "huge"}, '--model_size "huge": no such choice'),
        (1, {"batch_size": 0}, "--batch_size 0"),
        (1, {"batch_size": "x"}, "--batch_size x"),
        (1, {"seed": -1}, "--seed -1"),
        (1, {"demo": "yes"}, "demo='yes': give True or False"),
        (14, {"batch_size": 3}, "--no_padding with --batch_size 3"),
        (None, {"lora_rank": 4}, "no LoRA layer would use it"),
        (True, {}, "row True: no such row"),
        ("1", {}, "row '1': no such row"),
        ([1], {}, "row [1]: no such row"),
        (1, {"seed": "x"}, "--seed x: not a whole number"),
        (1, {"batch_size": [8]}, "--batch_size [8]: not a whole number"),
        (1, {"model_size": None}, '--model_size "None": no such choice'),
        (1, {"weights": None}, "weights=None: give a text"),
        (1, {"data_dir": {}}, "data_dir={}: give a text"),
        (1, {"demo": None}, "demo=None: give True or False"),
        (1, {"resume": "no"}, "resume='no': give True or False"),
        (1, {"save_model": 1}, "save_model=1: give True or False"),
        (1, {"output_dir": None}, "output_dir=None: give the path of a folder"),
        (1, {"output_dir": ""}, "output_dir='': give the path of a folder"),
        (1, {"output_dir": "a\0"}, "it holds a null byte"),
        (HUGE, {}, "row a number of thousands of digits: no such row"),
        (1, {"model_size": HUGE}, '"a number of thousands of digits": no such choice'),
        (1, {"batch_size": [HUGE]}, "--batch_size a number of thousands of digits"),
        (1, {"output_dir": HUGE}, "output_dir=a number of thousands of digits: give the path"),
    ],
    ids=lambda value: shorten(value, 20),
)
def test_mistakes_are_named_before_anything_is_started(
    row: int | None, options: dict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.sweep, "run_one", lambda *_: 1 / 0)
    with pytest.raises(ConfigError) as error:
        run_row(row, **options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rows": []}, "rows: empty; give a list, such as [1, 2]"),
        ({"rows": ""}, "rows='': give a list, such as [1, 2], or a text such as"),
        ({"rows": 5}, "rows=5: give a list, such as [1, 2]"),
        ({"rows": [None]}, "rows: None is no row"),
        ({"rows": [[1]]}, "row [1]: no such row"),
        ({"rows": "1", "seeds": []}, "seeds: empty; give a list, such as [123, 124]"),
        ({"rows": "1", "seeds": 3}, "seeds=3: give a list, such as [123, 124]"),
        ({"rows": "1", "seeds": "12"}, "seeds='12': give a list"),
        ({"rows": "1", "seeds": [1.5]}, "--seed 1.5: not a whole number"),
        ({"rows": "1", "seed": 5}, "give seeds, such as [123, 124]"),
        ({"rows": "1", "output_dir": 5}, "output_dir=5: give the path of a folder"),
        ({"rows": "1", "save_model": None}, "save_model=None: give True or False"),
        ({"rows": "1", "seeds": HUGE}, "seeds=a number of thousands of digits: give a list"),
    ],
    ids=lambda value: shorten(value, 40),
)
def test_mistakes_of_several_rows(given: dict, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.sweep, "run_sweep", lambda *_: 1 / 0)
    with pytest.raises(ConfigError) as error:
        run_rows(**given)
    assert words in str(error.value)


def test_mistakes_of_reading(kept: Path) -> None:
    for given in ({"output_dir": None}, {"data_dir": 5}, {"offline": "yes"}):
        with pytest.raises(ConfigError, match=r"give the path of a folder|give True or False"):
            Results.read(**{"output_dir": kept.parent, **given})
    for folder in (None, 5, "", "a\0"):
        with pytest.raises(ConfigError, match=r"give the path of a folder|null byte"):
            Classifier.load(folder)
    with pytest.raises(ConfigError, match=r"weights=\[\]: give a text"):
        Classifier.load(kept, weights=[])


def test_values_of_numpy_and_paths_are_plain_ones() -> None:
    (run,) = running._make_runs(
        [np.int64(1)],
        [np.int64(5), "5"],
        {"batch_size": np.int32(4), "data_dir": Path("d"), "learning_rate": np.float64(1e-3)},
    )
    given = (run.config.seed, run.config.batch_size, run.config.data_dir, run.config.learning_rate)
    assert [*map(type, given)] == [int, int, str, float]
    assert given == (5, 4, "d", 1e-3)


def test_a_text_of_options_is_read_as_a_flag_is(monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = running._make_runs(
        [17], [123], {"model_size": "tiny", "weights": "random", "disable_causal_mask": False}
    )
    assert run.config.model_size == "gpt2-tiny (3M)"
    assert not run.config.disable_causal_mask
    assert run.overrides == {
        **{"model_size": "gpt2-tiny (3M)", "weights": "random"},
        "disable_causal_mask": False,
    }
    (run,) = running._make_runs([1], [123], {"disable_causal_mask": False, "batch_size": 8})
    assert run.overrides == {}, "row 1 has these, so it is row 1"
    with pytest.raises(ConfigError, match="--rows 1-77: no such row"):
        run_rows("1-77")
