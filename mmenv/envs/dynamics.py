"""The dynamics, for the scalar and the vector environment: tokens written into arrays, and the end of a response."""

from __future__ import annotations

import numpy as np


def end_table(vocab_size: int, eos_ids: frozenset[int]) -> np.ndarray:
    """(vocab_size,) bool, True for the end tokens."""
    table = np.zeros(vocab_size, dtype=bool)
    table[list(eos_ids)] = True
    return table


def write(
    responses: np.ndarray, lengths: np.ndarray, lanes: np.ndarray, actions: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Write one token into each of ``lanes``, in place.

    Args:
        responses: int64 (N, R), padded.
        lengths: int64 (N,), tokens written so far.
        lanes: int64 (n,), the lanes that act.
        actions: int64 (n,), the tokens to write, no padding among them.
        ends: ``end_table``.

    Returns:
        ended bool (n,): by an end token or a used-up budget; stopped bool (n,): by an end token.
    """
    responses[lanes, lengths[lanes]] = actions
    lengths[lanes] += 1
    stopped = ends[actions]
    return stopped | (lengths[lanes] == responses.shape[1]), stopped


def prefill(responses: np.ndarray, lengths: np.ndarray, lane: int, tokens: np.ndarray) -> None:
    """Let the empty response of ``lane`` begin with ``tokens`` (n,), n < R, in place."""
    responses[lane, : len(tokens)] = tokens
    lengths[lane] = len(tokens)


def clear(responses: np.ndarray, lengths: np.ndarray, lanes: np.ndarray, pad_id: int) -> None:
    """Empty the responses of ``lanes``, in place."""
    responses[lanes] = pad_id
    lengths[lanes] = 0


def action_masks(n: int, vocab_size: int, pad_id: int) -> np.ndarray:
    """(n, vocab_size) bool: every token but padding may be taken."""
    masks = np.ones((n, vocab_size), dtype=bool)
    masks[:, pad_id] = False
    return masks
