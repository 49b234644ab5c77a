"""Write the generated pages of docs/: the home page from README.md, and a page for each task from its docstring.

python scripts/make_docs.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

import mmenv
from mmenv.registration import TABLE

DOCS = Path(__file__).parent.parent / "docs"


def picture(env_id: str, path: Path) -> None:
    """Two moments of a real episode, one above the other."""
    env: Any = gym.make(env_id, reward="gold", render_mode="rgb_array")
    env.reset(seed=4)
    answer = env.unwrapped.view().sample.references[0]
    tokens = env.get_wrapper_attr("tokenizer").encode(answer)
    for token in tokens[: max(1, len(tokens) // 2)]:
        env.step(token)
    first = env.render()
    for token in [*tokens[max(1, len(tokens) // 2) :], 1]:
        env.step(token)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([first, env.render()])).save(path)


def page(ids: list[str]) -> str:
    """A task's page: docstring, live spaces, pictures."""
    env: Any = gym.make(ids[0], reward="gold")
    lines = [f"# {ids[0].split('/')[1].removesuffix('-v0')}", "", "Ids: " + ", ".join(f"`{i}`" for i in ids), ""]
    lines += [inspect.cleandoc(type(env.unwrapped.task).__doc__ or ""), "", "## Live spaces", ""]
    lines += [f"- `{k}`: `{s}`" for k, s in env.observation_space.items()] + [f"- actions: `{env.action_space}`", ""]
    name = ids[0].split("/")[1].lower()
    picture(ids[0], DOCS / "img" / f"{name}.png")
    return "\n".join([*lines, "## An episode", "", f"![an episode](../img/{name}.png)", ""])


def main() -> None:
    (DOCS / "environments").mkdir(exist_ok=True)
    for module in dict.fromkeys(m for m, _, _ in TABLE.values()):
        ids = [i for i, (m, _, _) in TABLE.items() if m == module]
        (DOCS / "environments" / f"{module.split('.')[-1]}.md").write_text(page(ids), encoding="utf-8")
    home = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    home = re.sub(r"\]\((?!http|docs/)", "](https://github.com/mmenv/mmenv/blob/main/", home).replace("](docs/", "](")
    (DOCS / "index.md").write_text(home, encoding="utf-8")
    print(f"wrote {DOCS} for mmenv {mmenv.__version__}")


if __name__ == "__main__":
    main()
