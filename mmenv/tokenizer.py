"""Tokenizers: the words behind the actions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable


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


class HFTokenizer:
    """A fast tokenizer of transformers; its tokens are the actions, and nothing is encoded twice.

    It keeps its own end token. Where its pad token ends texts too, as in many language models, another special token
    pads that no text holds.

    Args:
        tokenizer: as ``AutoTokenizer.from_pretrained`` gives it; it is not changed.
        pad_id: the token that pads; None takes the tokenizer's own, or finds one.
        eos_ids: the tokens that end a response; None takes the tokenizer's own.

    Raises:
        ValueError: it has no end token, or none that could pad.
    """

    def __init__(self, tokenizer: Any, pad_id: int | None = None, eos_ids: Iterable[int] | None = None) -> None:
        self.tokenizer, self.name = tokenizer, str(tokenizer.name_or_path)
        if eos_ids is None and tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer {self.name!r} has no end token: name the tokens that end, eos_ids=[...]")
        self.eos_ids = frozenset([tokenizer.eos_token_id] if eos_ids is None else eos_ids)
        self.pad_id = self._padding() if pad_id is None else pad_id
        self.vocab_size = len(tokenizer)
        if self.pad_id in self.eos_ids or not 0 <= self.pad_id < self.vocab_size:
            raise ValueError(f"pad_id={self.pad_id} ends responses or is no token of {self.name!r}: give another")

    def _padding(self) -> int:
        """Its own pad token, or a special one that does not end, begin or replace anything."""
        known = self.tokenizer
        if known.pad_token_id is not None and known.pad_token_id not in self.eos_ids:
            return int(known.pad_token_id)
        taken = {known.bos_token_id, known.unk_token_id, *self.eos_ids}
        free = [i for i in known.all_special_ids if i not in taken] or (
            [known.unk_token_id] if known.unk_token_id is not None and known.unk_token_id not in self.eos_ids else []
        )
        if not free:
            raise ValueError(f"the tokenizer {self.name!r} has no token to pad with: name an unused one, pad_id=")
        return int(free[0])

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, without special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HFTokenizer) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return (self.name, self.vocab_size, self.pad_id, self.eos_ids)

    def __repr__(self) -> str:
        return f"HFTokenizer({self.name!r}, {self.vocab_size} tokens)"
