"""The sentences that a report opens with, held to figures that are counted here."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_report import write_runs

from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.tables import Comparison
from ablation.reports.findings import compare_rows
from ablation.reports.headlines import (
    describe_baseline,
    describe_best,
    describe_common,
    describe_ends,
    describe_findings,
    name_parts,
    warn_of_single_runs,
)
from ablation.reports.next_runs import format_rows, suggest_runs, suggest_seeds
from ablation.reports.row_tables import describe_published, shorten_rows, show_not_run, show_rows
from ablation.reports.side_by_side import (
    Pair,
    compare_pair,
    describe_pair,
    pair_sections,
    shorten_pair,
    tabulate_pair,
)
from ablation.reports.tables import Section, group_records
from ablation.sweeps.records import read_records, write_incomplete

N_TEST = 300
TINY = {"model_size": "gpt2-tiny (3M)", "weights": "random"}
UNMASKED = {**TINY, "disable_causal_mask": True}
FIVE = [0, 1, -1, 2, -2]


def sections_of(folder: Path) -> list[Section]:
    sections, _ = group_records(read_records(folder))
    return [section for section in sections if section.configurations]


def around(count: int) -> list[int]:
    return [count + more for more in FIVE]


def right(n: int) -> np.ndarray:
    return np.arange(N_TEST) < n


def test_the_largest_difference_comes_first_and_what_is_open_is_counted(tmp_path: Path) -> None:
    for row, count in {1: 285, 2: 225, 3: 250, 4: 286}.items():
        write_runs(tmp_path, row, around(count))
    first, second, rest = describe_findings(sections_of(tmp_path))
    # 225 - 285 = -60 of 300, each seed: -20.0 points
    assert first.startswith("The first token instead of the last costs 20.0 points (")
    assert first.endswith("; 5 seeds).")
    low, high = map(float, first.split("(")[1].split(";")[0].split(" to "))
    assert 10 < low < 20 < high < 30, "the ends are those of what it costs"
    assert second.startswith("The classifier alone instead of the last block costs 11.7 points")
    assert rest == "Nothing else was distinguishable: 1 more comparison."


def test_what_gains_says_so_and_one_seed_is_named(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [225])
    write_runs(tmp_path, 2, [285])
    sentences = describe_findings(sections_of(tmp_path))
    assert sentences[0].startswith("The first token instead of the last gains 20.0 points (")
    assert sentences[0].endswith("; one seed).")
    assert len(sentences) == 1
    warning = ["One seed tells two runs apart, and not two choices."]
    named = name_parts(sections_of(tmp_path))
    assert warn_of_single_runs(named) == warning
    assert warn_of_single_runs(named[:1]) == [], "nothing is compared"


def test_nothing_found_is_said(tmp_path: Path) -> None:
    for row in (1, 4, 5):
        write_runs(tmp_path, row, around(285))
    assert describe_findings(sections_of(tmp_path)) == [
        "Nothing was distinguishable: 2 comparisons."
    ]


def test_the_best_and_what_cannot_be_told_from_it(tmp_path: Path) -> None:
    for row, count in {1: 285, 2: 225, 4: 286}.items():
        write_runs(tmp_path, row, around(count))
    named = name_parts(sections_of(tmp_path))
    sentence = describe_best(named)
    assert sentence.startswith("Best on the test texts is row 4 (two blocks?), with 95.33 % (")
    assert sentence.endswith("; 5 seeds). Row 1 cannot be told from it.")
    alone = describe_best(named[:1])
    assert alone.startswith("Row 1 (the reference) gets 95.00 % (")
    assert describe_best([named[1], named[2]]).endswith(
        "It is better than the other one beyond chance."
    )


def test_rows_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285])
    write_runs(tmp_path, 2, [225, 226])
    for folder in tmp_path.glob("row-02*seed-123*"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    sentence = describe_best(name_parts(sections_of(tmp_path)))
    assert sentence.startswith("Best on the test texts is row 1 (the reference), with 95.00 %")
    assert sentence.endswith("one seed). 1 configuration had no seed in common with it.")


def test_the_best_of_all_seeds_may_be_worse_on_those_in_common(tmp_path: Path) -> None:
    """Row 4 is best for its other seeds; on seed 123, row 5 has 60 more."""
    write_runs(tmp_path, 4, [200, *[299] * 9])
    write_runs(tmp_path, 5, [260])
    sentence = describe_best(name_parts(sections_of(tmp_path)))
    assert sentence.startswith("Best on the test texts is row 4 (two blocks?), with 96.37 %")
    assert sentence.endswith("10 seeds). Row 5 cannot be told from it.")


def test_all_that_are_best_are_named(tmp_path: Path) -> None:
    for row, count in {1: 285, 2: 225, 4: 285}.items():
        write_runs(tmp_path, row, around(count))
    assert describe_best(name_parts(sections_of(tmp_path))) == (
        "Best on the test texts are rows 1 and 4, with 95.00 % each. They are better than the "
        "other one beyond chance."
    )


def test_rows_of_one_name_in_two_tables_are_told_apart(tmp_path: Path) -> None:
    write_runs(tmp_path, 2, [285])
    (section,) = sections_of(tmp_path)
    (part,) = section.configurations.values()
    other = replace(part.records[0].config, learning_rate=1e-3)
    record = replace(part.records[0], result={**part.records[0].result, "flags": vars(other)})
    rows = {2: replace(ROWS[2], flags={"trainable_token_pos": "first", "learning_rate": 1e-3})}
    table = replace(section.table, title="faster", rows=rows, comparisons=())
    parts = {2: replace(part, records=(record,))}
    named = name_parts([section, replace(section, table=table, configurations=parts)])
    assert [one.short for one in named] == ["2", "2 with --learning_rate 0.001"]
    assert describe_best(named).startswith("Best on the test texts are rows 2 and 2 with")


def test_the_best_is_corrected_for_all_pairs(tmp_path: Path) -> None:
    """6 texts all one way: p = 2 / 2 ** 6 = 0.031, which 1 pair passes, and 3 do not."""
    for row, count in {1: 280, 4: 286}.items():
        write_runs(tmp_path, row, [count])
    assert "better than the other one" in describe_best(name_parts(sections_of(tmp_path)))
    write_runs(tmp_path, 2, [100])
    sentence = describe_best(name_parts(sections_of(tmp_path)))
    assert sentence.endswith("Row 1 cannot be told from it.")


def test_a_question_does_not_say_what_is_chosen(tmp_path: Path) -> None:
    for row, count in {1: 285, 2: 225}.items():
        write_runs(tmp_path, row, around(count))
    (section,) = sections_of(tmp_path)
    asked = (Comparison("Which token?", (1, 2)),)
    section = replace(section, table=replace(section.table, comparisons=asked))
    assert describe_findings([section])[0].startswith("Row 2 instead of 1 costs 20.0 points (")


@pytest.mark.parametrize(
    ("correct", "end"),
    [
        (293, "A linear SVM on characters gets 97.67 %, more than both configurations here, "
         "beyond chance."),
        (286, "A linear SVM on characters gets 95.33 %, more than both configurations here, "
         "1 of them beyond chance."),
        (250, "A linear SVM on characters gets 83.33 %, more than 1 of the 2 configurations here, "
         "beyond chance."),
        (100, "A linear SVM on characters gets 33.33 %, no more than any configuration here."),
    ],
)  # fmt: skip
def test_the_baseline_beside_what_ran(tmp_path: Path, correct: int, end: str) -> None:
    for row, count in {1: 285, 2: 225}.items():
        write_runs(tmp_path, row, around(count))
    assert describe_baseline(right(correct), name_parts(sections_of(tmp_path))) == end


def test_what_none_differs_from_is_said_in_short(tmp_path: Path) -> None:
    for row in (1, 4, 5):
        write_runs(tmp_path, row, around(285 + (row == 1)))
    sentence = describe_best(name_parts(sections_of(tmp_path)))
    assert sentence.endswith("None of the 2 others can be told from it.")


def test_only_what_all_runs_have_is_said_of_all(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285], TINY)
    write_runs(tmp_path, 2, [285], UNMASKED)
    assert describe_common(name_parts(sections_of(tmp_path))) == [
        'All that follows is of runs with --model_size "gpt2-tiny (3M)" --weights random.'
    ]
    assert describe_common([]) == []


def test_how_runs_ended() -> None:
    assert describe_ends(1, 0) == "No run failed; one is complete."
    assert describe_ends(5, 0) == "No run failed; 5 are complete."
    assert describe_ends(5, 2) == "2 runs failed or stopped, and are left out here."


def test_names_have_the_flags_that_not_all_have(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285], TINY)
    write_runs(tmp_path, 2, [225], TINY)
    write_runs(tmp_path, 2, [280], UNMASKED)
    names = [one.name for one in name_parts(sections_of(tmp_path))]
    assert names == [
        "1 the reference",
        "2 first or last token?",
        "2 first or last token? with --disable_causal_mask",
    ]


def test_a_row_that_is_in_two_sections_is_named_once(tmp_path: Path) -> None:
    """Row 10 is row 5 with random weights."""
    write_runs(tmp_path, 1, [280], {"weights": "random"})
    write_runs(tmp_path, 10, [281])
    sections = sections_of(tmp_path)
    assert [list(section.configurations) for section in sections] == [[10], [1, 5]]
    named = name_parts(sections)
    assert [one.name for one in named] == [
        "10 random weights? (also row 5)",
        "1 the reference",
    ]
    assert describe_common(named) == ["All that follows is of runs with --weights random."]
    assert [one.published for one in named] == [93.67, None]


# ---------------------------------------------------------------- tables


def test_a_line_says_what_a_row_differs_from(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285])
    write_runs(tmp_path, 2, [225])
    (section,) = sections_of(tmp_path)
    lines, details = show_rows(section, compare_rows(section), right(293))
    one, two, svm = lines.to_dict("records")
    assert (one["row"], one["question"], one["test %"]) == ("1", "the reference", "95.00")
    assert one["difference"] == ""
    assert two["difference"] == "-20.00 to row 1 (p < 0.001)"
    assert (two["published %"], two["verdict"]) == ("75.00", "75.00 %, as published")
    assert (svm["question"], svm["test %"]) == ("a linear SVM on characters", "97.67")
    assert details[1]["published"] == "train 78.46 %, validation 80.54 %, test 75.00 %, 0.28 min"
    assert details[1]["command"].endswith("--trainable_token_pos first")
    assert details[2] == {}
    short = shorten_rows(section, compare_rows(section))
    assert list(short) == [
        *("row", "seeds", "test %", "95 % interval", "difference", "published %", "min"),
        "question",
    ]


def test_rows_that_did_not_run_keep_their_questions_and_figures(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285])
    lines = show_not_run(sections_of(tmp_path)[0]).set_index("row")
    assert len(lines) == 18
    assert lines.loc["8", "published"] == (
        "train 99.81 %, validation 99.81 %, test 98.33 %, 2.83 min; validation: impossible as "
        "published"
    )
    assert lines.loc["13", "question"] == "padding to the full context?"
    assert describe_published(ROWS[1].published).endswith("test 95.00 %, 0.28 min")


def test_rows_that_flags_make_equal_say_so(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [285], TINY)
    lines = show_not_run(sections_of(tmp_path)[0]).set_index("row")
    assert lines.loc["6", "question"] == "a larger model? (here as row 1)"
    assert "published" not in lines


# ---------------------------------------------------------------- side by side


def write_pair(folder: Path) -> Pair:
    for row, count in {1: 240, 2: 180}.items():
        write_runs(folder, row, around(count), TINY)
    for row, count in {2: 240, 3: 200}.items():
        write_runs(folder, row, around(count), UNMASKED)
    (pair,) = pair_sections(sections_of(folder))
    return pair


def test_groups_that_differ_in_one_flag_stand_side_by_side(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    assert pair.labels == ("without --disable_causal_mask", "with --disable_causal_mask")
    assert pair.first.overrides == TINY
    change = compare_pair(pair)[2]
    assert change.difference.points == pytest.approx(20)  # 240 - 180 of 300
    assert (change.n_seeds, change.corrected_p) == (5, change.difference.p), "one row is in both"
    assert describe_pair(pair)[0].startswith(
        "With --disable_causal_mask, row 2 (first or last token?) gains 20.0 points ("
    )
    table = tabulate_pair(pair).set_index("row")
    assert table.loc["2", "test %, without"].startswith("60.00 ±")
    assert table.loc["2", "test %, with"].startswith("80.00 ±")
    assert table.loc["2", "difference"] == "+20.00"
    assert table.loc["3", "test %, without"] == "", "it ran on one side"
    assert table.loc["3", "difference"] == ""
    assert list(shorten_pair(pair)) == [
        *("row", "test %, without", "test %, with", "difference", "p, Holm", "question")
    ]


def test_the_side_without_the_flag_is_first_whatever_ran_first(tmp_path: Path) -> None:
    write_runs(tmp_path, 2, [240], {"disable_causal_mask": True, **TINY})
    write_runs(tmp_path, 2, [180], TINY)
    (pair,) = pair_sections(sections_of(tmp_path))
    assert [section.overrides for section in (pair.first, pair.second)] == [
        TINY,
        {"disable_causal_mask": True, **TINY},
    ]


def test_two_values_of_a_flag_stand_side_by_side(tmp_path: Path) -> None:
    for size, count in (("gpt2-tiny (3M)", 180), ("gpt2-medium (355M)", 200)):
        write_runs(tmp_path, 2, [count], {**TINY, "model_size": size})
    (pair,) = pair_sections(sections_of(tmp_path))
    assert sorted(pair.heads) == ["gpt2-medium (355M)", "gpt2-tiny (3M)"]
    assert pair.title.count("--model_size") == 2


@pytest.mark.parametrize(
    "others",
    [
        [(2, {**TINY, "num_epochs": 1, "disable_causal_mask": True})],  # two flags
        [(3, UNMASKED)],  # no row in common
    ],
)
def test_other_groups_stand_alone(tmp_path: Path, others: Sequence[tuple[int, dict]]) -> None:
    write_runs(tmp_path, 2, [180], TINY)
    for row, flags in others:
        write_runs(tmp_path, row, [180], flags)
    shown = pair_sections(sections_of(tmp_path))
    assert [type(block) for block in shown] == [Section, Section]


# ---------------------------------------------------------------- what to run next


def suggest(folder: Path) -> list[str]:
    sections = [(section, compare_rows(section)) for section in sections_of(folder)]
    return [command for _, command in suggest_runs(sections, [], Path("runs/mine"))]


def test_seeds_come_first_where_something_is_open(tmp_path: Path) -> None:
    for row in (1, 2, 3, 16):
        write_runs(tmp_path, row, [285], TINY)
    given = '--model_size "gpt2-tiny (3M)" --weights random --output_dir runs/mine'
    assert suggest(tmp_path) == [
        f"python additional_experiments.py --rows 1-3,16 --num_seeds 5 {given}",
        f"python additional_experiments.py --rows 4 {given}",
    ]


def test_then_a_plan_and_the_next_question(tmp_path: Path) -> None:
    for row in (1, 2):
        write_runs(tmp_path, row, around(285))
    assert suggest(tmp_path) == [
        "python additional_experiments.py --plan 3 --output_dir runs/mine",
        "python additional_experiments.py --rows 3 --num_seeds 5 --output_dir runs/mine",
    ]


def test_what_would_be_refused_is_not_suggested(tmp_path: Path) -> None:
    """Rows without padding take batches of one."""
    given = {**TINY, "batch_size": 4}
    for row in ROWS:
        if row not in (14, 15):
            write_runs(tmp_path, row, [285], given)
    assert not any("--rows 14" in command for command in suggest(tmp_path))


def test_folds_are_asked_for_again(tmp_path: Path) -> None:
    write_runs(tmp_path, 1, [150, 151])
    (part,) = (p for s in sections_of(tmp_path) for p in s.configurations.values())
    folds = np.repeat([1, 2, 3], N_TEST // 3)
    records = [replace(r, predictions=r.predictions.assign(fold=folds)) for r in part.records]
    why, command = suggest_seeds(replace(part, records=tuple(records)), Path("runs"))
    assert command == ("python additional_experiments.py --folds 3 --num_seeds 5 --output_dir runs")
    assert why == "5 seeds, to see how much is chance:"


def test_what_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    for row in (2, 3):
        run = Run(replace(ROWS[row].config, offline=True))
        write_incomplete(tmp_path, run, "interrupted", "stopped")
    incomplete = read_records(tmp_path)
    ((why, command),) = suggest_runs([], incomplete, Path("runs"))
    assert why == "Go on with what failed or stopped (the first of 2):"
    assert command == (
        "python additional_experiments.py --trainable_token_pos first --offline --resume "
        "--output_dir runs"
    )


def test_rows_are_written_as_they_are_typed() -> None:
    assert format_rows([1, 2, 3, 5, 16, 17]) == "1-3,5,16-17"
    assert format_rows(["last", 4, "own"]) == "last,4,own"
