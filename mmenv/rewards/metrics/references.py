"""Rewards that compare a response with its references: CIDEr, BLEU, ROUGE-L, WER, exact match, VQA accuracy.

The formulas are those of pycocoevalcap, sacrebleu, rouge-score and jiwer, which the extra ``metrics`` brings. All see
the same pieces of text, ``UnicodeTokenizer.pieces``: lower case, punctuation apart, any language.
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
from mmenv.tokenizer import UnicodeTokenizer

DOCUMENTS = 20_000  # samples that CIDEr counts the words of
DRAWN_DOCUMENTS = 1_000  # of a task that has to make its samples
Compare = Callable[[Sequence[str], str], float]  # (references, response) -> how well they agree


def plain(text: str) -> str:
    """A text's pieces with spaces between them."""
    return " ".join(UnicodeTokenizer.pieces(text))


def _library(name: str) -> Any:
    with require("metrics"):
        return importlib.import_module(name)


def _exact(documents: Iterable[Sequence[str]]) -> Compare:
    return lambda references, text: float(plain(text) in map(plain, references))


def _vqa(documents: Iterable[Sequence[str]]) -> Compare:
    return vqa_accuracy


def _bleu(documents: Iterable[Sequence[str]]) -> Compare:
    """Sentence BLEU-4 in [0, 1], smoothed, up to as many words as the response has."""
    bleu = _library("sacrebleu.metrics").BLEU(tokenize="none", effective_order=True)
    return lambda references, text: bleu.sentence_score(plain(text), [plain(r) for r in references]).score / 100


def _rouge_l(documents: Iterable[Sequence[str]]) -> Compare:
    """F1 of the longest common subsequence with the best reference."""

    class Pieces:
        @staticmethod
        def tokenize(text: str) -> list[str]:
            return UnicodeTokenizer.pieces(text)

    scorer = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=Pieces())
    return lambda references, text: max(scorer.score(r, text)["rougeL"].fmeasure for r in references)


def _wer(documents: Iterable[Sequence[str]]) -> Compare:
    """Word error rate against the nearest reference: 0 is best."""
    jiwer = _library("jiwer")
    return lambda references, text: min(jiwer.wer(plain(r), plain(text)) for r in references)


class _Counted(list):
    """References of one response that count as those of all documents: the scorer takes its logarithm of their len."""

    documents = 1

    def __len__(self) -> int:
        return self.documents


def _cider(documents: Iterable[Sequence[str]]) -> Compare:
    """CIDEr-D, from 0 to 10, with document frequencies of the documents' references."""
    cider = _library("pycocoevalcap.cider.cider_scorer")
    known = cider.CiderScorer()
    for references in documents:
        known.cook_append(None, [plain(r) for r in references])
    known.compute_doc_freq()
    frequencies, size = known.document_frequency, len(known.crefs)

    def compare(references: Sequence[str], text: str) -> float:
        one = cider.CiderScorer(test=plain(text), refs=[plain(r) for r in references])
        one.crefs = _Counted(one.crefs)
        one.crefs.documents = max(2, size)  # of a single document every word would weigh nothing
        one.document_frequency = frequencies
        return float(one.compute_cider()[0])

    return compare


class Metric(NamedTuple):
    """What makes a comparison, and whether more is better."""

    make: Callable[[Iterable[Sequence[str]]], Compare]
    sign: int = 1
    counts: bool = False


METRICS = {
    "cider": Metric(_cider, counts=True),
    "bleu": Metric(_bleu),
    "rouge-l": Metric(_rouge_l),
    "wer": Metric(_wer, sign=-1),
    "exact": Metric(_exact),
    "vqa": Metric(_vqa),
}


class ReferenceReward:
    """One of ``METRICS`` as a reward; of an error rate the negative is paid.

    Args:
        metric: its name.
        documents: references that CIDEr takes its document frequencies from; the others need none.

    Raises:
        ModuleNotFoundError: the extra is missing; the message has the command.
    """

    def __init__(self, metric: str, documents: Iterable[Sequence[str]] = ()) -> None:
        self.name, self.sign = metric, METRICS[metric].sign
        self._compare = METRICS[metric].make(documents)

    def measure(self, sample: Sample, text: str) -> float:
        """The metric itself, as it is reported; a response without a word gets the worst value.

        Raises:
            RewardError: the sample has no references.
        """
        references = [reference for reference in sample.references if plain(reference)]
        if not references:
            raise RewardError(
                f"sample {sample.id!r} has no references: {self.name} needs some, add them to the dataset"
            )
        if not plain(text):
            return 0.0 if self.sign > 0 else 1.0  # of an error rate 1: every word is missing
        return self._compare(references, text)

    def __call__(self, samples: Sequence[Sample], responses: Sequence[Response]) -> np.ndarray:
        scores = [self.measure(s, r.text) for s, r in zip(samples, responses, strict=True)]
        return self.sign * np.array(scores, dtype=np.float32)


def reference_reward(metric: str, task: Task) -> ReferenceReward:
    """A metric as the reward of a task, with the document frequencies of its training split; made once a dataset."""
    if not METRICS[metric].counts:
        return ReferenceReward(metric)
    if isinstance(task.dataset, SplitDataset):
        return _of_dataset(metric, task.dataset)
    size, most = task.size("train"), DRAWN_DOCUMENTS if task.dataset is None else DOCUMENTS
    return ReferenceReward(metric, (task.sample("train", i).references for i in range(0, size, -(-size // most))))


@functools.lru_cache(maxsize=8)
def _of_dataset(metric: str, dataset: SplitDataset) -> ReferenceReward:
    every = [references for references in dataset.references() if references]
    return ReferenceReward(metric, every[:: max(1, -(-len(every) // DOCUMENTS))])
