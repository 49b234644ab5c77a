"""How fast the labelling server answers when its store is large: eight people without a pause, and the results page.

python -m benchmarks.labelling [--items 100000] [--judged 0.9] [--clients 8] [--answers 30] [--out labelling.json]

Answers of the last item are sent as a browser does: four items fetched ahead, standing asked for every ten answers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.__main__ import machine
from mmenv.feedback.comparison import Comparison
from mmenv.feedback.comparison_files import write_comparisons
from mmenv.feedback.store import FeedbackStore

QUEUE = 4  # items that a page fetches ahead


def fill(folder: Path, items: int, judged: float) -> Path:
    """A file of comparisons, and beside it a store in which two people have judged a share of them, in equal parts."""
    pairs = [
        Comparison(
            f"test/{i}", f"question {i} ?", (f"a {i}", f"b {i}"), provenance={"policies": ["before", "after"]}
        )
        for i in range(items)
    ]  # fmt: skip
    write_comparisons(folder / "pairs.jsonl", pairs)
    said = [
        Comparison(c.sample_id, c.prompt, c.responses, i % 3 // 2, annotator=f"person {i % 2}", created=f"t{i}",
                   provenance={**c.provenance, "seconds": 3.0, "order": [0, 1]})
        for i, c in enumerate(pairs[: int(judged * items)])
    ]  # fmt: skip
    with FeedbackStore(folder / "feedback.db") as store:
        store.merge(said)
        store.add(pairs)
    return folder / "pairs.jsonl"


class Server:
    """``python -m mmenv label`` in a process of its own."""

    def __init__(self, pairs: Path) -> None:
        began = time.monotonic()
        command = [sys.executable, "-m", "mmenv", "label", "--pairs", str(pairs), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        way = next(line.split()[1] for line in self.process.stdout if line.startswith("open "))
        self.seconds = time.monotonic() - began
        self.url, _, self.token = way.partition("/login#")

    def client(self, name: str) -> httpx.Client:
        """A client that has signed in."""
        client = httpx.Client(base_url=self.url, headers={"origin": self.url}, timeout=120)
        assert client.post("/login", data={"token": self.token}).status_code == 303
        assert client.post("/name", data={"name": name}).status_code == 303
        return client

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(30)


def timed(client: httpx.Client, times: list[float], method: str, path: str, body: Any = None) -> Any:
    """The answer to a request, whose seconds are noted."""
    began = time.monotonic()
    reply = client.request(method, path, json=body)
    times.append(time.monotonic() - began)
    reply.raise_for_status()
    return reply.json()


def label(server: Server, number: int, answers: int) -> dict[str, list[float]]:
    """Seconds of the requests of somebody who answers so many items."""
    times: dict[str, list[float]] = {"next": [], "answer": [], "standing": []}
    with closing(server.client(f"client {number}")) as client:
        queue: list[int] = []
        for k in range(answers):
            while len(queue) < QUEUE:
                item = timed(client, times["next"], "POST", "/api/next", {"queue": queue})["item"]
                queue.append(item["id"])
            body = {"item": queue.pop(0), "key": f"bench-{number}-{k}", "choice": k % 2, "seconds": 1.0}
            timed(client, times["answer"], "POST", "/api/judgements", body)
            if k % 10 == 9:
                timed(client, times["standing"], "GET", "/api/standing")
    return times


def measure(folder: Path, items: int, judged: float, clients: int, answers: int) -> dict[str, Any]:
    """Quantiles of the seconds of each kind of request, and seconds of pages."""
    result: dict[str, Any] = {"items": items, "judged": judged, "clients": clients, "answers": answers}
    if not (folder / "feedback.db").exists():
        fill(folder, items, judged)
    server = Server(folder / "pairs.jsonl")
    try:
        result["started"] = server.seconds
        with ThreadPoolExecutor(clients) as pool:
            rounds = list(pool.map(lambda number: label(server, number, answers), range(clients)))
        for kind in rounds[0]:
            seconds = np.concatenate([times[kind] for times in rounds])
            result[kind] = {"p50": float(np.quantile(seconds, 0.5)), "p95": float(np.quantile(seconds, 0.95))}
        with closing(server.client("reader")) as client:
            for page in ("/", "/results"):
                result[page] = {"longest": max(opened(client, page) for _ in range(5))}
    finally:
        server.close()
    return result


def opened(client: httpx.Client, page: str) -> float:
    """Seconds until a page is there."""
    began = time.monotonic()
    client.get(page).raise_for_status()
    return time.monotonic() - began


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000, help="items in the store")
    parser.add_argument("--judged", type=float, default=0.9, help="share of them that is judged")
    parser.add_argument("--clients", type=int, default=8, help="people at once")
    parser.add_argument("--answers", type=int, default=30, help="answers of each")
    parser.add_argument("--folder", type=Path, help="where the store is made; one that is there is used again")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        figures = measure(folder, given.items, given.judged, given.clients, given.answers)
    result = {"machine": machine(), **figures}
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
