"""The embedded world: the same on every machine, and as it says it is."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmenv.data.media import RATE
from mmenv.registration import task_of
from mmenv.worlds.grid import (
    ASSETS,
    SPLIT_SIZES,
    categories,
    concepts,
    draw_scene,
    generator,
    held_out,
    members,
    paint,
    world_tokenizer,
)
from mmenv.worlds.grid_questions import FAMILIES
from mmenv.worlds.grid_speech import SHIFTED_VOICE, VOICES, clips, speak
from scripts.make_golden import GOLDEN, world


def make(env_id):
    return task_of(env_id)(dataset=None, image_size=None, tokenizer=None)


def test_samples_are_those_of_the_golden_file():
    assert world() == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_another_process_draws_the_same_sample():
    code = (
        "import hashlib; from mmenv.registration import task_of;"
        "s = task_of('mmenv/SpokenDialogue-v0')(dataset=None, image_size=None, tokenizer=None).sample('test', 7);"
        "print(hashlib.sha256(s.image.tobytes() + s.audio.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    sample = make("mmenv/SpokenDialogue-v0").sample("test", 7)
    assert there == hashlib.sha256(sample.image.tobytes() + sample.audio.tobytes()).hexdigest()


def test_the_world_has_its_promised_size():
    assert len(concepts()) >= 300
    assert len({c.name for c in concepts()}) == len(concepts())
    assert all(len(m) >= 10 for m in members().values())
    assert len(FAMILIES) >= 8
    assert sum(p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()) < 25e6


def test_every_word_of_every_prompt_and_reference_is_a_token():
    tokenizer = world_tokenizer()
    for env_id in ("mmenv/VQA-v0", "mmenv/Captioning-v0", "mmenv/SpokenDialogueHard-v0", "mmenv/VQAHard-v0"):
        task = make(env_id)
        for i in range(300):
            sample = task.sample("train", i)
            for text in (sample.prompt, *sample.references):
                assert tokenizer.unk_id not in tokenizer.encode(text), text
            assert len(tokenizer.encode(sample.prompt)) <= task.max_prompt_tokens
            assert len(tokenizer.encode(sample.references[0])) < task.max_response_tokens


@pytest.mark.parametrize(("plain", "variant"), [("VQA", "VQAShifted"), ("SpokenDialogue", "SpokenDialogueShifted")])
def test_shifted_ids_share_train_and_differ_in_test(plain, variant):
    a, b = make(f"mmenv/{plain}-v0"), make(f"mmenv/{variant}-v0")
    assert (a.sample("train", 3).image == b.sample("train", 3).image).all()
    assert (a.sample("test", 3).image != b.sample("test", 3).image).any()
    assert a.sample("test", 3).references == b.sample("test", 3).references
    if "audio" in a.modalities:
        assert (a.sample("train", 3).audio == b.sample("train", 3).audio).all()
        assert a.sample("test", 3).audio.shape != b.sample("test", 3).audio.shape


def test_held_out_combinations_are_asked_of_in_test_alone():
    def asked(split):
        task, found = make("mmenv/VQA-v0"), 0
        for i in range(1500):
            scene, question = task.compose(split, i)[3]
            if question.family == "relation":
                text = question.text.removeprefix("what is ").removesuffix(" ?")
                relation, name = text.split(" the ")
                thing = scene.named(name)[0]
                found += held_out(thing.concept, relation)
        return found

    assert asked("train") == 0
    assert asked("test") > 0


def test_larger_pictures_show_the_same_scene():
    scene = draw_scene(generator(3), (3, 3))
    small, large, huge = (paint(scene, s) for s in (48, 96, 192))
    down = large.reshape(48, 2, 48, 2, 3).astype(float).mean((1, 3))
    assert np.abs(down - small).mean() < 3
    assert (huge[::2, ::2] == large).all()


def test_things_stay_within_their_cells():
    scene = draw_scene(generator(4), (1, 1))
    thing = scene.things[0]
    empty = paint(type(scene)((), scene.background, scene.style))
    changed = np.argwhere((paint(scene) != empty).any(-1))
    assert (changed // 16 == [thing.row, thing.column]).all()


@pytest.mark.parametrize("voice", [*VOICES, SHIFTED_VOICE])
def test_every_voice_has_every_word(voice):
    words = {c.name for c in concepts() if c.spoken} | set(categories()) | set(categories().values())
    assert words <= set(clips(voice))
    assert all(RATE // 20 < len(c) < RATE for c in clips(voice).values())


def test_speech_fits_and_names_a_word_that_was_never_recorded():
    wave = speak("what kind of thing is at the middle center ?", generator(1), 40_000)
    assert wave.dtype == np.float32
    assert len(wave) <= 40_000
    assert np.abs(wave).max() <= 1
    with pytest.raises(ValueError, match="zeppelin"):
        speak("what is a zeppelin", generator(1), 40_000)


def test_utterances_fit_without_being_hurried():
    task = make("mmenv/SpokenDialogue-v0")
    lengths = [len(task.sample("train", i).audio) for i in range(200)]
    assert max(lengths) <= task.max_audio_samples
    assert np.mean(np.array(lengths) == task.max_audio_samples) < 0.05


def test_split_sizes_are_those_of_the_ids():
    assert {split: make("mmenv/VQA-v0").size(split) for split in SPLIT_SIZES} == SPLIT_SIZES


def test_package_data_names_its_licences():
    text = (Path(ASSETS) / "LICENSES.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("Noto", "Twemoji", "CLDR", "flite"))
