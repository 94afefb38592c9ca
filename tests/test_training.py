import math
import re
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch.optim.adamw import adamw

from ablation.classifier.build import GPTClassifier, build_classifier
from ablation.config.options import ExperimentConfig
from ablation.data import corpora
from ablation.finetuning import adamw as adamw_module
from ablation.finetuning.adamw import AdamWInBackward
from ablation.finetuning.experiment import make_schedule, run_experiment
from ablation.finetuning.losses import Loss, balanced_weights
from ablation.finetuning.outcomes import Accuracy
from ablation.finetuning.shared_work import SharedWork
from ablation.finetuning.training import batch_losses, classify_texts, train
from ablation.system.errors import TrainingError
from data_utils import make_loaders
from gpt_model import GPTModel

DEMO = {"model_size": "gpt2-tiny (3M)", "weights": "random", "demo": True, "num_epochs": 2}


@pytest.fixture(autouse=True)
def small_demo(few_messages: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "demo_messages", lambda: few_messages)


def printed(capsys: pytest.CaptureFixture, **options: object) -> str:
    """What an experiment prints, without the line of its time."""
    run_experiment(ExperimentConfig(**{**DEMO, "eval_freq": 1, **options}))
    return re.sub(r"Training completed.*\n", "", capsys.readouterr().out)


def test_printed_lines(capsys: pytest.CaptureFixture) -> None:
    run_experiment(ExperimentConfig(**DEMO, eval_freq=2))
    number, percent = r"\d\.\d{3}", r"\d{1,3}\.\d\d%"
    epoch = rf"Training accuracy: {percent} \| Validation accuracy: {percent}"

    def losses(e: int, step: int) -> str:
        return rf"Ep {e} \(Step {step:06d}\): Train loss {number}, Val loss {number}"

    expected = [
        *(losses(1, 0), losses(1, 2), epoch),  # 28 training texts make 3 batches of 8
        *(losses(2, 4), epoch),
        r"Training completed in \d+\.\d\d minutes\.",
        *(rf"{part} accuracy: {percent}" for part in ("Training", "Validation", "Test")),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_the_same_seed_prints_the_same(capsys: pytest.CaptureFixture) -> None:
    assert printed(capsys) == printed(capsys)


LIVE = {
    "disable_causal_mask": {"disable_causal_mask": True},
    "trainable_layers": {"trainable_layers": "last_two_blocks"},
    "trainable_layers last_layer": {"trainable_layers": "last_layer"},
    "trainable_layers all": {"trainable_layers": "all"},
    "trainable_layers lora": {"trainable_layers": "lora"},
    "trainable_token_pos": {"trainable_token_pos": "first"},
    "trainable_token_pos flexible": {"trainable_token_pos": "flexible"},
    "average_embeddings": {"average_embeddings": True},
    "ignore_index": {"ignore_index": 1},
    "class_weights": {"class_weights": "balanced"},
    "context_length": {"context_length": 20},
    "no_padding": {"no_padding": True, "batch_size": 1, "num_epochs": 1},
    "num_epochs": {"num_epochs": 1},
    "batch_size": {"batch_size": 4},
    "accumulation_steps": {"accumulation_steps": 2},
    "learning_rate": {"learning_rate": 1e-3},
    "weight_decay": {"weight_decay": 100.0},
    "max_steps": {"max_steps": 2},
    "eval_freq": {"eval_freq": 2},
    "eval_iter": {"eval_iter": 1},
    "seed": {"seed": 5},
    "precision": {"precision": "bf16"},
}


@pytest.fixture(scope="module")
def reference_output() -> dict:
    return {}


@pytest.mark.parametrize("name", LIVE)
def test_every_flag_changes_what_is_printed(
    name: str, capsys: pytest.CaptureFixture, reference_output: dict
) -> None:
    if not reference_output:
        reference_output["text"] = printed(capsys)
    assert printed(capsys, **LIVE[name]) != reference_output["text"]


@pytest.mark.parametrize("options", [{"lora_rank": 2}, {"lora_alpha": 2.0}])
def test_lora_flags_change_what_is_printed(options: dict, capsys: pytest.CaptureFixture) -> None:
    lora = {"trainable_layers": "lora", "learning_rate": 1e-3}
    assert printed(capsys, **lora) != printed(capsys, **lora, **options)


@pytest.mark.parametrize(
    ("options", "others"),
    [
        ({"ignore_index": 50256}, {}),  # labels are 0 and 1
        ({"device": "cpu"}, {}),
        ({"trainable_layers": "lora_alternative"}, {"trainable_layers": "lora"}),
    ],
)
def test_inert_flags(options: dict, others: dict, capsys: pytest.CaptureFixture) -> None:
    assert printed(capsys, **options) == printed(capsys, **others)


def test_circumstances_do_not_change_what_is_printed(capsys: pytest.CaptureFixture) -> None:
    reference = printed(capsys)
    assert printed(capsys, no_feature_reuse=True) == reference
    histories = [
        run_experiment(ExperimentConfig(**DEMO, eval_freq=1, no_feature_reuse=plain)).history
        for plain in (False, True)
    ]
    for fast, plain in zip(*(history.losses for history in histories), strict=True):
        assert (fast.train, fast.validation) == pytest.approx(
            (plain.train, plain.validation), abs=1e-4
        )
    capsys.readouterr()
    assert printed(capsys, feature_memory=0.0) == reference
    assert printed(capsys, data_dir="elsewhere", weights_dir="elsewhere") == reference


# ---------------------------------------------------------------- gradient accumulation


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[torch.Tensor]]:
    """The gradients of an epoch's updates, taken at weights that hardly move."""
    seen: dict[int, list[torch.Tensor]] = {}

    def spy(parameters: list[torch.Tensor], gradients: list[torch.Tensor], *rest, **options):
        """AdamW that keeps the gradients at each update."""
        own = [gradient.flatten().clone() for gradient in gradients]
        seen.setdefault(id(parameters[0]), []).append(torch.cat(own))
        adamw(parameters, gradients, *rest, **options)

    monkeypatch.setattr(adamw_module, "adamw", spy)

    def run(**options: object) -> list[torch.Tensor]:
        seen.clear()
        still = {"learning_rate": 1e-30, "weight_decay": 0.0, "num_epochs": 1}
        run_experiment(ExperimentConfig(**{**DEMO, **still, **options}))
        return [torch.cat(parts) for parts in zip(*seen.values(), strict=True)]

    return run


def test_accumulation_equals_the_large_batch(gradients: Callable) -> None:
    one_by_one = gradients(batch_size=1, accumulation_steps=4)
    at_once = gradients(batch_size=4)
    assert (len(one_by_one), len(at_once)) == (7, 7)  # of 28 texts none is dropped
    for window, batch in zip(one_by_one, at_once, strict=True):
        torch.testing.assert_close(window, batch, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(at_once[0], at_once[1], rtol=1e-2)


def test_weighted_texts_of_one_batch_each_add_up_to_the_large_batch(gradients: Callable) -> None:
    """PyTorch's weighted mean would cancel the weight of a batch's only text."""
    weighted = {"class_weights": "balanced", "ignore_index": 50256}
    one_by_one = gradients(batch_size=1, accumulation_steps=4, **weighted)
    at_once = gradients(batch_size=4, **weighted)
    for window, batch in zip(one_by_one, at_once, strict=True):
        torch.testing.assert_close(window, batch, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(at_once[0], gradients(batch_size=4)[0], rtol=1e-3)


def test_the_last_window_is_a_mean_over_its_own_batches(gradients: Callable) -> None:
    windows = gradients(batch_size=8, accumulation_steps=2)  # 3 batches: windows of 2 and 1
    single = gradients(batch_size=8)
    assert (len(windows), len(single)) == (2, 3)
    torch.testing.assert_close(windows[0], (single[0] + single[1]) / 2, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(windows[1], single[2], rtol=1e-4, atol=1e-7)


def test_max_steps_ends_in_the_middle_of_a_window(gradients: Callable) -> None:
    windows = gradients(batch_size=4, accumulation_steps=3, max_steps=4)
    single = gradients(batch_size=4, max_steps=4)
    assert (len(windows), len(single)) == (2, 4)
    torch.testing.assert_close(windows[1], single[3], rtol=1e-4, atol=1e-7)


def test_no_gradient_outlives_its_update() -> None:
    config = ExperimentConfig(**DEMO, max_steps=2, trainable_layers="all")
    loaders = make_loaders(SharedWork([config]).texts(config), config.batch_size)
    model = build_classifier(config)
    held = []
    for block in model.gpt.blocks:  # in a backward pass, later blocks are updated first
        block.norm1.weight.register_post_accumulate_grad_hook(
            lambda _: held.append(sum(p.grad is not None for p in model.parameters()))
        )
    train(model, loaders, make_schedule(config))
    assert len(held) == 2 * 4
    assert max(held) <= 2, "never more than one layer's"
    assert all(p.grad is None for p in model.parameters())


def test_a_part_is_updated_where_a_parameter_takes_no_part_in_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updated = []
    monkeypatch.setattr(
        adamw_module,
        "adamw",
        lambda layer, *rest, **options: (
            updated.append(len(layer)),
            adamw(layer, *rest, **options),
        ),
    )
    config = ExperimentConfig(**DEMO, max_steps=2)
    loaders = make_loaders(SharedWork([config]).texts(config), config.batch_size)
    model = build_classifier(config)
    model.gpt.blocks[-1].norm2.register_parameter("unused", torch.nn.Parameter(torch.ones(1)))
    before = model.gpt.blocks[-1].norm2.bias.detach().clone()
    train(model, loaders, make_schedule(config))
    assert not torch.equal(model.gpt.blocks[-1].norm2.bias, before)
    assert updated == 2 * 10 * [2], "eight layers of the block, norm and classifier, once a step"


# ---------------------------------------------------------------- evaluation and faults


def test_evaluation_counts_whole_loaders() -> None:
    config = ExperimentConfig(**DEMO)
    loaders = make_loaders(SharedWork([config]).texts(config), config.batch_size)
    model = build_classifier(config)
    totals = [classify_texts(model, loader).accuracy.total for loader in vars(loaders).values()]
    assert totals == [24, 4, 8]
    assert classify_texts(model, loaders.train, n_batches=2).accuracy.total == 16
    batch = next(iter(loaders.test))
    correct = 0
    for i in range(8):
        scores = model.gpt(batch.inputs[i : i + 1])[0, -1]
        correct += int(scores[1] > scores[0]) == int(batch.labels[i])
    assert classify_texts(model, loaders.test).accuracy == Accuracy(correct, 8)
    assert model.training, "evaluation leaves the model as it was"
    loss = -torch.log_softmax(model.gpt(batch.inputs)[:, -1], -1)[range(8), batch.labels].mean()
    (found,) = batch_losses(model, [batch], Loss())
    torch.testing.assert_close(found, loss)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter(range(100))

    real = GPTClassifier.forward

    def spoil_the_third(*args: object) -> torch.Tensor:
        logits = real(*args)
        return logits * torch.nan if next(calls) == 2 else logits

    monkeypatch.setattr(GPTClassifier, "forward", spoil_the_third)
    # The first step is followed by an evaluation of one batch of each part.
    with pytest.raises(TrainingError, match="loss evaluated after step 0 is nan"):
        run_experiment(ExperimentConfig(**DEMO, eval_iter=1))
    calls = iter(range(-2, 100))
    with pytest.raises(TrainingError, match="training loss at step 2 is nan"):
        run_experiment(ExperimentConfig(**DEMO, eval_iter=1))


def test_weights_that_diverge_in_the_last_update_stop_the_run() -> None:
    with pytest.raises(TrainingError, match=r"not finite.*--learning_rate"):
        run_experiment(ExperimentConfig(**DEMO, learning_rate=1e9, max_steps=2, eval_freq=1000))


def test_ignoring_every_label_stops_the_run() -> None:
    with pytest.raises(TrainingError, match="--ignore_index"):
        run_experiment(ExperimentConfig(**DEMO, ignore_index=0, batch_size=1, eval_freq=1))


def test_an_ignored_class_takes_no_part_in_the_loss() -> None:
    """In the published script, the flag never reaches training."""
    config = ExperimentConfig(**DEMO, ignore_index=1)
    loaders = make_loaders(SharedWork([config]).texts(config), config.batch_size)
    model = build_classifier(config)
    batch = next(iter(loaders.test))
    losses = -torch.log_softmax(model.gpt(batch.inputs)[:, -1], -1)[range(8), batch.labels]
    (found,) = batch_losses(model, [batch], Loss(config.ignore_index))
    torch.testing.assert_close(found, losses[batch.labels == 0].mean())
    assert not torch.allclose(found, losses.mean(), rtol=1e-3)


# ---------------------------------------------------------------- class weights


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = torch.tensor([0, 2, 0, 1, 0, 1, 0, 0, 1, 0])
    expected = [10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)]
    assert balanced_weights(labels, 3).tolist() == pytest.approx(expected)
    assert balanced_weights(labels, 3)[labels].mean().item() == pytest.approx(1)
    # The other classes share what is left of the texts.
    ignored = balanced_weights(labels, 3, ignore_index=0)
    assert ignored.tolist() == pytest.approx([0, 4 / (2 * 3), 4 / (2 * 1)])
    assert balanced_weights(labels, 3, ignore_index=-100).tolist() == pytest.approx(expected)


def test_a_weighted_loss_is_the_mean_of_weighted_texts() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 3), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2])
    weights = torch.tensor([0.5, 1.5, 4.0])
    each = [
        float(weights[c]) * (math.log(sum(math.exp(x) for x in row)) - row[c])
        for row, c in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    found = Loss(class_weights=weights)(logits, labels)
    assert found.item() == pytest.approx(sum(each) / 9, rel=1e-6)
    theirs = torch.nn.functional.cross_entropy(logits, labels, weights)  # over weights, not texts
    assert found.item() == pytest.approx(theirs.item() * float(weights[labels].sum()) / 9, rel=1e-6)
    without_second = Loss(1, weights)(logits, labels)
    assert without_second.item() == pytest.approx(sum(each[:5] + each[7:]) / 7, rel=1e-6)
    assert Loss(1)(logits, labels) == torch.nn.functional.cross_entropy(
        logits, labels, ignore_index=1
    )


# ---------------------------------------------------------------- AdamW


def test_updates_are_those_of_pytorchs_adamw() -> None:
    """Bit for bit, also where gradients add up over two passes, and where a bias gets none."""
    torch.manual_seed(0)
    config = ExperimentConfig(**DEMO, trainable_layers="last_two_blocks")
    ours, theirs = (build_classifier(config).gpt for _ in range(2))
    trained = [p for p in theirs.parameters() if p.requires_grad]
    reference = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1, fused=True)
    tokens = torch.randint(0, 100, (3, 2, 4, 7))

    def loss(gpt: GPTModel, part: torch.Tensor) -> torch.Tensor:
        hidden = gpt.final_norm(gpt.run_blocks(gpt.embed(part)))
        return (hidden @ gpt.head.weight.t()).square().mean()

    with AdamWInBackward(ours, learning_rate=1e-2, weight_decay=0.1) as optimizer:
        for first, second in tokens:
            loss(ours, first).backward()
            with optimizer.last_pass():
                loss(ours, second).backward()
            loss(theirs, first).backward()
            loss(theirs, second).backward()
            reference.step()
            reference.zero_grad()
        names = optimizer.moments().keys()
    for own, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own, expected)
    # The places of what checkpoints hold: by block, then the last norm, then the classifier.
    sizes = [16, 16, 2, 2]
    kinds = ("step", "exp_avg", "exp_avg_sq")
    assert [*names] == [
        f"{i}.{j}.{k}" for i, n in enumerate(sizes) for j in range(n) for k in kinds
    ]
