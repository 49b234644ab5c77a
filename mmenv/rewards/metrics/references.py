"""Rewards that compare a response with its references: CIDEr, BLEU, ROUGE-L, WER, exact match, VQA accuracy.

The formulas are those of pycocoevalcap, sacrebleu, rouge-score and jiwer, from the extra ``metrics``. These four count
every word, articles too, so they compare ``UnicodeTokenizer.pieces``: lower case, punctuation separated, any language.
An exact match compares texts as gold does, after ``normalise``; VQA accuracy has a normalisation of its own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmenv.arguments import require
from mmenv.data.sample import Response, Sample, SplitDataset
from mmenv.rewards.base import RewardError
from mmenv.rewards.metrics.vqa_accuracy import vqa_accuracy
from mmenv.tasks.base import Task
from mmenv.tokenizer import UnicodeTokenizer, normalise

DOCUMENTS = 20_000  # most samples from which CIDEr counts words
DRAWN_DOCUMENTS = 1_000  # the same for a task that generates its samples
Compare = Callable[[Sequence[str], str], float]  # (references, response) -> agreement


def plain(text: str) -> str:
    """A text's pieces with spaces between them."""
    return " ".join(UnicodeTokenizer.pieces(text))


def _library(name: str) -> Any:
    with require("metrics"):
        return importlib.import_module(name)


def _exact() -> Compare:
    """Whether the normal forms are equal; of texts that have none, such as "?", the pieces."""

    def form(text: str) -> str:
        return normalise(text) or plain(text)

    return lambda references, text: float(form(text) in map(form, references))


def _vqa() -> Compare:
    return vqa_accuracy


def _bleu() -> Compare:
    """Smoothed sentence BLEU in [0, 1], of up to 4-grams, or fewer for a shorter response."""
    bleu = _library("sacrebleu.metrics").BLEU(tokenize="none", effective_order=True)
    return lambda references, text: bleu.sentence_score(plain(text), [plain(r) for r in references]).score / 100


def _rouge_l() -> Compare:
    """F1 of the longest common subsequence, with the reference that fits best."""

    class Pieces:
        @staticmethod
        def tokenize(text: str) -> list[str]:
            return UnicodeTokenizer.pieces(text)

    scorer = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=Pieces())
    return lambda references, text: max(scorer.score(r, text)["rougeL"].fmeasure for r in references)


def _wer() -> Compare:
    """Word error rate against the nearest reference: 0 is best."""
    jiwer = _library("jiwer")
    return lambda references, text: min(jiwer.wer(plain(r), plain(text)) for r in references)


class _Counted(list):
    """pycocoevalcap takes len(references) for the number of documents; this list reports that of the corpus."""

    documents = 1

    def __len__(self) -> int:
        return self.documents


def _cider(documents: Iterable[Sequence[str]]) -> Compare:
    """CIDEr-D in [0, 10], with document frequencies from the references of all documents."""
    cider = _library("pycocoevalcap.cider.cider_scorer")
    corpus = cider.CiderScorer()
    for references in documents:
        corpus.cook_append(None, [plain(r) for r in references])
    corpus.compute_doc_freq()
    frequencies, size = corpus.document_frequency, len(corpus.crefs)

    def compare(references: Sequence[str], text: str) -> float:
        scorer = cider.CiderScorer(test=plain(text), refs=[plain(r) for r in references])
        scorer.crefs = _Counted(scorer.crefs)
        scorer.crefs.documents = max(2, size)  # in a corpus of one document every word has weight 0
        scorer.document_frequency = frequencies
        return float(scorer.compute_cider()[0])

    return compare


class Metric(NamedTuple):
    """A metric of one response against its references.

    Attributes:
        make: makes the comparison; takes the references of all documents where ``has_corpus`` is true, else nothing.
        sign: 1 if more is better, -1 for an error rate.
        has_corpus: whether the metric depends on the document frequencies of a corpus.
    """

    make: Callable[..., Compare]
    sign: int = 1
    has_corpus: bool = False


METRICS = {
    "cider": Metric(_cider, has_corpus=True),
    "bleu": Metric(_bleu),
    "rouge-l": Metric(_rouge_l),
    "wer": Metric(_wer, sign=-1),
    "exact": Metric(_exact),
    "vqa": Metric(_vqa),
}


class ReferenceReward:
    """One of ``METRICS`` as a reward; error rates are cut to at most 1 and negated.

    Args:
        metric: name of the metric.
        documents: references of a corpus, for the document frequencies of CIDEr; the other metrics ignore them.

    Raises:
        MissingExtraError: the extra ``metrics`` is not installed.
    """

    def __init__(self, metric: str, documents: Iterable[Sequence[str]] = ()) -> None:
        spec = METRICS[metric]
        self.name = metric
        self.sign = spec.sign
        self._compare = spec.make(documents) if spec.has_corpus else spec.make()

    def measure(self, sample: Sample, text: str) -> float:
        """The value of the metric; a response without a word gets 0, or an error rate of 1, as all words are missing.

        An error rate exceeds 1 where a response has more wrong words than the reference has words.

        Raises:
            RewardError: the sample has no references.
        """
        references = [reference for reference in sample.references if plain(reference)]
        if not references:
            raise RewardError(
                f"sample {sample.id!r} has no references: {self.name} needs some, add them to the dataset"
            )
        if not plain(text):
            return 0.0 if self.sign > 0 else 1.0  # an error rate of 1: every word is missing
        return self._compare(references, text)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        scores = [self.measure(s, r.text) for s, r in zip(samples, responses, strict=True)]
        # No error rate counts for more than 1: otherwise silence, with an error rate of 1, would beat a wrong answer.
        return self.sign * np.minimum(scores, 1.0 if self.sign < 0 else np.inf).astype(np.float32)


def reference_reward(metric: str, task: Task) -> ReferenceReward:
    """A metric as the reward of a task, with document frequencies of its training split, computed once a dataset."""
    if not METRICS[metric].has_corpus:
        return ReferenceReward(metric)
    if isinstance(task.dataset, SplitDataset):
        return _of_dataset(metric, task.dataset)
    size, most = task.size("train"), DRAWN_DOCUMENTS if task.dataset is None else DOCUMENTS
    return ReferenceReward(metric, (task.sample("train", i).references for i in range(0, size, -(-size // most))))


@functools.lru_cache(maxsize=8)
def _of_dataset(metric: str, dataset: SplitDataset) -> ReferenceReward:
    documents = [references for references in dataset.references() if references]
    return ReferenceReward(metric, documents[:: max(1, -(-len(documents) // DOCUMENTS))])
