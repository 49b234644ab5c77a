"""Scenes: what is drawn, where it lies, and the geometry that texts speak of."""

import random

import pytest

from mmenv.worlds.scenes import (
    ANGLES,
    LEVELS,
    OPPOSITE,
    PLACES,
    RELATIONS,
    SPLITS,
    STYLES,
    TRAIN_ANGLES,
    TRAIN_STYLES,
    WIDTH,
    Scene,
    Thing,
    at_place,
    beside,
    draw_scene,
    held_out,
    held_out_relation,
    lies,
    nearest,
    place,
    seed_of,
    unclear,
)
from mmenv.worlds.things import (
    COLOURS,
    DIGITS,
    LETTERS,
    article,
    categories,
    concept_index,
    concepts,
    mark_word,
    members,
    plurals,
)


def scene_of(index, level="plain", split="train", **options):
    return draw_scene(random.Random(seed_of("test", level, split, index)), LEVELS[level], split, **options)


def test_there_are_128_concepts_in_categories_of_eight_or_more():
    assert len(concepts()) == 128
    assert len({c.name for c in concepts()}) == 128
    assert 12 <= len(categories()) <= 16
    assert all(len(m) >= 8 for m in members().values())


def test_no_word_names_two_things():
    words = [c.name for c in concepts()] + [c.plural for c in concepts()] + list(COLOURS) + list(LETTERS)
    words += [*categories(), *categories().values()]
    assert len(set(words)) == len(words)
    assert all(w.isascii() and w.isalpha() and w.islower() for w in words)


def test_words_of_a_concept_lead_back_to_it():
    apple = concepts()[concept_index()["apple"]]
    assert (apple.category, apple.article) == ("fruit", "an")
    assert plurals()[apple.plural] == "apple"
    assert article("orange") == "an"
    assert mark_word("7") == "seven"
    assert mark_word("b") == "b"


def test_left_needs_a_margin_and_the_dominant_direction():
    b = Thing(0, 50, 50)
    assert lies(Thing(1, 40, 50), "left of", b)
    assert lies(Thing(1, 30, 30), "left of", b)
    assert not lies(Thing(1, 41, 50), "left of", b)
    assert not lies(Thing(1, 30, 29), "left of", b)


@pytest.mark.parametrize("relation", RELATIONS)
def test_opposite_relations_mirror_each_other(relation):
    for i in range(200):
        a, b, *_ = scene_of(i, "hard").things
        assert lies(a, relation, b) == lies(b, OPPOSITE[relation], a)
        assert unclear(a, relation, b) == unclear(b, OPPOSITE[relation], a)
        assert not (lies(a, relation, b) and unclear(a, relation, b))


def test_a_relation_is_unclear_on_the_diagonal_and_near_the_axis():
    b = Thing(0, 50, 50)
    assert unclear(Thing(1, 45, 50), "left of", b)
    assert unclear(Thing(1, 30, 27), "left of", b)
    assert not unclear(Thing(1, 30, 26), "left of", b)
    assert not unclear(Thing(1, 50, 30), "left of", b)
    assert not unclear(Thing(1, 70, 50), "left of", b)


def test_beside_is_the_only_thing_that_lies_so():
    b, left, far_left = Thing(0, 70, 50), Thing(1, 50, 50), Thing(2, 20, 50)
    above, diagonal = Thing(3, 70, 20), Thing(4, 50, 29)
    assert beside(Scene((b, left, above)), "left of", b) is left
    assert beside(Scene((b, left, far_left)), "left of", b) is None
    assert beside(Scene((b, left, diagonal)), "left of", b) is None
    assert beside(Scene((b, above)), "left of", b) is None


def test_places_are_thirds_with_a_margin():
    assert [place(Thing(0, x, y)) for y in (16, 48, 80) for x in (16, 48, 80)] == list(PLACES)
    assert place(Thing(0, 28, 28)) == "top left"
    assert place(Thing(0, 29, 28)) is None
    assert place(Thing(0, 28, 35)) is None
    assert place(Thing(0, 36, 60)) == "middle"


def test_a_place_holds_the_only_thing_that_could_be_there():
    inside, elsewhere, border = Thing(0, 16, 16), Thing(1, 80, 80), Thing(2, 34, 16)
    assert at_place(Scene((inside, elsewhere)), "top left") is inside
    assert at_place(Scene((inside, border)), "top left") is None
    assert at_place(Scene((elsewhere, border)), "top left") is None
    assert at_place(Scene((inside, elsewhere)), "top") is None


def test_the_nearest_is_nearer_by_six_pixels():
    b, near = Thing(0, 50, 50), Thing(1, 50, 30)
    assert nearest(Scene((b, near)), b) is near
    assert nearest(Scene((b, near, Thing(2, 76, 50))), b) is near
    assert nearest(Scene((b, near, Thing(2, 75, 50))), b) is None
    assert nearest(Scene((b,)), b) is None


def test_one_combination_in_eight_is_held_out():
    combinations = [held_out(c, a) for c in range(128) for a in range(len(COLOURS) + len(RELATIONS))]
    assert sum(combinations) * 8 == len(combinations)
    assert held_out_relation(0, "left of")


def test_a_seed_depends_on_every_part_of_the_key_alone():
    assert seed_of("VQA", "plain", "train", 3) == 14189129253679347234
    assert (
        len({seed_of("VQA", "plain", "train", i) for i in range(1000)} | {seed_of("VQA", "hard", "train", 3)}) == 1001
    )


@pytest.mark.parametrize("level", LEVELS)
def test_ten_thousand_scenes_have_the_promised_counts(level):
    least, greatest = LEVELS[level]
    counts = [len(scene_of(i, level).things) for i in range(10_000)]
    assert (min(counts), max(counts)) == (least, greatest)


@pytest.mark.parametrize("level", LEVELS)
def test_things_lie_inside_the_picture(level):
    for i in range(2000):
        for thing in scene_of(i, level).things:
            assert thing.half <= min(thing.x, thing.y)
            assert max(thing.x, thing.y) <= WIDTH - thing.half


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_plates_are_those_of_comp(split):
    plated = [t for i in range(2000) for t in scene_of(i, split=split).things if t.colour is not None]
    assert len(plated) > 1000
    assert all(held_out(t.concept, t.colour) == (split == "comp") for t in plated)


def test_an_odd_scene_has_one_thing_of_another_category():
    for i in range(500):
        for distinct in (False, True):
            kinds = [t.category for t in scene_of(i, "hard", odd=True, distinct=distinct).things]
            assert sorted(kinds.count(k) for k in set(kinds))[0] == 1
            assert len(set(kinds)) == 2


def test_a_distinct_scene_repeats_no_concept():
    for i in range(500):
        names = [t.name for t in scene_of(i, "hard", distinct=True).things]
        assert len(set(names)) == len(names)


def test_training_shows_every_look_and_the_shifted_ones_nowhere():
    things = [t for i in range(500) for t in scene_of(i).things]
    assert {t.style for t in things} == set(range(TRAIN_STYLES))
    assert {t.angle for t in things} == set(range(TRAIN_ANGLES))
    assert {t.size for t in things} == {0, 1, 2}
    assert {t.colour for t in things} == {None, *range(len(COLOURS))}
    assert {t.mark for t in things} == {None, *LETTERS, *DIGITS}


def test_shift_moves_nothing_and_draws_more_things_in_the_last_style_the_farther_it_goes():
    shares = []
    for shift in (0.0, 0.25, 0.5, 1.0):
        things = [t for i in range(500) for t in scene_of(i, split="test", shift=shift).things]
        plain = [t for i in range(500) for t in scene_of(i, split="test").things]
        assert [(t.concept, t.x, t.y, t.colour, t.mark) for t in things] == [
            (t.concept, t.x, t.y, t.colour, t.mark) for t in plain
        ]
        shares.append(sum(STYLES[t.style] == STYLES[-1] for t in things) / len(things))
        assert any(ANGLES[t.angle] in (-40, 40) for t in things) == (shift > 0)
    assert shares == pytest.approx([0, 0.25, 0.5, 1], abs=0.04)


def test_training_cannot_be_shifted():
    with pytest.raises(ValueError, match=r"shift 0.5 of split 'train'"):
        scene_of(0, shift=0.5)
    with pytest.raises(ValueError, match="no split 'dev'"):
        scene_of(0, split="dev")


def test_scenes_with_a_share_of_digits_have_mostly_marks():
    marks = [t.mark for i in range(200) for t in scene_of(i, digits=0.8).things]
    assert 0.45 < sum(mark is not None and mark in DIGITS for mark in marks) / len(marks) < 0.65
