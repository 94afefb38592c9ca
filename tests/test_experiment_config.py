import json
import os
import re
import shlex
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from helpers import config_from_flags

from ablation.config import options
from ablation.config.command_line import parse_command_line
from ablation.config.commands import format_command
from ablation.config.flags import ACTIONS
from ablation.config.options import GROUPS, OPTIONS, ExperimentConfig
from ablation.config.row_list import list_rows
from ablation.config.rows import ROWS, SOURCE
from ablation.config.rules import config_problems
from ablation.config.tables import parse_rows
from ablation.system.errors import ConfigError
from additional_experiments import main


def problems_of(command: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        config_from_flags(command)
    return [str(problem) for problem in error.value.problems]


def test_defaults_are_the_protocols() -> None:
    config = config_from_flags([])
    assert config == ExperimentConfig()
    with pytest.raises(FrozenInstanceError):
        config.seed = 1
    expected = {
        "model_size": "gpt2-small (124M)",
        "weights": "pretrained",
        "trainable_layers": "last_block",
        "trainable_token_pos": "last",
        "average_embeddings": False,
        "context_length": "longest_training_example",
        "lora_rank": 8,
        "lora_alpha": 8,
        "no_padding": False,
        "num_epochs": 5,
        "batch_size": 8,
        "accumulation_steps": 1,
        "disable_causal_mask": False,
        "ignore_index": -100,
        "class_weights": "none",
        "keep_best": False,
        "stop_after": None,
        "seed": 123,
        "learning_rate": 5e-5,
        "weight_decay": 0.1,
        "eval_freq": 50,
        "eval_iter": 5,
        "max_steps": None,
        "device": "auto",
        "data_dir": "data",
        "weights_dir": None,
        "demo": False,
        "precision": "fp32",
        "no_feature_reuse": False,
        "feature_memory": None,
        "feature_store": None,
        "feature_store_gb": 5.0,
        "dataset": None,
        "text_column": "Text",
        "label_column": "Label",
        "group_column": None,
        "fold": None,
        "header": "auto",
        "delimiter": None,
        "encoding": "utf-8",
        "quoting": "auto",
        "drop_incomplete": False,
        "min_texts_per_class": None,
        "val_fraction": 0.1,
        "test_fraction": 0.2,
        "val_dataset": None,
        "test_dataset": None,
        "balance": False,
        "offline": False,
    }
    assert {name: getattr(config, name) for name in OPTIONS} == expected


def test_every_flag_is_read(tmp_path: Path) -> None:
    values = {
        "model_size": "gpt2-medium (355M)",
        "weights": str(tmp_path),
        "weights_dir": "w",
        "disable_causal_mask": True,
        "trainable_layers": "lora",
        "lora_rank": 3,
        "lora_alpha": 0.5,
        "trainable_token_pos": "first",
        "average_embeddings": True,
        "ignore_index": -1,
        "keep_best": True,
        "stop_after": 3,
        "data_dir": "d",
        "dataset": str(tmp_path / "a.csv"),
        "text_column": "what",
        "label_column": "which",
        "group_column": "whose",
        "header": "yes",
        "delimiter": "semicolon",
        "encoding": "cp1252",
        "quoting": "none",
        "drop_incomplete": True,
        "min_texts_per_class": 4,
        "val_fraction": 0.25,
        "test_fraction": 0.5,
        "balance": True,
        "context_length": 77,
        "no_padding": True,
        "num_epochs": 12,
        "batch_size": 1,
        "accumulation_steps": 4,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "max_steps": 9,
        "eval_freq": 6,
        "eval_iter": 7,
        "seed": 0,
        "device": "cpu",
        "precision": "bf16",
        "no_feature_reuse": True,
        "feature_memory": 2.5,
        "feature_store": "f",
        "feature_store_gb": 7.5,
        "offline": True,
    }
    own = {name: str(tmp_path / "a.csv") for name in ("dataset", "val_dataset", "test_dataset")}
    (tmp_path / "a.csv").touch()
    demo = {"demo": True, "weights": "random"}
    weighted = {"class_weights": "balanced"}
    fold = {"dataset": own["dataset"], "fold": "2/5"}
    assert {*values, *own, *demo, *weighted, *fold} == set(OPTIONS)
    for together in (values, own, weighted, fold):
        command = [
            word
            for name, value in together.items()
            for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
        ]
        assert config_from_flags(command) == ExperimentConfig(**together)
    assert config_from_flags(["--demo"]).demo


BAD = [
    ("--balance", ["--balance", "add --dataset"]),
    ("--test_fraction 0.1", ["--test_fraction 0.1: it is", "add --dataset"]),
    ("--dataset a.csv --balance --class_weights balanced", ["--balance with --class_weights"]),
    ("--class_weights even", ['--class_weights "even"', '"none", "balanced"']),
    ("--keep_best --num_epochs 1", ["--keep_best with --num_epochs 1", "more epochs"]),
    ("--stop_after 0", ["--stop_after 0: not a whole number"]),
    ("--stop_after 4", ["--stop_after 4 with --num_epochs 5", "at least --num_epochs 6"]),
    ("--stop_after 1 --num_epochs 2", ["--stop_after 1 with", "at least --num_epochs 3"]),
    ("--dataset a.csv --demo", ["--dataset a.csv with --demo"]),
    ("--dataset nix.csv", ['--dataset "nix.csv": no such file']),
    ("--dataset tests", ['--dataset "tests": no such file']),
    ("--dataset a.csv --label_column Text", ['--text_column "Text" is also']),
    ("--dataset a.csv --label_column 1", ['--label_column "1": give names only']),
    ("--quoting none", ["--quoting none: it is", "add --dataset"]),
    ("--drop_incomplete", ["--drop_incomplete: it is", "add --dataset"]),
    ("--dataset a.csv --min_texts_per_class 0", ["--min_texts_per_class 0", "at least 1"]),
    ("--dataset a.csv --delimiter :", ['--delimiter ":"', '"comma", "semicolon", "tab", "pipe"']),
    ("--dataset a.csv --encoding klingon", ["--encoding klingon: no such encoding", "cp1252"]),
    ("--dataset a.csv --encoding hex", ["--encoding hex: no such encoding"]),
    ("--dataset a.csv --quoting all", ['--quoting "all"', '"auto", "csv", "none"']),
    ("--dataset a.csv --header no", ["--header no with --text_column", "1, 2"]),
    ("--dataset fifo", ['--dataset "fifo": no such file; it is a pipe']),
    ("--dataset a.csv --test_dataset fifo", ['--test_dataset "fifo"', "it is a pipe"]),
    ("--dataset /dev/zero", ["it is a device. Give a file"]),
    ("--dataset loop", ['--dataset "loop": its symbolic links']),
    (
        "--dataset a.csv --test_dataset a.csv --test_fraction 0.3",
        ["--test_fraction 0.3 with --test_dataset", "leave it out"],
    ),
    ("--dataset a.csv --val_fraction 0.5 --test_fraction 0.5", ["nothing is left"]),
    ("--dataset a.csv --val_fraction 1", ["--val_fraction 1.0", "below 1"]),
    (
        "--dataset a.csv --val_dataset a.csv --test_dataset a.csv --val_fraction 0.3",
        ["--val_fraction 0.3", "leave it out"],
    ),
    ("--checkpoint_every 0", ["--checkpoint_every 0", "at least 1"]),
    ("--checkpoint_every often", ["--checkpoint_every often", "not epoch"]),
    ("--rows 1,16 --export_hf x", ["--export_hf with many runs"]),
    ("--report --save_model", ["--save_model with --report"]),
    ("--batch_size 0", ["--batch_size 0", "at least 1"]),
    ("--num_epochs -3", ["--num_epochs -3", "at least 1"]),
    ("--accumulation_steps 0", ["--accumulation_steps 0", "at least 1"]),
    ("--max_steps 0", ["--max_steps 0", "at least 1"]),
    ("--eval_freq 0", ["--eval_freq 0", "at least 1"]),
    ("--eval_iter 0", ["--eval_iter 0", "at least 1"]),
    ("--seed -1", ["--seed -1", "at least 0"]),
    ("--seed 9223372036854775808", ["--seed 9223372036854775808", "up to"]),
    ("--learning_rate 0", ["--learning_rate 0.0", "above 0"]),
    ("--learning_rate nan", ["--learning_rate nan", "above 0"]),
    ("--learning_rate inf", ["--learning_rate inf", "above 0"]),
    ("--weight_decay -1", ["--weight_decay -1.0", "at least 0"]),
    ("--batch_size eight", ["--batch_size eight", "whole number"]),
    ("--batch_size 8.5", ["--batch_size 8.5", "whole number"]),
    ("--learning_rate fast", ["--learning_rate fast", "number"]),
    ("--trainable_layers lora --lora_rank 0", ["--lora_rank 0", "at least 1"]),
    ("--trainable_layers lora --lora_alpha 0", ["--lora_alpha 0.0", "above 0"]),
    ("--lora_rank 8", ["--lora_rank 8 with --trainable_layers last_block", "lora"]),
    ("--lora_alpha 3", ["--lora_alpha 3.0 with --trainable_layers last_block", "lora"]),
    ("--context_length 0", ["--context_length 0", "from 1 to 1024"]),
    ("--context_length 1025", ["--context_length 1025", "from 1 to 1024"]),
    ("--context_length long", ["--context_length long", "longest_training_example"]),
    ("--no_padding", ["--no_padding with --batch_size 8", "--batch_size 1"]),
    ("--rows 14 --batch_size 4", ["--no_padding with --batch_size 4", "--accumulation_steps"]),
    ("--no_padding True --batch_size 1", ["True: belongs to no flag"]),
    ("--no_padding=True", ["--no_padding", "True"]),
    ("--batch_size", ["--batch_size", "expected one argument"]),
    ("--data_dir=", ['--data_dir ""', "empty"]),
    ("--weights=", ['--weights ""', "empty"]),
    ("--rows=", ["--rows", "from 1 to 19"]),
    ("--rows " + "9" * 5000, ["--rows 9", "from 1 to 19"]),
    ("--ignore_index " + "9" * 30, ["--ignore_index", "up to"]),
    ("--eval_iter " + "9" * 30, ["--eval_iter", "up to"]),
    ("--num_epochs " + "9" * 30, ["--num_epochs", "up to"]),
    ("--trainable_layers lora --lora_rank 9999999999", ["--lora_rank", "up to"]),
    ("--weights " + "w" * 300, ['--weights "www', "the name is too long"]),
    ("--precision tf32 --device cpu", ["--precision tf32 with --device cpu", "bf16"]),
    ("--feature_memory -1", ["--feature_memory -1.0", "at least 0"]),
    ("--trainable_layers last", ["--trainable_layers", 'mean "last_layer"']),
    ("--trainable_token_pos final", ["--trainable_token_pos", '"first", "last", "flexible"']),
    ("--model_size gpt2", ['--model_size "gpt2"', '"gpt2-small (124M)"']),
    ("--model_size gpt2-xxl", ['--model_size "gpt2-xxl"', 'mean "gpt2-xl (1558M)"']),
    ("--model_size gpt2-tiny_(3M)", ['mean "gpt2-tiny (3M)"']),
    ("--weights nowhere", ['--weights "nowhere"', "no such file or folder"]),
    ("--demo --weights pretrained", ["--weights pretrained with --demo", "--weights random"]),
    ("--device gpu", ['--device "gpu"', '"cuda"']),
    ("--rows 20", ["--rows 20", "from 1 to 19"]),
    ("--rows one", ["--rows one", "from 1 to 19"]),
    ("--epochs 3", ["--epochs", "--num_epochs"]),
    ("--lora-rank=3", ["--lora-rank", "--lora_rank"]),
    ("hello", ["hello", "belongs to no flag"]),
    ("16", ["16: belongs to no flag", "write --rows 16"]),
    ("--demo 1-3,5 16", ["1-3,5 16: belongs to no flag", "write --rows 1-3,5 16"]),
    ("list", ["did you mean --list?"]),
    ("--rank 4", ["--rank: no such flag; did you mean --lora_rank?"]),
    ("--alpha 4", ["--alpha: no such flag; did you mean --lora_alpha?"]),
    ("--lr 1e-4", ["--lr: no such flag; did you mean --learning_rate?"]),
    ("--size medium", ["did you mean --model_size or --batch_size?"]),
    ("--layers all", ["did you mean --trainable_layers?"]),
    ("--gpu", ["did you mean --device cuda?"]),
    ("--device GPU", ['--device "GPU"', 'mean "cuda"']),
    ("--precision float32", ['--precision "float32"', 'mean "fp32"']),
    ("--seed 1 --seed 2", ["--seed 1 and --seed 2: they contradict each other"]),
    ("--rows 1 --rows 1 16", ["--rows 1 and --rows 1 16: they contradict each other"]),
    ("--output_dir a --output_dir=b", ["--output_dir a and --output_dir b"]),
    ("--num_seeds 2 --seed 9223372036854775807", ["--num_seeds 2 with --seed", "go up to"]),
    ("--seeds 1 9223372036854775808", ["--seeds 9223372036854775808: not a whole number"]),
    ("--list --demo", ["--demo with --list: nothing is run"]),
    ("--version --report", ["--version with --report: give one of them"]),
    ("--rows list 1", ["--rows list 1: no such row: list"]),
]


@pytest.mark.parametrize(("command", "parts"), BAD, ids=[command[:60] for command, _ in BAD])
def test_bad_input_is_named_with_a_way_out(command: str, parts: list[str]) -> None:
    Path("a.csv").touch()
    Path("loop").symlink_to("loop")
    os.mkfifo("fifo")
    problems = problems_of(command.split())
    assert len(problems) == 1
    for part in parts:
        assert part in problems[0]


BIG_NUMBERS = {
    "seed": "--demo",
    "num_seeds": "--demo",
    "seeds": "--demo",
    "rows": "--demo",
    "checkpoint_every": "--demo",
    "context_length": "--demo",
    "lora_rank": "--demo --trainable_layers lora",
    "learning_rate": "--demo",
    "feature_memory": "--demo",
    "feature_store_gb": "--demo",
    "gpus_per_run": "--demo --ray --dry_run",
    "cpus_per_run": "--demo --ray --dry_run",
}


@pytest.mark.parametrize("name", BIG_NUMBERS)
def test_a_number_of_5000_digits_is_wrong_usage(name: str) -> None:
    (problem,) = problems_of([*BIG_NUMBERS[name].split(), f"--{name}", "9" * 5000])
    assert problem.startswith((f"--{name} 9999", f"--{name} inf"))
    assert len(problem) < 500


def test_huge_numbers_from_python_are_problems() -> None:
    for name in ("batch_size", "lora_rank", "context_length", "seed", "val_fraction"):
        problems = config_problems(ExperimentConfig(**{name: 10**5000}))
        flag = f"--{name} a number of thousands of digits"
        assert any(flag in problem.flag for problem in problems)


@pytest.mark.parametrize("number", ["1e999", "-inf", "nan"])
@pytest.mark.parametrize(
    "name", ["learning_rate", "weight_decay", "feature_memory", "feature_store_gb"]
)
def test_no_option_is_infinite(name: str, number: str) -> None:
    (problem,) = problems_of([f"--{name}={number}"])
    assert problem.startswith(f"--{name} {float(number)}: not a number")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gpt2-medium", "gpt2-medium (355M)"),
        ("medium", "gpt2-medium (355M)"),
        ("XL", "gpt2-xl (1558M)"),
        ("124M", "gpt2-small (124M)"),
        ("774m", "gpt2-large (774M)"),
    ],
)
def test_a_part_of_a_size_is_that_size(text: str, name: str) -> None:
    config = config_from_flags(["--model_size", text])
    assert config == ExperimentConfig(model_size=name), "so that its record and hash are the same"


@pytest.mark.parametrize("text", ["gpt2", "4M", "gpt2-", "", "(124M)"])
def test_a_part_of_several_sizes_is_none(text: str) -> None:
    (problem,) = problems_of([f"--model_size={text}"])
    assert problem.startswith(f'--model_size "{text}"')


def test_what_is_repeated_and_the_same_is_fine() -> None:
    flags = ["--demo", "--seed", "1", "--rows", "1", "16", "--offline"]
    assert parse_command_line([*flags, *flags]) == parse_command_line(flags)


PATHS = ("output_dir", "data_dir", "weights_dir", "weights", "dataset", "export_hf")
BAD_PATHS = {
    "long": ("a" * 5000, "the name is too long"),
    "deep": ("/".join(["a" * 100] * 50), "the name is too long"),
    "loop": ("loop", "symbolic links lead in a circle"),
    "below a loop": ("loop/a", "symbolic links lead in a circle"),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", BAD_PATHS)
def test_a_path_that_cannot_be_is_wrong_usage(name: str, kind: str, empty_folder: Path) -> None:
    Path("loop").symlink_to("loop")
    path, message = BAD_PATHS[kind]
    flags = ["--trainable_token_pos", "flexible"] if name == "export_hf" else []
    (problem,) = problems_of([*flags, f"--{name}", path])
    assert problem.startswith(f'--{name} "{path[:60]}')
    assert message in problem
    assert len(problem) < 200
    assert [path.name for path in empty_folder.iterdir()] == ["loop"]


@pytest.mark.parametrize("name", ["data_dir", "weights_dir", "weights", "dataset"])
def test_a_null_byte_in_a_path_is_a_problem(name: str) -> None:
    (problem,) = config_problems(ExperimentConfig(**{name: "a\0b"}))
    assert problem.flag.startswith(f"--{name}")
    assert "null byte" in problem.sentence


def test_an_output_dir_with_no_room_for_records_is_refused() -> None:
    """It could be made, but the record of a run could not be written to it at its end."""
    name = "/".join(["a" * 100] * 39)
    (problem,) = problems_of(["--output_dir", name])
    assert "the name is too long" in problem


@pytest.mark.parametrize(
    ("export_dir", "words"),
    [
        ("runs", "one is inside the other"),
        ("runs/model", "one is inside the other"),
        ("linked/model", "one is inside the other"),
        (".", "one is inside the other"),
        ("elsewhere/row-01", "the folder of a run"),
        ("elsewhere/row-01/model", "the folder of a run"),
    ],
)
def test_no_export_among_the_records(export_dir: str, words: str) -> None:
    Path("runs").mkdir()
    Path("linked").symlink_to("runs")
    Path("elsewhere/row-01").mkdir(parents=True)
    Path("elsewhere/row-01/result.json").touch()
    (problem,) = problems_of(["--rows", "16", "--export_hf", export_dir])
    assert problem.startswith(f"--export_hf {export_dir}")
    assert words in problem
    assert parse_command_line(["--rows", "16", "--export_hf", "elsewhere/model"]).output.export_dir


def test_delimiters_by_name_or_as_they_are() -> None:
    Path("a.csv").touch()
    for texts, name in (((",", "comma"), "comma"), (("\t", "\\t", "tab"), "tab"), (("|",), "pipe")):
        for text in texts:
            config = config_from_flags(["--dataset", "a.csv", "--delimiter", text])
            assert config.delimiter == name
    assert "--delimiter pipe" in format_command(config), "as a shell takes it"


@pytest.mark.parametrize(
    "name",
    ["a b.csv", "a$(touch b) c.csv", "`x` y", 'a"b c', "it's", "a;b", "a|b&c", "*", "~", "a\\b"],
)
def test_printed_commands_are_as_a_shell_takes_them(name: str) -> None:
    Path(name).touch()
    config = config_from_flags(["--dataset", name, "--text_column", f"{name} "])
    assert config_from_flags(shlex.split(format_command(config))[2:]) == config
    assert not re.search("[`$]", re.sub("'[^']*'", "", format_command(config))), "nothing to run"


@pytest.mark.parametrize(
    "flags",
    [
        ["--demo"],
        ["--demo", "--learning_rate", "5e-5"],
        ["--demo", "--model_size", "gpt2-small (124M)"],
        ["--demo", "--rows", "11", "--learning_rate", "5e-5"],
        ["--rows", "11", "--trainable_layers", "last_block"],
        ["--rows", "15", "--no_padding", "--accumulation_steps", "1"],
    ],
    ids=" ".join,
)
def test_a_printed_command_is_that_of_the_experiment(flags: list[str]) -> None:
    """Also where a default was asked for, and the demo or a row would choose another value."""
    config = config_from_flags(flags)
    assert config_from_flags(shlex.split(format_command(config))[2:]) == config


def test_one_file_is_split_into_what_no_other_is() -> None:
    Path("a.csv").touch()
    for name, other in (("val_dataset", "test_fraction"), ("test_dataset", "val_fraction")):
        config = config_from_flags(
            ["--dataset", "a.csv", f"--{name}", "a.csv", f"--{other}", "0.9"]
        )
        assert getattr(config, other) == 0.9


def test_tiny_has_no_published_weights() -> None:
    (problem,) = problems_of(["--model_size", "gpt2-tiny (3M)"])
    assert "--weights pretrained" in problem
    assert "add --weights random" in problem


def test_the_missing_space_is_recognised() -> None:
    command = ["--model_size", "gpt2-xl (1558M)--trainable_layers", "all"]
    (problem,) = problems_of(command)
    assert "a space is missing before --trainable_layers" in problem
    assert '--model_size "gpt2-xl (1558M)" --trainable_layers' in problem


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    (problem,) = problems_of(["--device", device])
    assert f"--device {device}" in problem
    assert "--device cpu" in problem


def test_all_problems_are_reported_together(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "--batch_size 0 --num_epochs x --context_length 2000 --no_padding --seed_s 3"
    assert main([*command.split(), "--model_size", "gpt2"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for name in (
        "batch_size",
        "num_epochs",
        "context_length",
        "no_padding",
        "seed_s",
        "model_size",
    ):
        assert f"\n  --{name}" in err
    assert list(tmp_path.iterdir()) == [], "nothing was downloaded"


def test_rules_hold_from_python_too() -> None:
    assert config_problems(ExperimentConfig()) == []
    assert len(config_problems(ExperimentConfig(batch_size=0, lora_rank=16))) == 2
    assert config_problems(ExperimentConfig(trainable_layers="lora", lora_rank=16)) == []
    wrong = {"batch_size": "8", "num_epochs": 2.5, "seed": True, "context_length": 120.0}
    for name, value in wrong.items():
        (problem,) = config_problems(ExperimentConfig(**{name: value}))
        assert f"--{name} {value}" in problem.flag


def test_a_path_with_two_hyphens_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "models--openai--gpt2"
    path.mkdir()
    config = config_from_flags(["--weights", str(path), "--data_dir", "my--data"])
    assert (config.weights, config.data_dir) == (str(path), "my--data")
    assert parse_command_line(["--demo", "--output_dir", "runs--demo"]).output_dir.name


def test_demo_and_row_and_flag_precedence() -> None:
    config = config_from_flags(["--demo", "--rows", "12", "--lora_rank", "4"])
    assert (config.model_size, config.weights) == ("gpt2-tiny (3M)", "random")
    assert (config.trainable_layers, config.lora_rank, config.lora_alpha) == ("lora", 4, 8)
    config = config_from_flags(["--demo", "--model_size", "gpt2-small (124M)"])
    assert (config.model_size, config.weights) == ("gpt2-small (124M)", "random")


def test_help_fits_a_terminal_and_shows_every_default(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for name, option in OPTIONS.items():
        default = {None: "none", False: "off", 8.0: "8", 5.0: "5", 5e-5: "5e-05"}.get(
            option.default, option.default
        )
        entry = " ".join(text[re.search(rf"\n  --{name}\s", text).start() :].split())
        assert entry[entry.index("(default: ") :].startswith(f"(default: {default})"), name
    assert all(f"\n{group}:\n" in text for group in GROUPS)


def test_help_begins_with_three_commands_that_parse(
    capsys: pytest.CaptureFixture, empty_folder: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    start = capsys.readouterr().out.split("\noptions:")[0].replace("\\\n", "")
    commands = re.findall(r"^  python additional_experiments\.py (.*)$", start, re.MULTILINE)
    Path("my.csv").touch()
    demo, sweep, own = (parse_command_line(shlex.split(command)) for command in commands)
    assert demo.runs[0].config.demo
    assert sweep.is_sweep
    assert own.runs[0].config.dataset == "my.csv"


def test_every_tag_is_explained() -> None:
    tags = {tag for option in OPTIONS.values() for tag in option.tags}
    assert tags == set(re.findall(r"``(\w+)``:", options.__doc__))


def test_no_two_options_share_what_is_said_of_them() -> None:
    """Each has its own text, which is read from the lines below it."""
    texts = [option.help for option in (*OPTIONS.values(), *ACTIONS.values())]
    assert all(texts)
    assert len(set(texts)) == len(texts)


# ---------------------------------------------------------------- many runs


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1-5,16", [1, 2, 3, 4, 5, 16]),
        ("all", list(range(1, 20))),
        ("3", [3]),
        ("4,2,4,1-2", [4, 2, 1]),
        (" 1 , 3 - 4 ", [1, 3, 4]),
        ("1 16", [1, 16]),
        ("1, 16", [1, 16]),
        ("1-3 16,17", [1, 2, 3, 16, 17]),
    ],
)
def test_rows_are_selected(text: str, numbers: list[int]) -> None:
    assert parse_rows(text, SOURCE) == (numbers, [])


@pytest.mark.parametrize(
    "text", ["0", "20", "5-3", "", "1,,2", "x", "1-", "-1", "1-999999999", "all,1"]
)
def test_rows_that_do_not_exist_are_named(text: str) -> None:
    _, problems = parse_rows(text, SOURCE)
    assert problems
    assert {problem.flag for problem in problems} == {f"--rows {text}"}
    assert all("1 to 19" in problem.sentence for problem in problems)


@pytest.mark.parametrize("flags", [["--rows", "list"], ["--list"]])
def test_the_rows_are_listed(flags: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(flags) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for number, row in ROWS.items():
        found = re.search(rf"^ *{number}  {re.escape(row.question)} .*\n +(.*)$", out, re.MULTILINE)
        assert found[1] == row.command
        for figure in vars(row.published).values():
            assert f" {figure:.2f}" in found[0]


def costs_of(output_dir: Path) -> dict[int, str]:
    """What --rows list says that rows cost here."""
    lines = list_rows(SOURCE, output_dir).splitlines()
    assert max(len(line) for line in lines if "python" not in line) <= 80
    found = (re.match(r" *(\d+)  .{31} +(?:[\d.]+ +){3}[\d.]+ *(.*)$", line) for line in lines)
    return {int(match[1]): match[2] for match in found if match}


def test_rows_cost_what_they_took_here_or_else_elsewhere(tmp_path: Path) -> None:
    def record(name: str, features: float, status: str = "complete", **flags: object) -> None:
        content = {
            "status": status,
            "flags": flags,
            "seconds": {"features": features, "training": 60},
            "device": {"name": "a processor", "threads": 2},
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(content))

    elsewhere = costs_of(tmp_path / "nothing")
    assert elsewhere[1] == "(2.9)"
    assert elsewhere[9] == "", "it was run nowhere"
    assert elsewhere[5] == elsewhere[10], "weights cost nothing"
    assert "(2 threads)" in list_rows(SOURCE, tmp_path).splitlines()[-1]
    for seed in (1, 2, 3):
        record(f"first-{seed}", 120 * seed, trainable_token_pos="first", seed=seed, device="cpu")
    record("random", 30, weights="random")
    record("shorter", 0, trainable_layers="last_layer", num_epochs=1)
    record("failed", 0, "failed", disable_causal_mask=True)
    for name, content in {"cut": "{", "list": "[]", "odd": '{"status": "complete"}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
    here = costs_of(tmp_path)
    assert here[2] == "5.0", "the median"
    assert here[1] == "1.5"
    assert {n: here[n] for n in ROWS if n not in (1, 2)} == {
        n: elsewhere[n] for n in ROWS if n not in (1, 2)
    }


def test_the_version_names_commit_and_pytorch(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    out = capsys.readouterr().out
    assert f"PyTorch {torch.__version__}" in out
    assert re.match(r"commit [0-9a-f]{40}\+? \(Python 3|commit unknown", out)


def test_a_problem_of_some_rows_names_them() -> None:
    problems = problems_of(["--rows", "1,14,15", "--batch_size", "4", "--eval_freq", "0"])
    assert [problem[:22] for problem in problems] == [
        "--eval_freq 0: not a w",
        "row 14: --no_padding w",
        "row 15: --no_padding w",
    ]


def seeds_of(*flags: str) -> list[int]:
    return [run.config.seed for run in parse_command_line([*flags, "--demo"]).runs]


def test_seeds_are_selected() -> None:
    assert seeds_of() == [123]
    assert seeds_of("--seed", "7") == [7]
    assert seeds_of("--seeds", "10", "9", "10") == [10, 9]
    assert seeds_of("--num_seeds", "3") == [123, 124, 125]
    assert seeds_of("--num_seeds", "2", "--seed", "9") == [9, 10]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--seeds", "1", "x"], "--seeds x: not a whole number"),
        (["--seeds", "1.5"], "--seeds 1.5: not a whole number"),
        (["--seeds", "-1"], "-1"),
        (["--num_seeds", "0"], "--num_seeds 0: not a whole number from 1"),
        (["--num_seeds", "many"], "--num_seeds many"),
        (["--num_seeds", "99999999999"], "--num_seeds 99999999999: not a whole number from 1"),
        (["--seeds", "1", "--num_seeds", "2"], "--seeds with --num_seeds or --seed"),
        (["--seeds", "1", "--seed", "2"], "--seeds with --num_seeds or --seed"),
        (["--report", "--rows", "1"], "--rows with --report: nothing is run"),
        (["--report", "--num_epochs", "1"], "--num_epochs with --report"),
        (["--report", "--dry_run"], "--dry_run with --report: give one of them"),
        (["--compare", "a"], "--compare"),
        (["--compare", "a", "b", "--seeds", "1"], "--seeds with --compare"),
        (["--output_dir", ""], '--output_dir "": empty'),
        (["--rows", "1,14", "--batch_size", "4"], "row 14: --no_padding with --batch_size 4"),
        (["--rows", "all", "--eval_freq", "0"], "  --eval_freq 0: not a whole number"),
        (["--rows", "1,5", "--row", "3"], "--row: no such flag; did you mean --rows?"),
    ],
)
def test_wrong_selections_exit_with_2(
    flags: list[str], named: str, capsys: pytest.CaptureFixture, empty_folder: Path
) -> None:
    assert main(flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err
    assert err.count("\n") < 8, "a problem is named once, not for each row"
    assert list(empty_folder.iterdir()) == []


def test_lora_flags_are_for_the_rows_with_lora() -> None:
    request = parse_command_line(["--rows", "1,11", "--lora_rank", "4"])
    by_layers = {run.config.trainable_layers: run.config for run in request.runs}
    assert by_layers["lora"].lora_rank == 4
    assert by_layers["last_block"] == ROWS[1].config
    with pytest.raises(ConfigError, match="no LoRA layer would use it"):
        parse_command_line(["--rows", "1,2", "--lora_rank", "4"])


def test_flags_apply_to_every_run() -> None:
    request = parse_command_line(["--rows", "1-3", "--weights", "random", "--seeds", "1", "2"])
    assert request.is_sweep
    assert len(request.runs) == 6
    assert {run.config.weights for run in request.runs} == {"random"}
    assert all(run.overrides == {"weights": "random"} for run in request.runs)
    assert not parse_command_line(["--rows", "3", "--seed", "4"]).is_sweep
