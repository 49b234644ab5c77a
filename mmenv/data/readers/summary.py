"""What a dataset holds, in a few lines."""

from __future__ import annotations

from collections import Counter

from mmenv.data.cache import source_key
from mmenv.data.dataset import MediaDataset
from mmenv.data.media import RATE
from mmenv.data.sample import divided
from mmenv.tokenizer import learn_tokenizer


def described_data(dataset: MediaDataset) -> dict[str, str]:
    """Samples, splits, media, texts and vocabulary of a dataset, by name."""
    turns = [turn for row in dataset.rows for turn in row.turns]
    images = {source_key(row.image) for row in dataset.rows if row.image is not None}
    frames, longest_dialogue = dataset.longest()
    texts = [*dataset.prompts(), *(text for several in dataset.references() for text in several)]
    tokenizer = learn_tokenizer(texts) if any(map(str.strip, texts)) else None
    told = {"samples": f"{len(dataset):,}{_splits(dataset)}"}
    if images:
        told["images"] = f"{len(images):,} files"
    if frames:
        sounds = sum(turn.audio is not None for turn in turns)
        told["sounds"] = f"{sounds:,}, the longest {frames / RATE:.1f} s"
    if longest_dialogue > 1:
        told["turns"] = f"{len(turns):,}, up to {longest_dialogue} a dialogue"
    referenced = sum(len(turn.references) for turn in turns)
    without = sum(not turn.references for turn in turns)
    told["references"] = f"{referenced:,}{f', none for {without:,}' if without else ''}"
    if tokenizer is not None:
        told["vocabulary"] = f"{tokenizer.vocab_size:,} tokens"
        lengths = {"prompt": dataset.prompts(), "reference": (t for several in dataset.references() for t in several)}
        longest = {name: max((len(tokenizer.encode(t)) for t in found), default=0) for name, found in lengths.items()}
        told["longest"] = f"prompt {longest['prompt']}, reference {longest['reference']} tokens"
    return told


def _splits(dataset: MediaDataset) -> str:
    counts = dict(Counter(row.split for row in dataset.rows if row.split))
    by = "" if counts else "by a hash of their ids "
    counts = counts or {name: len(places) for name, places in divided([row.id for row in dataset.rows]).items()}
    return f" ({by}{', '.join(f'{name} {n:,}' for name, n in counts.items())})"
