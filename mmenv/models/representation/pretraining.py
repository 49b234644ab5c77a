"""Pretraining of a representation: contrast between modalities, matching after fusion, reconstruction."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenv.models.representation.contrast import info_nce, owned_nce, owned_sigmoid, sigmoid_loss
from mmenv.models.representation.fusion import Tokens
from mmenv.models.representation.network import Representation
from mmenv.models.representation.pairings import Examples, Phrases, draw_examples, draw_phrases
from mmenv.models.representation.reconstruction import hide
from mmenv.models.representation.towers import PretrainedTower
from mmenv.worlds.scenes import seed_of

PAIRS = (("image", "text"), ("audio", "text"), ("image", "audio"))


class Step(NamedTuple):
    """One step of the training: its number, its losses by name, and the share of images that find their text."""

    step: int
    losses: dict[str, float]
    found: float


def take(tokens: Tokens, rows: Tensor) -> Tokens:
    """The tokens of the rows ``rows``, int64 (m,)."""
    return Tokens(tokens.states[rows], tokens.mask[rows])


def contrast(model: Representation, parts: dict[str, Tokens], wrong: Tokens | None) -> tuple[dict[str, Tensor], float]:
    """Contrastive loss of each pair of modalities over the rows that have both, and text retrieval's recall at 1."""
    losses: dict[str, Tensor] = {}
    recall = float("nan")
    for a, b in PAIRS:
        if a not in parts or b not in parts:
            continue
        rows = (parts[a].mask.any(1) & parts[b].mask.any(1)).nonzero()[:, 0]
        if len(rows) < 2:
            continue
        x, y = take(parts[a], rows), take(parts[b], rows)
        similarity = model.similarity(a, x, b, y)
        # Hard negatives differ in places and counts too: only the image can tell.
        hard = (
            model.similarity(a, x, "text", take(wrong, rows))
            if wrong is not None and (a, b) == ("image", "text")
            else None
        )
        if model.config.loss == "sigmoid":
            losses[f"{a}-{b}"] = sigmoid_loss(similarity, model.scale, model.bias, hard)
        else:
            losses[f"{a}-{b}"] = info_nce(similarity, model.scale, hard)
        if (a, b) == ("image", "text"):
            recall = (similarity.argmax(1) == torch.arange(len(rows), device=similarity.device)).float().mean().item()
    return losses, recall


def matching(model: Representation, parts: dict[str, Tokens], wrong: Tokens) -> Tensor:
    """-log sigmoid of the margin of the right text over the hard negative, after fusion; over rows with an image."""
    rows = parts["image"].mask.any(1).nonzero()[:, 0]
    parts = {m: take(tokens, rows) for m, tokens in parts.items() if m != "audio"}
    return F.softplus(model.match({**parts, "text": take(wrong, rows)}) - model.match(parts)).mean()


def losses_of(model: Representation, examples: Examples, rng: random.Random) -> tuple[dict[str, Tensor], float]:
    """Every loss that the configuration asks for, weighted, by name; their sum is what is minimised."""
    config, recall = model.config, float("nan")
    losses: dict[str, Tensor] = {}
    if config.loss != "reconstruction":
        parts = model.encode_all(examples)
        wrong = model.encode("text", examples.wrong) if examples.wrong is not None else None
        losses, recall = contrast(model, parts, wrong)
        if config.matching_weight and wrong is not None and "image" in parts and parts["image"].mask.any():
            losses["matching"] = config.matching_weight * matching(model, parts, wrong)
    weight = 1.0 if config.loss == "reconstruction" else config.reconstruction_weight
    if weight:
        word = model.towers["text"].mask_word
        places = np.random.default_rng(int(rng.random() * 2**53))
        rest, hidden = hide(examples, config.mask_share, places, str(word))
        masked = model.reconstruction(model.fuse(model.encode_all(rest)), examples, hidden)
        losses |= {f"hidden {m}": weight * loss for m, loss in masked.items()}
    return losses, recall


def phrase_losses(model: Representation, phrases: Phrases) -> tuple[dict[str, Tensor], float]:
    """Contrast of images and their phrases, and the share of phrases whose nearest image is their own."""
    images, texts = model.encode("image", phrases.image), model.encode("text", phrases.texts)
    similarity = model.similarity("image", images, "text", texts, whole=False)
    owner = phrases.owner.to(similarity.device)
    if model.config.loss == "sigmoid":
        loss = owned_sigmoid(similarity, model.scale, model.bias, owner)
    else:
        loss = owned_nce(similarity, model.scale, owner)
    return {"image-phrase": loss}, (similarity.argmax(0) == owner).float().mean().item()


def warm_up(model: Representation, rng: random.Random) -> tuple[dict[str, Tensor], float]:
    """Losses of one easy step: a description is of one thing, a phrase or a spoken name."""
    losses: dict[str, Tensor] = {}
    recall, batch = float("nan"), model.config.batch
    if "image" in model.modalities:
        losses, recall = phrase_losses(model, draw_phrases(rng, batch))
    if "audio" in model.modalities:
        examples = draw_examples(rng, batch, ("audio", "text"), (1, 2))
        losses |= contrast(model, model.encode_all(examples), None)[0]
    return losses, recall


def optimiser_of(model: Representation) -> torch.optim.AdamW:
    """AdamW; the learning rate of pretrained weights is a tenth."""
    old = {
        id(p) for tower in model.towers.values() if isinstance(tower, PretrainedTower) for p in tower.model.parameters()
    }
    fresh = [p for p in model.parameters() if p.requires_grad and id(p) not in old]
    trained = [p for p in model.parameters() if p.requires_grad and id(p) in old]
    groups = [{"params": fresh, "lr": model.config.lr}]
    if trained:
        groups.append({"params": trained, "lr": model.config.lr / 10})
    return torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))


def pretrain(model: Representation) -> Iterator[Step]:
    """Train as ``model.config`` says, on random scenes; a contrastive loss begins with ``warm_up`` steps.

    Args:
        model: on the device where it is trained.

    Yields:
        a row for each step.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    config = model.config
    rng = random.Random(seed_of("align", config.seed))
    optimiser = optimiser_of(model)
    rates = [group["lr"] for group in optimiser.param_groups]
    # OneCycleLR needs steps to rise and to fall.
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=config.steps, pct_start=0.1)
        if config.steps >= 20
        else None
    )
    model.train()
    for step in range(config.steps):
        if config.loss != "reconstruction" and step < config.warm_up * config.steps:
            losses, found = warm_up(model, rng)
        else:
            examples = draw_examples(rng, config.batch, model.modalities, missing=config.missing)
            losses, found = losses_of(model, examples, rng)
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss at step {step} is {loss.item()}: lower --lr from {config.lr}")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if schedule is not None:
            schedule.step()
        yield Step(step, {name: value.item() for name, value in losses.items()}, found)
    model.eval()
