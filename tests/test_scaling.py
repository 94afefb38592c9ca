from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablation.config.rows import ROWS
from benchmarks import scaling
from benchmarks.scaling import MEASURED, SIZES, fits, need_of

MEASURED_NAMES = ("seconds", "gigabytes", "torchrun_ratio", "start_seconds", "seconds_of_a_run")
ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "scaling.md").read_text()


def test_the_document_holds_what_is_generated() -> None:
    for part in scaling.contents():
        assert part in DOCUMENT


def find_sources(content: Any) -> Iterator[dict]:
    if isinstance(content, dict):
        if "source" in content:
            yield content
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from find_sources(value)


def test_measured_figures_are_in_the_lines_that_they_name() -> None:
    measurements = (ROOT / "benchmarks" / "README.md").read_text()
    found = list(find_sources(MEASURED))
    assert len(found) > 25
    for figure in found:
        assert figure["source"] in measurements
        for value in (figure[name] for name in MEASURED_NAMES if name in figure):
            for number in value if isinstance(value, list) else [value]:
                forms = (f"{number:,}", f"{number:.2f}", f"{1000 * number:.0f} ms")
                assert any(form in figure["source"] for form in forms), figure


# ---------------------------------------------------------------- what the prose says


def test_what_is_said_of_cards() -> None:
    """Row 9 is too large for 24 GiB, but not by much, and bf16 and accumulation do not help it."""
    row_9 = need_of(ROWS[9].config)
    assert not fits(row_9, 24)
    assert fits(row_9, 24, margin=1)
    assert fits(row_9, 40)
    for way in ({"precision": "bf16"}, {"batch_size": 1, "accumulation_steps": 8}):
        assert need_of(replace(ROWS[9].config, **way)).total > row_9.total
    others = [need_of(row.config) for number, row in ROWS.items() if number != 9]
    assert all(fits(need, 16) for need in others)
    assert "a card of 16 GiB runs all rows but 9" in DOCUMENT


def test_states_that_take_too_much_of_a_card_are_kept_beside_it() -> None:
    """Row 13's 4.4 GB would leave too little of 8 GiB."""
    need = need_of(ROWS[13].config)
    assert scaling.bytes_on_card(need, 8) == need.total - need.states
    assert scaling.bytes_on_card(need, 16) == need.total


def test_what_is_said_of_the_number_of_runs() -> None:
    assert [len(scaling.plan(size)) for size in SIZES] == [15, 15, 15, 15]
    assert "Of 19 rows 15 are different at each size" in DOCUMENT


def test_published_minutes_are_used_where_there_are_any() -> None:
    for number, row in ROWS.items():
        minutes = scaling.plan(row.config.model_size)[row.config]
        assert minutes == pytest.approx(row.published.minutes), number
    small, xl = (scaling.plan(size) for size in (SIZES[0], SIZES[-1]))
    assert sum(small.values()) < sum(xl.values())
    one = ROWS[16].config
    assert xl[replace(one, model_size=SIZES[-1])] == pytest.approx(0.30 * 2.83 / 0.28)


def test_growth_rises_with_the_size() -> None:
    for mode in scaling.GROWING_ROWS:
        times = [scaling.growth(mode, size) for size in SIZES]
        assert times == sorted(times)
        assert times[0] == 1


@pytest.mark.parametrize("n_processes", [2, 3, 8])
def test_at_the_speed_that_breaks_even_nothing_is_gained(n_processes: int) -> None:
    n_bytes, seconds = 28_000_000, 0.4
    speed = scaling.breaks_even(n_bytes, seconds)
    shared = seconds / n_processes + scaling.sent(n_bytes, n_processes) / speed
    assert shared == pytest.approx(seconds)


def test_what_is_said_of_links() -> None:
    """LoRA pays over 10 Gbit/s, all layers not even over 100."""

    def speed(row: int) -> float:
        seconds = ROWS[row].published.minutes * 60 / scaling.N_UPDATES
        return scaling.breaks_even(scaling.exchanged(ROWS[row].config), seconds) * 8 / 1e9

    assert max(speed(11), speed(12)) < 10
    assert min(speed(5), speed(9)) > 100
