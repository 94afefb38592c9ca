"""The messages on which two rows differ most, as their kept models read them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import config_from_flags

from ablation.classifier.saved_models import load_classifier
from ablation.data.corpora import load_corpus
from ablation.data.demo import byte_encoding
from ablation.finetuning.classify import classify_texts
from ablation.interface.results import Results
from ablation.interface.running import run_rows
from ablation.reports import explanations
from ablation.reports.explanations import Explanation, explain_difference
from ablation.reports.findings import compare_rows
from ablation.reports.pages import render_html
from ablation.sweeps.records import RESULT_NAME

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
def test_what_takes_too_long_is_left_out(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(explanations, "MAX_WORK", 0)
    assert explain(runs), "under the mask one pass is enough"

    def without_mask(*arguments: object) -> object:
        found = load_classifier(*arguments)
        found.model.reading = replace(found.model.reading, causal=False)
        return found

    monkeypatch.setattr(explanations, "load_classifier", without_mask)
    assert explain(runs) is None
    assert "each token takes a pass of its own" in caplog.text


def test_of_several_classes_the_record_knows_the_predicted_one() -> None:
    class OfThree:
        predictions = pd.DataFrame({"probability": [0.5, 0.75], "label": [2, 0]})
        correct = np.array([True, False])

    assert explanations._true_probabilities(OfThree, 3).tolist() == [0.5, 0.0]
    assert explanations._true_probabilities(OfThree, 2).tolist() == [0.5, 0.25]
