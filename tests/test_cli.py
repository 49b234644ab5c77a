"""python -m mmenv: the ids, pages about them, playing them, and checking them."""

from __future__ import annotations

import dataclasses
import functools
import io
import re
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import tyro
from PIL import Image
from rich.console import Console
from strange_ids import ENV_ID
from toys import Colours, characters

import mmenv
from mmenv.cards import arguments, described, write_card
from mmenv.cli import OPTIONS, main
from mmenv.commands import COMMANDS
from mmenv.envs.checker import ConformanceError, checks_of
from mmenv.playing import half_blocks, unknown_words
from mmenv.registration import TABLE, VECTOR_ARGUMENTS, task_of
from mmenv.rewards.base import reward_name
from mmenv.tokenizer import WordTokenizer


def run(monkeypatch, *words, typed=""):
    """Exit code and output of a command, with some lines typed in."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    console = Console(file=io.StringIO(), width=200)
    code = main(list(words), console)
    return code, console.file.getvalue()


class Boastful(Colours):
    """Says more than the truth: its gold leaves [0, 1]."""

    def gold(self, sample, response):
        return 2.0


mmenv.register("toy/Boastful-v0", Boastful, reward=characters)


def test_the_list_names_every_id_in_a_process_of_its_own():
    said = subprocess.run([sys.executable, "-m", "mmenv", "list"], capture_output=True, text=True, check=True).stdout
    for env_id in TABLE:
        assert env_id in said
    assert "1,000,000" in said
    assert max(map(len, said.splitlines())) < 80


@pytest.mark.parametrize(("word", "meant"), [("dance", ""), ("plai", "did you mean 'play'?")])
def test_a_wrong_command_is_refused_with_the_right_ones(word, meant):
    result = subprocess.run([sys.executable, "-m", "mmenv", word], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert meant in result.stderr
    for name in COMMANDS:
        assert name in result.stderr.splitlines()[-1]


def test_the_list_of_commands_needs_neither_torch_nor_a_server():
    code = "import sys, mmenv.cli; assert not {'torch', 'uvicorn', 'fastapi', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_option_out_of_range_is_one_sentence_and_a_misspelt_one_is_answered_with_the_nearest(capsys):
    assert main(["align", "--out", "x", "--width", "30"]) == 1
    assert capsys.readouterr().err == "error: heads=4 does not divide width=30: take a number that does\n"
    with pytest.raises(SystemExit, match="2"):
        main(["play", "toy/Colours-v0", "--rewrd", "gold"])
    assert "--reward" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option_of_a_command(name):
    with pytest.warns(DeprecationWarning, match="get_parser"):
        command = tyro.extras.get_parser(COMMANDS[name], config=OPTIONS)
    for option in command._actions:
        assert option.help, f"{name} {option.option_strings or option.dest}"


def test_a_default_is_told_where_there_is_one(capsys):
    with pytest.raises(SystemExit):
        main(["train-reward", "--help"])
    said = " ".join(re.sub("[│|]", " ", capsys.readouterr().out).split())  # without the borders of lines
    assert "order of the comparisons, of new heads, and of the members of an ensemble. (default: 0)" in said
    assert "(default: None)" not in said


def test_a_card_shows_the_docstring_the_spaces_and_real_episodes(tmp_path, monkeypatch):
    page = tmp_path / "cards" / "colours.md"
    code, said = run(monkeypatch, "card", "toy/Colours-v0", "--out", str(page), "--episodes", "2")
    text = page.read_text(encoding="utf-8")
    assert code == 0
    assert "2 pictures" in said
    assert Colours.__doc__ in text
    for key, space in gym.make("toy/Colours-v0").observation_space.items():
        assert f"| `{key}` | `{space}` |" in text
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(pictures) == 2
    first, second = (np.asarray(Image.open(page.parent / name)) for name in pictures)
    assert first.shape[2] == 3
    assert (first != second).any()


def test_a_card_shows_the_defaults_that_an_id_has_of_its_own(tmp_path):
    write_card("mmenv/VQAShifted-v0", tmp_path / "shifted.md", episodes=0)
    text = (tmp_path / "shifted.md").read_text(encoding="utf-8")
    assert "| `split` | `'test'` |" in text
    assert "A `shift` above 0 changes how pictures look and how the user sounds" in " ".join(text.split())
    write_card("toy/Colours-v0", tmp_path / "colours.md", episodes=0)
    assert "| `reward` | `'gold'` |" in (tmp_path / "colours.md").read_text(encoding="utf-8")


def test_a_card_of_a_dialogue_has_a_picture_of_each_reply(tmp_path, monkeypatch):
    page = tmp_path / "talk.md"
    run(monkeypatch, "card", "toy/Talk-v0", "--out", str(page), "--episodes", "2")
    names = [p.name for p in sorted(tmp_path.glob("*.png"))]
    assert names == ["talk-0-0.png", "talk-0-1.png", "talk-1-0.png", "talk-1-1.png", "talk-1-2.png"]


def test_a_card_describes_every_argument(tmp_path):
    rows = list(arguments())
    assert {name for name, _, _ in rows} == set(VECTOR_ARGUMENTS)
    assert all(meaning for _, _, meaning in rows)


def test_arguments_are_read_off_a_docstring():
    doc = "Does.\n\nArgs:\n    a: first,\n        goes on.\n    b: ``second``.\n\nRaises:\n    c: no argument."
    assert described(doc) == {"a": "first, goes on.", "b": "`second`."}


def test_a_right_answer_is_paid(tmp_path, monkeypatch):
    words = ("play", "toy/Colours-v0", "--index", "1", "--media", str(tmp_path))
    code, said = run(monkeypatch, *words, typed="green\n")
    assert code == 0
    assert "prompt: what colour is it ?" in said
    assert "reward +1.00, gold 1.00" in said
    assert "right would be: green" in said
    small = Colours().sample("test", 1).image
    shown = np.asarray(Image.open(tmp_path / "colours-1.png"))
    assert shown.shape == (384, 384, 3)  # enough to see, and every pixel as it is
    assert (shown[::48, ::48] == small).all()
    assert (shown[47::48, 47::48] == small).all()


def test_words_outside_the_vocabulary_are_named_and_asked_for_again(tmp_path, monkeypatch):
    words = ("play", "toy/Colours-v0", "--index", "1", "--media", str(tmp_path))
    _, said = run(monkeypatch, *words, typed="mauve green teal\nred green\n")
    assert "not in the vocabulary: mauve, teal" in said
    assert "gold 0.50" in said


def test_an_answer_longer_than_the_budget_ends_by_budget(tmp_path, monkeypatch):
    words = ("play", "toy/Colours-v0", "--index", "0", "--media", str(tmp_path))
    _, said = run(monkeypatch, *words, typed="red red red red red red\n")
    assert "your answer: red red red red, ended by budget" in said


def test_a_dialogue_is_played_reply_by_reply_with_its_sounds(tmp_path, monkeypatch):
    words = ("play", "toy/Talk-v0", "--index", "0", "--media", str(tmp_path))
    code, said = run(monkeypatch, *words, typed="red\n\n")
    assert code == 0
    assert said.count("reward") == 2
    assert said.count("the user says: what colour is it ?\n") == 2
    assert "your answer> red\nyour answer: red" in said
    assert "prompt: you said red" in said
    assert "(silence)" in said
    assert len(list(tmp_path.glob("*.wav"))) == 2


def test_the_end_of_the_input_ends_the_game(tmp_path, monkeypatch):
    code, said = run(monkeypatch, "play", "toy/Talk-v0", "--media", str(tmp_path))
    assert code == 0
    assert said.endswith("your answer> \nbye\n")


def test_what_a_spoken_dialogue_asks_can_be_read(tmp_path, monkeypatch):
    sample = task_of("mmenv/SpokenDialogue-v0")().sample("test", 3)
    arguments = ("--reward", "gold", "--index", "3", "--media", str(tmp_path))
    _, said = run(monkeypatch, "play", "mmenv/SpokenDialogue-v0", *arguments)
    assert f"the user says: {sample.said}" in said
    assert "(spoken)" not in said


def test_unknown_words_are_those_that_tokens_do_not_give_back():
    assert unknown_words("Dog, barks cat", WordTokenizer(["dog", "cat", ","])) == ["barks"]


def test_a_picture_becomes_half_blocks_of_its_colours():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = (255, 0, 0)
    text = half_blocks(image, width=2)
    assert text.plain == "▀▀\n"
    assert text.spans[0].style.color.triplet == (255, 0, 0)
    assert text.spans[0].style.bgcolor.triplet == (0, 0, 0)


def test_the_check_of_a_good_environment_passes(monkeypatch):
    code, said = run(monkeypatch, "check", "toy/Colours-v0")
    assert code == 0
    assert "keeps the contract" in said
    assert "fail" not in said
    assert "vector_lane_is_the_scalar_env" in said


def test_the_check_goes_on_after_a_failure_and_names_it(monkeypatch):
    code, said = run(monkeypatch, "check", "toy/Boastful-v0")
    assert code == 1
    assert "gold 2.0; keep it in [0, 1]" in said
    assert re.search(r"ok\s+strangers_and_padding_are_refused", said)
    assert "1 of the checks failed" in said


@pytest.mark.parametrize("words", [("play", "CartPole-v1"), ("card", "CartPole-v1", "--out", "card.md")])
def test_an_id_that_is_none_of_mmenv_is_refused_in_a_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: CartPole-v1 is not an environment of mmenv")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_failed_check_is_named_once(monkeypatch):
    code, said = run(monkeypatch, "check", "CartPole-v1")
    assert code == 1
    assert said.count("public_attributes") == 1
    assert said.count("the other checks need") == 1


def test_an_id_of_another_package_works_in_every_command_that_takes_one(tmp_path, monkeypatch):
    page = tmp_path / "tints.md"
    assert run(monkeypatch, "check", ENV_ID)[0] == 0
    assert run(monkeypatch, "card", ENV_ID, "--out", str(page), "--episodes", "1")[0] == 0
    assert f'gym.make("{ENV_ID}")' in page.read_text(encoding="utf-8")
    code, said = run(monkeypatch, "play", ENV_ID, "--index", "0", "--media", str(tmp_path), typed="red\n")
    assert code == 0
    assert "gold 1.00" in said


def test_the_list_shows_ids_of_a_package_that_is_named(monkeypatch):
    code, said = run(monkeypatch, "list", "strange_ids")
    assert code == 0
    assert re.search(r"strange/Tints-v0\s+image\s+14\s+4\s+300\s+300\s+300", said)
    assert run(monkeypatch, "list", "nowhere_at_all")[0] == 1


def test_a_reward_server_of_an_id_of_another_package_scores_for_its_task(monkeypatch):
    served = []
    monkeypatch.setattr(
        "mmenv.rewards.remote.server.serve", lambda console, reward, serving: served.append(reward) or 0
    )
    code, _ = run(monkeypatch, "serve-reward", "--env-id", ENV_ID, "--reward", "exact")
    assert code == 0
    assert reward_name(served[0]) == "exact"


@pytest.mark.parametrize(
    "words",
    [
        ("card", "mmenv/VQA", "--out", "vqa.md"),
        ("play", "mmenv/VQA"),
        ("check", "mmenv/VQA"),
        ("serve-reward", "--reward", "preference", "--env-id", "mmenv/VQA"),
    ],
)
def test_every_command_says_which_id_was_meant_once_and_without_a_warning(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(monkeypatch, *words)[0] == 1
    assert capsys.readouterr().err == (
        "error: no environment 'mmenv/VQA': did you mean mmenv/VQA-v0? `python -m mmenv list` shows all; an id of your "
        "own is package:namespace/Name-v0, and its package is imported\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("check", "mmenv/Nothing-v0"),
        ("check", "nopackage:mmenv/VQA-v0"),
        ("play", "toy/Colours-v0", "--reward", "nonsense"),
        ("play", "toy/Colours-v0", "--index", "1000"),
        ("play", "toy/Colours-v0", "--dataset", "/nowhere"),
        ("card", "toy/Colours-v0", "--out", "."),
        ("card", "toy/Colours-v0", "--out", "card.md", "--episodes", "-1"),
    ],
)
def test_a_wrong_argument_is_one_line_and_no_traceback(monkeypatch, capsys, words):
    code, _ = run(monkeypatch, *words)
    assert code == 1
    assert capsys.readouterr().err.startswith("error: ")


MARKUP = "[/z] :dog: [bold]red[/bold]"


class Marked(Colours):
    """Pictures whose texts look like markup of a terminal."""

    def sample(self, split, index):
        plain = super().sample(split, index)
        return dataclasses.replace(plain, id=f"marked[/b]/{index}", references=(MARKUP, *plain.references))

    def default_tokenizer(self):
        return WordTokenizer(["what", "colour", "is", "it", "?", "[", "/", "z", "]", "red"])


mmenv.register("toy/Marked-v0", Marked, reward="gold")


@pytest.mark.parametrize("own", [True, False])
def test_what_looks_like_markup_is_shown_as_it_is(own, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mark[/up]x [b]"
    monkeypatch.setenv("COLUMNS", "300")
    console = None if own else Console(file=io.StringIO(), width=300)

    def said(*words, typed=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert main([*words], console) == 0
        return capsys.readouterr().out if own else console.file.getvalue()

    text = said("play", "toy/Marked-v0", "--index", "0", "--media", str(folder), typed=f"{MARKUP} mauve\n[red]\n")
    assert f"picture: {folder}" in text
    assert "not in the vocabulary: :dog:, [bold]red[/bold], mauve" in text
    assert "your answer: [ red ]" in text
    assert f"right would be: {MARKUP} | red" in text
    assert f"{folder / 'page.md'} and 2 pictures" in said(
        "card", "toy/Marked-v0", "--out", str(folder / "page.md"), "--episodes", "1"
    )


def test_a_failed_check_shows_what_it_found_though_it_looks_like_markup(monkeypatch):
    mmenv.register("toy/Odd-v0", functools.partial(Boastful), reward=characters)
    monkeypatch.setattr("mmenv.commands.run_check", lambda check, env: (_ for _ in ()).throw(ConformanceError(MARKUP)))
    assert MARKUP in run(monkeypatch, "check", "toy/Odd-v0")[1]


def test_claims_of_checks_have_no_backticks_and_are_not_cut_into_lines(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["check", "toy/Colours-v0"]) == 0
    said = capsys.readouterr().out
    assert "`" not in said
    assert len(said.splitlines()) == len(checks_of(gym.make("toy/Colours-v0"))) + 1
