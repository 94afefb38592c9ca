"""A model that cannot be kept: known before training, or else no loss of figures."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import config_from_flags

from ablation.classifier.export import require_export_folder
from ablation.config.options import ExperimentConfig
from ablation.config.runs import OutputOptions
from ablation.data.corpora import load_corpus
from ablation.data.demo import byte_encoding
from ablation.finetuning import experiment
from ablation.finetuning.checkpoints import CHECKPOINT_NAME
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps.records import Record, read_records
from ablation.system.errors import ExportError
from additional_experiments import main
from data_utils import Corpus

pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")

FLEXIBLE = ["--demo", "--trainable_token_pos", "flexible", "--max_steps", "3"]
ERRORS = {
    "ExportError": ExportError("--export_hf cannot be written (No space left on device)."),
    "OSError": OSError(28, "No space left on device"),
    "MemoryError": MemoryError("No space left on device"),
    "RuntimeError": RuntimeError("No space left on device"),
}


def fail(error: Exception) -> object:
    def raise_it(*_: object) -> None:
        raise error

    return raise_it


def without_minutes(out: str) -> list[str]:
    return [line for line in out.splitlines() if "minutes" not in line]


def only_record() -> Record:
    (record,) = read_records(Path("runs/demo"))
    return record


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("name", "flags", "function"),
    [
        ("export", ["--export_hf", "exported"], "export_hf"),
        ("model", ["--save_model"], "save_classifier"),
    ],
)
def test_the_figures_are_recorded_whatever_becomes_of_the_model(
    error: str,
    name: str,
    flags: list[str],
    function: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    assert main([*FLEXIBLE, "--output_dir", "alone"]) == 0
    (expected,) = read_records(Path("alone"))
    alone = without_minutes(capsys.readouterr().out)
    with monkeypatch.context() as patch:
        patch.setattr(experiment, function, fail(ERRORS[error]))
        assert main([*FLEXIBLE, *flags]) == 1
    out, err = capsys.readouterr()
    assert without_minutes(out) == alone
    assert "No space left on device" in err
    assert "its figures are in" in err
    record = only_record()
    assert record.is_complete
    assert record.predictions.equals(expected.predictions)
    assert record.result["kept"] == {}
    assert list(record.result["not_kept"]) == [name]
    assert "No space left on device" in record.result["not_kept"][name]

    assert main([*FLEXIBLE, *flags, "--resume"]) == 0
    out, err = capsys.readouterr()
    assert without_minutes(out) == alone
    assert "Continuing after step 3" in err, "nothing is trained again"
    record = only_record()
    assert list(record.result["kept"]) == [name]
    assert record.result["not_kept"] == {}
    assert not (record.folder / CHECKPOINT_NAME).exists()


def test_a_sweep_goes_on_after_a_model_that_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real, started = experiment.save_classifier, []

    def fail_first(*arguments: object) -> None:
        started.append(arguments)
        if len(started) == 1:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(experiment, "save_classifier", fail_first)
    flags = ["--demo", "--max_steps", "2", "--rows", "1,2", "--save_model"]
    assert main(flags) == 1
    records = read_records(Path("runs/demo"))
    assert [record.is_complete for record in records] == [True, True]
    assert sorted(len(record.result["kept"]) for record in records) == [0, 1]
    assert "2 runs" not in (err := capsys.readouterr().err)
    assert err.count("No space left on device") == 1
    assert main(flags) == 0, "only the one is done again"
    assert len(started) == 3


def corpus_of(n_classes: int) -> Corpus:
    corpus = load_corpus(ExperimentConfig(demo=True))
    return replace(corpus, class_names=tuple(f"class {i}" for i in range(n_classes)))


def test_too_many_classes_for_an_export_are_known_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_from_flags(FLEXIBLE)
    assert config.gpt.emb_dim == 64
    output = OutputOptions(export_dir=Path("exported"))
    with monkeypatch.context() as patch:
        patch.setattr(SharedWork, "model", lambda *_: pytest.fail("no weights are read"))
        with pytest.raises(ExportError, match=r"65 classes.*64 classes at most.*--model_size"):
            run_experiment(config, SharedWork([config], corpus_of(65), byte_encoding()), output)
    result = run_experiment(config, SharedWork([config], corpus_of(64), byte_encoding()), output)
    assert list(result.kept) == ["export"]
    run_experiment(config, SharedWork([config], corpus_of(65), byte_encoding()))


@pytest.mark.parametrize("path", ["loop", "loop/below", "a\0b", "a" * 300])
def test_an_export_to_a_path_that_cannot_be(path: str) -> None:
    Path("loop").symlink_to("loop")
    with pytest.raises(ExportError, match=r"--export_hf .*(circle|null byte|too long)"):
        require_export_folder(Path(path))
