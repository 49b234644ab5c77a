"""Tokenizers learned from texts of any language."""

from __future__ import annotations

import pytest

from mmenv.models.checkpoints import vocabulary_in, vocabulary_metadata
from mmenv.tokenizer import UnicodeTokenizer, WordTokenizer, learn_tokenizer


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Ein großer Hund läuft's.", ["ein", "großer", "hund", "läuft's", "."]),
        ("赤い車。", ["赤", "い", "車", "。"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("كَلب كبير", ["كَلب", "كبير"]),
        ("ภาษานี้", ["ภ", "า", "ษ", "า", "นี้"]),
        ("👨‍👩‍👧 👍🏽🇩🇪❤️", ["👨‍👩‍👧", "👍🏽", "🇩🇪", "❤️"]),
        ("cafe\u0301", ["café"]),
        ("it’s", ["it's"]),
        (" \n", []),
    ],
)
def test_words_of_any_language_are_found(text, pieces):
    assert UnicodeTokenizer.pieces(text) == pieces


def test_scripts_without_spaces_are_written_without():
    tokenizer = learn_tokenizer(["赤い車 と red car です"])
    assert tokenizer.decode(tokenizer.encode("赤い車 red car です")) == "赤い車 red car です"


def test_the_commonest_words_are_kept_in_an_order_that_is_always_the_same():
    texts = ["d", "b a c", "c b", "c"]
    assert learn_tokenizer(texts).words[3:] == ("c", "b", "a", "d")
    assert learn_tokenizer(reversed(texts)) == learn_tokenizer(texts)
    assert learn_tokenizer(texts, max_words=2).words[3:] == ("c", "b")
    assert learn_tokenizer(texts, min_count=3).words[3:] == ("c",)
    assert learn_tokenizer(texts, max_words=2).encode("a b") == [2, 4]


def test_the_special_tokens_are_never_learned():
    tokenizer = learn_tokenizer(["<unk> <pad> word"])
    assert tokenizer.encode("<unk>") == [tokenizer.unk_id]
    assert "word" in tokenizer.words


def test_texts_without_words_are_refused():
    with pytest.raises(ValueError, match="no word"):
        learn_tokenizer(["", " "])


def test_tokenizers_of_two_kinds_are_not_equal():
    assert WordTokenizer(["a"]) != UnicodeTokenizer(["a"])


def test_a_learned_vocabulary_travels_with_weights():
    tokenizer = learn_tokenizer(["ein Hund", "赤い車"])
    assert vocabulary_in(vocabulary_metadata(tokenizer)) == tokenizer
    assert vocabulary_in(vocabulary_metadata(WordTokenizer(["a"]))) is None
