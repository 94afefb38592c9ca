"""What a classifier says of a text after each of its tokens.

The value at a token is what the model says of the text cut there, read as it reads a text that ends
there, with no padding behind it. Where padding counts, the values go on with padding tokens, one
after the other, up to the model's ``max_tokens``. The last value is the model's answer.

Under the causal mask no position depends on later ones, so that one pass has all values. Without
it, each takes a pass of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import tiktoken
import torch
from torch import Tensor

from ablation.classifier.build import GPTClassifier, Reading
from ablation.classifier.saved_models import SavedClassifier
from ablation.finetuning.classify import class_probabilities, encode_for
from ablation.system.output import count, printable
from ablation.system.progress import follow
from data_utils import Batch, encode_texts

SHOWN_STRETCHES = 12
ROWS_AT_ONCE = 64  # read from the outputs of one pass
SPACE = "·"  # where a token has a space


@dataclass(frozen=True)
class Stretch:
    """Neighbouring positions with the same best class: from ``start`` to before ``stop``."""

    start: int
    stop: int
    label: str


@dataclass(frozen=True)
class ByToken:
    """What a model says of a text after each token, and then after each padding token.

    ``probabilities`` (L, C), float64, has a row for each position: that of ``tokens``, then those
    of the padding that counts. The last row is the model's answer.
    """

    text: str
    class_names: tuple[str, ...]
    token_ids: tuple[int, ...]  # of the text, as far as the model reads it
    tokens: tuple[bytes, ...]
    probabilities: np.ndarray
    n_cut: int  # of its tokens are behind what the model reads
    reads: str  # a sentence on which positions count

    @property
    def n_padding(self) -> int:
        """How many padding tokens count."""
        return len(self.probabilities) - len(self.tokens)

    @cached_property
    def predicted(self) -> list[str]:
        """The best class at each position (L,)."""
        return [self.class_names[i] for i in self.probabilities.argmax(axis=1).tolist()]

    @property
    def label(self) -> str:
        """The class that the model gives the text."""
        return self.predicted[-1]

    @property
    def cut_words(self) -> str:
        """What of the text the model does not read; empty if it reads all."""
        if not self.n_cut:
            return ""
        return (
            f"the model reads {count(len(self.tokens), 'token')}, and not the {self.n_cut:,} "
            "behind them."
        )

    def probability_of(self, label: str) -> list[float]:
        """Of one class, at each position (L,)."""
        return self.probabilities[:, self.class_names.index(label)].tolist()

    def changes_at(self, position: int) -> bool:
        """Whether the best class is another than at the position before."""
        return position > 0 and self.predicted[position] != self.predicted[position - 1]

    @property
    def padding(self) -> list[Stretch]:
        """The padding, apart where the best class changes; the answer is a stretch of its own."""
        places = range(len(self.tokens), len(self.predicted))
        last = len(self.predicted) - 1
        groups = groupby(places, key=lambda place: (place == last, self.predicted[place]))
        found = []
        for (_, label), some in groups:
            first, *_, end = [*(some := list(some)), some[-1]]
            found.append(Stretch(first, end + 1, label))
        return found


def read_by_token(
    classifier: SavedClassifier, encoding: tiktoken.Encoding, text: str, number: int = 1
) -> ByToken:
    """What a classifier says of a text after each token. Raises ``DataError`` if the text is not
    Unicode.

    Args:
        number: of the text, for messages.
    """
    (whole,) = encode_texts([text], encoding, number)
    own = tuple(whole[: classifier.max_tokens])
    encoded, model = encode_for(classifier, [own]), classifier.model
    n_positions = max(len(own), int(model.reading.n_needed(encoded)))
    ids = encoded.first_tokens(0, n_positions).long()
    with torch.inference_mode():
        read = _logits(model, ids, len(own)).cpu().double().softmax(dim=-1)
    # One position is read by a shorter way than all of them, with other roundings: what is called
    # the answer is the answer, to the last bit.
    answer = class_probabilities(classifier, [own])
    return ByToken(
        text,
        classifier.class_names,
        own,
        tuple(encoding.decode_tokens_bytes(own)),
        torch.cat([read[:-1], answer]).numpy(),
        n_cut=len(whole) - len(own),
        reads=describe_reading(model.reading, classifier.max_tokens),
    )


def _logits(model: GPTClassifier, ids: Tensor, n_own: int) -> Tensor:
    """The logits (L, C) of the first 1, 2, ..., L token ids (L,), of which ``n_own`` are no
    padding."""
    ends = torch.arange(1, len(ids) + 1)
    if not model.reading.causal:
        passes = follow(ends.split(1), "read", "passes", len(ids), leave=False)
        return torch.cat([model(_cut(ids, end, n_own)) for end in passes])
    hidden = model.run_blocks(ids[None].to(model.device))
    logits = model.gpt.classify(hidden.to(model.gpt.final_norm.weight.dtype))  # (1, L, C)
    read = []
    for some in ends.split(ROWS_AT_ONCE):
        batch = _cut(ids, some, n_own).to(model.device)
        read.append(model.reading.select(logits.expand(len(some), -1, -1), batch))
    return torch.cat(read)


def _cut(ids: Tensor, ends: Tensor, n_own: int) -> Batch:
    """The same token ids (L,) as texts that end at different places (B,)."""
    inputs = ids[: int(ends.max())].expand(len(ends), -1)
    return Batch(inputs, ends.clamp(max=n_own), ends, torch.zeros_like(ends))


def describe_reading(reading: Reading, max_tokens: int) -> str:
    """Which positions a model reads, and what that means for its tokens."""
    width = f", {count(max_tokens, 'token')} with its padding" if reading.padded else ""
    if reading.average:
        own = "the text's own tokens" if reading.position == "flexible" else "all positions"
        where = f"the mean over {own}"
    else:
        where = {
            "first": "the first token",
            "flexible": "the text's own last token",
            "last": "the last position",
        }[reading.position]
    if not reading.causal:
        sees = "Without the causal mask every token sees all others"
        return f"The model reads {where}. {sees}{width and ', padding included'}."
    if reading.position == "first" and not reading.average:
        return "The model reads the first token. With the causal mask nothing behind it counts."
    if reading.position == "flexible" or not reading.padded:
        return f"The model reads {where}."
    return f"The model reads {where}{width}."


def padding_words(stretch: Stretch, n_own: int) -> str:
    """Which padding tokens a stretch is, counted from 1."""
    first, last = stretch.start - n_own + 1, stretch.stop - n_own
    return f"padding {first}" if first == last else f"padding {first} to {last}"


def some_stretches(stretches: Sequence[Stretch]) -> tuple[list[Stretch], list[Stretch], int]:
    """The first and the last of so many stretches that a person can read them, and how many lie
    between these."""
    left_out = max(0, len(stretches) - SHOWN_STRETCHES)
    half = SHOWN_STRETCHES // 2 if left_out else len(stretches)
    return [*stretches[:half]], [*stretches[half + left_out :]], left_out


def readable(token: bytes) -> str:
    """A token as people can see it: spaces, what is invisible, and bytes that are no whole
    character as signs."""
    text = printable(token.decode("utf-8", "backslashreplace")).replace(" ", SPACE)
    return "".join(c.encode("unicode_escape").decode() if c.isspace() else c for c in text)
