"""Pictures of scenes: the same on every machine, true to the scene, and farther from training as the shift grows."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmenv.worlds.glyphs import glyph
from mmenv.worlds.layout import BADGE
from mmenv.worlds.painter import GROUNDS, PLATES, paint
from mmenv.worlds.scenes import ANGLES, LEVELS, SIDES, STYLES, Scene, Thing, draw_scene, seed_of
from mmenv.worlds.things import ASSETS, COLOURS, DIGITS, LETTERS, concepts
from scripts.make_golden import SCENES, scenes


def scene_of(index, level="plain", split="train", **options):
    return draw_scene(random.Random(seed_of("paint", level, split, index)), LEVELS[level], split, **options)


def pixels_of(thing):
    """Where a thing alone changes the empty picture: bool (96, 96)."""
    return (paint(Scene((thing,))) != paint(Scene(()))).any(-1)


def test_scenes_and_pictures_are_those_of_the_golden_file():
    assert scenes() == json.loads(SCENES.read_text(encoding="utf-8"))


def test_another_process_paints_the_same_picture():
    code = (
        "import hashlib, random; from mmenv.worlds.scenes import *; from mmenv.worlds.painter import paint;"
        "s = draw_scene(random.Random(seed_of('paint', 'hard', 'test', 3)), LEVELS['hard'], 'test', shift=0.7);"
        "print(paint(s).tobytes().hex()[:2000])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert paint(scene_of(3, "hard", "test", shift=0.7)).tobytes().hex()[:2000] == there


def test_a_picture_is_96_pixels_wide_and_larger_ones_repeat_them():
    scene = scene_of(0)
    small, large = paint(scene), paint(scene, 192)
    assert (small.shape, small.dtype, large.shape) == ((96, 96, 3), np.uint8, (192, 192, 3))
    assert not small.flags.writeable
    assert not large.flags.writeable
    assert (large[::2, ::2] == small).all()
    assert (large[1::2, 1::2] == small).all()
    with pytest.raises(ValueError, match="image_size 100"):
        paint(scene, 100)


def test_painting_one_picture_leaves_the_next_as_it_was():
    scene = scene_of(1)
    before = paint(scene)
    for i in range(20):
        paint(scene_of(i, "hard", "test", shift=1.0))
    assert (paint(scene) == before).all()


def test_a_thing_paints_its_box_and_nothing_else():
    for i in range(300):
        for thing in scene_of(i).things:
            rows, columns = np.nonzero(pixels_of(thing))
            assert abs(rows - thing.y + 0.5).max() < thing.half
            assert abs(columns - thing.x + 0.5).max() < thing.half


@pytest.mark.parametrize("level", LEVELS)
def test_six_tenths_of_every_thing_stay_visible_and_every_badge_in_full(level):
    for i in range(700):
        covered = np.zeros((96, 96), bool)
        for thing in reversed(scene_of(i, level).things):
            pixels = pixels_of(thing)
            assert (pixels & covered).sum() <= 0.4 * pixels.sum()
            if thing.mark is not None:
                bottom, right = thing.y + thing.half, thing.x + thing.half
                assert not covered[bottom - BADGE[1] : bottom, right - BADGE[0] : right].any()
            covered |= pixels


@pytest.mark.parametrize("style", range(len(STYLES)))
def test_every_concept_is_drawn_at_every_size_and_angle(style):
    empty = paint(Scene(()))
    for concept, size, angle in itertools.product(range(len(concepts())), range(len(SIDES)), range(len(ANGLES))):
        thing = Thing(concept, 48, 48, size, angle, style)
        drawn = (paint(Scene((thing,))) != empty).any(-1)
        assert drawn.sum() > 0.15 * SIDES[size] ** 2, thing
        assert max(np.ptp(np.nonzero(drawn), axis=1)) >= SIDES[size] - 3, thing


def test_styles_and_concepts_differ_at_the_smallest_size():
    pictures = {
        (concept, style): paint(Scene((Thing(concept, 48, 48, 0, 1, style),))).astype(int)[40:56, 40:56]
        for concept in range(len(concepts()))
        for style in range(len(STYLES))
    }
    for style in range(len(STYLES)):
        mine = [pictures[concept, style] for concept in range(len(concepts()))]
        assert min(np.abs(a - b).mean() for a, b in itertools.combinations(mine, 2)) > 4
    for concept in range(len(concepts())):
        drawn = [pictures[concept, style] for style in range(len(STYLES))]
        assert min(np.abs(a - b).mean() for a, b in itertools.combinations(drawn, 2)) > 1


def test_plates_are_told_from_each_other_and_from_every_background():
    assert tuple(PLATES) == COLOURS
    colours = [np.array(c) for c in PLATES.values()]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(colours, 2)) > 80
    assert min(np.abs(a - np.array(g)).sum() for a in colours for g in GROUNDS) > 120


def test_glyphs_differ_by_three_pixels_or_more():
    inked = [glyph(m) for m in (*LETTERS, *DIGITS)]
    assert all(g.shape == (7, 5) for g in inked)
    assert min((a != b).sum() for a, b in itertools.combinations(inked, 2)) >= 3


def test_pictures_move_away_from_training_in_proportion_to_the_shift():
    distances = []
    for shift in (0.25, 0.5, 0.75, 1.0):
        pairs = [(scene_of(i, split="test"), scene_of(i, split="test", shift=shift)) for i in range(60)]
        distances.append(np.mean([np.abs(paint(a).astype(int) - paint(b)).mean() for a, b in pairs]))
    steps = np.diff([0.0, *distances])
    assert (steps > 0).all()
    assert max(steps) < 2 * min(steps)


def test_drawings_fit_in_seven_megabytes_and_name_their_licences():
    sheets = [ASSETS / f"drawings_{style}.webp" for style in STYLES]
    assert sum(path.stat().st_size for path in sheets) < 7e6
    text = (Path(ASSETS) / "LICENSES.md").read_text(encoding="utf-8")
    assert all(path.name in text for path in sheets)
