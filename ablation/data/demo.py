"""Synthetic messages and byte-level tokens: the whole job with nothing to download."""

import json
import random
from pathlib import Path

import pandas as pd
import tiktoken

from data_utils import PADDING_TOKEN

SEED = 123
# What a message is made of. Both kinds talk of money, prizes, calls and times, so that no word or
# two gives a kind away; they differ in how the pieces are put together.
PIECES = Path(__file__).with_name("demo_messages.json")


def demo_messages() -> pd.DataFrame:
    """Messages of both kinds, all different: columns ``Label`` ("ham" or "spam"), ``Text``, and
    ``Line``, which counts them."""
    made_of = json.loads(PIECES.read_text(encoding="utf-8"))
    draw = random.Random(SEED)
    messages = []
    for label, n_messages in made_of["n_messages"].items():
        texts: dict[str, None] = {}  # a set that keeps its order
        while len(texts) < n_messages:
            text = draw.choice(made_of["templates"][label]).format(
                **{name: draw.choice(choices) for name, choices in made_of["pieces"].items()},
                phone=f"0{draw.randrange(10**9, 10**10)}",
                short=draw.randrange(80000, 90000),
                code="".join(draw.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=4)),
                small=draw.choice(made_of["small_print"]),
            )
            texts[text.strip()] = None
        messages += [(label, text) for text in texts]
    table = pd.DataFrame(messages, columns=["Label", "Text"])
    return table.assign(Line=range(1, len(table) + 1))


def byte_encoding() -> tiktoken.Encoding:
    """One token for each of the 256 bytes, and GPT-2's token for the end of a text."""
    return tiktoken.Encoding(
        "bytes",
        pat_str=r"(?s).",
        mergeable_ranks={bytes([value]): value for value in range(256)},
        special_tokens={"<|endoftext|>": PADDING_TOKEN},
    )


def byte_vocabulary() -> dict[str, bytes]:
    """The same as the published GPT-2's files have it: without a merge."""
    # There, a byte that prints stands for itself, and all others for characters from 256 on.
    prints = [chr(byte).isprintable() and chr(byte) != " " for byte in range(256)]
    others = iter(range(256, 512))
    tokens = {chr(byte if prints[byte] else next(others)): byte for byte in range(256)}
    content = json.dumps({**tokens, "<|endoftext|>": PADDING_TOKEN}, ensure_ascii=False)
    return {"merges.txt": b"#version: 0.2\n", "vocab.json": content.encode()}
