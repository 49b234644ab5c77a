"""Logits of hidden states, computed by a model's own forward."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def head_logits(model: Any, states: Tensor) -> Tensor:
    """Apply everything that ``model`` does after its body: head, scale, soft cap, whatever its family has.

    Args:
        model: a causal language model of transformers.
        states: (1, T, width), last hidden states of its body.

    Returns:
        (1, T, tokens that the model embeds)
    """
    shallow = copy.copy(model)  # shares every weight; only its body is replaced, by one that returns the states
    shallow._modules = {**model._modules, model.base_model_prefix: _Body(states)}
    tokens = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
    logits: Tensor = shallow(input_ids=tokens, use_cache=False).logits
    return logits


class _States(dict[str, Tensor]):
    """Output of a body that has nothing but its last hidden states."""

    def __init__(self, states: Tensor) -> None:
        super().__init__(last_hidden_state=states)
        self.states = states

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return self.states if key == 0 else super().__getitem__(key)


class _Body(nn.Module):
    """Takes the place of a model's body and returns states that were computed before."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    @property
    def decoder(self) -> _Body:
        """Itself: some families call the decoder within their body."""
        return self

    def forward(self, *_: Any, **__: Any) -> _States:
        return _States(self.states)
