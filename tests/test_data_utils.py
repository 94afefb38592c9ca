import hashlib
import io
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
import tiktoken
import torch

import data_utils
from data_utils import (
    DATASET_NAME,
    PADDING_TOKEN,
    DataError,
    EncodedTexts,
    Splits,
    encode_splits,
    find_dataset,
    find_weights,
    gpt2_encoding,
    make_loaders,
    read_messages,
    split_messages,
    write_csv_files,
)
from demo_data import byte_encoding
from experiment_config import ExperimentConfig

# ---------------------------------------------------------------- split


def test_quotes_merge_messages_and_na_is_text(tmp_path: Path) -> None:
    path = tmp_path / DATASET_NAME
    path.write_text('ham\t"open\nham\tswallowed\nham\tend"\nspam\tNA\nham\tnull\nham\tsay "hi"\n')
    messages = read_messages(path)
    assert messages["Label"].tolist() == ["ham", "spam", "ham", "ham"]
    expected = ["open\nham\tswallowed\nham\tend", "NA", "null", 'say "hi"']
    assert messages["Text"].tolist() == expected


def test_split_is_balanced_complete_and_fixed() -> None:
    messages = pd.DataFrame(
        {"Label": ["ham"] * 70 + ["spam"] * 50, "Text": [f"text {i}" for i in range(120)]}
    )
    splits = split_messages(messages)
    assert [len(part) for part in vars(splits).values()] == [70, 10, 20]
    everything = pd.concat(vars(splits).values())
    assert everything["Label"].value_counts().to_dict() == {0: 50, 1: 50}
    assert everything["Text"].is_unique
    spam_texts = set(messages["Text"][70:])
    assert (everything["Text"].isin(spam_texts) == (everything["Label"] == 1)).all()
    np.random.seed(7)
    assert split_messages(messages).train.equals(splits.train)


def test_real_split(real_data_dir: Path, tmp_path: Path) -> None:
    messages = read_messages(find_dataset(real_data_dir))
    assert len(messages) == 5572
    splits = split_messages(messages)
    assert [len(part) for part in vars(splits).values()] == [1045, 149, 300]
    write_csv_files(splits, tmp_path)
    checksums = {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        for path in tmp_path.glob("*.csv")
    }
    assert checksums == {"train": "ec2895b0", "validation": "f92996ef", "test": "f82216f3"}
    encoded = encode_splits(splits, gpt2_encoding(), ExperimentConfig())
    assert encoded.train.tokens.shape == (1045, 120)
    assert int(encoded.train.lengths.max()) == 120


def test_unwritable_folder_for_csv_files_is_no_error(
    tmp_path: Path, few_messages: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()  # a folder cannot be made below a file, not even by root
    write_csv_files(split_messages(few_messages), tmp_path / "file" / "data")
    assert "not written" in caplog.text


# ---------------------------------------------------------------- tokens


def frame(*texts: str) -> pd.DataFrame:
    return pd.DataFrame({"Label": [0] * len(texts), "Text": texts})


SPLITS = Splits(frame("abcd", ""), frame("abcdefgh"), frame("<|endoftext|>", "é"))


def encode(**options: object) -> Splits[EncodedTexts]:
    config = ExperimentConfig(**{"batch_size": 1, **options})
    return encode_splits(SPLITS, byte_encoding(), config)


def test_default_context_is_the_longest_training_text() -> None:
    encoded = encode()
    pad = PADDING_TOKEN
    assert encoded.train.tokens.tolist() == [[97, 98, 99, 100], [pad] * 4]
    assert encoded.train.lengths.tolist() == [4, 1]
    assert encoded.validation.tokens.tolist() == [[97, 98, 99, 100]]
    assert encoded.test.tokens.tolist() == [list(b"<|en"), [*"é".encode(), pad, pad]]


@pytest.mark.parametrize(("length", "width"), [(2, 2), (11, 11), ("model_context_length", 1024)])
def test_explicit_context_length(length: int | str, width: int) -> None:
    encoded = encode(context_length=length)
    assert encoded.validation.tokens.shape == (1, width)
    assert encoded.validation.lengths.tolist() == [min(8, width)]
    assert (encoded.validation.tokens[0, 8:] == PADDING_TOKEN).all()


@pytest.mark.parametrize(
    ("length", "kept"), [("longest_training_example", 8), ("model_context_length", 8), (3, 3)]
)
def test_without_padding_only_an_explicit_length_truncates(length: int | str, kept: int) -> None:
    encoded = encode(no_padding=True, context_length=length)
    assert encoded.validation[0].inputs.tolist() == [list(b"abcdefgh")[:kept]]
    assert encoded.train[1].inputs.tolist() == [[PADDING_TOKEN]]


def test_no_text_exceeds_the_model() -> None:
    splits = Splits(frame("a" * 3000), frame("b"), frame("c"))
    for options in ({}, {"no_padding": True}):
        config = ExperimentConfig(**options, batch_size=1)
        encoded = encode_splits(splits, byte_encoding(), config)
        assert encoded.train[0].inputs.shape == (1, 1024)


def test_demo_encoding_is_bytes() -> None:
    text = "£5 <|endoftext|>\n\x00 ✓"
    assert byte_encoding().encode_ordinary(text) == list(text.encode())


def test_missing_vocabulary_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> tiktoken.Encoding:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(DataError, match=r"(?s)no network.*TIKTOKEN_CACHE_DIR"):
        gpt2_encoding()


def test_loaders() -> None:
    train = EncodedTexts([[i] for i in range(10)], range(10), width=2)
    loaders = make_loaders(Splits(train, train, train), batch_size=4)
    in_order = [batch.labels.tolist() for batch in loaders.test]
    assert in_order == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    torch.manual_seed(3)
    first, second = ([batch.labels.tolist() for batch in loaders.train] for _ in range(2))
    assert [len(labels) for labels in first] == [4, 4]
    assert first != second
    torch.manual_seed(3)
    plain = torch.utils.data.DataLoader(list(range(10)), 4, shuffle=True, drop_last=True)
    assert first == [labels.tolist() for labels in plain]
    with pytest.raises(DataError, match="--batch_size 3 is more than the 2 training texts"):
        encode(batch_size=3)


# ---------------------------------------------------------------- download


def make_zip(content: bytes, name: str = DATASET_NAME) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.writestr("readme", "nothing to see")
    return buffer.getvalue()


CONTENT = b"ham\thello\nspam\tfree money\n" * 40
GOOD_ZIP = make_zip(CONTENT)
Answer = Callable[[BaseHTTPRequestHandler], None]


def send(body: bytes, status: int = 200, announced: int | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(announced or len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def stall(handler: BaseHTTPRequestHandler) -> None:
    send(GOOD_ZIP[:50], announced=len(GOOD_ZIP))(handler)
    handler.wfile.flush()
    time.sleep(1)


def trickle(handler: BaseHTTPRequestHandler) -> None:
    send(b"", announced=len(GOOD_ZIP))(handler)
    for i in range(0, len(GOOD_ZIP), 2):
        handler.wfile.write(GOOD_ZIP[i : i + 2])
        time.sleep(0.01)


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


FAULTS = {
    "truncated": send(GOOD_ZIP[:50], announced=len(GOOD_ZIP)),
    "cut short": send(GOOD_ZIP[:50]),
    "flipped bits": send(GOOD_ZIP[:60] + bytes(b ^ 255 for b in GOOD_ZIP[60:80]) + GOOD_ZIP[80:]),
    "another file": send(make_zip(CONTENT + b"x")),
    "no member": send(make_zip(CONTENT, "other")),
    "a page": send(b"<html>please log in</html>"),
    "not found": send(b"", status=404),
    "server error": send(b"", status=500),
    "too large": send(b"\0" * 2_000_000),
    "damaged end": send(GOOD_ZIP[:-6] + b"\xff\xff\xff\xff\0\0"),
    "stalled": stall,
    "trickling": trickle,
    "reset": reset,
}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Serve answers on localhost, the first under the primary address, and so on."""
    monkeypatch.setattr(data_utils, "DATASET_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(data_utils, "DATASET_BYTES", len(CONTENT))
    monkeypatch.setattr(data_utils, "MAX_ZIP_BYTES", 1_000_000)
    monkeypatch.setattr(data_utils, "TIMEOUT_SECONDS", (0.3, 0.3))
    monkeypatch.setattr(data_utils, "DEADLINE_SECONDS", 0.4)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked: list[str] = []
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answers[int(self.path[1:])](self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def start(*given: Answer) -> list[str]:
        answers.extend(given)
        address = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{address}/{i}" for i in range(len(given))]
        monkeypatch.setattr(data_utils, "DATASET_URLS", urls)
        return asked

    yield start
    server.shutdown()
    server.server_close()


def test_download_takes_the_primary_address(serve: Callable, tmp_path: Path) -> None:
    asked = serve(send(GOOD_ZIP), send(GOOD_ZIP))
    folder = tmp_path / "new" / "data"
    assert find_dataset(folder).read_bytes() == CONTENT
    assert asked == ["/0"]
    assert os.listdir(folder) == [DATASET_NAME]
    find_dataset(folder)
    assert asked == ["/0"], "a verified file is not downloaded again"


@pytest.mark.parametrize("fault", FAULTS)
def test_download_falls_back_to_the_second_address(
    serve: Callable, tmp_path: Path, fault: str
) -> None:
    asked = serve(FAULTS[fault], send(GOOD_ZIP))
    assert find_dataset(tmp_path).read_bytes() == CONTENT
    assert asked == ["/0", "/1"]


@pytest.mark.parametrize("fault", FAULTS)
def test_failed_download_leaves_nothing(serve: Callable, tmp_path: Path, fault: str) -> None:
    serve(FAULTS[fault], send(b"", status=404))
    with pytest.raises(DataError) as error:
        find_dataset(tmp_path)
    assert os.listdir(tmp_path) == []
    message = str(error.value)
    assert "/0 (" in message
    assert "/1 (404" in message
    assert f"put the file {DATASET_NAME} from that zip at {tmp_path / DATASET_NAME}" in message


def test_wrong_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / DATASET_NAME).write_bytes(b"mine")
    with pytest.raises(DataError, match=r"is not the SMS Spam Collection.*--data_dir"):
        find_dataset(tmp_path)
    assert (tmp_path / DATASET_NAME).read_bytes() == b"mine"


def test_folder_that_cannot_be_written(serve: Callable, tmp_path: Path) -> None:
    asked = serve(send(GOOD_ZIP))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="--data_dir"):
        find_dataset(tmp_path / "file" / "data")
    with pytest.raises(DataError, match="--data_dir"):
        find_dataset(tmp_path / "file")
    assert asked == []


# ---------------------------------------------------------------- weights


def weights_config(**options: object) -> ExperimentConfig:
    return ExperimentConfig(**{name: str(value) for name, value in options.items()})


def test_weights_file_or_folder(tmp_path: Path) -> None:
    other = tmp_path / "mine.safetensors"
    assert find_weights(weights_config(weights=other)) == other
    with pytest.raises(DataError, match="0 other safetensors files"):
        find_weights(weights_config(weights=tmp_path))
    other.touch()
    assert find_weights(weights_config(weights=tmp_path)) == other
    (tmp_path / "second.safetensors").touch()
    with pytest.raises(DataError, match="2 other safetensors files"):
        find_weights(weights_config(weights=tmp_path))
    (tmp_path / "model.safetensors").touch()
    assert find_weights(weights_config(weights=tmp_path)) == tmp_path / "model.safetensors"


def test_weights_dir_is_read_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def download(repository: str, name: str, **options: object) -> str:
        asked.append((repository, name, options))
        return "downloaded"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    config = weights_config(model_size="gpt2-medium (355M)", weights_dir=tmp_path)
    folder = tmp_path / "gpt2-medium"
    assert find_weights(config) == Path("downloaded")
    revision = "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"
    options = {"revision": revision, "local_dir": folder}
    assert asked == [("openai-community/gpt2-medium", "model.safetensors", options)]
    folder.mkdir()
    (folder / "model.safetensors").touch()
    assert find_weights(config) == folder / "model.safetensors"
    assert len(asked) == 1


def test_hub_failure_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> str:
        raise OSError("cannot reach the hub\nsecond line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(DataError) as error:
        find_weights(weights_config(weights_dir=tmp_path))
    message = str(error.value)
    assert "(cannot reach the hub)" in message
    assert f"put that file at {tmp_path / 'gpt2' / 'model.safetensors'}" in message
    with pytest.raises(DataError, match=r"WEIGHTS_DIR/gpt2/model.safetensors and give --weights_"):
        find_weights(weights_config())
