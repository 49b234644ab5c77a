"""Evaluation of a representation: retrieval among held-out scenes, and linear probes."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmenv.models.representation.fusion import Tokens
from mmenv.models.representation.network import Representation
from mmenv.models.representation.pairings import Examples, aloud, listed, placed
from mmenv.worlds.painter import paint
from mmenv.worlds.samples import draw_caption
from mmenv.worlds.scenes import draw_scene, seed_of
from mmenv.worlds.things import concepts

GRID, CELLS = 6, 36
SIDE = 96 // GRID  # pixels a side of a cell


def held_out_examples(n: int, style: str = "captions") -> Examples:
    """The first ``n`` scenes of the captioning task's test split with a text each.

    Args:
        n: how many.
        style: ``"captions"`` (the task's own), or ``"places"`` (each thing with its place).
    """
    rng = _random("places")
    drawn = [draw_caption("plain", "test", i) for i in range(n)]
    texts = [caption if style == "captions" else placed(scene, rng) for scene, caption in drawn]
    return Examples(torch.from_numpy(np.stack([paint(scene) for scene, _ in drawn])), None, texts)


def held_out_speech(n: int) -> Examples:
    """Scenes that pretraining never drew, with a spoken and a written description."""
    rng, waves, texts = _random("speech"), [], []
    for _ in range(n):
        scene, wave = aloud(draw_scene(rng, (2, 3), "test", distinct=True), rng)
        waves.append(wave)
        texts.append(listed(scene.things))
    return Examples(None, torch.from_numpy(np.stack(waves)), texts)


def _random(*key: str | int) -> random.Random:
    return random.Random(seed_of("probes", *key))


def recall(similarity: Tensor, k: int) -> float:
    """Share of rows (n, n) whose own column is among the ``k`` greatest; ties count as misses."""
    right = similarity.diagonal()[:, None]
    rank = (similarity >= right).sum(1)  # itself included
    return (rank <= k).float().mean().item()


@torch.no_grad()
def similarities(model: Representation, examples: Examples, a: str, b: str) -> Tensor:
    """(n, n) between two modalities of the same rows, on the CPU."""
    inputs = examples.inputs()
    x, y = model.encode(a, inputs[a]), model.encode(b, inputs[b])
    return model.similarity(a, x, b, y).cpu()


def retrieval(model: Representation, n: int = 200) -> dict[str, float]:
    """R@1 and R@5 both ways among ``n`` held-out scenes: captions, with places, and speech where that is read."""
    model.eval()
    recalls = {}
    sets: dict[str, tuple[Examples, str]] = {}
    if "image" in model.modalities:
        sets |= {style: (held_out_examples(n, style), "image") for style in ("captions", "places")}
    if "audio" in model.modalities:
        sets["speech"] = (held_out_speech(n), "audio")
    for name, (examples, modality) in sets.items():
        matrix = similarities(model, examples, modality, "text")
        for k in (1, 5):
            recalls[f"{name}/{modality}_to_text@{k}"] = recall(matrix, k)
            recalls[f"{name}/text_to_{modality}@{k}"] = recall(matrix.T, k)
    return recalls


def ridge(x: Tensor, y: Tensor, penalty: float = 1.0) -> Tensor:
    """Linear least squares with a penalty and an intercept: x (n, d), y (n, k) -> weights (d + 1, k)."""
    x = F.pad(x.double(), (0, 1), value=1.0)
    inner = x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(inner, x.T @ y.double())


def applied(weights: Tensor, x: Tensor) -> Tensor:
    """x (n, d) -> (n, k)."""
    return F.pad(x.double(), (0, 1), value=1.0) @ weights


def cells_of(tokens: Tokens) -> Tensor | None:
    """Image tokens (n, S, width) brought to GRID by GRID cells, (n, CELLS, width); None where they are no square."""
    n, s, width = tokens.states.shape
    side = round(s**0.5)
    if side * side != s:
        return None
    grid = tokens.states.transpose(1, 2).reshape(n, width, side, side)
    return F.adaptive_avg_pool2d(grid, GRID).flatten(2).transpose(1, 2)


def _probe_scenes(n: int, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, the concept whose centre lies in each cell (n, CELLS), ``len(concepts())`` for none, and presence."""
    rng, none = _random(split), len(concepts())
    images, cells, present = [], torch.full((n, CELLS), none), torch.zeros(n, none)
    for i in range(n):
        scene = draw_scene(rng, (2, 6), split, distinct=True)
        images.append(paint(scene))
        for thing in scene.things:
            cells[i, GRID * (thing.y // SIDE) + thing.x // SIDE] = thing.concept
            present[i, thing.concept] = 1.0
    return torch.from_numpy(np.stack(images)), cells, present


@torch.no_grad()
def linear_probe(model: Representation, train: int = 3000, test: int = 500) -> dict[str, float]:
    """Accuracy of linear maps of frozen image tokens, on new scenes.

    Returns:
        ``cells``: share of things that are named correctly from the token of their cell (missing where tokens form no
        grid); ``concepts``: of k concepts in a scene, the share among the k most likely, from one pooled vector.
    """
    model.eval()
    train_images, train_cells, train_present = _probe_scenes(train, "train")
    test_images, test_cells, test_present = _probe_scenes(test, "test")
    fit, new = _encoded(model, train_images), _encoded(model, test_images)
    result = {}
    a, b = cells_of(fit), cells_of(new)
    if a is not None and b is not None:
        one_hot = F.one_hot(train_cells.flatten(), len(concepts()) + 1)
        weights = ridge(a.flatten(0, 1), one_hot)
        thing = test_cells.flatten() < len(concepts())
        # Most cells are empty: the accuracy counts cells with a thing only, and "empty" is no answer.
        named = applied(weights, b.flatten(0, 1))[:, :-1].argmax(1)
        result["cells"] = (named == test_cells.flatten())[thing].float().mean().item()
    pools = [torch.cat([t.states.mean(1), t.states.amax(1)], 1) for t in (fit, new)]
    scores = applied(ridge(pools[0], train_present), pools[1])
    result["concepts"] = _among_likeliest(scores, test_present)
    return result


def _encoded(model: Representation, images: Tensor, chunk: int = 250) -> Tokens:
    parts = [model.encode("image", some) for some in torch.split(images, chunk)]
    return Tokens(torch.cat([p.states for p in parts]).cpu(), torch.cat([p.mask for p in parts]).cpu())


def _among_likeliest(scores: Tensor, present: Tensor) -> float:
    """Share of each row's ``k`` true columns among its ``k`` greatest scores."""
    order = scores.argsort(1, descending=True)
    rank = torch.arange(scores.shape[1])
    hits = present.gather(1, order) * (rank < present.sum(1, keepdim=True))
    return (hits.sum() / present.sum()).item()
