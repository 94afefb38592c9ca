"""How long runs take: beside each other, on this machine, and what is left of a sweep."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from ablation.config.identity import corpus_of, identify_experiment
from ablation.config.options import ExperimentConfig
from ablation.config.runs import Run
from ablation.config.sizes import GPTConfig
from ablation.finetuning.experiment import make_schedule
from ablation.finetuning.forecast import Forecast, PassCost, describe_seconds, forecast
from ablation.finetuning.frozen_features import TOKENS_PER_BATCH
from ablation.finetuning.shared_work import prefix_key, sharing_order
from ablation.sweeps.records import Record
from ablation.system.machine import choose_device, describe_machine
from ablation.system.output import count
from ablation.system.products import linear
from data_utils import Corpus, Splits

# A machine that is only there to compare runs on; figures of a real one scale what it would take.
PRODUCTS, BYTES = 100e9, 10e9  # operations and bytes of weights, per second
CALLS = 5e-4  # seconds that Python and PyTorch take for a block, however small it is
OWN_SHARE = 0.3  # of padded positions that are a text's own, where only these are read
OVERHEAD = 1.3  # of a whole run over its products: norms, evaluations, the optimizer
MEASURED = 1024  # rows of the product that is timed
CHARACTERS = 4  # of a token, about


@dataclass(frozen=True)
class Texts:
    """How many texts there are, and how many tokens the longest has."""

    counts: Splits[int]
    longest: int

    @classmethod
    def of(cls, corpus: Corpus) -> "Texts":
        """Those of a corpus, without making tokens."""
        longest = int(corpus.parts.train["Text"].str.len().max()) // CHARACTERS
        return cls(corpus.parts.map(len), max(1, min(longest, GPTConfig.context_length)))


SMS_TEXTS = Texts(Splits(1045, 149, 300), 120)  # as the protocol has them


@dataclass(frozen=True)
class TimeLeft:
    """What each of some runs takes, in seconds of this machine, and how that is known."""

    seconds: list[float]
    source: str

    @property
    def total(self) -> float:
        """Of all of them."""
        return sum(self.seconds)


def order_by_cost(runs: Sequence[Run]) -> list[Run]:
    """Runs on the same texts that share weights and states together, and such groups by what a run
    of them costs: what is cheap comes first."""
    groups: dict[tuple, list[Run]] = {}
    for run in sorted(runs, key=lambda run: sharing_order(run.config)):
        key = (corpus_of(run.config), *sharing_order(run.config)[:-1])
        groups.setdefault(key, []).append(run)
    cost = {
        key: sum(_nominal_each([run.config for run in group], SMS_TEXTS)) / len(group)
        for key, group in groups.items()
    }
    return [
        run
        for key in sorted(groups, key=lambda key: (key[0], cost[key], key))
        for run in groups[key]
    ]


def estimate_time(
    runs: Sequence[Run], known: Sequence[Record], corpus: Corpus | None = None
) -> TimeLeft:
    """What runs take, in their order, so that states that they share are computed once.

    It follows from what runs on the same texts took on this machine: those of the same experiment,
    or else all of them, in proportion; where there are none, from a product that is timed here.

    Args:
        known: complete records.
        corpus: the texts; by default, they are the SMS data.
    """
    if not runs:
        return TimeLeft([], "nothing is left")
    configs, device = [run.config for run in runs], choose_device(runs[0].config.device)
    texts = Texts.of(corpus) if corpus else SMS_TEXTS
    nominal = _nominal_each(configs, texts)
    machine = describe_machine(device)["device"]
    here = [
        record
        for record in known
        if all(record.result["device"].get(n) == machine[n] for n in ("name", "threads"))
    ]
    if not here:
        rate = _measure_products(device)
        seconds = [OVERHEAD * PRODUCTS / rate * one for one in nominal]
        return TimeLeft(seconds, f"at {rate / 1e9:.0f} GFLOP/s, just measured")
    factor = median(_spent(record) / _nominal(record.config, texts).total for record in here)
    took: dict[str, list[float]] = {}
    for record in here:
        took.setdefault(identify_experiment(record.config), []).append(_spent(record))
    seconds = []
    for config, one in zip(configs, nominal, strict=True):
        same = took.get(identify_experiment(config))
        seconds.append(min(median(same), factor * one) if same else factor * one)
    return TimeLeft(seconds, f"from {count(len(here), 'recorded run')}")


def _spent(record: Record) -> float:
    """Seconds of a run that computes everything."""
    return 60 * record.minutes + record.result["seconds"].get("evaluation", 0.0)


def _nominal(config: ExperimentConfig, texts: Texts) -> Forecast:
    """What a run takes where products and weights go at ``PRODUCTS`` and ``BYTES``."""
    weights = 12 * config.gpt.emb_dim**2  # of a block
    cost = PassCost(CALLS + 4 * weights / BYTES, 2 * weights / PRODUCTS)
    named = {
        "longest_training_example": texts.longest,
        "model_context_length": GPTConfig.context_length,
    }
    n_tokens = float(named.get(config.context_length, config.context_length))
    if not config.disable_causal_mask and not config.average_embeddings:
        reads_own = config.no_padding or config.trainable_token_pos == "flexible"
        n_tokens = n_tokens * OWN_SHARE if reads_own else n_tokens
        n_tokens = 1 if config.trainable_token_pos == "first" else n_tokens
    n_positions = int(n_tokens * sum(vars(texts.counts).values()))
    at_once = TOKENS_PER_BATCH["cpu"]
    return forecast(config, make_schedule(config), texts.counts, n_positions, cost, at_once)


def _nominal_each(configs: Sequence[ExperimentConfig], texts: Texts) -> list[float]:
    """The same of each run, states that an earlier one has computed left out."""
    seconds, computed = [], set()
    for config in configs:
        cost, key = _nominal(config, texts), prefix_key(config)
        seconds.append(cost.total - cost.states * (key in computed))
        computed.add(key)
    return seconds


def _measure_products(device: torch.device) -> float:
    """Operations per second of a product in float32, the best of three."""
    rows, best = torch.ones(MEASURED, MEASURED, device=device), float("inf")
    for _ in range(3):
        started = time.perf_counter()
        linear(rows, rows).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * MEASURED**3 / best


class Clock:
    """Follows a sweep, and says how much of it is left.

    Args:
        seconds: what its runs are expected to take, by their names.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._waiting, self._expected, self._spent = dict(seconds), 0.0, 0.0

    def skip(self, name: str) -> None:
        """A run was done already."""
        self._waiting.pop(name, None)

    def end_run(self, name: str, seconds: float) -> None:
        """A run took so long."""
        self._expected += self._waiting.pop(name, 0.0)  # of a record that was deleted meanwhile
        self._spent += seconds

    @property
    def left(self) -> str:
        """About how long the rest takes, by how long the runs before took."""
        factor = self._spent / self._expected if self._expected else 1.0
        return describe_seconds(factor * sum(self._waiting.values()))
