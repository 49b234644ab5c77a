"""Folders of one's own: 500 pictures of every mode, broken files, splits, dialogues, and the command that checks."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import soundfile
from datafiles import CAPTIONS, COLOURS, break_files, captioned, coco, picture, vqa
from PIL import Image
from rich.console import Console
from toys import characters

import mmenv
from mmenv.cli import main
from mmenv.data.readers.by_path import check_dataset
from mmenv.data.sample import Response


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return captioned(tmp_path_factory.mktemp("captioned"))


@pytest.fixture(scope="module")
def broken(folder, tmp_path_factory) -> tuple[Path, list[int]]:
    """The same with five broken files, and their lines."""
    copy = tmp_path_factory.mktemp("broken") / "pictures"
    shutil.copytree(folder, copy)
    return copy, break_files(copy)


def checked(path: Path | str) -> tuple[int, str]:
    """What ``check-data`` returns and prints."""
    console = Console(width=400, record=True, quiet=False, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    code = main(["check-data", str(path)], console)
    return code, console.export_text()


def test_five_hundred_pictures_of_any_mode_and_language_are_an_environment_with_nothing_but_the_path(folder):
    env = gym.make_vec("mmenv/Captioning-v0", num_envs=4, dataset=str(folder), reward=characters)
    task = env.unwrapped.task
    sizes = [task.size(split) for split in ("train", "validation", "test", "all")]
    assert sizes[3] == sum(sizes[:3]) == 500
    assert 370 < sizes[0] < 430
    assert min(sizes) > 25
    for i in range(0, 500, 7):
        sample = task.sample("all", i)
        colour = list(COLOURS)[i % 6]
        assert sample.references == (CAPTIONS[colour],)
        assert sample.image.shape == (96, 96, 3)
        if i % 9 not in (3, 4, 5, 6):  # grey and black-and-white have no colour left
            distance = np.abs(sample.image.astype(int) - COLOURS[colour]).max(-1)  # white bars are left out
            assert distance.min() < 12, i
    observations, _ = env.reset(seed=0)
    assert observations["image"].shape == (4, 96, 96, 3)
    _, _, terminated, _, infos = env.step(np.ones(4, np.int64))
    assert terminated.all()
    assert np.isnan(mmenv.finished(infos).gold).all()


def test_a_path_alone_is_judged_by_the_preference_model_which_warns_of_words_it_does_not_know(folder):
    env = gym.make("mmenv/Captioning-v0", dataset=str(folder), split="all")
    env.reset(seed=0, options={"sample_index": 1})
    tokens = env.get_wrapper_attr("tokenizer").encode(CAPTIONS["green"])
    from mmenv.rewards.preference.model import load_preference_model

    load = load_preference_model("strong-captioning")
    sample = env.get_wrapper_attr("task").sample("all", 1)
    with pytest.warns(UserWarning, match=r"words are unknown to the preference model 'strong-captioning'.*cider"):
        load([sample], [Response(env.get_wrapper_attr("tokenizer").decode(tokens))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load([sample], [Response("grünes")])  # once is enough
    assert np.isfinite(env.step(1)[1])


def test_every_caption_survives_its_tokens(folder):
    tokenizer = gym.make("mmenv/Captioning-v0", dataset=folder, reward=characters).get_wrapper_attr("tokenizer")
    for text in CAPTIONS.values():
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id not in ids
        assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_a_dataset_of_known_words_keeps_the_embedded_vocabulary(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "prompt": "what is it ?", "answer": "a dog"}')
    env = gym.make("mmenv/VQA-v0", dataset=tmp_path, reward=characters)
    assert env.action_space.n == gym.make("mmenv/VQA-v0", reward="gold").action_space.n


def test_broken_files_are_refused(broken):
    path, lines = broken
    with pytest.raises(mmenv.DatasetError, match=rf"metadata.jsonl, line {lines[0]}: .*check-data.*\?broken=skip"):
        gym.make("mmenv/Captioning-v0", dataset=str(path), reward=characters)


def test_broken_files_are_named_and_skipped_on_request(broken):
    path, lines = broken
    with pytest.warns(mmenv.DatasetWarning) as caught:
        env = gym.make("mmenv/Captioning-v0", dataset=f"{path}?broken=skip", reward=characters)
    said = str(caught[0].message)
    for line in lines:
        assert f"line {line}: " in said
    task = env.get_wrapper_attr("task")
    assert task.size("all") == 495
    assert len(task.dataset.skipped) == 5
    for i in range(task.size("train")):
        assert task.sample("train", i).index == i


def test_check_data_lists_every_fault_with_its_line_and_fails(broken):
    path, lines = broken
    code, said = checked(path)
    assert code == 1
    for line in lines:
        assert f"metadata.jsonl, line {line}: " in said
    assert "5 faults" in said
    assert said.count("metadata.jsonl, line") == 5


def test_check_data_says_what_a_good_dataset_holds(folder):
    code, said = checked(folder)
    assert code == 0
    for told in ("samples     500", "images      500 files", "references  500", "vocabulary", "no faults"):
        assert told in said


def test_check_data_tells_all_that_is_wrong_with_a_line(tmp_path):
    lines = (
        '{"file_name": "1.png", "prompt": 3, "answer": [""]}',
        "{no",
        '{"image": "2.png", "prompt": "?", "split": "x"}',
    )
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    code, said = checked(tmp_path)
    assert code == 1
    for told in (
        "line 1: file_name '1.png' is no file", "line 1: prompt 3", "line 1: answer ['']", "line 2: invalid JSON",
        "line 3: image '2.png' is no file", "line 3: split 'x'", "6 faults",
    ):  # fmt: skip
        assert told in said


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "prompt": "?"}')
    with pytest.raises(mmenv.DatasetError, match=r"nothing is left.*1\.png"):
        mmenv.read_dataset(tmp_path, broken="skip")


@pytest.mark.parametrize(
    ("option", "expected"), [("?brocken=skip", "no option brocken"), ("?broken=yes", "'yes' is none")]
)
def test_a_misspelt_option_is_refused(folder, option, expected):
    with pytest.raises(mmenv.DatasetError, match=expected):
        mmenv.read_dataset(f"{folder}{option}")


def test_a_path_with_a_question_mark_in_its_name_is_a_path(tmp_path):
    assert len(mmenv.read_dataset(str(captioned(tmp_path / "what?", 2)))) == 2


def rows(folder: Path, *entries: dict) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for i in range(len(entries)):
        picture(folder / str(i), "RGB", COLOURS["red"], (9, 9))
    lines = [json.dumps({"file_name": f"{i}.png", "caption": "red", **e}) for i, e in enumerate(entries)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_a_column_of_splits_is_honoured(tmp_path):
    rows(tmp_path, {"split": "train"}, {"split": "val"}, {"split": "train"})
    env = gym.make("mmenv/Captioning-v0", dataset=tmp_path, split="validation", reward=characters)
    task = env.get_wrapper_attr("task")
    assert (task.size("train"), task.size("validation")) == (2, 1)
    assert (task.sample("train", 1).id, task.sample("train", 1).index) == (f"{tmp_path.name}/3", 1)
    with pytest.raises(mmenv.DatasetError, match="no split 'test', only train, validation"):
        gym.make("mmenv/Captioning-v0", dataset=tmp_path, split="test", reward=characters)


def test_subfolders_are_splits(tmp_path):
    rows(tmp_path / "train", {}, {})
    rows(tmp_path / "test", {"caption": "unseen words"})
    task = gym.make("mmenv/Captioning-v0", dataset=tmp_path, reward=characters).get_wrapper_attr("task")
    assert (task.size("train"), task.size("test")) == (2, 1)
    assert "unseen" not in task.tokenizer.words  # the vocabulary is that of the training split


def test_folders_that_pictures_lie_in_are_splits(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "1.png")
    lines = [json.dumps({"file_name": f"{name}/1.png", "caption": "red"}) for name in ("train", "test")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert mmenv.read_dataset(tmp_path).split("test")[0].id == f"{tmp_path.name}/2"


def dialogue(folder: Path, numbered: bool) -> Path:
    """A dialogue of two turns, in either layout."""
    Image.new("RGB", (9, 9)).save(folder / "1.png")
    for i, hertz in enumerate((300, 600)):
        soundfile.write(folder / f"{i}.wav", 0.3 * np.sin(np.arange(8000) * hertz / 2546), 16_000)
    if numbered:
        entry = {"audio_1": "0.wav", "answer_1": "ein Hund", "audio_2_file_name": "1.wav", "answers_2": ["rot", "red"]}
    else:
        entry = {"turns": [{"audio": "0.wav", "answer": "ein Hund"}, {"audio": "1.wav", "answers": ["rot", "red"]}]}
    (folder / "metadata.jsonl").write_text(json.dumps({"image": "1.png", **entry}))
    return folder


@pytest.mark.parametrize("numbered", [False, True])
def test_the_spoken_task_walks_through_a_dialogue(tmp_path, numbered):
    env = gym.make("mmenv/SpokenDialogue-v0", dataset=dialogue(tmp_path, numbered), reward="exact")
    tokenizer = env.get_wrapper_attr("tokenizer")
    observation, info = env.reset(seed=0)
    first = observation["audio"].copy()
    for token in tokenizer.encode("ein hund"):
        env.step(token)
    observation, reward, terminated, _, info = env.step(1)
    assert (reward, terminated, info["response"]) == (1.0, False, "ein hund")
    assert not np.array_equal(observation["audio"], first)
    prompt = observation["prompt"]
    assert tokenizer.decode(prompt[prompt != 0]) == "ein hund"
    env.step(tokenizer.encode("red")[0])
    _, reward, terminated, _, _ = env.step(1)
    assert (reward, terminated) == (1.0, True)


def test_a_long_reply_never_overflows_the_prompt_of_the_next_turn(tmp_path):
    folder = dialogue(tmp_path, False)
    entry = json.loads((folder / "metadata.jsonl").read_text())
    entry["turns"][0]["answer"] = "赤い車が走っている"
    (folder / "metadata.jsonl").write_text(json.dumps(entry, ensure_ascii=False), encoding="utf-8")
    env = gym.make("mmenv/SpokenDialogue-v0", dataset=folder, reward="exact")
    tokenizer = env.get_wrapper_attr("tokenizer")
    env.reset(seed=0)
    for token in tokenizer.encode("赤い車が走っている"):
        env.step(token)
    prompt = env.step(1)[0]["prompt"]
    assert tokenizer.decode(prompt[prompt != 0]) == "赤い車が走"


def test_a_dialogues_turns_are_checked(tmp_path):
    dialogue(tmp_path, False)
    (tmp_path / "1.wav").write_text("no sound")
    assert "1.wav is no sound" in checked(tmp_path)[1]


def test_long_prompts_and_references_widen_the_observations(tmp_path):
    rows(tmp_path, {"prompt": "word " * 30, "caption": "reply " * 40})
    env = gym.make("mmenv/VQA-v0", dataset=tmp_path, reward=characters)
    assert env.observation_space["prompt"].shape == (30,)
    assert env.observation_space["response"].shape == (41,)


def test_preferences_are_a_dataset_whose_references_are_the_chosen(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    entry = {"prompt": "what ?", "chosen": "a cat", "rejected": "a dog", "images": ["1.png"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(entry))
    assert mmenv.read_dataset(tmp_path)[0].references == ("a cat",)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({**entry, "rejected": 3}))
    with pytest.raises(mmenv.DatasetError, match="line 1: rejected 3 is no text"):
        mmenv.read_dataset(tmp_path)


def test_coco_is_read_from_its_official_layout(tmp_path):
    dataset = mmenv.read_dataset(coco(tmp_path))
    assert len(dataset) == 6
    assert dataset[0].id == "1"
    assert dataset[0].references == tuple(f"A green picture number {k}." for k in range(5))
    assert np.abs(dataset[0].image[24, 24].astype(int) - COLOURS["green"]).max() < 12


def test_coco_names_every_fault(tmp_path):
    path = coco(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][3]["caption"] = ""
    content["annotations"][4]["image_id"] = 999
    path.write_text(json.dumps(content))
    (tmp_path / "val2014" / "COCO_val2014_000000000002.jpg").unlink()
    code, said = checked(path)
    assert code == 1
    for told in ("annotations[3]: caption", "annotations[4]: image_id 999", "images[1]: file_name", "3 faults"):
        assert told in said
    with pytest.warns(mmenv.DatasetWarning):
        assert len(mmenv.read_dataset(f"{path}?broken=skip")) == 5


def test_pictures_elsewhere_are_found_by_an_option(tmp_path):
    path = coco(tmp_path / "a")
    shutil.move(tmp_path / "a" / "val2014", tmp_path / "elsewhere")
    with pytest.raises(mmenv.DatasetError, match=r"\?images=FOLDER"):
        mmenv.read_dataset(path)
    assert len(mmenv.read_dataset(f"{path}?images={tmp_path / 'elsewhere'}")) == 6


@pytest.mark.parametrize("content", [[], {"a": 1}, {"annotations": []}])
def test_other_json_is_told_what_is_read(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(mmenv.DatasetError, match=r"a\.json"):
        mmenv.read_dataset(tmp_path / "a.json")


def test_references_between_entries_that_are_no_names_are_faults(tmp_path):
    path = coco(tmp_path)
    content = json.loads(path.read_text())
    content["images"][0]["id"] = content["annotations"][7]["image_id"] = [1]
    path.write_text(json.dumps(content))
    found = check_dataset(path)[1]
    assert any("images[0]: id [1] is no number" in fault for fault in found)
    assert any("annotations[7]: image_id [1] is none of the images" in fault for fault in found)


@pytest.mark.parametrize("subset", ["../elsewhere", "/etc", "*"])
def test_the_name_of_a_subset_leads_nowhere_else(tmp_path, subset):
    path = vqa(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_subtype": subset}))
    with pytest.raises(mmenv.DatasetError, match="is no name: write one such as train2014"):
        mmenv.read_dataset(path)


def test_a_question_whose_picture_is_no_number_is_a_fault(tmp_path):
    path = vqa(tmp_path)
    content = json.loads(path.read_text())
    content["questions"][1] |= {"image_id": {}, "question_id": []}
    path.write_text(json.dumps(content))
    found = check_dataset(path)[1]
    assert any("questions[1]: image_id {} has no picture" in fault for fault in found)
    assert any("questions[1]: question_id [] has no answers" in fault for fault in found)


def test_photographs_that_are_made_tiny_are_warned_of_unless_a_size_was_chosen(tmp_path):
    picture(tmp_path / "1", "RGB", COLOURS["red"], (1280, 960))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "caption": "red"}')
    with pytest.warns(mmenv.DatasetWarning, match=r"1280 x 960 pixels are fitted into 96 x 96.*image_size="):
        mmenv.read_dataset(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", mmenv.DatasetWarning)
        mmenv.read_dataset(tmp_path, 224)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"file_name": "1.png", "caption": "a"}, "mmenv/Captioning-v0, mmenv/VQA-v0"),
        (
            {"image": "1.png", "audio": "0.wav"},
            "mmenv/Captioning-v0, mmenv/Guess-v0, mmenv/SpokenDialogue-v0, mmenv/VQA-v0",
        ),
        ({"audio": "0.wav", "answer": "a"}, "none can play it: a sample needs a picture"),
        ({"prompt": "?", "chosen": "a", "rejected": "b"}, "none can play it: a sample needs a picture"),
    ],
)
def test_check_data_says_which_ids_can_play_the_data_and_how_it_is_divided(tmp_path, entry, expected):
    dialogue(tmp_path, False)
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps({**entry, "id": str(i)}) for i in range(9)))
    code, said = checked(tmp_path)
    assert code == 0
    ids = next(line for line in said.splitlines() if line.startswith("ids "))[4:].strip()
    shipped = ", ".join(name for name in ids.split(", ") if name.startswith("mmenv/"))  # tests register others
    assert (shipped or ids).startswith(expected)
    assert "samples     9 (by a hash of their ids train 6, validation 1, test 2)" in said


def test_no_reply_makes_the_next_prompt_too_long():
    tokenizer = mmenv.learn_tokenizer(["赤 い 車 you said .", *mmenv.WordTokenizer(["dog"]).words])
    env = gym.make("mmenv/SpokenDialogue-v0", tokenizer=tokenizer, reward=characters, max_response_tokens=24)
    red = tokenizer.encode("赤")[0]
    for index in range(8):  # dialogues of two to four turns
        env.reset(options={"sample_index": index})
        terminated = False
        while not terminated:
            observation, _, terminated, _, _ = env.step(red)
        assert env.observation_space.contains(observation)


def test_a_folder_that_does_not_exist_is_named_as_such(tmp_path):
    with pytest.raises(mmenv.DatasetError, match=r"pictures' does not exist: check the path"):
        mmenv.read_dataset(tmp_path / "pictures")
