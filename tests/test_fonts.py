"""Text of any language is drawn with a typeface that has it, or a warning names the package to install."""

from __future__ import annotations

import dataclasses
import unicodedata
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont
from toys import colour

from agents.training import figures
from mmenv.envs import fonts
from mmenv.envs.fonts import cells, drawable, fallback, has, runs, wrapped
from mmenv.envs.rendering import render_frame
from mmenv.envs.view import EpisodeView

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
TEXTS = {
    "Greek": "Μια μπλε εικόνα.",
    "Arabic": "صورة سوداء",
    "Hebrew": "תמונה שחורה",
    "Hindi": "एक लाल चित्र",
    "Thai": "รูปสีแดง",
    "Japanese": "赤い丸です。",
    "emoji": "🟡 👨\u200d👩\u200d👧 ❤\ufe0f",
    "marks": "Zu\u0364\u0301\u0301\u0301 e\u0301",
    "control": "a\0b\x07\ud800\udfff\u202eabc",
    "dollars": "$x_1^{ \\frac $5 \\$",
    "endless": "x" * 500,
}


@pytest.fixture
def machine(monkeypatch):
    """A machine whose typefaces are those that a test gives."""

    def only(*paths: Path) -> None:
        for cached in (fonts.files, fallback):
            cached.cache_clear()
        monkeypatch.setattr(fonts, "_candidates", {})
        monkeypatch.setattr(fonts, "_recommended", set())
        monkeypatch.setattr(fonts, "folders", lambda: list(paths))

    yield only
    fonts.files.cache_clear()
    fallback.cache_clear()


def view(text: str) -> EpisodeView:
    sample = dataclasses.replace(colour(0), prompt=text, said=text)
    return EpisodeView(sample, text, text, tokens_used=1, budget=4)


def test_a_typeface_has_what_it_draws_and_nothing_else():
    assert has(DEJAVU, "ж")
    assert not has(DEJAVU, "赤")
    assert has(None, "a")
    assert not has(None, "ж")
    assert has(None, " ")


def test_what_pillow_lacks_is_drawn_with_a_typeface_of_the_machine(machine):
    machine(DEJAVU.parent)
    assert fallback("ж").name.startswith("DejaVuSans")
    parts = [(part, font.getname()[0]) for part, font in runs("a жук", 17)]
    assert parts[0][0] == "a "
    assert parts[1] == ("жук", "DejaVu Sans")


def test_letters_of_another_alphabet_are_told_apart_in_a_frame(machine):
    machine(DEJAVU.parent)
    assert (render_frame(view("жук")) != render_frame(view("лес"))).any()
    machine(Path("/nowhere"))  # where nothing has them all are the same box
    with pytest.warns(fonts.FontWarning):
        assert (render_frame(view("жук")) == render_frame(view("лес"))).all()


def test_a_typeface_of_boxes_for_every_script_is_none(machine):
    assert (DEJAVU.parent / "LastResortHE-Regular.ttf").is_file()
    machine(DEJAVU.parent)
    with pytest.warns(fonts.FontWarning, match="fonts-noto-cjk"):
        assert fallback("赤") is None


@pytest.mark.parametrize(
    ("character", "package"),
    [("赤", "fonts-noto-cjk"), ("한", "fonts-noto-cjk"), ("の", "fonts-noto-cjk"), ("च", "fonts-noto-core"),
     ("🟡", "fonts-symbola")],
)  # fmt: skip
def test_where_no_typeface_has_a_character_one_warning_names_the_package(machine, character, package):
    machine(Path("/nowhere"))
    with pytest.warns(fonts.FontWarning, match=f"apt install {package}"):
        assert [fallback(c) for c in character if unicodedata.category(c)[0] != "M"] == [None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fallback.cache_clear()
        assert fallback(character[-1]) is None


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_is_drawn_in_frames_and_pictures_of_samples(name, tmp_path):
    text = TEXTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fonts.FontWarning)
        assert render_frame(view(text)).shape[1] == 720
        row = {"response": text, "gold": 0.5, "reward": 0.1}
        figures.samples([(view(text).sample, row, row)], tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_matplotlib_is_given_the_typefaces_that_it_lacks(machine, tmp_path):
    ours = tmp_path / "Ours.ttf"
    ours.write_bytes(DEJAVU.with_name("STIXGeneral.ttf").read_bytes())
    machine(tmp_path)
    odd = next(chr(c) for c in range(0x1D400, 0x1D7FF) if has(ours, chr(c)) and not has(DEJAVU, chr(c)))
    assert figures._families("a" + odd) == ["DejaVu Sans", ImageFont.truetype(str(ours)).getname()[0]]
    assert figures._families("a") == ["DejaVu Sans"]


def test_lines_break_at_spaces_and_between_characters_of_east_asia():
    assert wrapped("one two three", 7, 3) == ["one two", "three"]
    assert wrapped("赤い丸です", 6, 3) == ["赤い丸", "です"]
    assert wrapped("x" * 10, 4, 3) == ["xxxx", "xxxx", "xx"]
    assert wrapped("a b c d e f", 3, 2) == ["a b", "c …"]
    assert wrapped("", 5, 2) == []
    for text in TEXTS.values():
        assert all(cells(line) <= 12 for line in wrapped(text, 12, 3))


def test_what_cannot_be_drawn_is_left_out():
    assert drawable("a\0b\ud800\n") == "a b\ufffd "


def test_a_bar_of_reward_begins_at_nothing():
    frames = [render_frame(dataclasses.replace(view("a"), stop="eos", reward=r)) for r in (-1.0, 0.0, 1.0)]
    blue = [(frame == (0, 114, 178)).all(-1) for frame in frames]
    bars = [np.flatnonzero(mask[mask.sum(1) > 30].any(0)) for mask in blue]  # letters are narrower
    assert bars[1].size == 0
    assert bars[0].max() <= bars[2].min()
