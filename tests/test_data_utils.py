import hashlib
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small_gpt2_encoding

from ablation.config.options import ExperimentConfig
from ablation.data.demo import byte_encoding
from ablation.data.sms import DATASET_NAME, find_dataset, read_messages, split_messages
from ablation.data.split_files import write_csv_files
from ablation.data.vocabulary import gpt2_encoding
from ablation.system.errors import DataError
from data_utils import (
    PADDING_TOKEN,
    EncodedTexts,
    Splits,
    encode_splits,
    encode_texts,
    make_loaders,
)

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
    assert every_input(encoded.train).shape == (1045, 120)
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


def every_input(texts: EncodedTexts) -> torch.Tensor:
    return texts.inputs(range(len(texts)))


def test_default_context_is_the_longest_training_text() -> None:
    encoded = encode()
    pad = PADDING_TOKEN
    assert every_input(encoded.train).tolist() == [[97, 98, 99, 100], [pad] * 4]
    assert encoded.train.lengths.tolist() == [4, 1]
    assert every_input(encoded.validation).tolist() == [[97, 98, 99, 100]]
    assert every_input(encoded.test).tolist() == [list(b"<|en"), [*"é".encode(), pad, pad]]


@pytest.mark.parametrize(("length", "width"), [(2, 2), (11, 11), ("model_context_length", 1024)])
def test_explicit_context_length(length: int | str, width: int) -> None:
    encoded = encode(context_length=length)
    tokens = every_input(encoded.validation)
    assert tokens.shape == (1, width)
    assert encoded.validation.lengths.tolist() == [min(8, width)]
    assert (tokens[0, 8:] == PADDING_TOKEN).all()


@pytest.mark.parametrize(
    ("length", "kept"), [("longest_training_example", 8), ("model_context_length", 8), (3, 3)]
)
def test_without_padding_only_an_explicit_length_truncates(length: int | str, kept: int) -> None:
    encoded = encode(no_padding=True, context_length=length)
    assert encoded.validation[0].inputs.tolist() == [list(b"abcdefgh")[:kept]]
    assert encoded.train[1].inputs.tolist() == [[PADDING_TOKEN]]


AWKWARD = ["", " ", "a", "say  <|endoftext|> twice <|endoftext|>", "\n \t  x   ", "🙂🙂 é"] + [
    " ".join(f"word{i}" * (i % 4) for i in range(n)) for n in (3, 40, 9)
]


@pytest.mark.parametrize("no_padding", [False, True])
@pytest.mark.parametrize("limit", ["longest_training_example", 5, 300])
def test_batches_are_rows_of_one_padded_matrix(limit: str | int, no_padding: bool) -> None:
    """Held to a matrix of all texts as they are encoded one by one, in every order."""
    encoding = small_gpt2_encoding()
    config = ExperimentConfig(batch_size=1, context_length=limit, no_padding=no_padding)
    texts = encode_splits(Splits(*[frame(*AWKWARD)] * 3), encoding, config).train
    own = [encoding.encode_ordinary(text) or [PADDING_TOKEN] for text in AWKWARD]
    width = limit if isinstance(limit, int) else max(map(len, own))
    matrix = torch.full((len(own), width), PADDING_TOKEN)
    for row, ids in zip(matrix, own, strict=True):
        row[: len(ids)] = torch.tensor(ids[:width])
    lengths = [min(len(ids), width) for ids in own]
    assert texts.lengths.tolist() == lengths
    assert texts.n_cut == sum(len(ids) > width for ids in own)
    for indices in ([2], [0, 1], [7, 4, 7], list(range(len(own)))):
        n = max(lengths[i] for i in indices) if no_padding else width
        inputs = texts[indices[0]].inputs if len(indices) == 1 else texts.inputs(indices)
        assert inputs.dtype == torch.int64
        assert torch.equal(inputs, matrix[indices, :n])
    for i, n in ((0, 1), (7, 2), (7, width), (2, width)):
        assert texts.first_tokens(i, n).tolist() == matrix[i, :n].tolist()


def test_no_text_exceeds_the_model() -> None:
    splits = Splits(frame("a" * 3000), frame("b"), frame("c"))
    for options in ({}, {"no_padding": True}):
        config = ExperimentConfig(**options, batch_size=1)
        encoded = encode_splits(splits, byte_encoding(), config)
        assert encoded.train[0].inputs.shape == (1, 1024)


def test_spaces_without_end_are_encoded() -> None:
    """tiktoken panics on such a text: it runs out of stack."""
    encoding = small_gpt2_encoding()
    assert [*encode_texts([" " * 10**6 + "a"], encoding)] == [[ord(" ")] * (10**6 - 1) + [256]]
    for space in "\n\x85\u3000":
        (tokens,) = encode_texts([f"b{space * 10**6}a"], encoding)
        assert bytes(tokens) == f"b{space * 10**6}a".encode()


def test_spaces_leave_tokens_as_they_are() -> None:
    """All texts of up to six of these, of which only some count as spaces for tiktoken."""
    encoding = small_gpt2_encoding()
    for length in range(1, 7):
        texts = ["".join(text) for text in product(" \n\x1f\u3000a!", repeat=length)]
        assert [*encode_texts(texts, encoding)] == list(map(encoding.encode_ordinary, texts))


def test_long_texts_take_no_time() -> None:
    """Tokens of two million letters: a second, where the square of their number would be days."""
    (tokens,) = encode_texts(["x" * 2_000_000], small_gpt2_encoding())
    assert tokens == [ord("x")] * 2_000_000


@pytest.mark.parametrize(("text", "found"), [("a\ud83d", "U+D83D"), ("caf\udce9 au", "U+DCE9")])
def test_half_characters_are_refused(text: str, found: str) -> None:
    with pytest.raises(DataError, match=rf'Text 8, which begins with ".*{re.escape(found)}'):
        list(encode_texts(["fine 🙂", text], byte_encoding(), first=7))


def test_demo_encoding_is_bytes() -> None:
    text = "£5 <|endoftext|>\n\x00 ✓"
    assert byte_encoding().encode_ordinary(text) == list(text.encode())


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
    many = make_loaders(Splits(*[EncodedTexts([[1]] * 2500, range(2500))] * 3), batch_size=7).train
    torch.manual_seed(4)
    found = [[batch.labels.tolist() for batch in many] for _ in range(2)]
    torch.manual_seed(4)
    plain = torch.utils.data.DataLoader(list(range(2500)), 7, shuffle=True, drop_last=True)
    assert found == [[labels.tolist() for labels in plain] for _ in range(2)]
    with pytest.raises(DataError, match="--batch_size 3 is more than the 2 training texts"):
        encode(batch_size=3)


def test_wrong_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / DATASET_NAME).write_bytes(b"mine")
    with pytest.raises(DataError, match=r"is not the SMS Spam Collection.*--data_dir"):
        find_dataset(tmp_path)
    assert (tmp_path / DATASET_NAME).read_bytes() == b"mine"
