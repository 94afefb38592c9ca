import re
import shlex
from pathlib import Path

import pytest
from helpers import config_from_flags

from ablation.config.command_line import parse_command_line
from ablation.config.rows import ROWS, differing_options
from ablation.config.runs import Run
from ablation.reports.readme_tables import RESULTS, flags_table, rows_table, variants_table
from ablation.sweeps.records import read_records
from additional_experiments import main

README = Path(__file__).parent.parent / "README.md"
XL = '--model_size "gpt2-xl (1558M)"'
FLAGS = {  # as they were published, the missing space of row 9 mended
    1: "",
    2: "--trainable_token_pos first",
    3: "--trainable_layers last_layer",
    4: "--trainable_layers last_two_blocks",
    5: "--trainable_layers all",
    6: '--model_size "gpt2-medium (355M)"',
    7: '--model_size "gpt2-large (774M)"',
    8: XL,
    9: f"{XL} --trainable_layers all",
    10: "--weights random --trainable_layers all",
    11: "--trainable_layers lora --lora_rank 16 --lora_alpha 16",
    12: f"--trainable_layers lora --lora_rank 16 --lora_alpha 8 {XL}",
    13: "--context_length model_context_length",
    14: "--no_padding --batch_size 1",
    15: "--no_padding --batch_size 1 --accumulation_steps 8",
    16: "--trainable_token_pos flexible",
    17: "--disable_causal_mask",
    18: "--ignore_index 50256",
    19: "--average_embeddings",
}


def test_commands_are_the_protocols() -> None:
    commands = {number: row.command for number, row in ROWS.items()}
    script = "python additional_experiments.py"
    assert commands == {number: f"{script} {flags}".strip() for number, flags in FLAGS.items()}


@pytest.mark.parametrize("number", ROWS)
def test_command_and_rows_flag_give_the_same_experiment(number: int) -> None:
    _, script, *flags = shlex.split(ROWS[number].command)
    assert script == "additional_experiments.py"
    assert config_from_flags(flags) == config_from_flags(["--rows", str(number)])
    assert config_from_flags(flags) == ROWS[number].config


def test_rows_are_different_experiments() -> None:
    configs = [row.config for row in ROWS.values()]
    assert all(configs.count(config) == 1 for config in configs)


@pytest.mark.parametrize("number", ROWS)
def test_published_figures_are_counts(number: int) -> None:
    """Each accuracy is a count over the part's texts, but for the one that cannot be."""
    row = ROWS[number]
    n_train = 1045 if row.config.batch_size == 1 else 1040
    for accuracy, total in ((row.train, n_train), (row.validation, 149), (row.test, 300)):
        possible = any(f"{100 * k / total:.2f}" == f"{accuracy:.2f}" for k in range(total + 1))
        assert possible == ((number, total) != (8, 149))


def test_readme_holds_the_generated_tables() -> None:
    records = read_records(RESULTS)
    assert rows_table(records) in README.read_text()
    assert variants_table(records) in README.read_text()
    assert flags_table() in README.read_text()


def test_every_readme_command_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(README.parent)  # some name files that are there
    readme = README.read_text()
    launchers = "python|torchrun [^\n`]+"
    commands = re.findall(rf"(?:{launchers}) additional_experiments\.py([^\n`|;&]*)", readme)
    assert len(commands) > len(ROWS)
    for command in commands:
        flags = shlex.split(command, comments=True)
        if "--help" not in flags:
            request = parse_command_line(flags)
            assert request.runs or request.report or request.compare
    folders = set(re.findall(r"python predict\.py runs/(row-\S+)", readme))
    assert folders == {Run(ROWS[16].config).name}


def test_variants_are_told_from_rows() -> None:
    config = config_from_flags(["--rows", "9", "--seed", "5", "--data_dir", "x"])
    assert differing_options(config, ROWS[9]) == {}
    config = config_from_flags(["--rows", "9", "--num_epochs", "1"])
    assert list(differing_options(config, ROWS[9])) == ["num_epochs"]
    config = config_from_flags(["--rows", "11", "--trainable_layers", "all"])
    assert config == config_from_flags(["--trainable_layers", "all"])


def test_the_row_is_announced(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablation.sweeps.sweep.run_and_record", lambda run, folder, output: folder)
    assert main(["--rows", "2", "--num_epochs", "1"]) == 0
    assert "A variant of row 2, not the row, because of --num_epochs 1" in capsys.readouterr().err
    assert main(["--trainable_token_pos", "first", "--seed", "4"]) == 0
    assert f"Row 2: {ROWS[2].command}" in capsys.readouterr().err
