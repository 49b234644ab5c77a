"""Tokenizers: the words behind the actions."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
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
        broken = [w for w in words if self.pieces(w) != [w]]
        if broken:
            raise ValueError(f"not single lower-case words: {broken[:5]}; split them first")

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; words outside the vocabulary become ``<unk>``."""
        return [self._ids.get(piece, self.unk_id) for piece in self.pieces(text)]

    @classmethod
    def pieces(cls, text: str) -> list[str]:
        """A text's words and marks, as they would be looked up."""
        return cls._PIECES.findall(text.lower())

    def decode(self, ids: Iterable[int]) -> str:
        """Words joined by spaces; end and pad tokens left out."""
        words = self.words
        return " ".join([words[i] for i in ids if i > 1])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, WordTokenizer) and other.words == self.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size} tokens)"


# Scripts that put no spaces between words: here every character, with the marks it carries, is a word.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
MOST_WORDS = 8192


@functools.cache
def _unicode_pieces() -> re.Pattern[str]:
    """Words of any language, their marks included; emoji with their modifiers; other characters one by one."""
    marks = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == "M")
    letter, joiners = rf"(?:(?![{_UNSPACED}])[\w{marks}])", "\u200c\u200d"
    modified = "[\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
    return re.compile(
        rf"<unk>|[{_UNSPACED}][{marks}]*|{letter}(?:{letter}|[{joiners}]|'(?=\w))*"
        rf"|[\U0001f1e6-\U0001f1ff]{{2}}|[^\s{joiners}]{modified}(?:\u200d\S{modified})*"
    )


class UnicodeTokenizer(WordTokenizer):
    """Words of any language: as ``WordTokenizer``, and scripts without spaces are read character by character.

    Text is put into Unicode's composed form (NFC) and lower case first, and typographic apostrophes are straightened.

    Args:
        words: distinct words as ``pieces`` gives them.
    """

    @classmethod
    def pieces(cls, text: str) -> list[str]:
        plain = unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'")
        return _unicode_pieces().findall(plain)

    def decode(self, ids: Iterable[int]) -> str:
        """Words joined by spaces where their script has any; end and pad tokens left out."""
        text, close = "", False
        for word in (self.words[i] for i in ids if i > 1):
            unspaced = _is_unspaced(word)
            text += word if not text or (close and unspaced) else f" {word}"
            close = unspaced
        return text


@functools.lru_cache(maxsize=1 << 14)
def _is_unspaced(word: str) -> bool:
    return re.match(f"[{_UNSPACED}]", word) is not None


def learn_tokenizer(texts: Iterable[str], max_words: int = MOST_WORDS, min_count: int = 1) -> UnicodeTokenizer:
    """A tokenizer of the words of some texts, the same for the same texts in every process.

    Args:
        texts: what will be read and written.
        max_words: the commonest are kept, of those that are equally common the first of the alphabet.
        min_count: words that come less often are left out.

    Raises:
        ValueError: the texts hold no word.
    """
    counts = Counter(piece for text in texts for piece in UnicodeTokenizer.pieces(text))
    for special in WordTokenizer._SPECIAL:
        counts.pop(special, None)
    ordered = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
    ordered = [w for w in ordered if UnicodeTokenizer.pieces(w) == [w]]  # a few characters change case in circles
    if not ordered:
        raise ValueError(f"no word comes {min_count} times or more: give texts, or a tokenizer of your own")
    return UnicodeTokenizer(ordered[:max_words])


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
        """Text of token ids; special tokens are left out, and so are end tokens that the tokenizer holds for words."""
        said = [i for i in ids if i != self.pad_id and i not in self.eos_ids]
        return str(self.tokenizer.decode(said, skip_special_tokens=True)).strip()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HFTokenizer) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return (self.name, self.vocab_size, self.pad_id, self.eos_ids)

    def __repr__(self) -> str:
        return f"HFTokenizer({self.name!r}, {self.vocab_size} tokens)"
