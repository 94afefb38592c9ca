"""--keep_best and --stop_after, beside what test_protocol and test_checkpoints have of them."""

import json
from pathlib import Path

import pytest
import torch
from helpers import config_from_flags

from ablation.classifier.build import build_classifier
from ablation.finetuning.best_epoch import note_epoch
from ablation.finetuning.experiment import make_schedule, run_experiment
from ablation.finetuning.outcomes import Accuracy, History, Validation
from ablation.finetuning.shared_work import SharedWork
from ablation.finetuning.training import classify_texts, train
from ablation.finetuning.training_state import TrainingState
from ablation.sweeps.record_schema import check_result
from ablation.sweeps.records import read_records
from additional_experiments import main
from data_utils import make_loaders

# Three batches are an epoch.
pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")

# Its best epoch is the second of four.
ROUGH = ["--demo", "--learning_rate", "1e-2", "--num_epochs", "4"]


def printed_before_the_end(flags: list[str], capsys: pytest.CaptureFixture) -> list[str]:
    run_experiment(config_from_flags(flags))
    return capsys.readouterr().out.split("Training completed")[0].splitlines()


def test_nothing_else_changes_up_to_the_end(capsys: pytest.CaptureFixture) -> None:
    plain = printed_before_the_end([*ROUGH, "--eval_freq", "1"], capsys)
    assert printed_before_the_end([*ROUGH, "--eval_freq", "1", "--keep_best"], capsys) == plain
    stopped = printed_before_the_end([*ROUGH, "--eval_freq", "1", "--stop_after", "1"], capsys)
    assert stopped == plain[: len(stopped)]
    assert len(stopped) == 12 < len(plain), "three epochs of three losses and a line"


def test_the_kept_model_is_the_one_that_fewer_epochs_give() -> None:
    """Bit for bit: what the second epoch ended with."""
    kept = run_experiment(config_from_flags([*ROUGH, "--keep_best"]))
    both = run_experiment(config_from_flags([*ROUGH, "--keep_best", "--stop_after", "1"]))
    two_epochs = run_experiment(config_from_flags([*ROUGH[:-1], "2"]))
    assert kept.history.kept_epoch == both.history.kept_epoch == 2
    assert len(both.history.validations) == 3
    assert torch.equal(kept.test.logits, two_epochs.test.logits)
    assert torch.equal(both.test.logits, two_epochs.test.logits)
    whole = run_experiment(config_from_flags(ROUGH))
    assert not torch.equal(kept.test.logits, whole.test.logits)
    assert whole.history.validations == []


def test_without_keep_best_the_last_weights_stay() -> None:
    stopped = run_experiment(config_from_flags([*ROUGH, "--stop_after", "1"]))
    three_epochs = run_experiment(config_from_flags([*ROUGH[:-1], "3"]))
    assert torch.equal(stopped.test.logits, three_epochs.test.logits)
    assert stopped.history.kept_epoch is None
    assert stopped.accuracy == three_epochs.accuracy, "the same texts are dropped at the end"


def test_validations_are_of_the_whole_part(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_flags([*ROUGH, "--keep_best", "--batch_size", "2", "--eval_iter", "1"])
    loaders = make_loaders(SharedWork([config]).texts(config), config.batch_size)
    classifier, seen = build_classifier(config), []

    class After:
        def restore(self, state: TrainingState) -> None:
            pass

        def after_update(self, state: TrainingState, ends_epoch: bool) -> None:
            if ends_epoch:
                before = torch.get_rng_state()
                found = classify_texts(classifier, loaders.validation)
                torch.set_rng_state(before)
                chances = found.logits.double().softmax(-1)[range(len(found.labels)), found.labels]
                seen.append((found.accuracy.correct, -chances.log().mean().item()))

    history = train(classifier, loaders, make_schedule(config), After())
    assert [v.accuracy.total for v in history.validations] == [4, 4, 4, 4]
    expected = [(v.accuracy.correct, pytest.approx(v.loss, rel=1e-5)) for v in history.validations]
    assert seen == expected
    best = max(range(4), key=lambda i: (seen[i][0], -seen[i][1]))
    assert history.kept_epoch == best + 1


@pytest.mark.parametrize(
    ("ranks", "best"),
    [
        ([(3, 0.5), (4, 0.9), (4, 0.8), (2, 0.1)], 3),
        ([(3, 0.5), (3, 0.5), (3, 0.5)], 1),
        ([(3, 0.5), (3, 0.6), (2, 0.1)], 1),
        ([], 0),
    ],
)
def test_the_best_is_the_first_of_the_most_accurate_with_the_lowest_loss(
    ranks: list[tuple[int, float]], best: int
) -> None:
    history = History(validations=[Validation(Accuracy(n, 5), loss) for n, loss in ranks])
    assert history.best_epoch == best
    assert History.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_kept_weights_do_not_change_with_the_model() -> None:
    config = config_from_flags([*ROUGH, "--keep_best"])
    classifier = build_classifier(config)
    state = TrainingState(classifier.gpt, optimizer=None)
    note_epoch(state, make_schedule(config), Validation(Accuracy(1, 2), 0.5))
    before = state.best["head.bias"].clone()
    with torch.no_grad():
        classifier.gpt.head.bias += 1
    note_epoch(state, make_schedule(config), Validation(Accuracy(1, 2), 0.6))
    assert torch.equal(state.best["head.bias"], before)


def test_the_record_says_which_epoch_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [*ROUGH, "--output_dir", str(tmp_path), "--keep_best", "--stop_after", "1", "--resume"]
    assert main(flags) == 0
    first = capsys.readouterr()
    assert "Epoch 2, whole validation part: accuracy 75.00%" in first.err
    assert "Stopped after epoch 3 of 4: one epoch was not better than epoch 2" in first.err
    assert "Kept the weights of epoch 2 of 3: validation accuracy 75.00%" in first.err
    (record,) = read_records(tmp_path)
    history = record.result["history"]
    assert history["kept_epoch"] == 2
    assert [v["accuracy"]["correct"] for v in history["validations"]] == [2, 3, 2]
    assert record.accuracy("validation") == Accuracy(3, 4)
    assert "keep_best_stop_after-1" in record.folder.name
    assert main(flags) == 0, "it is done, and says again what it printed"
    assert capsys.readouterr().out == first.out

    for change, problem in (
        ({"kept_epoch": 3}, "kept_epoch is not 2"),
        ({"validations": history["validations"] * 2}, "more than 4 epochs"),
        ({"validations": [{"accuracy": {"correct": 9, "total": 4}, "loss": 0.1}]}, "9 of 4 texts"),
        ({"validations": [{"accuracy": {"correct": 3, "total": 4}}]}, "loss is missing"),
    ):
        with pytest.raises(ValueError, match=problem):
            check_result({**record.result, "history": {**history, **change}})


def test_records_of_other_runs_have_nothing_new(tmp_path: Path) -> None:
    assert main([*ROUGH, "--num_epochs", "4", "--output_dir", str(tmp_path)]) == 0
    (record,) = read_records(tmp_path)
    assert record.result["history"].keys() == {"losses", "epoch_accuracies"}


def test_max_steps_that_leave_nothing_to_choose_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = run_experiment(
        config_from_flags([*ROUGH, "--max_steps", "2", "--keep_best", "--stop_after", "1"])
    )
    assert few.history.kept_epoch == 1
    assert "--keep_best: --max_steps 2 ends training in epoch 1" in caplog.text
    assert "--stop_after 1: --max_steps 2 ends training in epoch 1" in caplog.text
    caplog.clear()
    # The last epoch has one batch of three, and is evaluated as it is.
    cut = run_experiment(config_from_flags([*ROUGH, "--max_steps", "7", "--keep_best"]))
    assert len(cut.history.validations) == len(cut.history.epoch_accuracies) == 3
    assert "--max_steps" not in caplog.text
