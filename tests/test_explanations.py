"""The messages on which two rows differ most, as their kept models read them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import config_from_flags, small_gpt2_encoding

from ablation.classifier.saved_models import load_classifier
from ablation.config.sizes import MODEL_SIZES
from ablation.data import corpora
from ablation.data.corpora import load_corpus
from ablation.data.demo import byte_encoding
from ablation.finetuning.by_token import read_by_token
from ablation.finetuning.classify import classify_texts
from ablation.interface.results import Results
from ablation.interface.running import run_rows
from ablation.reports import explanations
from ablation.reports.explanations import Explanation, explain_difference
from ablation.reports.findings import compare_rows
from ablation.reports.pages import render_html
from ablation.sweeps.records import RESULT_NAME
from ablation.system.machine import set_precision

SECTION = "{% from 'token_strip.html' import token_strips %}{{ token_strips(found) }}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, few_messages: pd.DataFrame) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablation.data.corpora.demo_messages", lambda: few_messages)
        options = {"demo": True, "max_steps": 2, "output_dir": folder}
        run_rows([1], seeds=(5, 6), save_model=True, **options)
        run_rows([2], seeds=(6,), save_model=True, **options)
        run_rows([2, 3], seeds=(5,), **options)  # which keep none
    return folder


@pytest.fixture
def runs(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "runs"))


def explain(folder: Path) -> Explanation | None:
    *_, section = Results.read(folder).sections
    corpus = load_corpus(config_from_flags(["--demo"]))
    return explain_difference(compare_rows(section), section, corpus)


@pytest.mark.usefixtures("few_demo_messages")
def test_the_five_messages_that_differ_most(runs: Path) -> None:
    found = explain(runs)
    assert (found.seed, found.finding.rows) == (6, (1, 2)), "the seed whose models both have kept"
    test = load_corpus(config_from_flags(["--demo"])).parts.test
    both = []
    for row in (1, 2):
        (folder,) = runs.glob(f"row-0{row}*seed-6*")
        read = classify_texts(load_classifier(folder, {}), byte_encoding(), test["Text"], top=2)
        names = [("ham", "spam")[label] for label in test["Label"]]
        both.append([one.probabilities[n] for one, n in zip(read, names, strict=True)])
    expected = np.argsort(-np.abs(np.subtract(*both)))[:5].tolist()
    assert [one.number for one in found.texts] == expected
    for one in found.texts:
        assert one.text == test["Text"].iloc[one.number]
        for strip, p, own in zip(one.strips, both, one.probabilities, strict=True):
            assert own == pytest.approx(p[one.number], abs=1e-6)
            assert strip.cells[-1].low == own, "the strips are of the true class"
            assert f'"{one.label}"' in strip.says
    assert found.table["message"].tolist() == [str(number) for number in expected]
    assert "with seed 6" in found.says
    page = render_html(SECTION, {"title": "x", "found": found})
    assert page.count('<div class="strip">') == 10
    assert explain(runs).texts == found.texts


@pytest.mark.usefixtures("few_demo_messages")
def test_models_that_are_gone_or_damaged(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder,) = runs.glob("row-02*seed-6*")
    model = folder / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    assert explain(runs) is None
    assert "Rows 1 and 2 are not shown token by token" in caplog.text
    assert str(model) in caplog.text
    caplog.clear()
    model.unlink()
    assert explain(runs) is None
    assert "not shown" not in caplog.text, "who deletes a model need not be told"


@pytest.mark.usefixtures("few_demo_messages")
def test_a_model_that_another_run_kept_is_not_taken_for_it(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (one,), (two,) = (runs.glob(f"row-0{row}*seed-6*") for row in (1, 2))
    for name in ("model.safetensors", "config.json"):
        (two / name).write_bytes((one / name).read_bytes())
    assert explain(runs) is None
    assert f"{two / 'model.safetensors'} is not the model that this run kept." in caplog.text


@pytest.mark.usefixtures("few_demo_messages")
def test_records_of_an_early_version_and_base_weights_that_are_gone(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder,) = runs.glob("row-02*seed-6*")
    (config := folder / "config.json").write_text(
        config.read_text().replace('"torch": "', '"torch": "0')
    )
    assert explain(runs) is None
    assert "are not shown token by token" in caplog.text
    for path in runs.glob(f"*/{RESULT_NAME}"):
        record = json.loads(path.read_text())
        del record["kept"]
        path.write_text(json.dumps(record))
    caplog.clear()
    assert explain(runs) is None
    assert "not shown" not in caplog.text


@pytest.mark.usefixtures("few_demo_messages")
def test_what_takes_too_long_or_too_much_is_left_out(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = []
    monkeypatch.setattr(explanations, "load_classifier", lambda *given: loaded.append(given))
    monkeypatch.setattr(explanations, "MAX_WORK", 0)
    assert explain(runs) is None
    assert "Rows 1 and 2 are not shown token by token: that would take too long" in caplog.text
    (folder,) = runs.glob("row-01*seed-6*")
    n_bytes = 4 * sum(p.numel() for p in load_classifier(folder, {}).model.parameters())
    monkeypatch.setattr(explanations, "free_bytes", lambda _: int(2.5 * n_bytes) - 1)
    assert explain(runs) is None
    assert f"take {2 * n_bytes / 1e9:.1f} GB of memory, and 0.0 GB are free. Close" in caplog.text
    assert not loaded, "no weights are read to find out"
    monkeypatch.setattr(explanations, "free_bytes", lambda _: 10**12)
    monkeypatch.setattr(explanations, "MAX_WORK", 1e18)
    monkeypatch.setattr(explanations, "load_classifier", lambda *_: _raise(MemoryError()))
    assert explain(runs) is None
    assert "out of memory: MemoryError. Close other programs" in caplog.text


@pytest.mark.usefixtures("few_demo_messages")
def test_each_model_reads_with_its_own_precision(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def load(*given: object) -> object:
        found = load_classifier(*given)
        set_precision("tf32")  # as of a model that was loaded later
        return found

    def read(*given: object) -> object:
        seen.append(torch.get_float32_matmul_precision())
        return read_by_token(*given)

    monkeypatch.setattr(explanations, "load_classifier", load)
    monkeypatch.setattr(explanations, "read_by_token", read)
    assert explain(runs)
    assert seen == ["highest"] * 10


def _raise(error: Exception) -> None:
    raise error


def test_without_the_mask_each_token_takes_a_pass() -> None:
    flags = ["--model_size", "tiny", "--weights", "random", "--context_length", "10"]
    n_parameters = 12 * MODEL_SIZES["gpt2-tiny (3M)"].n_layers * 64**2
    work = [
        explanations._count_work(config_from_flags([*flags, *more]), 7)
        for more in ((), ("--disable_causal_mask",))
    ]
    assert work == [n_parameters * (70 + 5 * 20), n_parameters * (70 + 5 * (55 + 10))]


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("sharpness", [0.5, 3, 20])
def test_those_that_differ_most_are_candidates(n_classes: int, sharpness: float) -> None:
    rng = np.random.default_rng(n_classes)
    labels, every = rng.integers(n_classes, size=200), np.arange(200)
    bounds, true = [], []
    for _ in range(2):
        table = np.exp(sharpness * rng.standard_normal((200, n_classes)))
        table /= table.sum(axis=1, keepdims=True)
        best = table.argmax(axis=1)
        shown = table[:, 1] if n_classes == 2 else table.max(axis=1)
        predictions = pd.DataFrame({"probability": shown, "label": labels})
        record = SimpleNamespace(predictions=predictions, correct=best == labels)
        bounds.append(explanations._bound_probabilities(record, n_classes))
        true.append(table[every, labels])
        assert (bounds[-1][0] <= true[-1] + 1e-12).all()
        assert (true[-1] <= bounds[-1][1] + 1e-12).all()
    candidates = explanations._find_candidates(bounds)
    assert {*np.argsort(-np.abs(true[0] - true[1]))[:5]} <= {*candidates}
    if n_classes == 2:
        assert len(candidates) == 5


@pytest.mark.slow
def test_of_several_classes_the_models_say_which_differ_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "gpt2_encoding", lambda *_: small_gpt2_encoding())
    own = Path(__file__).parent.parent / "examples" / "help_desk.csv"
    options = {
        **{"dataset": str(own), "text_column": "message", "label_column": "topic"},
        **{"model_size": "tiny", "weights": "random", "max_steps": 2, "context_length": 24},
    }
    run_rows([1, 2], save_model=True, output_dir=tmp_path, **options)
    results = Results.read(tmp_path)
    *_, section = results.sections
    (corpus,) = results.tested
    found = explain_difference(compare_rows(section), section, corpus)
    test, both = corpus.parts.test, []
    for row in (1, 2):
        (folder,) = tmp_path.glob(f"row-0{row}*")
        classifier = load_classifier(folder, {})
        read = classify_texts(
            classifier, small_gpt2_encoding(), test["Text"], top=len(corpus.class_names)
        )
        names = [corpus.class_names[label] for label in test["Label"]]
        both.append([one.probabilities[n] for one, n in zip(read, names, strict=True)])
    assert len(corpus.class_names) > 2
    assert [one.number for one in found.texts] == (
        np.argsort(-np.abs(np.subtract(*both)))[:5].tolist()
    )
    assert [*found.table.columns][2:4] == ["row 1, probability", "row 2, probability"]
