"""Write the generated pages of docs/: the home page from README.md, and a page with a film for each task.

python -m scripts.make_docs
"""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium as gym

from mmenv.cards import page, write_film
from mmenv.registration import TABLE

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / "docs" / "environments"
FILMED = 4  # number of the sample, of the test split, that each film shows


def pages() -> dict[str, list[str]]:
    """Name of each page -> the ids that it is about."""
    ids: dict[str, list[str]] = {}
    for env_id, row in TABLE.items():
        ids.setdefault(row.module.rpartition(".")[2], []).append(env_id)
    return ids


def environment_page(name: str) -> str:
    """The text of a page of ``pages``."""
    ids = pages()[name]
    return page(ids, gym.make(ids[0], reward="gold"), [Path(f"{name}.gif")])


def main() -> None:
    """Write all pages and films."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    for name, ids in pages().items():
        env = gym.make(ids[0], split="test", reward="gold", render_mode="rgb_array")
        write_film(env, FILMED, ENVIRONMENTS / f"{name}.gif")
        (ENVIRONMENTS / f"{name}.md").write_text(environment_page(name), encoding="utf-8")
    home = (ROOT / "README.md").read_text(encoding="utf-8")
    home = re.sub(r"\]\((?!http|docs/)", "](https://github.com/mmenv/mmenv/blob/main/", home).replace("](docs/", "](")
    (ROOT / "docs" / "index.md").write_text(home, encoding="utf-8")


if __name__ == "__main__":
    main()
