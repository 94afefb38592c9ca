"""The protocol once more, written independently of the project and as plainly as possible.

No class of the project's model, LoRA, loaders or training is used: weights are tensors in
dicts, attention is a softmax over an explicit mask, every option is a branch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

PAD = 50256


def draw_weights(seed: int, emb_dim: int, n_layers: int, n_tokens: int, n_positions: int) -> dict:
    """PyTorch's default initialisation in the protocol's order; linear layers as (W, b)."""
    torch.manual_seed(seed)
    weights = {
        "tokens": nn.Embedding(n_tokens, emb_dim).weight,
        "positions": nn.Embedding(n_positions, emb_dim).weight,
    }
    sizes = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "o": (1, 1), "in": (1, 4), "out": (4, 1)}
    for i in range(n_layers):
        for name, (n_in, n_out) in sizes.items():
            weights[f"{i}.{name}"] = list(nn.Linear(n_in * emb_dim, n_out * emb_dim).parameters())
        for name in ("norm1", "norm2"):
            weights[f"{i}.{name}"] = [torch.ones(emb_dim), torch.zeros(emb_dim)]
    weights["norm"] = [torch.ones(emb_dim), torch.zeros(emb_dim)]
    torch.manual_seed(seed)
    weights["head"] = list(nn.Linear(emb_dim, 2).parameters())
    return {
        name: [p.detach() for p in value] if isinstance(value, list) else value.detach()
        for name, value in weights.items()
    }


def choose_trained(weights: dict, layers: str, n_layers: int, rank: int) -> tuple[list, dict]:
    """The tensors that train, and LoRA's matrices by the name of their layer."""
    lora = {}
    if "lora" in layers:
        for name, value in weights.items():
            if isinstance(value, list) and "norm" not in name:
                n_out, n_in = value[0].shape
                a = nn.init.kaiming_uniform_(torch.empty(n_in, rank), a=math.sqrt(5))
                lora[name] = [a, torch.zeros(rank, n_out)]
    names = {
        "last_layer": ("head",),
        "last_block": ("head", "norm", f"{n_layers - 1}."),
        "last_two_blocks": ("head", "norm", f"{n_layers - 1}.", f"{n_layers - 2}."),
        "all": ("",),
    }.get(layers, ("head",))
    trained = [w for name, w in weights.items() if name.startswith(names)]
    trained = [t for w in trained for t in (w if isinstance(w, list) else [w])]
    trained += [matrix for pair in lora.values() for matrix in pair]
    return [t.requires_grad_(True) for t in trained], lora


def forward(tokens: Tensor, weights: dict, lora: dict, options: dict) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        weight, bias = weights[name]
        y = x @ weight.T + bias
        if name in lora:
            a, b = lora[name]
            y = y + options["lora_alpha"] * (x @ a @ b)
        return y

    def norm(name: str, x: Tensor) -> Tensor:
        scale, shift = weights[name]
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale + shift

    n_texts, n_tokens = tokens.shape
    x = weights["tokens"][tokens] + weights["positions"][:n_tokens]
    hidden_from = torch.ones(n_tokens, n_tokens).triu(1).bool()
    for i in range(options["n_layers"]):
        h = norm(f"{i}.norm1", x)
        q, k, v = (
            linear(f"{i}.{n}", h).view(n_texts, n_tokens, options["n_heads"], -1).transpose(1, 2)
            for n in "qkv"
        )
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        if not options["disable_causal_mask"]:
            scores = scores.masked_fill(hidden_from, -math.inf)
        context = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n_texts, n_tokens, -1)
        x = x + linear(f"{i}.o", context)
        h = linear(f"{i}.in", norm(f"{i}.norm2", x))
        gelu = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + linear(f"{i}.out", gelu)
    return linear("head", norm("norm", x))


def read(logits: Tensor, length: int, options: dict) -> Tensor:
    """One text's logits (T, 2) -> (2,)"""
    own = logits[:length]
    if options["average_embeddings"]:
        return (own if options["trainable_token_pos"] == "flexible" else logits).mean(0)
    if options["trainable_token_pos"] == "flexible":
        return own[-1]
    return logits[0] if options["trainable_token_pos"] == "first" else logits[-1]


def run(texts: dict[str, list[list[int]]], labels: dict[str, list[int]], options: dict) -> list:
    """Train and evaluate. Texts are token ids, not yet truncated or padded.

    Returns the numbers in the order in which they are printed: pairs of losses, pairs of
    accuracies after each epoch, and the final (correct, total) of each part.
    """
    length = options["context_length"]
    if length == "model_context_length":
        length = 1024
    if length == "longest_training_example":
        length = 1024 if options["no_padding"] else max(len(ids) for ids in texts["train"])

    def prepare(ids: list[int]) -> tuple[list[int], int]:
        ids = (ids or [PAD])[:length]
        padding = 0 if options["no_padding"] else length - len(ids)
        return ids + [PAD] * padding, len(ids)

    def collate(items: list) -> list:
        return items

    loaders = {}
    for part in texts:
        items = [(*prepare(t), y) for t, y in zip(texts[part], labels[part], strict=True)]
        order = {"shuffle": True, "drop_last": True} if part == "train" else {}
        loaders[part] = DataLoader(items, options["batch_size"], collate_fn=collate, **order)

    weights = draw_weights(options["seed"], options["emb_dim"], options["n_layers"], 50257, 1024)
    trained, lora = choose_trained(
        weights, options["trainable_layers"], options["n_layers"], options["lora_rank"]
    )
    torch.manual_seed(options["seed"])
    optimizer = torch.optim.AdamW(
        trained, lr=options["learning_rate"], weight_decay=options["weight_decay"]
    )

    def logits_of(batch: list) -> tuple[Tensor, Tensor]:
        tokens = torch.tensor([ids for ids, _, _ in batch])
        outputs = forward(tokens, weights, lora, options)
        picked = [read(o, n, options) for o, (_, n, _) in zip(outputs, batch, strict=True)]
        return torch.stack(picked), torch.tensor([label for _, _, label in batch])

    def loss_of(batch: list) -> Tensor:
        logits, targets = logits_of(batch)
        kept = targets != options["ignore_index"]
        log_probabilities = logits - logits.logsumexp(-1, keepdim=True)
        picked = log_probabilities[range(len(targets)), targets]
        if options["class_weights"] == "balanced":
            n_classes = 2 - (options["ignore_index"] in (0, 1))
            n_kept = sum(label != options["ignore_index"] for label in labels["train"])
            own = [n_kept / n_classes / labels["train"].count(int(label)) for label in targets]
            picked = picked * torch.tensor(own)
        return -picked[kept].sum() / kept.sum()

    def mean_loss(part: str) -> float:
        batches = [b for i, b in enumerate(loaders[part]) if i < options["eval_iter"]]
        return sum(loss_of(b).item() for b in batches) / len(batches)

    def accuracy(part: str, n_batches: int | None) -> tuple[int, int]:
        correct = total = 0
        for i, batch in enumerate(loaders[part]):
            if n_batches is None or i < n_batches:
                logits, targets = logits_of(batch)
                correct += int((logits[:, 1] > logits[:, 0]).eq(targets.bool()).sum())
                total += len(targets)
        return correct, total

    def whole_validation() -> tuple[int, float]:
        correct, items = 0, loaders["validation"].dataset
        losses, counted = 0.0, 0
        for item in items:  # texts may differ in length
            logits, (target,) = logits_of([item])
            correct += int((logits[0, 1] > logits[0, 0]) == target)
            if target != options["ignore_index"]:
                losses, counted = losses + loss_of([item]).item(), counted + 1
        return correct, losses / counted

    numbers, step, best, n_since = [], 0, None, 0
    for _ in range(options["num_epochs"]):
        pending = []
        for i, batch in enumerate(loaders["train"]):
            pending.append(batch)
            is_last = i + 1 == len(loaders["train"])
            # The gradient of the mean of the window's losses, all at once.
            if len(pending) == options["accumulation_steps"] or is_last:
                optimizer.zero_grad()
                (sum(loss_of(b) for b in pending) / len(pending)).backward()
                optimizer.step()
                pending = []
            if step % options["eval_freq"] == 0:
                numbers.append(("losses", mean_loss("train"), mean_loss("validation")))
            step += 1
        pair = (accuracy(part, options["eval_iter"]) for part in ("train", "validation"))
        numbers.append(("accuracies", *pair))
        correct, loss = whole_validation()
        if best is None or correct > best[0] or (correct == best[0] and loss < best[1]):
            best, n_since = (correct, loss, [tensor.detach().clone() for tensor in trained]), 0
        else:
            n_since += 1
        numbers.append(("whole", correct, loss))
        if n_since == options["stop_after"]:
            break
    if options["keep_best"]:
        for tensor, kept in zip(trained, best[2], strict=True):
            tensor.data.copy_(kept)
    numbers.append(("final", *(accuracy(part, None) for part in texts)))
    return numbers
