"""The one dynamics: what a token does to a row, and what ends it."""

from __future__ import annotations

import numpy as np
import pytest

from mmenv.envs import dynamics

PAD, END = 0, 1


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three empty responses of four tokens, their lengths, and the end table of six tokens."""
    return np.full((3, 4), PAD), np.zeros(3, np.int64), dynamics.end_table(6, frozenset({END}))


def put(rows: tuple, lanes: list[int], tokens: list[int]) -> tuple[list[bool], list[bool]]:
    responses, lengths, ends = rows
    ended, stopped = dynamics.write(responses, lengths, np.array(lanes), np.array(tokens), ends)
    return ended.tolist(), stopped.tolist()


def test_a_token_is_written_at_the_end_of_its_own_row_only(rows):
    put(rows, [0, 2], [3, 4])
    put(rows, [2], [5])
    assert rows[0].tolist() == [[3, 0, 0, 0], [0, 0, 0, 0], [4, 5, 0, 0]]
    assert rows[1].tolist() == [1, 0, 2]


def test_an_end_token_is_written_and_ends(rows):
    assert put(rows, [0, 1], [END, 3]) == ([True, False], [True, False])
    assert rows[0][0].tolist() == [END, 0, 0, 0]


def test_the_budget_ends_without_an_end_token(rows):
    for _ in range(3):
        assert put(rows, [1], [3]) == ([False], [False])
    assert put(rows, [1], [3]) == ([True], [False])


def test_an_end_token_on_the_last_place_counts_as_end_token(rows):
    for token in (3, 3, 3):
        put(rows, [1], [token])
    assert put(rows, [1], [END]) == ([True], [True])


def test_the_length_is_the_number_of_tokens_that_are_not_padding(rows):
    rng = np.random.default_rng(0)
    for _ in range(3):
        put(rows, [0, 1, 2], rng.integers(1, 6, 3).tolist())
    assert rows[1].tolist() == (rows[0] != PAD).sum(1).tolist()


def test_clear_empties_the_named_rows_only(rows):
    put(rows, [0, 1], [3, 3])
    dynamics.clear(rows[0], rows[1], np.array([0]), PAD)
    assert rows[0][:2].tolist() == [[0, 0, 0, 0], [3, 0, 0, 0]]
    assert rows[1].tolist() == [0, 1, 0]


def test_there_may_be_several_end_tokens():
    table = dynamics.end_table(8, frozenset({2, 5}))
    assert np.flatnonzero(table).tolist() == [2, 5]


def test_masks_allow_everything_but_padding():
    masks = dynamics.action_masks(2, 6, 4)
    assert masks.shape == (2, 6)
    assert np.flatnonzero(~masks[0]).tolist() == [4]


def test_each_mask_is_fresh():
    masks = dynamics.action_masks(1, 6, 0)
    masks[:] = False
    assert dynamics.action_masks(1, 6, 0).sum() == 5
