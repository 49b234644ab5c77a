"""Draw every thing of the scenes in four styles, three sizes and five angles (build time; the sheets are package data).

    npm install @iconify-json/noto@1.2.9 @iconify-json/twemoji@1.2.5 @iconify-json/fluent-emoji-flat@1.2.6
    npm install @iconify-json/emojione@1.2.3
    pip install cairosvg pillow numpy
    python -m scripts.make_drawings --node-modules node_modules

Reads mmenv/worlds/assets/things.json, which people write, and writes drawings_noto.webp and three more beside it: a row
of tiles per concept, the largest size first, and within a size the angles in their order.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import cairosvg
import numpy as np
from PIL import Image

from mmenv.worlds.scenes import ANGLES, SIDES, STYLES
from mmenv.worlds.things import ASSETS

COLLECTIONS = {
    "noto": "noto", "twemoji": "twemoji", "fluent": "fluent-emoji-flat", "emojione": "emojione",
}  # fmt: skip
RENAMED = {"bullseye": "direct-hit"}  # names that EmojiOne 2 has from an older Unicode
DETAIL = 240  # pixels at which a drawing is rendered before it is turned and made small
LEVELS = 64  # of each channel: fine enough for the eye, and a third smaller on disk


class Collection:
    """The SVG drawings of one package of Iconify."""

    def __init__(self, folder: Path) -> None:
        data = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        self.icons: dict[str, dict[str, Any]] = data["icons"]
        self.aliases: dict[str, dict[str, Any]] = data.get("aliases", {})
        self.side = (data.get("width", 16), data.get("height", 16))

    def svg(self, names: list[str]) -> str:
        """The drawing that has one of the names.

        Raises:
            KeyError: if the collection has none of them.
        """
        for name in names:
            while name in self.aliases:
                name = self.aliases[name]["parent"]
            if name in self.icons:
                icon = self.icons[name]
                width, height = icon.get("width", self.side[0]), icon.get("height", self.side[1])
                box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
                spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
                return f'<svg {spaces} viewBox="{box}">{icon["body"]}</svg>'
        raise KeyError(f"no drawing is named {' or '.join(names)}: choose another concept in things.json")


def icon_names(modules: Path, code: str, concept: str) -> list[str]:
    """What the collections may call an emoji, given its code point in hexadecimal."""
    names = []
    for collection in ("fluent-emoji-flat", "twemoji", "noto"):
        by_code = json.loads((modules / "@iconify-json" / collection / "chars.json").read_text(encoding="utf-8"))
        names += [by_code[c] for c in (code, f"{code}-fe0f") if c in by_code]
    names += [RENAMED[concept]] if concept in RENAMED else []
    return list(dict.fromkeys(names))


def square(image: Image.Image) -> Image.Image:
    """The drawing cut out and centred on a square just large enough."""
    box = image.getbbox()
    if box is None:
        raise ValueError("a drawing is empty: choose another concept in things.json")
    cut = image.crop(box)
    side = max(cut.size)
    result = Image.new("RGBA", (side, side))
    result.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return result


def row_of_tiles(drawing: Image.Image) -> np.ndarray:
    """Tiles of all sizes and angles side by side: (30, 5 * (30 + 22 + 16), 4)."""
    tiles = []
    for side in reversed(SIDES):
        for angle in ANGLES:
            # Turned with room around it, then brought to size: nothing is cut off.
            turned = square(drawing.rotate(-angle, Image.Resampling.BICUBIC, expand=True))
            tile = np.zeros((SIDES[-1], side, 4), np.uint8)
            tile[:side] = np.asarray(turned.resize((side, side), Image.Resampling.LANCZOS))
            tiles.append(tile)
    row = np.concatenate(tiles, axis=1)
    row[row[..., 3] < 8] = 0
    return row


def coarse(sheet: np.ndarray) -> np.ndarray:
    """The sheet in ``LEVELS`` values a channel, 0 and 255 among them."""
    step = (sheet.astype(np.uint32) * (LEVELS - 1) + 127) // 255
    return ((step * 255 + (LEVELS - 1) // 2) // (LEVELS - 1)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node-modules", type=Path, default=Path("node_modules"))
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()
    concepts = json.loads((ASSETS / "things.json").read_text(encoding="utf-8"))["concepts"]
    for style in STYLES:
        collection = Collection(args.node_modules / "@iconify-json" / COLLECTIONS[style])
        rows = []
        for concept in concepts:
            svg = collection.svg(icon_names(args.node_modules, concept["emoji"], concept["name"]))
            png = cairosvg.svg2png(bytestring=svg.encode(), output_width=DETAIL, output_height=DETAIL)
            rows.append(row_of_tiles(square(Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGBA"))))
        path = args.out / f"drawings_{style}.webp"
        Image.fromarray(coarse(np.concatenate(rows))).save(path, lossless=True, quality=100, method=6, exact=True)
        print(f"{path}: {len(rows)} concepts, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
