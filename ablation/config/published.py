"""Published figures as the counts of messages that they round, and how far a run is from them."""

import math

PUBLISHED_SEED = 123


def published_count(percent: float, n: int) -> int | None:
    """The count out of ``n`` that rounds to a published percentage; none if no count does."""
    k = round(percent * n / 100)
    return k if math.isclose(round(100 * k / n, 2), percent) else None


def published_words(correct: int, total: int, percent: float) -> str:
    """A published figure beside what a run got right of the same messages, as a sentence."""
    count = published_count(percent, total)
    if count is None:
        return f"The published {percent:.2f} % is impossible: no count out of {total} gives it."
    apart = abs(correct - count)
    if not apart:
        return f"Published: {percent:.2f} %, the same."
    number = "one message" if apart == 1 else f"{apart} messages"
    return f"Published: {percent:.2f} %, {number} {'more' if count > correct else 'fewer'}."


def messages_apart(part: str, correct: int, total: int, percent: float) -> str:
    """A run beside its published figure, which had the same messages: ``test 98.00 % here,
    98.33 % published: one message apart``.

    Args:
        part: what it is called.
        correct, total: messages of that part that the run got right, and all of them.
        percent: the published figure.
    """
    count = published_count(percent, total)
    here = f"{part} {100 * correct / total:.2f} %"
    if count is None:
        return (
            f"{here} here; the published {percent:.2f} % is impossible: no count out of {total} "
            "gives it"
        )
    if count == correct:
        return f"{here}, as published"
    apart = abs(correct - count)
    number = "one message" if apart == 1 else f"{apart} messages"
    return f"{here} here, {percent:.2f} % published: {number} apart"
