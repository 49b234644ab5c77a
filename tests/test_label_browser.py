"""The labelling pages in a real browser: keys, clicks, drags, reloads, a server that is away, and hostile text."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from label_pages import BROWSER_HINT, CHROMIUM, LabelServer, QuickServer, chromium, wait_until, write_pairs, write_tone
from postgres import skip_or_fail

from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import read_comparisons, write_comparisons
from mmenv.feedback.store import FeedbackStore

TOKEN = "a-token-of-the-tests-0123456789"
HOSTILE = (
    "<script>window.taken = 1; alert(1)</script>",
    "<img src=x onerror='window.taken=1;alert(1)'>",
    "<svg onload=alert(1)>",
    "\"><iframe src='javascript:parent.alert(1)'></iframe>",
    "javascript:alert(1)",
    "{{ 7 * 7 }} {% raw %} ${alert(1)} #{1}",
    "</template></textarea></style></script><script>alert(1)</script>",
    "<a href='javascript:alert(1)' onmouseover=alert(1)>&lt;b&gt;</a>",
    "<style>*{display:none}</style><meta http-equiv=refresh content='0;url=//evil.example'>",
    "<form action=//evil.example><button>send</button></form><base href=//evil.example>",
    "\u202egnippilf\u202c \U0001f600 \u05e9\u05dc\u05d5\u05dd",
    "' OR 1=1; DROP TABLE feedback_items; --",
    "<!-- <![CDATA[ ]]> --> \\u003cscript\\u003e \\x3cscript\\x3e",
    "<math><mtext></p><img src onerror=alert(1)></math>",
)


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    if path is None:
        skip_or_fail(BROWSER_HINT)
    sync_api = pytest.importorskip("playwright.sync_api", reason=BROWSER_HINT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM))
        yield browser
        browser.close()


class Person:
    """Somebody at a browser of their own, who notes what they said."""

    def __init__(self, browser, server, name="ada", **context):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.context.set_default_timeout(60_000)
        self.server, self.name, self.said, self.problems = server, name, [], []
        self.open()

    def open(self):
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.goto(self.server.printed)
        self.page.wait_for_selector("#name")
        self.page.fill("#name", self.name)
        self.page.press("#name", "Enter")
        self.ready()

    def ready(self, other_than=None):
        self.page.wait_for_function(
            "before => { const ready = document.querySelector('#stage[aria-busy=false]:not(.leaving)'); return ready"
            " && (ready.querySelector('.end') || (ready.querySelector('.item')?.dataset.item ?? before) !== before) }",
            arg=other_than,
        )

    def stocked(self):
        """Until the items ahead are here."""
        self.page.wait_for_selector("#stage[data-queue='4']")

    @property
    def item(self):
        return self.page.get_attribute(".item", "data-item")

    @property
    def texts(self):
        return self.page.locator(".response .text").all_text_contents()

    @property
    def waiting(self):
        script = "Object.keys(localStorage).filter(name => name.startsWith('mmenv/outbox/')).length"
        return self.page.evaluate(script)

    def act(self, do, said):
        """Do something that answers the item on the screen, and wait for the next one."""
        before = self.item
        self.said.append((before, said))
        do()
        self.ready(before)

    def choose(self, place, by_click=False):
        text = self.texts[place]
        if by_click:
            self.act(lambda: self.page.locator(".face").nth(place).click(), text)
        else:
            self.act(lambda: self.page.keyboard.press(str(place + 1)), text)

    def tie(self):
        self.act(lambda: self.page.keyboard.press("t"), "tie")

    def skip(self):
        self.act(lambda: self.page.keyboard.press("s"), None)

    def undo(self):
        before, _ = self.said.pop()
        self.page.keyboard.press("u")
        self.page.wait_for_function("id => document.querySelector('.item')?.dataset.item === id", arg=before)

    def stored(self):
        """Items, and what the store says of them for this person, in the words that were chosen."""
        with FeedbackStore(self.server.database) as store:
            numbers = {item.comparison.sample_id: str(item.id) for item in store.items()}
            judged = store.judgements(self.name)
        return [(numbers[j.sample_id], "tie" if j.choice == "tie" else j.responses[j.choice]) for j in judged]

    @property
    def expected(self):
        return [(item, said) for item, said in self.said if said is not None]

    def sent(self):
        wait_until(lambda: self.waiting == 0)
        assert sorted(self.stored()) == sorted(self.expected)
        assert not self.problems

    def close(self):
        self.context.close()


@pytest.fixture
def person(browser):
    """Makes people, and sends them away in the end."""
    made = []

    def make(*arguments, **more):
        made.append(Person(browser, *arguments, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def server(tmp_path):
    with QuickServer(write_pairs(tmp_path, 34, 3), "--repeats", "0") as server:
        yield server


def test_thirty_items_with_keys_clicks_ties_skips_undoes_reloads_and_a_time_without_the_network(person, server):
    ada = person(server)
    for k in range(10):
        ada.choose(k % 3, by_click=k % 2 == 1)
    ada.tie()
    ada.skip()
    ada.choose(0)
    ada.undo()
    ada.choose(2)
    ada.undo()
    ada.undo()  # the skip
    ada.choose(1, by_click=True)
    before = ada.item
    ada.page.reload()
    ada.ready()
    assert ada.item == before
    for k in range(6):
        ada.choose((k + 1) % 3)
    ada.sent()
    ada.stocked()
    ada.context.set_offline(True)
    ada.choose(0)
    ada.choose(1, by_click=True)
    assert ada.waiting == 2
    assert "2 answers are kept in this browser" in ada.page.text_content("#notice")
    ada.context.set_offline(False)
    ada.page.wait_for_function("() => document.querySelector('#notice').textContent.includes('has all your answers')")
    ada.sent()
    while len(ada.said) < 34:
        ada.choose(len(ada.said) % 3, by_click=len(ada.said) % 2 == 0)
    ada.sent()
    assert "All done" in ada.page.text_content(".end")
    assert ada.page.text_content("#count") == "34 of 34"
    ada.undo()
    ada.choose(2)
    ada.sent()


def test_answers_of_a_closed_page_reach_a_server_that_was_killed_and_came_back(person, server):
    ada = person(server)
    ada.choose(0)
    ada.sent()
    ada.stocked()
    server.kill()
    ada.choose(1)
    ada.choose(2)
    ada.page.wait_for_selector("#notice:not([hidden])")
    assert "The server does not answer" in ada.page.text_content("#notice")
    ada.page.close()
    server.start()
    ada.open()
    ada.sent()
    ada.choose(0)
    ada.sent()


def test_an_answer_given_without_the_network_is_taken_back_without_it(person, server):
    ada = person(server)
    ada.stocked()
    ada.context.set_offline(True)
    ada.choose(0)
    ada.choose(1)
    ada.undo()
    ada.choose(2)
    ada.context.set_offline(False)
    ada.sent()


def test_the_next_item_is_there_before_the_answer(person, server):
    ada = person(server)
    ada.stocked()
    ada.context.set_offline(True)
    ada.choose(0)
    assert ada.page.evaluate("document.querySelector('.picture img').naturalWidth") == 48
    ada.context.set_offline(False)
    ada.sent()


def test_two_people_at_once_get_different_items_and_each_goes_on_where_they_were(person, tmp_path):
    with QuickServer(write_pairs(tmp_path, 12), "--repeats", "0") as server:
        ada, grace = person(server, "ada"), person(server, "grace")
        for k in range(3):
            ada.choose(k % 2)
            grace.choose(1 - k % 2)
        ada.sent()
        grace.sent()
        at = ada.item
        ada.page.close()
        ada.open()
        assert ada.item == at
    assert not {item for item, _ in ada.said} & {item for item, _ in grace.said}


def test_hostile_text_is_shown_as_text(person, tmp_path):
    write_pairs(tmp_path, 1)
    rows = [
        Comparison(f"test/{k}", text, (text, f"{text} b"), image="0.png", provenance={"policies": [text, "other"]})
        for k, text in enumerate(HOSTILE)
    ]
    write_comparisons(tmp_path / "pairs.jsonl", rows)
    with QuickServer(tmp_path / "pairs.jsonl", "--repeats", "0") as server:
        ada = person(server, HOSTILE[0])
        requests = []
        ada.page.on("request", lambda request: requests.append(request.url))
        for text in HOSTILE:
            assert ada.page.text_content(".prompt") == text
            assert sorted(ada.texts) == sorted([text, f"{text} b"])
            ada.choose(0)
        ada.sent()
        ada.page.goto(f"{server.url}/results")
        names = ada.page.locator(".who").all_text_contents()
        assert set(names) == {*HOSTILE, "other"}
        assert ada.page.text_content("tbody th") == HOSTILE[0]
        assert ada.page.evaluate("window.taken") is None
        assert ada.page.locator("main script, main iframe, main img[src=x], main style, main base").count() == 0
    assert all(url.startswith(server.url) for url in requests)
    assert not ada.problems


def test_markup_that_a_page_would_take_in_is_stopped_by_its_policy(person, server):
    ada = person(server)
    with pytest.raises(Exception, match="TrustedHTML"):
        ada.page.evaluate("document.body.innerHTML = '<img src=x onerror=alert(1)>'")
    with pytest.raises(Exception, match="TrustedScript"):
        ada.page.evaluate("document.createElement('script').text = 'window.taken = 1'")


def test_responses_are_ranked_by_keys_arrows_taps_and_drags(person, tmp_path):
    with QuickServer(write_pairs(tmp_path, 4, 4), "--mode", "rank", "--repeats", "0") as server:
        ada = person(server)
        wanted = []

        def rank(how, order):
            texts = ada.texts
            before = ada.item
            how()
            wanted.append([texts[i] for i in order])
            assert ada.texts == wanted[-1]
            ada.page.wait_for_selector("#done:enabled")
            ada.page.keyboard.press("Enter")
            ada.ready(before)

        def by_arrows():
            ada.page.locator(".face").nth(3).focus()
            for _ in range(3):
                ada.page.keyboard.press("ArrowUp")

        def by_drag():
            faces = [ada.page.locator(".response").nth(i).bounding_box() for i in (0, 2)]
            ada.page.mouse.move(faces[0]["x"] + 200, faces[0]["y"] + 20)
            ada.page.mouse.down()
            ada.page.mouse.move(faces[1]["x"] + 200, faces[1]["y"] + 40, steps=12)
            ada.page.mouse.up()

        def by_taps():
            for text in [ada.texts[i] for i in (1, 3, 0)]:
                ada.page.locator(".face", has_text=text).click()

        assert ada.page.is_disabled("#done")
        rank(lambda: [ada.page.keyboard.press(key) for key in "314"], (2, 0, 3, 1))
        rank(by_arrows, (3, 0, 1, 2))
        rank(by_drag, (1, 2, 0, 3))
        rank(by_taps, (1, 3, 0, 2))
        wait_until(lambda: ada.waiting == 0)
        assert not ada.problems
        with FeedbackStore(server.database) as store:
            found = [[j.responses[i] for i in j.ranking] for j in store.judgements("ada")]
    assert found == wanted


def test_responses_are_scored_by_keys_and_clicks(person, tmp_path):
    with QuickServer(write_pairs(tmp_path, 2, 3), "--mode", "score", "--repeats", "0") as server:
        ada = person(server)
        first, before = ada.texts, ada.item
        assert ada.page.is_disabled("#done")
        for key in ("4", "1", "5", "Enter"):
            ada.page.keyboard.press(key)
        ada.ready(before)
        second = ada.texts
        for place, points in ((2, 3), (0, 2), (1, 5)):
            ada.page.locator(".points").nth(place).locator(f"input[value='{points}']").click()
        ada.page.click("#done")
        ada.page.wait_for_selector(".end")
        wait_until(lambda: ada.waiting == 0)
        with FeedbackStore(server.database) as store:
            found = [dict(zip(j.responses, j.scores)) for j in store.judgements("ada")]
    assert found == [dict(zip(first, (4, 1, 5))), dict(zip(second, (2, 5, 3)))]
    assert not ada.problems


def test_what_was_said_and_spoken_responses_can_be_played(person, tmp_path):
    folder = tmp_path
    spoken = [write_tone(folder / "a.wav"), write_tone(folder / "b.wav")]
    pairs = write_pairs(folder, 2, audio=write_tone(folder / "said.wav", 1.0), provenance={"spoken": spoken}, prompt="")
    with QuickServer(pairs) as server:
        ada = person(server)
        assert ada.page.locator(".player").count() == 3
        ada.page.keyboard.press("p")
        ada.page.wait_for_selector(".media .player.playing")
        ada.page.keyboard.press("Shift+Digit2")
        ada.page.wait_for_selector(".response:nth-child(2) .player.playing")
        assert ada.page.locator(".player.playing").count() == 1
        ada.page.wait_for_function("() => document.querySelector('.media .player rect').getAttribute('height') > 3")
        assert ada.page.text_content(".media .clock") != "0.0"
        ada.choose(0)
        ada.sent()


@pytest.mark.parametrize("mode", ["compare", "rank", "score"])
def test_a_phone_shows_everything_without_scrolling_sideways(person, tmp_path, mode):
    long = "w" * 300
    pairs = write_pairs(tmp_path, 2, responses=3)
    rows = [
        Comparison(c.sample_id, f"{c.prompt} {long}", (*c.responses, long), image=c.image)
        for c in read_comparisons(pairs).comparisons
    ]
    write_comparisons(pairs, rows)
    with QuickServer(pairs, "--mode", mode) as server:
        ada = person(server, viewport={"width": 390, "height": 844}, has_touch=True)
        for path in ("/label", "/results", "/"):
            ada.page.goto(server.url + path)
            ada.page.wait_for_load_state("networkidle")
            assert ada.page.evaluate("document.documentElement.scrollWidth") == 390, path
        ada.page.goto(f"{server.url}/label")
        ada.ready()
        heights = ada.page.evaluate("[...document.querySelectorAll('.actions button')].map(b => b.offsetHeight)")
        assert min(heights) >= 44


def test_a_phone_shows_every_column_of_the_table_of_people(person, tmp_path):
    pairs = write_pairs(tmp_path, 12)
    said = [
        replace(c, choice=0, annotator=name, created=f"2026-01-01T00:{minute:02}:00Z",
                provenance={**c.provenance, "seconds": 12.5, "repeat": minute > 0})
        for name in ("Ada", "Margaret") for minute in (0, 1) for c in read_comparisons(pairs).comparisons
    ]  # fmt: skip
    with QuickServer(pairs) as server:
        with FeedbackStore(server.database) as store:
            store.merge(said, tmp_path)
        ada = person(server, viewport={"width": 390, "height": 844}, has_touch=True)
        ada.page.goto(f"{server.url}/results")
        assert "100% of 12" in " ".join(ada.page.inner_text("tbody tr").split())
        assert ada.page.evaluate("(s => s.scrollWidth - s.clientWidth)(document.querySelector('.scroll'))") == 0


def test_everything_that_can_be_pressed_has_a_name_and_a_ring(person, server):
    ada = person(server)
    names = ada.page.evaluate(
        "[...document.querySelectorAll('button, a, input, progress')].filter(e => e.offsetParent)"
        ".map(e => (e.ariaLabel || e.textContent || e.labels?.[0]?.textContent || '').trim())"
    )
    assert len(names) >= 9
    assert all(names)
    assert ada.page.evaluate("document.activeElement.className") == "prompt"
    for _ in range(6):
        ada.page.keyboard.press("Tab")
        ring = ada.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid"


def test_the_printed_address_signs_in_and_forgets_its_token(browser, person, tmp_path):
    pairs = write_pairs(tmp_path, 3)
    with LabelServer(pairs, "--host", "0.0.0.0", environment={"MMENV_LABEL_TOKEN": TOKEN}) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/label")
        page.fill("#token", "not the token")
        page.press("#token", "Enter")
        page.wait_for_selector("#error")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto("about:blank")
        page.goto(re.sub("//[^:/]+", "//127.0.0.1", server.printed))
        page.wait_for_selector("#name")
        assert TOKEN not in page.url
        assert not [url for url in asked if TOKEN in url and "#" not in url]
        session = next(c for c in context.cookies() if c["name"] == f"mmenv_label_{server.port}")
        assert session["httpOnly"]
        assert session["sameSite"] == "Strict"
        page.fill("#name", "ada")
        page.press("#name", "Enter")
        page.wait_for_selector(".item")
        context.clear_cookies()
        page.keyboard.press("1")
        page.wait_for_selector("#notice a[href='/login']")
        kept = page.evaluate("Object.values(localStorage)")
        assert [json.loads(entry)["body"]["choice"] for entry in kept] == [0]
        context.close()


def test_somebody_else_in_the_same_browser_gets_no_answers_of_the_first(person, server):
    ada = person(server)
    ada.stocked()
    tab = ada.context.new_page()
    tab.goto(f"{server.url}/")
    tab.fill("#name", "grace")
    tab.press("#name", "Enter")
    tab.wait_for_selector("#stage .item")
    ada.page.keyboard.press("1")  # on the page that was opened as ada
    ada.page.wait_for_selector("#notice a[href='/label']")
    assert "labels as" in ada.page.text_content("#notice")
    assert ada.waiting == 1
    with FeedbackStore(server.database) as store:
        assert store.judgements() == []
    ada.page.close()
    tab.close()
    ada.open()  # as ada again: what was kept is sent
    wait_until(lambda: ada.waiting == 0)
    with FeedbackStore(server.database) as store:
        assert [j.annotator for j in store.judgements()] == ["ada"]


def test_who_comes_late_is_told_that_others_hold_the_last_items(person, tmp_path):
    with QuickServer(write_pairs(tmp_path, 6), "--repeats", "0") as server:
        ada = person(server, "ada")
        ada.stocked()  # four of the six
        bob = person(server, "bob")
        bob.choose(0)
        bob.choose(0)
        bob.page.wait_for_selector(".end")
        assert bob.page.text_content(".end h1") == "Others hold the last items"
        assert "4 items are with other people now" in bob.page.text_content(".end")
        assert bob.page.text_content("#count") == "2 of 6"
        bob.page.goto(f"{server.url}/results")
        assert "You will see the win rates when you have judged all your items" in bob.page.text_content("main")
        for _ in range(4):
            ada.choose(0)
        ada.sent()
        assert ada.page.text_content(".end h1") == "All done. Thank you!"
        bob.page.goto(f"{server.url}/results")
        assert "trained" in bob.page.text_content(".rates")


def test_the_list_of_keys_names_those_of_sounds_only_where_there_is_one(person, server, tmp_path):
    ada = person(server)
    ada.page.keyboard.press("?")
    assert "play" not in ada.page.inner_text("#keys")
    folder = tmp_path / "spoken"
    folder.mkdir()
    with QuickServer(write_pairs(folder, 2, audio=write_tone(folder / "said.wav"))) as spoken:
        grace = person(spoken)
        grace.page.keyboard.press("?")
        assert "play the prompt" in grace.page.inner_text("#keys")
        assert "play a spoken response" not in grace.page.inner_text("#keys")
