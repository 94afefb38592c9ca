"""What several experiments in one process share: texts, weights, hidden states."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tiktoken
import torch

from ablation.classifier.build import (
    GPTClassifier,
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
from ablation.finetuning.feature_store import FeatureStore
from ablation.finetuning.frozen_features import (
    FrozenPrefix,
    count_frozen_blocks,
    cut_splits,
    prepare_inputs,
)
from ablation.finetuning.text_states import StatesCost
from ablation.system.errors import DataError, logger
from ablation.system.machine import choose_device, set_precision
from ablation.system.parallel import first_on_node, largest
from data_utils import (
    Corpus,
    EncodedTexts,
    LabelledTexts,
    Splits,
    count_max_tokens,
    encode_splits,
)
from gpt_model import GPTModel


class SharedWork:
    """What experiments in one process have in common: texts, weights, hidden states.

    Each is kept only while it is needed: experiments in the order of :func:`sharing_order`
    have everything computed once, and take no more memory than the largest of them.

    Args:
        configs: every experiment that belongs together, also those that need not be run again,
            so that the others find the states that they would have found beside them.
        corpus, encoding: their texts, and how these become tokens; by default they are loaded.
        prefix: hidden states that :meth:`compute_prefix` gave of the same experiments, also in
            another process. They are used if weights and options are the same.
    """

    def __init__(
        self,
        configs: Sequence[ExperimentConfig],
        corpus: Corpus | None = None,
        encoding: tiktoken.Encoding | None = None,
        prefix: FrozenPrefix | None = None,
    ) -> None:
        self._configs = configs
        with first_on_node():
            self.corpus = corpus or load_corpus(configs[0])
        if not corpus:  # whoever loaded a given one has described it
            logger.info(describe_corpus(self.corpus, is_own=bool(configs[0].dataset)))
        self._encoding = encoding
        self._described: set[str] = set()  # how texts were cut
        self._texts: dict[Any, Splits[EncodedTexts]] = {}
        self._weights: tuple[Any, GPTModel | None] = (None, None)  # and what they are known by
        self._prefix, self._prefix_key = prefix, None
        self._base: dict[str, Any] = {}  # what the last model starts from

    def texts(self, config: ExperimentConfig) -> Splits[EncodedTexts]:
        """The corpus as token ids.

        Raises:
            DataError: they do not fill a batch, or there is no vocabulary.
        """
        key = (config.context_length, config.no_padding, config.batch_size)
        if key not in self._texts:
            with first_on_node():
                encoding = self._encoding or load_encoding(config)
            self._texts[key] = texts = encode_splits(self.corpus.parts, encoding, config)
            line = format_cut(texts, count_max_tokens(texts.train, config))
            if config.dataset and line not in self._described:
                self._described.add(line)
                logger.info(line)
        return self._texts[key]

    def model(self, config: ExperimentConfig) -> tuple[GPTClassifier, dict[str, Any]]:
        """The classifier that trains, on the CPU, and what it starts from, as
        :func:`identify_weights` has it; what does not train may be shared with others.

        Raises:
            DataError, TensorFileError: the weights are missing, damaged, or change meanwhile.
        """
        self._base = base = identify_weights(config, find_weights)
        # States follow from what is in a file of weights, wherever it lies.
        content = replace(config, weights=base.get("file_sha256", config.weights))
        self._prefix_key = prefix_key(content)
        if self._prefix and self._prefix.key[0] != self._prefix_key:
            self._prefix = None  # before there are others
        n_sharing = sum(start_of(other) == start_of(config) for other in self._configs)
        shares = config.trainable_layers != "all" and n_sharing > 1
        if not shares or self._weights[0] != (start_of(config), base):
            self._weights = (None, None)  # before the next ones are read
        if shares and not self._weights[1]:
            self._weights = ((start_of(config), base), load_weights(config))
        classifier = build_classifier(config, self._weights[1], len(self.corpus.class_names))
        if identify_weights(config, find_weights) != base:
            raise DataError(f"--weights {config.weights} changed while it was read. Run it again.")
        return classifier, base

    def inputs(
        self, classifier: GPTClassifier, config: ExperimentConfig
    ) -> tuple[Splits[LabelledTexts], StatesCost]:
        """What training and evaluation of the last :meth:`model` run on, and what its hidden
        states cost, also those that others of this process use.

        Raises:
            HiddenStateError: a hidden state is not finite.
        """
        started, prefix, store, earlier = time.perf_counter(), None, None, 0.0
        if classifier.reuses_work and count_frozen_blocks(classifier.gpt):
            # What one seed draws may differ between kinds of processors.
            drawn = torch.hash_tensor(classifier.gpt.token_embedding.weight).item()
            if not self._prefix or self._prefix.key[1] != drawn:
                key = prefix_key(config)
                together = [other for other in self._configs if prefix_key(other) == key]
                needs = [cut_splits(self.texts(other), Reading.of(other)) for other in together]
                self._prefix = FrozenPrefix(needs, (self._prefix_key, drawn))
            prefix, earlier = self._prefix, self._prefix.cost.seconds
            store = FeatureStore.of(config, self._base, classifier)
            if largest(int(store is None)):  # one of several processes has none
                store = None
        texts = self.texts(config)
        inputs = prepare_inputs(classifier, texts, config.feature_memory, prefix, store)
        cost = prefix.cost if prefix else StatesCost()
        spent = time.perf_counter() - started - (store.waited_seconds if store else 0.0)
        return inputs, replace(cost, seconds=earlier + spent)

    def compute_prefix(self, config: ExperimentConfig) -> FrozenPrefix | None:
        """The hidden states that an experiment and others share, for the :class:`SharedWork` of
        another process; none if there are none. States that were given are taken further.

        Raises:
            DataError, TensorFileError, HiddenStateError: as :meth:`model` and :meth:`inputs` do.
        """
        set_precision(config.precision)
        classifier, _ = self.model(config)
        self.inputs(classifier.to(choose_device(config.device)), config)
        return self._prefix


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
    """Equal for experiments whose frozen blocks give equal states for equal texts; empty where
    there are no states that could be shared."""
    if config.no_feature_reuse or count_trained_blocks(config) == config.gpt.n_layers:
        return ()
    # Without the mask, padding is seen by every position.
    unmasked = f"padding {not config.no_padding}" if config.disable_causal_mask else ""
    return (*start_of(config), config.precision, str(config.context_length), unmasked)
