"""Synthetic messages and byte-level tokens: the whole job with nothing to download."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pandas as pd
import tiktoken

from data_utils import PADDING_TOKEN

N_HAM, N_SPAM = 360, 300
SEED = 123

# What a message is made of. Both kinds talk of money, prizes, calls and times, so that no
# word or two gives a kind away; they differ in how the pieces are put together.
PIECES = {
    "name": [
        "Anna", "Ben", "Chloe", "Dev", "Ella", "Finn", "Grace", "Hassan", "Ivy", "Jo", "Kofi",
        "Lena", "Mum", "Dad", "Nan", "Sam",
    ],
    "place": [
        "the library", "the station", "work", "the gym", "the pub", "school", "the market", "home",
        "the clinic", "the cinema",
    ],
    "when": [
        "tonight", "tomorrow", "at 6", "after class", "on Friday", "in 10 mins", "this weekend",
        "by 8pm", "before lunch", "next week",
    ],
    "thing": [
        "free tickets", "the prize draw", "a new phone", "my account", "the voucher", "a text",
        "the bill", "a holiday", "the code", "your offer", "the cash", "a ringtone",
    ],
    "doing": [
        "reply", "call me", "text back", "claim it", "wait", "collect it", "win", "stop", "send it",
        "confirm",
    ],
    "amount": ["5", "10", "20", "50", "100", "150", "200", "250", "500", "1000"],
    "tail": ["", "", " x", " :)", " ok?", " lol", " thanks!", "..", " no rush", " love you"],
}  # fmt: skip

HAM = (
    "{name} says {thing} was only £{amount}, shall we {doing} {when}?{tail}",
    "Did you {doing}? I am at {place} with {name}{tail}",
    "Sorry cant talk, at {place}. Will {doing} {when}{tail}",
    "{name} won £{amount} in the draw, now buying lunch at {place}{tail}",
    "Can you bring {thing} to {place} {when}?{tail}",
    "I lost {thing} at {place}, did {name} claim it{tail}",
    "Call {name} {when}, it is urgent but not bad news{tail}",
    "No {thing} for me, I owe {name} £{amount} already{tail}",
    "You have won the argument, I will {doing} {when}{tail}",
    "Free {when}? {name} and I go to {place}{tail}",
    "{name} wants {amount} chairs at {place} {when}, please {doing}{tail}",
    "Got {thing} from {name}, so tired. See you at {place}{tail}",
    "New number for {name}: {phone}. Please {doing} {when}{tail}",
    "The code for the door at {place} is {code}, or ring {phone}{tail}",
    "Train {short} is late, £{amount} for a taxi?? I will {doing} {when}{tail}",
)
SPAM = (
    "{name}, {thing} worth £{amount} waits for you! To {doing} dial {phone} {when}",
    "URGENT! We could not reach {name} about {thing}. Call {phone}, ref {code}",
    "You have won £{amount}! Text {code} to {short} {when} to {doing}",
    "Free {thing} {when}! Just {doing} on {phone}. {small}",
    "Last chance {name}: £{amount} for {thing}, quote {code} at {place} or ring {phone}",
    "Private! Your {amount} points for {thing} end {when}. {doing}: {phone}. {small}",
    "{place} customers get {thing}, {amount} left. Send {code} to {short}. {small}",
    "Hi {name}, someone at {place} likes you! To {doing} text {code} to {short}{tail}",
    "2 for 1 on {thing} {when}, £{amount} a month. {doing} on {short}. {small}",
    "Dear {name}, please {doing} about {thing} {when}: {phone} code {code}{tail}",
)
SMALL_PRINT = ("T&Cs apply", "16+ only", "150p/msg", "Opt out: STOP", "Std rates", "")


def demo_messages() -> pd.DataFrame:
    """Messages of both kinds, all different: columns ``Label`` ("ham" or "spam"), ``Text``, and
    ``Line``, which counts them."""
    draw = random.Random(SEED)
    ham = _generate(draw, HAM, N_HAM)
    spam = _generate(draw, SPAM, N_SPAM)
    labels = ["ham"] * N_HAM + ["spam"] * N_SPAM
    return pd.DataFrame({"Label": labels, "Text": ham + spam, "Line": range(1, len(labels) + 1)})


def _generate(draw: random.Random, templates: Sequence[str], n_messages: int) -> list[str]:
    messages: dict[str, None] = {}  # a set that keeps its order
    while len(messages) < n_messages:
        text = draw.choice(templates).format(
            **{name: draw.choice(choices) for name, choices in PIECES.items()},
            phone=f"0{draw.randrange(10**9, 10**10)}",
            short=draw.randrange(80000, 90000),
            code="".join(draw.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=4)),
            small=draw.choice(SMALL_PRINT),
        )
        messages[text.strip()] = None
    return list(messages)


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
