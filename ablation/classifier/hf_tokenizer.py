"""A byte-pair encoding of tiktoken as the tokenizer files of transformers.

Sources: ``GPT2Tokenizer`` of transformers, and the files of the published GPT-2. They hold the list
of merges, where tiktoken holds the ranks of what these make.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import tiktoken

from data_utils import PADDING_TOKEN

TOKENIZER_NAMES = ("vocab.json", "merges.txt", "tokenizer_config.json")
PADDING_TEXT = "<|endoftext|>"


def write_tokenizer(folder: Path, encoding: tiktoken.Encoding, max_tokens: int) -> None:
    """Write the files of a ``GPT2Tokenizer`` that gives the same ids as ``encode_ordinary``.

    That is none for an empty text, of which the project makes one padding token.

    Args:
        encoding: GPT-2's, or one without merges: how texts are cut before that is no part of
            the files.
        max_tokens: what texts are truncated to, where truncation is asked for.

    Raises:
        OSError: they cannot be written.
    """
    tokens = {encoding.encode_single_token(token): token for token in encoding.token_byte_values()}
    ranks = {token: rank for rank, token in sorted(tokens.items())}
    characters = _byte_characters()

    def spell(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    vocabulary = {spell(token): rank for token, rank in ranks.items()}
    merges = [" ".join(map(spell, _last_merge(token, ranks))) for token in ranks if len(token) > 1]
    options = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": max_tokens,
        "add_prefix_space": False,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": True,  # a text that spells out a special token is text
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), PADDING_TEXT),
    }
    contents = (
        json.dumps({**vocabulary, PADDING_TEXT: PADDING_TOKEN}, ensure_ascii=False),
        "".join(f"{line}\n" for line in ("#version: 0.2", *merges)),
        json.dumps(options, indent=1),
    )
    for name, content in zip(TOKENIZER_NAMES, contents, strict=True):
        (folder / name).write_text(content, encoding="utf-8", newline="\n")


def _byte_characters() -> list[str]:
    """The character that stands for each of the 256 bytes in GPT-2's files: those that print stand
    for themselves, and all others for characters from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _last_merge(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The two tokens that byte-pair encoding merges into this one, when it has merged all below."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [a + b for a, b in pairwise(parts)]
        at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf))
        parts[at : at + 2] = [pairs[at]]
    return parts
