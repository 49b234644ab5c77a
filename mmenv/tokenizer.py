"""Tokenizers: the words behind the actions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """What an environment asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens: actions are 0 .. vocab_size - 1."""

    @property
    def pad_id(self) -> int:
        """The token that pads; never an end token."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a response."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without end token."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; end and pad tokens are left out."""


class WordTokenizer:
    """One token a word: ``<pad>`` is 0, ``<eos>`` is 1, ``<unk>`` is 2, then the words in the order given.

    Args:
        words: distinct lower-case words or punctuation marks.

    Raises:
        ValueError: a word is given twice or is not one token of this tokenizer.
    """

    pad_id = 0
    eos_ids = frozenset({1})
    unk_id = 2
    _SPECIAL = ("<pad>", "<eos>", "<unk>")
    _PIECES = re.compile(r"<unk>|\w+(?:'\w+)?|[^\w\s]")

    def __init__(self, words: Sequence[str]) -> None:
        self.words = (*self._SPECIAL, *words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            twice = sorted({w for w in self.words if self.words.count(w) > 1})
            raise ValueError(f"words given twice: {twice[:5]}; give each once")
        broken = [w for w in words if self._PIECES.findall(w.lower()) != [w]]
        if broken:
            raise ValueError(f"not single lower-case words: {broken[:5]}; split them first")

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; words outside the vocabulary become ``<unk>``."""
        return [self._ids.get(piece, self.unk_id) for piece in self._PIECES.findall(text.lower())]

    def decode(self, ids: Iterable[int]) -> str:
        """Words joined by spaces; end and pad tokens left out."""
        words = self.words
        return " ".join([words[i] for i in ids if i > 1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordTokenizer) and other.words == self.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"WordTokenizer({self.vocab_size} tokens)"
