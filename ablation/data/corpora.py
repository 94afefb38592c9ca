"""The texts of an experiment, and how they become tokens."""

from pathlib import Path

import tiktoken

from ablation.config.options import ExperimentConfig
from ablation.data import sms
from ablation.data.demo import byte_encoding, byte_vocabulary, demo_messages
from ablation.data.own_data import load_own_corpus
from ablation.data.split_files import write_csv_files
from ablation.data.vocabulary import gpt2_encoding, vocabulary_files
from ablation.system.errors import logger
from data_utils import Corpus


def load_corpus(config: ExperimentConfig) -> Corpus:
    """The texts: the messages, the demo's, or your own. Raises ``DataError`` if they are missing,
    or are not what they should be."""
    if config.dataset:
        return load_own_corpus(config)
    if config.demo:
        logger.warning("Demo: the messages are synthetic, so the figures mean nothing.")
        return Corpus(sms.split_messages(demo_messages()), tuple(sms.LABELS), "demo", None)
    data_dir = Path(config.data_dir)
    path = sms.find_dataset(data_dir, config.offline)
    messages = sms.split_messages(sms.read_messages(path))
    write_csv_files(messages, data_dir)
    return Corpus(messages, tuple(sms.LABELS), sms.DATASET_NAME, sms.DATASET_SHA256)


def load_encoding(config: ExperimentConfig) -> tiktoken.Encoding:
    """How texts become tokens. Raises ``DataError`` if there is no vocabulary."""
    return byte_encoding() if config.demo else gpt2_encoding(config.offline, config.weights_dir)


def load_vocabulary(config: ExperimentConfig) -> dict[str, bytes]:
    """The same as files that a ``GPT2Tokenizer`` of transformers reads, by name. Raises
    ``DataError`` if there is no vocabulary."""
    if config.demo:
        return byte_vocabulary()
    return vocabulary_files(config.offline, config.weights_dir)
