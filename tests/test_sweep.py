"""Many runs in one process: what they share, and that they are what they were alone."""

import gc
import json
import logging
import pickle
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from ablation.classifier.build import GPTClassifier, build_classifier, load_weights
from ablation.config.command_line import parse_command_line
from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.runs import OutputOptions, Run
from ablation.config.tables import configure
from ablation.data import corpora
from ablation.finetuning import shared_work
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.outcomes import ExperimentResult
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps import sweep
from ablation.sweeps.records import RESULT_NAME, read_record, read_records
from ablation.sweeps.sweep import describe_plan, order_runs, run_sweep
from ablation.system.errors import RecordError, TrainingError
from additional_experiments import main
from gpt_model import GPTModel

pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")

SHORT = {"demo": True, "max_steps": 6, "eval_freq": 3, "eval_iter": 1}
SHARING = (1, 2, 3, 4, 14, 15, 16, 18, 19)  # rows that need the same hidden states, or fewer


def make_runs(rows: tuple[int, ...], weights: str, seeds: tuple[int, ...] = (123,)) -> list[Run]:
    given = {**SHORT, "model_size": "gpt2-tiny (3M)", "weights": weights}
    configs = [configure(ROWS[row], given) for row in rows]
    return [Run(replace(config, seed=seed), given) for config in configs for seed in seeds]


def count_calls(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, note: Callable
) -> list[object]:
    calls = []
    function = getattr(owner, name)

    def counted(*arguments: object, **options: object) -> object:
        calls.append(note(*arguments))
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_states_and_weights_are_computed_once(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = count_calls(monkeypatch, GPTModel, "embed", lambda _, tokens: len(tokens))
    loaded = count_calls(monkeypatch, shared_work, "load_weights", lambda config: config)
    runs = make_runs(SHARING, checkpoint) + make_runs((1, 4, 3), checkpoint, seeds=(124,))
    runs = order_runs([replace(run, config=replace(run.config, max_steps=1)) for run in runs])
    assert run_sweep(runs, tmp_path / "runs") == []
    assert len(loaded) == 1
    texts = SharedWork([runs[0].config]).corpus.parts.map(lambda part: set(part["Text"]))
    assert sum(embedded) == len(texts.train | texts.validation | texts.test)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_runs_of_a_sweep_are_what_they_are_alone(
    precision: str, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (*SHARING, 5, 11, 17) if precision == "fp32" else (1, 3, 4, 11)
    runs = [
        replace(run, config=replace(run.config, precision=precision))
        for run in make_runs(rows, checkpoint)
    ]
    shared = SharedWork([run.config for run in order_runs(runs)])
    for run in order_runs(runs):
        together = run_experiment(run.config, shared)
        alone = run_experiment(run.config)
        assert_same(together, alone, tolerance=1e-5 if precision == "fp32" else 2e-2)


def assert_same(a: ExperimentResult, b: ExperimentResult, tolerance: float) -> None:
    torch.testing.assert_close(a.test.logits, b.test.logits, rtol=0, atol=tolerance)
    for one, other in zip(a.history.losses, b.history.losses, strict=True):
        assert one.train == pytest.approx(other.train, abs=tolerance)
        assert one.validation == pytest.approx(other.validation, abs=tolerance)
    assert (a.n_trained, a.n_parameters) == (b.n_trained, b.n_parameters)


def test_states_serve_other_processes(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = order_runs(make_runs((4, 1, 3), checkpoint))
    configs = [run.config for run in runs]
    here = SharedWork(configs)
    expected = [run_experiment(config, here) for config in configs]
    sent = pickle.dumps(SharedWork(configs).compute_prefix(configs[0]))
    (moved := tmp_path / "elsewhere.safetensors").write_bytes(
        (Path(checkpoint) / "model.safetensors").read_bytes()
    )
    embedded = count_calls(monkeypatch, GPTModel, "embed", lambda _, tokens: len(tokens))
    there = [replace(config, weights=str(moved)) for config in configs]
    for config, same in zip(there, expected, strict=True):
        shared = SharedWork(there, prefix=pickle.loads(sent))
        found = run_experiment(config, shared)
        assert torch.equal(found.test.logits, same.test.logits)
        assert found.history == same.history
        assert found.seconds["features"] > 0, "the seconds that they took elsewhere"
        sent = pickle.dumps(shared.compute_prefix(config))  # taken further, for the next
    assert not embedded
    other = replace(there[0], precision="bf16")
    SharedWork([other], prefix=pickle.loads(sent)).compute_prefix(other)
    assert embedded, "states of other weights or options are not used"
    assert SharedWork(there).compute_prefix(replace(there[0], trainable_layers="all")) is None


@pytest.mark.slow
def test_what_is_left_of_a_sweep_gives_the_same_bits(checkpoint: str, tmp_path: Path) -> None:
    """Whatever was done before, the rest of a sweep finds the states that it would have found."""
    runs = order_runs(make_runs((1, 4, 16), checkpoint))
    run_sweep(runs, tmp_path / "whole")
    rest = tmp_path / "rest"
    run_sweep(runs, rest)
    kept = {}
    for run in runs[1:]:
        kept[run.name] = (rest / run.name / "predictions.csv").read_bytes()
        (rest / run.name / RESULT_NAME).unlink()
    run_sweep(runs, rest)
    for run in runs[1:]:
        again = (rest / run.name / "predictions.csv").read_bytes()
        assert again == kept[run.name]
        assert again == (tmp_path / "whole" / run.name / "predictions.csv").read_bytes()


@pytest.mark.parametrize("layers", ["last_block", "lora", "all"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shared_weights_never_change(layers: str, precision: str, checkpoint: str) -> None:
    config = ExperimentConfig(
        **SHORT, model_size="gpt2-tiny (3M)", weights=checkpoint, trainable_layers=layers
    )
    config = replace(config, precision=precision, learning_rate=0.1)
    base = load_weights(config)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = build_classifier(config, base).gpt
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1.0)
    for name, tensor in base.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name
    if precision == "fp32" and layers == "last_block":
        shared = model.blocks[0].attention.key.weight.data_ptr()
        assert shared == base.blocks[0].attention.key.weight.data_ptr(), "no second copy"


def test_another_seed_of_random_weights_is_another_prefix(tmp_path: Path) -> None:
    runs = order_runs(make_runs((1, 16), "random", seeds=(1, 2)))
    assert [run.config.seed for run in runs] == [1, 1, 2, 2]
    assert run_sweep(runs, tmp_path) == []
    by_name = {record.folder.name: record for record in read_records(tmp_path)}
    for run in runs:
        alone = run_experiment(run.config)
        found = by_name[run.name].result["history"]["losses"][0]
        assert found["train"] == pytest.approx(alone.history.losses[0].train, abs=1e-5)


def test_order_puts_together_what_shares() -> None:
    runs = order_runs([Run(row.config) for row in ROWS.values()])
    numbers = [run.row for run in runs]
    assert numbers.index(4) < numbers.index(1) < numbers.index(3), "fewer frozen blocks first"
    sizes = [run.config.model_size for run in runs]
    assert [size for i, size in enumerate(sizes) if size not in sizes[:i]] == [
        "gpt2-small (124M)",
        "gpt2-medium (355M)",
        "gpt2-large (774M)",
        "gpt2-xl (1558M)",
    ]
    positions = sorted(numbers.index(row) for row in SHARING)
    assert positions[-1] - positions[0] == len(SHARING) - 1, "nothing in between"
    tiny = {"model_size": "gpt2-tiny (3M)", "weights": "random"}
    assert len(order_runs([Run(configure(row, tiny)) for row in ROWS.values()])) == 14


@pytest.mark.parametrize("layers", ["last_block", "lora", "all"])
def test_nothing_of_a_model_outlives_its_run(
    layers: str, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[weakref.ref] = []
    real = shared_work.build_classifier

    def build(*arguments: object, **named: object) -> GPTClassifier:
        model = real(*arguments, **named)
        built.extend(weakref.ref(p) for p in model.parameters() if p.requires_grad)
        return model

    monkeypatch.setattr(shared_work, "build_classifier", build)
    config = make_runs((1,), checkpoint)[0].config
    configs = [replace(config, trainable_layers=layers, seed=seed) for seed in (1, 2)]
    shared = SharedWork(configs)
    run_experiment(configs[0], shared)
    gc.collect()
    assert built
    assert not any(parameter() is not None for parameter in built)


# ---------------------------------------------------------------- resuming, and failing


def test_what_is_done_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = order_runs(make_runs((1, 2, 16), "random"))
    run_sweep(runs, tmp_path)
    started = count_calls(monkeypatch, sweep, "run_experiment", lambda config, *_: config)
    run_sweep(runs, tmp_path)
    assert started == []
    (tmp_path / runs[1].name / RESULT_NAME).write_text("{")
    with caplog.at_level(logging.INFO, logger="experiments"):
        run_sweep(runs, tmp_path)
    assert started == [runs[1].config]
    assert f"{runs[1].name} is damaged" in caplog.text
    changed = replace(runs[0], config=replace(runs[0].config, eval_iter=2))
    run_sweep([changed, *runs], tmp_path)
    assert started[1:] == [changed.config]
    plan = describe_plan(
        [*runs, replace(changed, config=replace(changed.config, seed=4))], tmp_path, OutputOptions()
    )
    states = [line.split()[0] for line in plan.splitlines()]
    assert states == ["done", "done", "done", "to", "4"]
    assert plan.splitlines()[-1].startswith("4 runs, 3 of them done")


def test_a_failed_run_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = sweep.run_experiment

    def fail_row_2(config: ExperimentConfig, *others: object) -> ExperimentResult:
        if config.trainable_token_pos == "first":
            raise TrainingError("The training loss at step 3 is nan")
        return real(config, *others)

    monkeypatch.setattr(sweep, "run_experiment", fail_row_2)
    flags = ["--rows", "1,2,16", "--output_dir", str(tmp_path), "--demo", "--max_steps", "3"]
    assert main(flags) == 1
    records = {record.config.trainable_token_pos: record for record in read_records(tmp_path)}
    assert {name: record.result["status"] for name, record in records.items()} == {
        "first": "failed",
        "last": "complete",
        "flexible": "complete",
    }
    assert "step 3 is nan" in records["first"].result["error"]
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "step 3 is nan" in err
    assert "failed or stopped, and " in (tmp_path / "report.md").read_text()
    assert out.count("Test accuracy:") == 2
    monkeypatch.setattr(sweep, "run_experiment", real)
    assert main(flags) == 0, "what failed is run again"


def test_an_unforeseen_fault_of_a_run_stops_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(config: ExperimentConfig, *_: object) -> ExperimentResult:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(sweep, "run_experiment", fail)
    flags = ["--rows", "1,2", "--output_dir", str(tmp_path), "--demo"]
    assert main(flags) == 1
    assert [record.is_complete for record in read_records(tmp_path)] == [False, False]
    err = capsys.readouterr().err
    assert "out of memory: [enforce fail" in err
    assert "Traceback" not in err
    assert main(["--demo"]) == 1
    assert "A smaller --batch_size" in capsys.readouterr().err


def test_a_sweep_on_other_data_is_refused_before_it_runs(
    tmp_path: Path, few_messages: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = order_runs(make_runs((1, 2), "random"))
    run_sweep(runs[:1], tmp_path)
    monkeypatch.setattr(corpora, "demo_messages", lambda: few_messages[::-1])
    started = count_calls(monkeypatch, sweep, "run_experiment", lambda config, *_: config)
    with pytest.raises(RecordError, match="other data or another split"):
        run_sweep(runs, tmp_path)
    assert started == []


def test_a_folder_that_cannot_be_written_to_costs_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--demo", "--max_steps", "1", "--output_dir", str(tmp_path)]
    (run,) = parse_command_line(flags).runs
    (tmp_path / run.name).write_text("in its place")
    assert main(flags) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{run.name}: records cannot be written there" in err


def test_a_single_run_is_repeated_and_replaces_its_record(tmp_path: Path) -> None:
    flags = ["--demo", "--max_steps", "3", "--output_dir", str(tmp_path)]
    assert main(flags) == 0
    (record,) = read_records(tmp_path)
    path = record.folder / RESULT_NAME
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "peak_memory_bytes": 1}))
    assert read_record(record.folder).result["peak_memory_bytes"] == 1
    assert main(flags) == 0
    (record,) = read_records(tmp_path)
    assert record.result["peak_memory_bytes"] > 10**6
