import hashlib
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

from ablation.config.identity import identify
from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.sweeps import records
from ablation.sweeps.records import (
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
from ablation.system.errors import RecordError

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


def test_predictions_are_written_byte_by_byte_as_described(tmp_path: Path) -> None:
    result = make_result([1, 0, 1], [1, 0, 0])
    folder = write_complete(tmp_path, RUN, result, DATA)
    lines = ["index,label,probability,prediction,row"]
    for i, (logits, label) in enumerate(
        zip(result.test.logits.double().tolist(), result.test.labels.tolist(), strict=True)
    ):
        probability = 1 / (1 + np.exp(logits[0] - logits[1]))
        predicted = int(logits[1] > logits[0])
        lines.append(f"{i},{label},{probability:.9g},{predicted},{result.test_lines[i]}")
    content = (folder / PREDICTIONS_NAME).read_bytes()
    assert content == "".join(f"{line}\n" for line in lines).encode()
    said = json.loads((folder / RESULT_NAME).read_text())["predictions_sha256"]
    assert said == hashlib.sha256(content).hexdigest()


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


def name_of(**options: object) -> str:
    """The readable part of a folder's name."""
    config = ExperimentConfig(**options)
    name = Run(config).name
    assert len(name.encode()) < 150
    assert name.isascii()
    assert set(name).isdisjoint("/\\ '\"<>|*?$`")
    assert name.endswith(f"_seed-{config.seed}_{identify(config)}")
    return name.removesuffix(f"_seed-{config.seed}_{identify(config)}")


@pytest.mark.parametrize("number", ROWS)
def test_a_rows_name_is_its_number(number: int) -> None:
    assert name_of(**ROWS[number].flags, seed=5) == f"row-{number:02d}"


def test_names_hold_the_row_and_whole_values() -> None:
    tiny = {"model_size": "gpt2-tiny (3M)", "weights": "random"}
    named = "model_size-gpt2-tiny-3M_weights-random"
    assert name_of(**tiny) == f"row-01_{named}"
    assert name_of(**tiny, trainable_token_pos="first") == f"row-02_{named}"
    assert name_of(**tiny, trainable_token_pos="flexible") == f"row-16_{named}"
    assert name_of(trainable_layers="last_layer", learning_rate=0.0005) == (
        "row-03_learning_rate-0.0005"
    )
    assert name_of(trainable_layers="last_two_blocks", learning_rate=5e-6) == (
        "row-04_learning_rate-5e-06"
    )
    assert name_of(trainable_layers="lora", lora_rank=4, lora_alpha=2.0) == (
        "row-01_trainable_layers-lora_lora_rank-4_lora_alpha-2"
    )
    assert name_of(weights="../a b/c.safetensors", no_padding=True, batch_size=1) == (
        "row-14_weights-..-a-b-c.safetensors"
    )
    assert name_of(ignore_index=-1) == "row-01_ignore_index--1"
    assert name_of(ignore_index=1) == "row-01_ignore_index-1"


@pytest.mark.parametrize(
    "names",
    [
        ("é.csv", "è.csv", "日本.csv", "中文.csv", "\udcff.csv", "\udcfe.csv"),
        ("x" * 90, "x" * 91, "x" * 89 + "y"),
        ("a\nb.csv", "a", "a.csv", "a.0", "a.00"),
    ],
)
def test_different_values_look_different(names: tuple[str, ...]) -> None:
    assert len({name_of(dataset=name) for name in names}) == len(names)


def test_what_is_too_long_is_left_out_whole() -> None:
    assert name_of(weights="x" * 500) == "row-01_and-1-more"
    assert name_of(weights="x" * 500, batch_size=4, eval_iter=3) == (
        "row-01_batch_size-4_eval_iter-3_and-1-more"
    )
    own = {"dataset": "/home/some/one/data/reviews-of-2024.csv", "text_column": "review text"}
    assert name_of(**own, label_column="sentiment", learning_rate=1e-4, batch_size=4) == (
        "row-01_text_column-review-text_label_column-sentiment_batch_size-4_learning_rate-0.0001"
        "_and-1-more"
    ), "what the runs of one folder have in common is the longest"


def test_a_folder_that_was_named_otherwise_stays_the_runs(tmp_path: Path) -> None:
    """Earlier versions named folders otherwise, with the same hash at the end."""
    folder = write_complete(tmp_path, RUN, make_result([1, 0], [1, 0]), DATA)
    earlier = tmp_path / f"weights-random_seed-7_{identify(RUN.config)}"
    folder.rename(earlier)
    assert find_complete(tmp_path, RUN).folder == earlier
    assert RUN.folder(tmp_path) == earlier
    assert write_complete(tmp_path, RUN, make_result([1, 0], [0, 0]), DATA) == earlier
    assert [path.name for path in tmp_path.iterdir()] == [earlier.name]
    assert find_complete(tmp_path, RUN).accuracy("test").correct == 1


def test_a_whole_record_is_found_beside_a_damaged_one(tmp_path: Path) -> None:
    folder = write_complete(tmp_path, RUN, make_result([1, 0], [1, 0]), DATA)
    shutil.copytree(folder, tmp_path / f"earlier_{identify(RUN.config)}")
    (folder / RESULT_NAME).write_text("{")
    assert find_complete(tmp_path, RUN).folder.name.startswith("earlier")


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
        assert [record.config.seed for record in read_records(tmp_path)] == [8]
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
    write = records.write_atomically

    def fail_on_result(path: Path, content: bytes) -> None:
        if path.name == RESULT_NAME:
            raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_atomically", fail_on_result)
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
