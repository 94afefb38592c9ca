"""The texts of an experiment: which they are, what they are known by, how they become tokens."""

from __future__ import annotations

import logging
from pathlib import Path

import tiktoken

from ablation.config.options import ExperimentConfig
from ablation.data.demo import byte_encoding, byte_vocabulary, demo_messages
from ablation.data.own_data import load_own_corpus
from ablation.data.sms import (
    DATASET_NAME,
    DATASET_SHA256,
    LABELS,
    find_dataset,
    read_messages,
    split_messages,
    write_csv_files,
)
from ablation.data.vocabulary import gpt2_encoding, vocabulary_files
from data_utils import Corpus

logger = logging.getLogger("experiments")


def load_corpus(config: ExperimentConfig) -> Corpus:
    """The texts: the messages, the demo's, or one's own.

    Raises:
        DataError: they are missing, or are not what they should be.
    """
    labels = tuple(LABELS)
    if config.dataset:
        return load_own_corpus(config)
    if config.demo:
        logger.warning("Demo: the messages are synthetic, so the figures mean nothing.")
        return Corpus(split_messages(demo_messages()), labels, "demo", None)
    data_dir = Path(config.data_dir)
    messages = split_messages(read_messages(find_dataset(data_dir, config.offline)))
    write_csv_files(messages, data_dir)
    return Corpus(messages, labels, DATASET_NAME, DATASET_SHA256)


def load_encoding(config: ExperimentConfig) -> tiktoken.Encoding:
    """How texts become tokens.

    Raises:
        DataError: there is no vocabulary.
    """
    return byte_encoding() if config.demo else gpt2_encoding(config.offline, config.weights_dir)


def load_vocabulary(config: ExperimentConfig) -> dict[str, bytes]:
    """The same as files that a ``GPT2Tokenizer`` of transformers reads, by name.

    Raises:
        DataError: there is no vocabulary.
    """
    if config.demo:
        return byte_vocabulary()
    return vocabulary_files(config.offline, config.weights_dir)
