"""The bare limit: a cached rollout, then forward and backward passes; no environment, no reward, no reference.

It is plainly written: every layer computes every position. mmenv's last layer computes the response's alone, which can
save more than reference, environment and encoder cost, so that a ratio above 1 is no mistake.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from shape import read_shape, report
from torch import Tensor, nn

SHAPE = read_shape()
SIDE = SHAPE.width // SHAPE.heads
TOTAL = SHAPE.prefix + SHAPE.response


class Layer(nn.Module):
    """Pre-norm attention and MLP; writes keys and values where a store is given."""

    def __init__(self) -> None:
        super().__init__()
        d = SHAPE.width
        self.before_attention, self.before_mlp = nn.RMSNorm(d), nn.RMSNorm(d)
        self.to_qkv, self.from_heads = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.widen, self.narrow = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x: Tensor, store: Tensor | None, at: int) -> Tensor:
        n, s, d = x.shape
        heads = self.to_qkv(self.before_attention(x)).view(n, s, 3, SHAPE.heads, SIDE).permute(2, 0, 3, 1, 4)
        query, memory = heads[0], heads[1:]
        if store is not None:
            store[:, :, :, at : at + s] = memory
            memory = store[:, :, :, : at + s]
        y = F.scaled_dot_product_attention(query, memory[0], memory[1], is_causal=s > 1)
        x = x + self.from_heads(y.transpose(1, 2).reshape(n, s, d))
        return x + self.narrow(F.gelu(self.widen(self.before_mlp(x))))


class Decoder(nn.Module):
    """States in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(SHAPE.vocab, SHAPE.width)
        self.layers = nn.ModuleList(Layer() for _ in range(SHAPE.layers))
        self.last_norm, self.head = nn.RMSNorm(SHAPE.width), nn.Linear(SHAPE.width, SHAPE.vocab, bias=False)

    def forward(self, x: Tensor, stores: list[Tensor] | None = None, at: int = 0) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x, None if stores is None else stores[i], at)
        return self.head(self.last_norm(x))


@torch.inference_mode()
def rollout(model: Decoder) -> None:
    """Read a prefix, then sample a token at a time."""
    stores = [torch.empty(2, SHAPE.batch, SHAPE.heads, TOTAL, SIDE) for _ in range(SHAPE.layers)]
    logits = model(torch.randn(SHAPE.batch, SHAPE.prefix, SHAPE.width), stores)[:, -1]
    for at in range(SHAPE.prefix, TOTAL):
        token = torch.multinomial(logits.softmax(-1), 1)
        logits = model(model.words(token), stores, at)[:, -1]


def update(model: Decoder, optimiser: torch.optim.Optimizer) -> None:
    """One gradient step an epoch on whole sequences."""
    for _ in range(SHAPE.epochs):
        logits = model(torch.randn(SHAPE.batch, TOTAL, SHAPE.width))[:, SHAPE.prefix :]
        logits.log_softmax(-1).mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def main() -> None:
    torch.set_num_threads(SHAPE.threads)
    model = Decoder()
    optimiser = torch.optim.AdamW(model.parameters())
    begun = 0.0
    for number in range(SHAPE.updates + 1):
        if number == 1:
            begun = time.perf_counter()
        rollout(model)
        update(model, optimiser)
    report(SHAPE.updates * SHAPE.batch * SHAPE.response, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
