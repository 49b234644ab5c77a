"""Two solvers written apart, the package's and one from docs/scenes.md alone, agree with the writer of questions."""

import re
from pathlib import Path

import pytest
from independent_solver import Unclear, independent_answer

from mmenv.worlds.samples import draw_question
from mmenv.worlds.scenes import Scene, Thing
from mmenv.worlds.solver import solve

PAGE = Path(__file__).parents[1] / "docs" / "scenes.md"
TABLE = PAGE.read_text(encoding="utf-8").split("<!-- questions -->")[1].split("<!-- end of questions -->")[0]
CELLS = [line.split("|")[1].strip() for line in TABLE.strip().splitlines()[2:]]
FAMILIES = sorted({cell.strip("*") for cell in CELLS})
HARD = sorted({cell.strip("*") for cell in CELLS if re.fullmatch(r"\*\*.+\*\*", cell)})


def _assert_solvers_agree(level: str, split: str, family: str, count: int) -> None:
    for index in range(count):
        scene, question = draw_question(level, split, index, family=family)
        where = f"{level} {split} {index}: {question.text} {scene}"
        assert independent_answer(question.text, scene) == question.answer, where
        assert solve(question.text, scene) == question.answer, where


def test_the_page_lists_fifteen_families() -> None:
    assert (len(FAMILIES), len(HARD)) == (15, 9)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_solvers_give_the_written_answer_in_plain_scenes(family: str) -> None:
    _assert_solvers_agree("plain", "test", family, 150)


@pytest.mark.parametrize("family", HARD)
def test_both_solvers_give_the_written_answer_in_hard_scenes(family: str) -> None:
    _assert_solvers_agree("hard", "test", family, 50)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_both_solvers_give_the_written_answer_in_ten_thousand_training_scenes(family: str) -> None:
    _assert_solvers_agree("plain", "train", family, 10_000)


def test_the_independent_solver_refuses_an_unclear_relation() -> None:
    scene = Scene((Thing(0, 40, 40), Thing(1, 49, 40)))
    with pytest.raises(Unclear):
        independent_answer("is the dog left of the cat ?", scene)
