"""What a report found, in sentences that a colleague can repeat."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ablation.config.commands import format_flags, typed_options
from ablation.config.identity import identify_experiment
from ablation.config.options import without
from ablation.reports.comparisons import ALPHA, Difference, compare, holm
from ablation.reports.findings import Finding, compare_configurations, compare_rows
from ablation.reports.tables import Configuration, Section
from ablation.system.output import count

MOST_FINDINGS = 5  # sentences of a section
MOST_NAMES = 6  # rows in a sentence


class Named(NamedTuple):
    """A configuration, what it is called in sentences, in pictures and in lists, and its published
    test accuracy in percent, where they may be compared."""

    title: str
    name: str
    short: str
    part: Configuration
    published: float | None = None


def name_parts(sections: Sequence[Section], others: Sequence[Configuration] = ()) -> list[Named]:
    """Each configuration once, by its row, with those flags beside it that not all have."""
    named: dict[str, Named] = {}
    for section in sections:
        beside = _own_flags(section, sections)
        flags = f" with {beside}" if beside else ""
        for row, part in section.configurations.items():
            published = section.table.rows[row].published.test if section.is_published else None
            key = identify_experiment(part.records[0].config)
            new = Named(part.title + flags, part.name + flags, part.label + flags, part, published)
            known = named.setdefault(key, new)
            if known.part.label != part.label:  # one experiment, two rows
                named[key] = known._replace(name=f"{known.name} (also row {part.label})")
    return [*named.values(), *(Named(part.title, part.name, part.flags, part) for part in others)]


def _own_flags(section: Section, sections: Sequence[Section]) -> str:
    """The flags that all rows of a section have, and not all those of the others."""
    configs = [p.records[0].config for s in sections for p in s.configurations.values()]
    return format_flags(
        {
            name: value
            for name, value in {**section.table.common_flags, **section.overrides}.items()
            if any(getattr(config, name) != value for config in configs)
        }
    )


def describe_best(named: Sequence[Named]) -> str:
    """Which configurations have the most test texts right, and which others cannot be told from
    them.

    The texts that pick the best also compare it, so p-values are corrected for how many pairs of
    configurations there are, whichever is picked.
    """
    shares = [
        round(one.part.correct.mean(), 9) for one in named
    ]  # equal ones in any order of seeds
    best = [one for one, share in zip(named, shares, strict=True) if share == max(shares)]
    others = [one for one, share in zip(named, shares, strict=True) if share < max(shares)]
    accuracy = describe_accuracy(best[0].part)
    if len(named) == 1:
        return f"{capitalize(best[0].title)} gets {accuracy}."
    lead = f"Best on the test texts is {best[0].title}, with {accuracy}."
    if len(best) > 1:
        lead = (
            f"Best on the test texts are {_list_rows(best)}, with {100 * max(shares):.2f} % each."
        )
    n_pairs = len(named) * (len(named) - 1) / 2
    differences = [_against(best[0].part, other.part) for other in others]
    compared = [(one, d) for one, d in zip(others, differences, strict=True) if d]
    alike = [one for one, d in compared if d.p * n_pairs >= ALPHA or d.points < 0]
    n_apart = len(others) - len(compared)
    said, them = [lead], "them" if len(best) > 1 else "it"
    if alike:
        which = f"{len(alike)} of the {len(others)} others"
        which = _list_rows(alike) if len(alike) <= MOST_NAMES else which
        if len(alike) == len(others) > 1:
            said.append(f"None of the {len(others)} others can be told from {them}.")
        else:
            said.append(f"{capitalize(which)} cannot be told from {them}.")
    elif compared:
        which = _all_of(len(others)) if not n_apart else f"{len(compared)} of {len(others)} others"
        subject = "They are" if len(best) > 1 else "It is"
        said.append(f"{subject} better than {which} beyond chance.")
    if n_apart:
        said.append(f"{count(n_apart, 'configuration')} had no seed in common with {them}.")
    return " ".join(said)


def _list_rows(some: Sequence[Named]) -> str:
    return f"row{'s' * (len(some) > 1)} {_enumerate([one.short for one in some])}"


def _against(best: Configuration, other: Configuration) -> Difference | None:
    """The difference of two configurations; none without a seed in common."""
    seeds = {*best.seeds} & {*other.seeds}
    if not seeds or (best.fold is None) != (other.fold is None):
        return None
    return compare_configurations(other.with_seeds(seeds), best.with_seeds(seeds))


def describe_accuracy(part: Configuration) -> str:
    """The test accuracy of a configuration with its interval and seeds."""
    low, high = part.interval
    mean = part.percent("test").mean()
    return f"{mean:.2f} % ({low:.1f} to {high:.1f}; {_seeds(len(part.seeds))})"


def describe_findings(sections: Sequence[Section], is_more: bool = False) -> list[str]:
    """What the comparisons of sections found, the largest difference of each first, and how many
    found nothing.

    Args:
        is_more: something was found before.
    """
    found = [(section, findings) for section in sections if (findings := compare_rows(section))]
    several_tables = len({section.table.title for section, _ in found}) > 1
    sentences, n_open = [], 0
    for section, findings in found:
        shown = [finding for finding in findings if finding.corrected_p < ALPHA]
        n_open += len(findings) - len(shown)
        own = _own_flags(section, sections)
        words = [section.table.title] * several_tables + [f"with {own}"] * bool(own)
        where = capitalize(f"{', '.join(words)}: ") if words else ""
        some = _describe_all(findings, shown)
        sentences += [where + sentence for sentence in some] if where else map(capitalize, some)
    if n_open:
        which, more = ("Nothing else", "more ") if sentences or is_more else ("Nothing", "")
        sentences.append(f"{which} was distinguishable: {count(n_open, f'{more}comparison')}.")
    return sentences


def _describe_all(findings: Sequence[Finding], shown: Sequence[Finding]) -> list[str]:
    shown = sorted(shown, key=lambda finding: -abs(finding.difference.points))
    questions = Counter(finding.question for finding in findings)
    sentences = []
    for finding in shown[:MOST_FINDINGS]:
        subject = finding.question
        if questions[subject] > 1 or subject.endswith("?"):  # which does not say what is chosen
            subject = f"row {finding.rows[1]} instead of {finding.rows[0]}"
        sentences.append(describe_change(subject, "costs", finding.difference, len(finding.seeds)))
    if n_more := len(shown[MOST_FINDINGS:]):
        verb = "is" if n_more == 1 else "are"
        sentences.append(f"{count(n_more, 'more difference')} {verb} in the table below.")
    return sentences


def describe_change(what: str, loses: str, difference: Difference, n_seeds: int) -> str:
    """What a change gains, or costs.

    Args:
        what: the subject of the sentence.
        loses: its verb where the change is for the worse.
    """
    verb = "gains" if difference.points > 0 else loses
    low, high = sorted(abs(end) for end in (difference.low, difference.high))
    return (
        f"{what} {verb} {abs(difference.points):.1f} points "
        f"({low:.1f} to {high:.1f}; {_seeds(n_seeds)})."
    )


def warn_of_single_runs(named: Sequence[Named]) -> list[str]:
    """What a comparison with one seed does not tell, if there is one."""
    parts = [one.part for one in named if one.part.fold is None]
    shared = (len({*a.seeds} & {*b.seeds}) for a, b in itertools.combinations(parts, 2))
    return ["One seed tells two runs apart, and not two choices."] if 1 in shared else []


def describe_common(named: Sequence[Named]) -> list[str]:
    """The options that all have, where these are not the defaults: what all else is true of."""
    names = without("circumstance", "repeat", "local", "dataset")
    options = [
        {n: v for n, v in typed_options(one.part.records[0].config).items() if n in names}
        for one in named
    ]
    common = {
        name: value
        for name, value in (options[0] if options else {}).items()
        if all(other.get(name) == value for other in options)
    }
    return [f"All that follows is of runs with {format_flags(common)}."] if common else []


def describe_baseline(correct: np.ndarray, named: Sequence[Named]) -> str:
    """How a linear SVM on characters compares with what was run.

    Args:
        correct: (M,): which test texts it gets right.
    """
    percent = 100 * correct.mean()
    sentence = f"A linear SVM on characters gets {percent:.2f} %"
    below = [one for one in named if one.part.percent("test").mean() < percent]
    if not below:
        return f"{sentence}, no more than any configuration here."
    # It has no seeds: beside several runs it stands as often as there are seeds.
    differences = [
        compare(one.part.correct, np.tile(correct, (len(one.part.seeds), 1)))
        for one in named
        if one.part.fold is None
    ]
    corrected = holm([difference.p for difference in differences])
    n_sure = sum(
        p < ALPHA and difference.points > 0
        for p, difference in zip(corrected, differences, strict=True)
    )
    which = (
        "this run" if len(named) == 1 else f"{_share(len(below), len(named))} configurations here"
    )
    sure = ", beyond chance" if n_sure == len(below) else f", {n_sure} of them beyond chance"
    return f"{sentence}, more than {which}{sure if n_sure else ''}."


def describe_ends(n_complete: int, n_incomplete: int) -> str:
    """Whether any run failed."""
    if n_incomplete:
        verb = "is" if n_incomplete == 1 else "are"
        return f"{count(n_incomplete, 'run')} failed or stopped, and {verb} left out here."
    return f"No run failed; {'one is' if n_complete == 1 else f'{n_complete} are'} complete."


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def _all_of(n: int) -> str:
    return {1: "the other one", 2: "both of the others"}.get(n, f"all {n} others")


def _share(n: int, n_all: int) -> str:
    whole = "both" if n_all == 2 else f"all {n_all}"
    return whole if n == n_all else f"{n} of the {n_all}"


def _enumerate(names: Sequence[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last


def capitalize(text: str) -> str:
    """A text as a sentence begins, unless its first word is a name of the code."""
    return text[:1].upper() + text[1:] if text.split(" ")[0].isalpha() else text
