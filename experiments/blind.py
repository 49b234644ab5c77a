"""How well a model answers questions of scenes that it does not see: the balance of each family.

    python -m experiments.blind    # both levels and the split comp: ten minutes on two cores

A blind model says what was right most often in the training split: for the same text where that was asked, else for the
same phrasing. A model that sees the question alone can hardly do better.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import tyro

from mmenv.worlds.questions import FORMS, Question
from mmenv.worlds.samples import draw_question
from mmenv.worlds.solver import phrasing_of


def accuracies(train: Iterable[Question], test: Iterable[Question], by_text: bool) -> dict[str, float]:
    """Accuracy of a blind model in each family, and in all ("all"), of ``test``.

    Args:
        train: questions whose answers the model knows.
        test: questions that it answers.
        by_text: whether it knows the most frequent answer to each text; else only to each phrasing.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        counts[phrasing_of(question.text)][question.answer] += 1
        if by_text:
            counts[question.text][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for question in test:
        texts = [question.text] if by_text and question.text in counts else [phrasing_of(question.text)]
        guess = counts[texts[0]].most_common(1)
        correct = bool(guess) and guess[0][0] == question.answer
        right[question.family].append(correct)
        right["all"].append(correct)
    return {family: sum(values) / len(values) for family, values in right.items()}


def questions(level: str, split: str, number: int) -> list[Question]:
    """The first questions of a split."""
    return [draw_question(level, split, index)[1] for index in range(number)]


def main(train: int = 50_000, test: int = 10_000) -> None:
    """Print the accuracies by family.

    Args:
        train: number of questions that the blind model learns from.
        test: number of questions that it answers.
    """
    columns = {}
    for level in ("plain", "hard"):
        seen = questions(level, "train", train)
        for split in ("test", "comp"):
            tested = questions(level, split, test)
            for by_text in (False, True):
                name = f"{level} {split} by {'text' if by_text else 'phrasing'}"
                columns[name] = accuracies(seen, tested, by_text)
    for name, values in columns.items():
        print(name)
        for family in (*FORMS, "all"):
            if family in values:
                print(f"  {family:24s}{values[family]:.3f}")


if __name__ == "__main__":
    tyro.cli(main)
