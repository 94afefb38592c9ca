"""Placement, tested without a GPU: all rows on an emulated card give what the CPU gives."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from emulated_device import CARD, emulated_card, is_on_card, mark

from ablation.classifier.saved_models import load_classifier
from ablation.classifier.tensor_files import checksum_tensors, read_tensors
from ablation.classifier.weight_files import WEIGHTS_NAME
from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.runs import OutputOptions
from ablation.data.demo import byte_encoding
from ablation.finetuning import feature_store
from ablation.finetuning.adamw import AdamWInBackward
from ablation.finetuning.checkpoints import Checkpoints
from ablation.finetuning.classify import classify_texts
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.outcomes import ExperimentResult
from ablation.finetuning.shared_work import SharedWork, sharing_order
from ablation.finetuning.training import TrainingState
from data_utils import Batch

pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures", "small_models")

LARGER = (6, 7, 8, 9, 10, 12)  # rows: where every model is small, the same as 1, 5 and 11
TWO_DEVICES = "Expected all tensors to be on the same device"


class Stopped(Exception):
    pass


def small_row(number: int, **options: object) -> ExperimentConfig:
    """A row on the few messages of the demo, a little longer than an epoch."""
    row = ROWS[number].config
    start = {"weights": "random", "demo": True, "learning_rate": 1e-2, "device": "cpu"}
    length = {"max_steps": 32 // row.batch_size, "eval_freq": 16 // row.batch_size, "eval_iter": 1}
    return replace(row, **{**start, **length, **options})


def outcome(result: ExperimentResult) -> tuple:
    return result.history, result.accuracy, result.test.logits.tolist()


def run_in_part(
    config: ExperimentConfig, output: OutputOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends at its third update as if the machine had been switched off."""
    real = Checkpoints.after_update
    n_updates = iter(range(100))

    def after_update(self: Checkpoints, state: TrainingState, ends_epoch: bool) -> None:
        real(self, state, ends_epoch)
        if next(n_updates) == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "after_update", after_update)
        with pytest.raises(Stopped):
            run_experiment(config, output=output)


def probabilities(folder: Path, device: str) -> list[float]:
    """What a kept model makes of some texts."""
    classifier = load_classifier(folder, {"device": device})
    assert classifier.model.device.type == device
    texts = ["", "win a prize", "see you at the station " * 20]
    return [one.probability for one in classify_texts(classifier, byte_encoding(), texts)]


@pytest.mark.parametrize(
    ("number", "options"),
    [
        *((number, {}) for number in ROWS if number not in LARGER),
        *(pytest.param(number, {}, marks=pytest.mark.slow) for number in LARGER),
        *((number, {"precision": "bf16"}) for number in (1, 11)),
        (16, {"no_feature_reuse": True}),
        (1, {"feature_memory": 0.0}),
    ],
    ids=str,
)
@pytest.mark.slow
def test_a_card_gives_what_the_cpu_gives(
    number: int,
    options: dict,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Hidden states, training, evaluation, a checkpoint, a new start, a kept model, its use."""
    config = small_row(number, **options)
    expected = run_experiment(config, output=OutputOptions(Path("cpu"), save_model=True))
    caplog.set_level(logging.INFO, "experiments")
    output = OutputOptions(Path("card"), resume=True, checkpoint_every=2, save_model=True)
    on_card = replace(config, device="cuda")
    with emulated_card():
        run_in_part(on_card, output, monkeypatch)
        found = run_experiment(on_card, output=output)
        predicted = probabilities(Path("card"), "cuda")
    assert "Continuing after step" in caplog.text
    assert found.machine["device"]["name"] == "emulated card"
    assert outcome(found) == outcome(expected)
    kept = [read_tensors(Path(place) / WEIGHTS_NAME)[1] for place in ("card", "cpu")]
    torch.testing.assert_close(*kept, rtol=0, atol=0)
    assert predicted == probabilities(Path("cpu"), "cpu")


def test_rows_that_share_states_do_so_on_a_card() -> None:
    configs = sorted((small_row(n) for n in (1, 2, 3, 4, 16, 19)), key=sharing_order)

    def run_all(device: str) -> list[tuple]:
        here = [replace(config, device=device) for config in configs]
        # As a task of Ray gets them: from another process.
        shared = SharedWork(here, prefix=SharedWork(here).compute_prefix(here[0]))
        return [outcome(run_experiment(config, shared)) for config in here]

    expected = run_all("cpu")
    with emulated_card():
        assert run_all("cuda") == expected


def test_a_card_stores_states_and_finds_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "experiments")
    monkeypatch.setattr(feature_store, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(feature_store, "BYTES_PER_SECOND", 1e12)

    def run_twice(number: int, device: str) -> tuple[list[tuple], list[bool]]:
        """The outcomes, and whether each found states."""
        outcomes, found = [], []
        for _ in range(2):
            caplog.clear()
            outcomes.append(outcome(run_experiment(small_row(number, device=device))))
            found.append("Hidden states of" in caplog.text)
        return outcomes, found

    with emulated_card():
        on_card = [run_twice(number, "cuda") for number in (1, 3)]
    assert [found for _, found in on_card] == [[False, True], [True, True]]
    on_cpu = [run_twice(number, "cpu") for number in (1, 3)]
    assert on_cpu == on_card, "what a card made does not serve a CPU"


def test_an_export_from_a_card() -> None:
    config = small_row(16, trainable_layers="lora_alternative")
    run_experiment(config, output=OutputOptions(export_dir=Path("cpu")))
    with emulated_card():
        run_experiment(
            replace(config, device="cuda"), output=OutputOptions(export_dir=Path("card"))
        )
    name = "model.safetensors"
    assert (Path("card") / name).read_bytes() == (Path("cpu") / name).read_bytes()


# ---------------------------------------------------------------- what a card would refuse


@pytest.mark.parametrize(
    ("field", "number"),
    [
        *(("inputs", number) for number in (5, 11, 13, 17)),
        *(("lengths", number) for number in (15, 16)),
        *(("padded_lengths", number) for number in (1, 14)),
        ("labels", 19),
    ],
)
def test_a_tensor_that_is_left_behind_is_refused(
    field: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Batch.to

    def to(self: Batch, device: torch.device) -> Batch:
        return replace(real(self, device), **{field: getattr(self, field)})

    monkeypatch.setattr(Batch, "to", to)
    flexible = {"trainable_token_pos": "flexible"} if field == "lengths" else {}
    config = small_row(number, no_feature_reuse=field == "inputs", **flexible)
    run_experiment(config)
    with emulated_card(), pytest.raises(RuntimeError, match=TWO_DEVICES):
        run_experiment(replace(config, device="cuda"))


def test_moments_that_are_left_behind_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = AdamWInBackward.restore

    def restore(self: AdamWInBackward, moments: dict[str, torch.Tensor]) -> None:
        real(self, moments)
        for moment in self.moments().values():
            mark(moment, on_card=False)

    config = small_row(1, device="cuda")
    output = OutputOptions(Path("card"), resume=True, checkpoint_every=1)
    with emulated_card():
        run_in_part(config, output, monkeypatch)
        monkeypatch.setattr(AdamWInBackward, "restore", restore)
        with pytest.raises(RuntimeError, match=TWO_DEVICES):
            run_experiment(config, output=output)


DEVICES = ["emulated", *(["real"] if torch.cuda.is_available() else [])]
ALLOWED: dict[str, Callable] = {
    "a scalar of the CPU": lambda card, cpu: card + cpu.sum(),
    "a scalar of the CPU first": lambda card, cpu: cpu.sum() * card,
    "a number": lambda card, cpu: card.masked_fill(card > 1, -torch.inf) / 2.0,
    "indices on the CPU": lambda card, cpu: card[torch.tensor([1, 0])],
    "a mask on the CPU": lambda card, cpu: card[torch.tensor([True, False, True])],
    "a list": lambda card, cpu: card[[0, 2]],
    "a copy to the card": lambda card, cpu: card.clone().copy_(cpu),
    "created like another": lambda card, cpu: card.new_ones(3) + torch.zeros_like(card),
    "a move to where another is": lambda card, cpu: cpu.to(card) + card,
    "created there": lambda card, cpu: torch.arange(3, device=card.device) + card,
    "a part that is set": lambda card, cpu: card.clone().index_put_(
        (torch.tensor([0]),), torch.tensor(1.0)
    ),
}
REFUSED: dict[str, Callable] = {
    "a sum": lambda card, cpu: card + cpu,
    "a sum with a scalar on the card": lambda card, cpu: cpu + card.sum(),
    "a sum in place": lambda card, cpu: cpu.sum().add_(card.sum()),
    "a product": lambda card, cpu: card.view(1, 3) @ cpu.view(3, 1),
    "one tensor of two": lambda card, cpu: torch.cat([card, cpu]),
    "a mask": lambda card, cpu: card.masked_fill(cpu > 1, 0.0),
    "an embedding": lambda card, cpu: torch.nn.functional.embedding(
        torch.tensor([0]), card.view(1, 3)
    ),
    "indices on the card": lambda card, cpu: cpu[torch.tensor([1, 0], device=card.device)],
    "a part set to values elsewhere": lambda card, cpu: card.clone().index_put_(
        (torch.tensor([0, 1]),), cpu[:2]
    ),
    "a choice": lambda card, cpu: torch.where(card > 1, card, cpu),
    "labels": lambda card, cpu: torch.nn.functional.cross_entropy(
        card.view(1, 3), torch.tensor([1])
    ),
}


def on_both(device: str, work: Callable) -> torch.Tensor:
    """What ``work`` gives for (0, 1, 2) on the card and on the CPU, brought back."""
    numbers = torch.arange(3.0)
    if device == "real":
        return work(numbers.to(CARD), numbers).cpu()
    with emulated_card():
        found = work(numbers.to(CARD), numbers)
        assert found.device == CARD
        assert is_on_card(found)
        return found.cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows(device: str, name: str) -> None:
    numbers = torch.arange(3.0)
    torch.testing.assert_close(on_both(device, ALLOWED[name]), ALLOWED[name](numbers, numbers))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses(device: str, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"device"):
        on_both(device, REFUSED[name])


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_of_a_card_are_not_read_without_a_copy(device: str) -> None:
    with pytest.raises(TypeError, match="numpy"):
        on_both(device, lambda card, cpu: checksum_tensors("", {"a": card}))
