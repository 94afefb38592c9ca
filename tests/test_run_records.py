import json
import logging
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import config_from_flags, make_result

import run_records
from errors import RecordError
from experiment_config import ExperimentConfig
from experiment_rows import ROWS
from run_records import (
    NEXT_PREDICTIONS_NAME,
    PREDICTIONS_NAME,
    RESULT_NAME,
    find_complete,
    read_record,
    read_records,
    require_writable,
    write_complete,
    write_incomplete,
)
from runs import Run, identify

DATA = {"name": "test", "split_sha256": "0" * 64}
RUN = Run(ExperimentConfig(seed=7, data_dir="somewhere"), overrides={})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_complete(tmp_path, RUN, make_result([1, 0, 1, 1], [1, 0, 0, 1]), DATA)
    assert folder.name == f"row-01_seed-7_{identify(RUN.config)}"
    assert sorted(path.name for path in folder.iterdir()) == [PREDICTIONS_NAME, RESULT_NAME]
    record = read_record(folder)
    assert record.is_complete
    assert record.config == replace(RUN.config, data_dir="data"), "no folder of a machine"
    assert record.correct.tolist() == [True, True, False, True]
    assert record.predictions["index"].tolist() == [0, 1, 2, 3]
    assert record.accuracy("test").percent == 75
    assert record.minutes == pytest.approx((60 + 30) / 60)
    result = json.loads((folder / RESULT_NAME).read_text())
    assert result["row"] == 1
    assert result["seed"] == 7
    assert result["command"] == "python additional_experiments.py --seed 7"
    assert result["versions"]["torch"] == torch.__version__
    assert result["data"] == DATA
    assert result["parameters"] == {"trained": 2, "total": 3}
    assert result["history"]["losses"][0]["step"] == 0
    assert {"device", "commit", "peak_memory_bytes", "seconds", "flags"} <= result.keys()


def test_probabilities_are_those_of_the_logits(tmp_path: Path) -> None:
    result = make_result([1, 0, 1], [1, 0, 0])
    record = read_record(write_complete(tmp_path, RUN, result, DATA))
    logits = result.test.logits.double().numpy()
    expected = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    np.testing.assert_allclose(record.predictions["probability"], expected, rtol=1e-8)


def test_the_same_run_has_the_same_name() -> None:
    circumstances = {
        "data_dir": "x",
        "weights_dir": "y",
        "device": "cpu",
        "no_feature_reuse": True,
        "feature_memory": 1.0,
    }
    assert identify(replace(RUN.config, **circumstances)) == identify(RUN.config)
    names = {Run(replace(row.config, seed=seed)).name for row in ROWS.values() for seed in (1, 2)}
    assert len(names) == 2 * len(ROWS)
    for options in ({"num_epochs": 4}, {"weights": "random"}, {"precision": "bf16"}):
        assert identify(replace(RUN.config, **options)) != identify(RUN.config)


@pytest.mark.parametrize("number", ROWS)
def test_commands_rows_and_flags_name_the_same_run(number: int) -> None:
    by_row = config_from_flags(["--rows", str(number)])
    by_command = config_from_flags(shlex.split(ROWS[number].command)[2:])
    assert identify(by_row) == identify(by_command) == identify(ROWS[number].config)


def test_a_copied_record_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_complete(tmp_path, RUN, make_result([1], [1]), DATA)
    shutil.copytree(folder, tmp_path / "copy")
    assert len(read_records(tmp_path)) == 1
    assert "is the same run as" in caplog.text


def test_names_are_readable() -> None:
    assert Run(ROWS[12].config).name.startswith("row-12_seed-123_")
    name = Run(ExperimentConfig(weights="../a b/c.safetensors", no_padding=True, batch_size=1)).name
    assert name.startswith("weights-a-b-c-safetensors_no_padding_batch_size-1_seed-123_")
    assert len(Run(ExperimentConfig(weights="x" * 500)).name) < 100


def test_a_failed_run_does_not_replace_a_complete_one(tmp_path: Path) -> None:
    write_incomplete(tmp_path, RUN, "failed", "no luck")
    (record,) = read_records(tmp_path)
    assert not record.is_complete
    assert record.result["error"] == "no luck"
    assert find_complete(tmp_path, RUN) is None
    write_complete(tmp_path, RUN, make_result([1], [1]), DATA)
    write_incomplete(tmp_path, RUN, "failed", "no luck")
    assert find_complete(tmp_path, RUN)


def damage_json(folder: Path) -> None:
    path = folder / RESULT_NAME
    path.write_text(path.read_text()[:-20])


def damage_flags(folder: Path) -> None:
    path = folder / RESULT_NAME
    path.write_text(path.read_text().replace('"lora_rank"', '"lora_rang"'))


def damage_counts(folder: Path) -> None:
    path = folder / RESULT_NAME
    path.write_text(path.read_text().replace('"correct": 3', '"correct": 30'))


def damage_predictions(folder: Path) -> None:
    path = folder / PREDICTIONS_NAME
    path.write_text(path.read_text().replace("0,1,", "0,0,", 1))


def lose_a_key(folder: Path) -> None:
    path = folder / RESULT_NAME
    result = json.loads(path.read_text())
    del result["command"]
    path.write_text(json.dumps(result))


def damage_device(folder: Path) -> None:
    path = folder / RESULT_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "cpu"}))


def lose_predictions(folder: Path) -> None:
    (folder / PREDICTIONS_NAME).unlink()


def no_object(folder: Path) -> None:
    (folder / RESULT_NAME).write_text("[1, 2]")


@pytest.mark.parametrize(
    "damage",
    [
        damage_json,
        damage_flags,
        damage_counts,
        damage_predictions,
        damage_device,
        lose_a_key,
        lose_predictions,
        no_object,
    ],
)
def test_damage_is_named_and_not_read(
    damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_complete(tmp_path, RUN, make_result([1, 0, 1, 1], [1, 0, 0, 1]), DATA)
    other = replace(RUN, config=replace(RUN.config, seed=8))
    write_complete(tmp_path, other, make_result([1], [1]), DATA)
    damage(folder)
    with pytest.raises(RecordError, match=folder.name):
        read_record(folder)
    with caplog.at_level(logging.WARNING, logger="experiments"):
        assert [record.seed for record in read_records(tmp_path)] == [8]
        assert find_complete(tmp_path, RUN) is None
    assert folder.name in caplog.text


def test_a_record_under_another_runs_name_is_not_that_run(tmp_path: Path) -> None:
    folder = write_complete(tmp_path, RUN, make_result([1], [1]), DATA)
    other = replace(RUN, config=replace(RUN.config, seed=8))
    folder.rename(tmp_path / other.name)
    assert find_complete(tmp_path, other) is None


def test_a_write_that_is_cut_off_loses_no_earlier_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the second file is due; before, there was another result."""
    folder = write_complete(tmp_path, RUN, make_result([1, 0], [1, 0]), DATA)
    write = run_records.write_atomically

    def fail_on_result(path: Path, content: bytes) -> None:
        if path.name == RESULT_NAME:
            raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_records, "write_atomically", fail_on_result)
        with pytest.raises(RecordError, match="No space left"):
            write_complete(tmp_path, RUN, make_result([1, 0], [0, 0]), DATA)
    assert read_record(folder).predictions["prediction"].tolist() == [1, 0]
    write_complete(tmp_path, RUN, make_result([1, 0], [0, 0]), DATA)
    assert read_record(folder).predictions["prediction"].tolist() == [0, 0]


def test_a_kill_after_the_result_loses_no_new_record(tmp_path: Path) -> None:
    folder = write_complete(tmp_path, RUN, make_result([1, 0], [0, 0]), DATA)
    (folder / PREDICTIONS_NAME).rename(folder / NEXT_PREDICTIONS_NAME)
    assert read_record(folder).predictions["prediction"].tolist() == [0, 0]
    (folder / PREDICTIONS_NAME).write_text("of the run before")
    assert read_record(folder).predictions["prediction"].tolist() == [0, 0]


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="--output_dir"):
        require_writable(tmp_path / "file")
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
