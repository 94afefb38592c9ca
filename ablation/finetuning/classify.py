"""What a trained classifier says of texts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import tiktoken
import torch
from torch import Tensor

from ablation.classifier.saved_models import SavedClassifier
from ablation.finetuning.frozen_features import batch_by_length, cut_texts
from ablation.finetuning.prediction_lines import Prediction
from ablation.system.progress import Progress
from data_utils import EncodedTexts, encode_texts

TEXTS_AT_ONCE = 2048  # read, sorted by length, classified, and given back in their order


def classify_texts(
    classifier: SavedClassifier,
    encoding: tiktoken.Encoding,
    texts: Iterable[str],
    at_once: int = TEXTS_AT_ONCE,
    top: int = 0,
) -> Iterator[Prediction]:
    """Classify texts, in their order, holding ``at_once`` of them in memory. Raises
    :class:`DataError` if a text is not Unicode.

    Args:
        top: of how many classes to give the probabilities.
    """
    names = classifier.class_names
    texts, first = iter(texts), 1
    with Progress("classified", "texts", None) as progress:
        while chunk := list(islice(texts, at_once)):
            tokens = encode_texts(chunk, encoding, first)
            rows = class_probabilities(classifier, tokens, progress)
            for text, row in zip(chunk, rows, strict=True):
                best = int(row.argmax())
                some = row.sort(descending=True, stable=True)[1][:top].tolist() if top else []
                probabilities = {names[i]: float(row[i]) for i in some}
                yield Prediction(text, names[best], float(row[best]), probabilities)
            first += len(chunk)


def class_probabilities(
    classifier: SavedClassifier, tokens: Iterable[Sequence[int]], progress: Progress | None = None
) -> Tensor:
    """The probability of each class for each text: (N, C), float64, on the CPU.

    Args:
        tokens: each text's token ids, at least one; what is beyond ``max_tokens`` is not read.
        progress: is told how many texts are done.
    """
    model = classifier.model
    numbers: dict[tuple[int, ...], int] = {}  # equal texts are classified once
    which = [
        numbers.setdefault(tuple(own[: classifier.max_tokens]), len(numbers)) for own in tokens
    ]
    copies = Counter(which)
    encoded = cut_texts(encode_for(classifier, list(numbers)), model.reading)
    probabilities = torch.empty(len(numbers), len(classifier.class_names), dtype=torch.float64)
    with torch.inference_mode():
        for batch in batch_by_length(encoded.n_inputs.tolist(), model):
            logits = model(encoded.__getitems__(batch))
            probabilities[batch] = logits.cpu().double().softmax(dim=-1)
            if progress:
                progress.update(sum(copies[i] for i in batch))
    return probabilities[which]


def encode_for(classifier: SavedClassifier, tokens: Sequence[Sequence[int]]) -> EncodedTexts:
    """Texts as the classifier reads them: token ids, at most ``max_tokens`` of each, with its
    padding, if it was trained with padding."""
    width = None if classifier.config.no_padding else classifier.max_tokens
    return EncodedTexts(tokens, [0] * len(tokens), width)
