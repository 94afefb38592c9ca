import shlex

import pytest
from helpers import config_from_flags

from ablation.config.rows import ROWS
from ablation.config.tables import differing
from additional_experiments import main

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
    for accuracy, total in (
        (row.published.train, n_train),
        (row.published.validation, 149),
        (row.published.test, 300),
    ):
        possible = any(f"{100 * k / total:.2f}" == f"{accuracy:.2f}" for k in range(total + 1))
        assert possible == ((number, total) != (8, 149))


def test_variants_are_told_from_rows() -> None:
    config = config_from_flags(["--rows", "9", "--seed", "5", "--data_dir", "x"])
    assert differing(config, ROWS[9]) == {}
    config = config_from_flags(["--rows", "9", "--num_epochs", "1"])
    assert list(differing(config, ROWS[9])) == ["num_epochs"]
    config = config_from_flags(["--rows", "11", "--trainable_layers", "all"])
    assert config == config_from_flags(["--trainable_layers", "all"])


def test_the_row_is_announced(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablation.sweeps.sweep.run_one", lambda *_: None)
    assert main(["--rows", "2", "--num_epochs", "1"]) == 0
    assert "A variant of row 2, not the row, because of --num_epochs 1" in capsys.readouterr().err
    assert main(["--trainable_token_pos", "first", "--seed", "4"]) == 0
    assert f"Row 2: {ROWS[2].command}" in capsys.readouterr().err
