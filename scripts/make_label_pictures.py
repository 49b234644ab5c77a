"""Pictures of the labelling pages for docs/feedback.md, taken in a real browser.

python -m scripts.make_label_pictures [FOLDER]

Needs ``pip install -c constraints.txt -e ".[labelling]" playwright`` and Debian's chromium.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import soundfile
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from mmenv.data.media import RATE
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import read_comparisons, write_comparisons
from mmenv.feedback.pages.command import serving
from mmenv.feedback.pages.config import LabelConfig
from mmenv.feedback.pages.presentation import shown_order
from mmenv.feedback.pages.secret_files import session_key_of, token_of
from mmenv.feedback.pages.sessions import Sessions
from mmenv.feedback.store import FeedbackStore
from mmenv.serving.guard import Access
from mmenv.tasks.base import Task
from mmenv.tasks.captioning import Captioning
from mmenv.tasks.spoken_dialogue import SpokenDialogue
from mmenv.worlds.speech import speak, speakable

PICTURES = Path(__file__).parent.parent / "docs" / "img"
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

# What is taken of each mode: desktops and phones, by day and by night.
MODES = (
    ("compare", SpokenDialogue, 2, (("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark"))),
    ("rank", Captioning, 4, (("desktop", "dark"), ("phone", "light"))),
    ("score", Captioning, 3, (("desktop", "light"), ("phone", "dark"))),
)


def write_pairs(folder: Path, task: Task, n: int, responses: int) -> Path:
    """Comparisons of the scene world with their media: right answers and others', spoken where the user speaks."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = random.Random(0), []
    policies = ["start", "trained", "weak", "random"][:responses]
    for index in range(n):
        sample, other = task.sample("test", index), index
        said = {sample.references[0]}
        while len(said) < responses:
            other += 1
            said.add(task.sample("test", other).references[0])
        given = sorted(said)
        provenance: dict[str, Any] = {"policies": policies}
        assert sample.image is not None
        Image.fromarray(sample.image).save(folder / f"{index}.png")
        if sample.audio is not None:
            soundfile.write(folder / f"{index}.flac", sample.audio, RATE)
            provenance["spoken"] = [f"{index}-{i}.wav" if speakable(t) else None for i, t in enumerate(given)]
            for name, text in zip(provenance["spoken"], given, strict=True):
                if name is not None:
                    soundfile.write(folder / name, speak(text, "slt", rng, 40_000), RATE)
        audio = None if sample.audio is None else f"{index}.flac"
        rows.append(
            Comparison(sample.id, sample.prompt, tuple(given), image=f"{index}.png", audio=audio, provenance=provenance)
        )
    write_comparisons(folder / "pairs.jsonl", rows)
    return folder / "pairs.jsonl"


@contextmanager
def sixty(folder: Path, task: Task, mode: str, responses: int) -> Iterator[tuple[str, FeedbackStore]]:
    """Pages about sixty items."""
    pairs = write_pairs(folder, task, 60, responses)
    with FeedbackStore(folder / "feedback.db") as store:
        store.add(read_comparisons(pairs).comparisons, folder)
        with serving(store, LabelConfig(mode, overlap=3, repeats=0)) as url:
            yield url, store


def owners(url: str, store: FeedbackStore) -> str:
    """The address that signs in whoever asks the questions, who may see results at any time."""
    sessions = Sessions(Access("127.0.0.1", token_of(store.url)[0]), urlsplit(url).port or 0, session_key_of(store.url))
    return urljoin(url, f"/login#{sessions.owner_token}")


def people(store: FeedbackStore) -> None:
    """Three synthetic people who judge 24 items each and now and then disagree."""
    rng = np.random.default_rng(1)
    for name in ("Ada", "Grace", "Mary"):
        for k in range(24):
            item = store.next(name, 3, 0.25 if k > 12 else 0)
            if item is None:
                break
            n, order = len(item.comparison.responses), shown_order(name, item)
            best = item.id % n if rng.random() < 0.8 else int(rng.integers(n))
            key, seconds = f"{name}-{k}-example", float(rng.gamma(6, 0.7))
            if k == 9:
                store.record(item.id, name, key, skipped=True)
            elif rng.random() < 0.1:
                store.record(item.id, name, key, choice="tie", order=order, seconds=seconds)
            else:
                store.record(item.id, name, key, choice=best, order=order, seconds=seconds)


def introduce(page: Page, url: str, name: str) -> None:
    """Give a name, and wait for the first item."""
    page.goto(url)  # signs in
    page.wait_for_selector("#name")
    page.fill("#name", name)
    page.press("#name", "Enter")
    page.wait_for_selector("#stage[aria-busy=false] .item")
    page.wait_for_timeout(500)


def answer(page: Page, mode: str) -> None:
    """Judge the item on the screen, as somebody who takes a second for it."""
    before = page.get_attribute(".item", "data-item")
    page.wait_for_timeout(800)
    keys = {"compare": "1", "rank": "213", "score": "435"}[mode]
    for key in keys:
        page.keyboard.press(key)
    if mode != "compare":
        page.keyboard.press("Enter")
    page.wait_for_function("b => document.querySelector('.item')?.dataset.item !== b", arg=before)
    page.wait_for_timeout(300)


def take(browser: Browser, url: str, mode: str, shots: tuple[tuple[str, str], ...], folder: Path) -> None:
    """Pictures of one mode, a few items after the start."""
    for width, scheme in shots:
        page = new_page(browser, width, scheme)
        introduce(page, url, "Lise")
        for _ in range(3):
            answer(page, mode)
        for key in {"compare": "", "rank": "23", "score": "4"}[mode]:
            page.keyboard.press(key)
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"label-{mode}-{width}-{scheme}.png")
        page.close()


def new_page(browser: Browser, width: str, scheme: str) -> Page:
    """A desktop or a phone, by day or by night."""
    size = {"desktop": DESKTOP, "phone": PHONE}[width]
    return browser.new_page(viewport=size, color_scheme=scheme, has_touch=width == "phone")


def others(browser: Browser, url: str, owner: str, folder: Path) -> None:
    """Welcome, results, and a server that is away."""
    for name, width, scheme in (
        ("welcome", "desktop", "light"), ("results", "desktop", "light"), ("results", "phone", "dark")
    ):  # fmt: skip
        page = new_page(browser, width, scheme)
        page.goto(owner if name == "results" else url)  # signs in, and goes on to the results or to the welcome
        page.wait_for_url(lambda address: "/login" not in address)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / f"label-{name}-{width}-{scheme}.png", full_page=True)
        page.close()
    page = new_page(browser, "desktop", "light")
    introduce(page, url, "Lise")
    page.wait_for_selector("#stage[data-queue='4']")
    page.context.set_offline(True)
    page.keyboard.press("1")
    page.wait_for_timeout(1200)
    page.screenshot(path=folder / "label-away-desktop-light.png")
    page.context.set_offline(False)
    page.close()


def main(folder: Path) -> None:
    """Take all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM))
        for mode, task, responses, shots in MODES:
            with sixty(work / mode, task(), mode, responses) as (url, store):
                if mode == "compare":
                    people(store)
                    others(browser, url, owners(url, store), folder)
                take(browser, url, mode, shots, folder)
        browser.close()
    shutil.rmtree(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PICTURES)
