"""What several experiments in one process share: texts, weights, hidden states."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import tiktoken
from torch.utils.data import Dataset

from ablation.classifier.build import (
    Classifier,
    Reading,
    build_classifier,
    count_trained_blocks,
    load_weights,
)
from ablation.classifier.weight_files import find_weights
from ablation.config.identity import identify_weights, start_of
from ablation.config.options import ExperimentConfig
from ablation.config.sizes import MODEL_SIZES
from ablation.data.corpora import load_corpus, load_encoding
from ablation.data.data_summary import describe_corpus, format_cut
from ablation.finetuning.frozen_features import (
    FrozenPrefix,
    count_frozen_blocks,
    cut_texts,
    prepare_inputs,
)
from ablation.system.errors import DataError
from ablation.system.parallel import first_on_node
from data_utils import Corpus, EncodedTexts, Splits, count_max_tokens, encode_splits
from gpt_model import GPTModel

logger = logging.getLogger("experiments")


class SharedWork:
    """What experiments in one process have in common: texts, weights, hidden states.

    Each is kept only while it is needed: experiments in the order of :func:`sharing_order`
    have everything computed once, and take no more memory than the largest of them.

    Args:
        configs: every experiment that belongs together, also those that need not be run again,
            so that the others find the states that they would have found beside them.
        corpus, encoding: their texts, and how these become tokens; by default they are loaded.
    """

    def __init__(
        self,
        configs: Sequence[ExperimentConfig],
        corpus: Corpus | None = None,
        encoding: tiktoken.Encoding | None = None,
    ) -> None:
        self._configs = configs
        with first_on_node():
            self.corpus = corpus or load_corpus(configs[0])
        if not corpus:  # who has loaded it has described it
            logger.info(describe_corpus(self.corpus, is_own=bool(configs[0].dataset)))
        self._encoding = encoding
        self._described: set[str] = set()  # how texts were cut
        self._texts: dict[Any, Splits[EncodedTexts]] = {}
        self._weights: tuple[Any, GPTModel | None] = (None, None)
        self._prefix: tuple[Any, FrozenPrefix | None] = (None, None)

    def texts(self, config: ExperimentConfig) -> Splits[EncodedTexts]:
        """The corpus as token ids.

        Raises:
            DataError: they do not fill a batch, or there is no vocabulary.
        """
        key = (config.context_length, config.no_padding, config.batch_size)
        if key not in self._texts:
            with first_on_node():
                encoding = self._encoding or load_encoding(config)
            self._texts[key] = encode_splits(self.corpus.parts, encoding, config)
            if config.dataset:
                self._describe_cut(self._texts[key], config)
        return self._texts[key]

    def _describe_cut(self, texts: Splits[EncodedTexts], config: ExperimentConfig) -> None:
        """Say how many texts are cut, unless that was said of another experiment."""
        line = format_cut(texts, count_max_tokens(texts.train, config))
        if line not in self._described:
            self._described.add(line)
            logger.info(line)

    def model(self, config: ExperimentConfig) -> tuple[Classifier, dict[str, Any]]:
        """The model that trains, on the CPU, and what it starts from, as
        :func:`identify_weights` has it; what does not train may be shared with others.

        Raises:
            DataError, CheckpointError: the weights are missing, damaged, or change meanwhile.
        """
        base, n_classes = identify_weights(config, find_weights), len(self.corpus.class_names)
        key = (start_of(config), base)
        others = [other for other in self._configs if start_of(other) == key[0]]
        if config.trainable_layers == "all" or len(others) < 2:
            # Nothing of it could be shared: a second copy would only take memory.
            self._weights = self._prefix = (None, None)
            model = build_classifier(config, n_classes=n_classes)
        else:
            if self._weights[0] != key:
                self._weights = self._prefix = (None, None)  # before the next ones are read
                self._weights = (key, load_weights(config))
            model = build_classifier(config, self._weights[1], n_classes)
        if identify_weights(config, find_weights) != base:
            raise DataError(f"--weights {config.weights} changed while it was read. Run it again.")
        return model, base

    def inputs(
        self, classifier: Classifier, config: ExperimentConfig
    ) -> tuple[Splits[Dataset], float]:
        """What training and evaluation run on, and the seconds that its hidden states took.

        Raises:
            HiddenStateError: a hidden state is not finite.
        """
        started = time.perf_counter()
        texts, prefix = self.texts(config), None
        if classifier.reuses_work and count_frozen_blocks(classifier.gpt):
            key = prefix_key(config)
            if self._prefix[0] != key:
                self._prefix = (None, None)  # before there are others
                together = [other for other in self._configs if prefix_key(other) == key]
                needs = [self._needed(other) for other in together]
                self._prefix = (key, FrozenPrefix(needs))
            prefix = self._prefix[1]
            started -= prefix.seconds
        inputs = prepare_inputs(classifier, texts, config.feature_memory, prefix)
        return inputs, time.perf_counter() - started

    def _needed(self, config: ExperimentConfig) -> Splits[EncodedTexts]:
        return self.texts(config).map(lambda part: cut_texts(part, Reading.of(config)))


def sharing_order(config: ExperimentConfig) -> tuple[Any, ...]:
    """Sorts experiments so that those that share weights and states follow each other.

    Small models come first, and of those that share states, those that freeze fewer blocks.
    """
    return (
        list(MODEL_SIZES).index(config.model_size),
        start_of(config),
        config.trainable_layers == "all",
        prefix_key(config),
        -count_trained_blocks(config),
    )


def prefix_key(config: ExperimentConfig) -> tuple[Any, ...]:
    """Equal for experiments whose frozen blocks make the same of the same beginning; empty where
    there are no states that could be shared."""
    if config.no_feature_reuse or count_trained_blocks(config) == config.gpt.n_layers:
        return ()
    # Without the mask, padding is seen by every position.
    unmasked = f"padding {not config.no_padding}" if config.disable_causal_mask else ""
    return (*start_of(config), config.precision, str(config.context_length), unmasked)
