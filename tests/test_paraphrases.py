"""Two hundred replies and captions with the gold that a person gave them who looked at the scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmenv.worlds.answers import answer_parts
from mmenv.worlds.captions import caption_parts
from mmenv.worlds.questions import FAMILIES
from mmenv.worlds.samples import draw_caption, draw_question

PATH = Path(__file__).parent / "golden" / "paraphrases.jsonl"
ROWS = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]


def key(row):
    return row["level"], row["split"], row["index"]


def parts_of(row, text):
    """The parts of the gold of a text for the sample of a row."""
    if row["task"] == "captioning":
        return caption_parts(draw_caption(*key(row))[0], text)
    scene, question = draw_question(*key(row))
    assert question.text == row["question"], "the sample has changed: judge these paraphrases anew"
    return answer_parts(question.text, question.answer, text, question.rough, scene=scene)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['question']}-{row['paraphrase'][:40]}")
def test_gold_is_what_a_person_gave(row):
    expected = {part: pytest.approx(row[part], abs=1e-4) for part in ("correct", "brevity", "grammar")}
    assert parts_of(row, row["paraphrase"]) == expected


def test_upper_case_and_a_full_stop_change_no_gold():
    for row in ROWS:
        text = row["paraphrase"]
        for same in (text.upper(), text.lower(), f"{text}.", f"{text} .", f"  {text}\n"):
            assert parts_of(row, same) == parts_of(row, text), (row, same)


def test_there_are_two_hundred_of_all_families_and_captions():
    families = {draw_question(*key(row))[1].family for row in ROWS if row["task"] == "vqa"}
    assert families == set(FAMILIES)
    assert len(ROWS) >= 200
    assert sum(row["task"] == "captioning" for row in ROWS) >= 40
    assert sum(row["correct"] == 0 for row in ROWS) >= 60
