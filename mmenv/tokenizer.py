"""Tokenizers: the words behind the actions; and the one normalisation of English text."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from mmenv.literal import LiteralEncoder

# Each at the place of its value.
NUMBER_WORDS = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split()
)
IN_WORDS = {str(i): word for i, word in enumerate(NUMBER_WORDS)}  # "2" -> "two"
ARTICLES = ("a", "an", "the")
_SPELLINGS = {
    "colour": "color", "colours": "colors", "coloured": "colored", "grey": "gray",
    **IN_WORDS, **dict.fromkeys(ARTICLES, ""),
}  # fmt: skip
_OPENED = {"won't": "will not", "can't": "can not", "cannot": "can not", "shan't": "shall not", "let's": "let us"}
_ENDINGS = {"re": "are", "ve": "have", "ll": "will", "m": "am", "d": "would"}
# Behind these "'s" is short for "is"; behind other words it is a genitive and dropped.
_SUBJECTS = frozenset("it that this there here he she what which who where how".split())
_UNMARKED = {
    word.replace("'", ""): word
    for word in "isn't aren't wasn't weren't don't doesn't didn't hasn't haven't that's there's what's can't".split()
}
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc", "'"))
_OUTER_APOSTROPHE = re.compile("'(?![a-z0-9])")
_ASCII_MARKS = str.maketrans({c: " " for c in map(chr, range(128)) if not c.isalnum() and c != "'"})


def normalise(text: str) -> str:
    """English text in one form, so that spelling does not count: gold and metrics compare texts in it.

    ``"It's the 2nd dog-house, a GREY one."`` becomes ``"it is 2nd dog house gray one"``. Unicode's NFKC, lower case;
    punctuation, control characters and articles dropped, hyphens read as spaces; whole numbers from 0 to 20 in words,
    contractions opened, "colour" and "grey" in American spelling. ``normalise(normalise(text)) == normalise(text)``.
    """
    plain = text.lower() if text.isascii() else _folded(text)
    return " ".join(filter(None, map(_normal_word, plain.translate(_ASCII_MARKS).split())))


def _folded(text: str) -> str:
    """Lower case without the punctuation of any script."""
    lower = unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)
    plain = _OUTER_APOSTROPHE.sub(" ", "".join(map(_character, lower)))
    # What was dropped may have stood between a letter and its mark, so the text is composed again.
    return unicodedata.normalize("NFKC", plain)


@functools.lru_cache(maxsize=1 << 14)
def _character(character: str) -> str:
    """The character, a space for punctuation, or nothing for a format character such as a soft hyphen."""
    kind = unicodedata.category(character)
    if kind == "Cf":
        return ""
    return " " if kind[0] in "PZC" and character != "'" else character


@functools.lru_cache(maxsize=1 << 16)
def _normal_word(word: str) -> str:
    """The normal form of a word without marks except apostrophes: a few words, or none."""
    word = _UNMARKED.get(word, word)
    if word in _OPENED:
        return _OPENED[word]
    stem, apostrophe, ending = word.rpartition("'")
    if not apostrophe:
        return _SPELLINGS.get(word, word)
    if ending == "t" and stem.endswith("n"):
        words = (_normal_word(stem[:-1]), "not")
    elif ending in _ENDINGS:
        words = (_normal_word(stem), _ENDINGS[ending])
    elif ending == "s":
        words = (_normal_word(stem), "is" if stem in _SUBJECTS else "")
    else:
        words = (_normal_word(stem + ending), "")
    return " ".join(filter(None, words))


@runtime_checkable
class Tokenizer(Protocol):
    """The tokenizer of an environment."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens: actions are 0 .. vocab_size - 1."""

    @property
    def pad_id(self) -> int:
        """The token that pads; never an end token."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end a response."""

    @property
    def end_id(self) -> int:
        """The one of them that ends a demonstration."""

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
    end_id = 1
    eos_ids = frozenset({end_id})
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

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """The words and marks of some texts that are outside the vocabulary, each once, in alphabetical order."""
        return sorted({piece for text in texts for piece in self.pieces(text) if piece not in self._ids})

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
        max_words: size of the vocabulary: the most frequent words, ties in alphabetical order.
        min_count: least number of occurrences of a word.

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

    Texts are text: a marker that one spells, ``<image>`` or the end token's name, becomes the tokens of its letters.
    Where the tokenizer has no pad token that does nothing else, padding is one token more, which no text and no model
    has: ``pad_id == vocab_size - 1``.

    Args:
        tokenizer: as ``AutoTokenizer.from_pretrained`` gives it; it is not changed.
        pad_id: the token that pads; None takes the tokenizer's own, or a new one.
        eos_ids: the tokens that end a response; None takes the tokenizer's own.
        end_id: the token that ends a demonstration, one of them; None takes the tokenizer's own end token, or else the
            lowest.
        lead: what stands before a response in the model's chat template.
        gap: spaces between that and a response, which are the response's own tokens.
        literal: encodes texts, where more is a marker than the tokenizer and its own template say.

    Attributes:
        num_tokens: tokens that the tokenizer has, which a model has to embed.

    Raises:
        ValueError: it has no end token, or ``pad_id`` cannot pad.
    """

    def __init__(
        self,
        tokenizer: Any,
        pad_id: int | None = None,
        eos_ids: Iterable[int] | None = None,
        end_id: int | None = None,
        lead: str = "",
        gap: str = "",
        literal: LiteralEncoder | None = None,
    ) -> None:
        self.tokenizer, self.name = tokenizer, str(tokenizer.name_or_path)
        if eos_ids is None and tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer {self.name!r} has no end token: name the tokens that end, eos_ids=[...]")
        self.eos_ids = frozenset([tokenizer.eos_token_id] if eos_ids is None else eos_ids)
        default_end = tokenizer.eos_token_id if tokenizer.eos_token_id in self.eos_ids else min(self.eos_ids)
        self.end_id = default_end if end_id is None else end_id
        self.literal, self._lead = literal or LiteralEncoder(tokenizer), lead
        self._gap = gap
        self.num_tokens = 1 + max(tokenizer.get_vocab().values())
        pad = self._default_pad() if pad_id is None else pad_id
        self.pad_id = self.num_tokens if pad is None else pad
        self.vocab_size = max(self.num_tokens, self.pad_id + 1)
        if self.end_id not in self.eos_ids:
            raise ValueError(f"end_id={self.end_id} is none of eos_ids={sorted(self.eos_ids)}: give one of these")
        if self.pad_id in self.eos_ids or not 0 <= self.pad_id <= self.num_tokens:
            raise ValueError(f"pad_id={self.pad_id} ends responses or is no token of {self.name!r}: give another")

    def _default_pad(self) -> int | None:
        """The tokenizer's pad token, where it does not end, begin or replace anything."""
        tokenizer = self.tokenizer
        taken = {tokenizer.bos_token_id, tokenizer.unk_token_id, *self.eos_ids}
        return None if tokenizer.pad_token_id in taken else tokenizer.pad_token_id

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, without special tokens."""
        return self.literal.encode(text)

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response as it stands behind the template, where its first word may be another token."""
        text = self._gap + text
        if not self._lead:
            return self.encode(text)
        place = self.literal.placeholder(0)
        before = self.literal.encode_rendered(self._lead, {}, add_special_tokens=False)
        both = self.literal.encode_rendered(self._lead + place, {place: text}, add_special_tokens=False)
        # Where a token spans the border, the response is encoded alone.
        return both[len(before) :] if both[: len(before)] == before else self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are left out, and so are end tokens that the tokenizer holds for words."""
        written = [i for i in ids if i != self.pad_id and i not in self.eos_ids]
        return str(self.tokenizer.decode(written, skip_special_tokens=True)).strip()

    def decode_prompt(self, ids: Iterable[int]) -> str:
        """The text that ``encode`` made the ids of, as exactly as the tokenizer gives it back; padding is left out."""
        # Decoders treat the first token specially, so another text comes first.
        first, begins, gap = self._before_prompts
        return self._spelt([*first, *(i for i in ids if i != self.pad_id)]).removeprefix(begins).removeprefix(gap)

    @functools.cached_property
    def _before_prompts(self) -> tuple[list[int], str, str]:
        """Tokens of a text, that text, and what ``decode`` puts between it and one encoded apart: a space at most."""
        ids = self.encode("a")
        text = self._spelt(ids)
        return ids, text, " " if self._spelt([*ids, *ids]) == f"{text} {text}" else ""

    def _spelt(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HFTokenizer) or hash(self) != hash(other):
            return False
        return self.tokenizer is other.tokenizer or self._content == other._content

    def __hash__(self) -> int:
        return hash((self.name, self.vocab_size, self.pad_id, self.eos_ids, self.end_id))

    @functools.cached_property
    def _content(self) -> str:
        """Everything that texts become tokens by, as JSON; two tokenizers of one name and size may differ in it."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        content = {k: v for k, v in state.items() if k not in ("padding", "truncation")}
        return json.dumps({**content, "lead": self._lead, "gap": self._gap})

    def __repr__(self) -> str:
        return f"HFTokenizer({self.name!r}, {self.vocab_size} tokens)"
