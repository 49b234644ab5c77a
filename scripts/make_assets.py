"""Make the drawings, names and speech clips of the embedded world (build time only; the results are package data).

    apt-get install flite fonts-noto-color-emoji
    npm install emojibase-data @twemoji/svg
    pip install cairosvg pillow soundfile numpy
    python -m scripts.make_assets --node-modules node_modules

Writes mmenv/worlds/assets: concepts.json, categories.json, sprites_noto.png, sprites_twemoji.png, speech_*.flac and
speech.json. Drawings come from Noto Emoji and Twemoji, names from Unicode CLDR, voices from flite.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
from pathlib import Path

import cairosvg
import numpy as np
import soundfile
from PIL import Image, ImageDraw, ImageFont

NOTO = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
WANTED, SPOKEN_PER_CATEGORY = 308, 5
TILE, ANGLES, SIZES = 32, (-20, 0, 20), (32, 24)
VOICES, RATE = ("slt", "rms", "awb"), 16_000

# Category -> its plural, the CLDR subgroups that it takes whole, and CLDR labels of more than one word, renamed.
CATEGORIES: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "animal": ("animals", ("animal-mammal", "animal-amphibian", "animal-reptile", "animal-marine"),
               {"t-rex": "dinosaur", "polar bear": "polar"}),
    "bird": ("birds", ("animal-bird",), {"black bird": "crow", "baby chick": "chick"}),
    "bug": ("bugs", ("animal-bug",), {"lady beetle": "ladybug"}),
    "plant": ("plants", ("plant-flower", "plant-other"),
              {"palm tree": "palm", "evergreen tree": "pine", "deciduous tree": "tree", "four leaf clover": "clover",
               "maple leaf": "maple", "fallen leaf": "leaf", "potted plant": "houseplant"}),
    "fruit": ("fruits", ("food-fruit",),
              {"red apple": "apple", "kiwi fruit": "kiwi", "grapes": "grape", "cherries": "cherry",
               "blueberries": "blueberry"}),
    "vegetable": ("vegetables", ("food-vegetable",),
                  {"ear of corn": "corn", "hot pepper": "pepper", "leafy green": "lettuce", "pea pod": "pea",
                   "ginger root": "ginger", "peanuts": "peanut", "beans": "bean", "tomato": "tomato"}),
    "food": ("foods", ("food-prepared", "food-asian", "food-sweet"),
             {"hot dog": "hotdog", "ice cream": "sundae", "birthday cake": "cake", "cheese wedge": "cheese",
              "pancakes": "pancake", "rice ball": "onigiri", "french fries": "fries", "chocolate bar": "chocolate",
              "poultry leg": "drumstick", "cut of meat": "steak", "cooked rice": "rice", "green salad": "salad",
              "honey pot": "honey", "moon cake": "mooncake"}),
    "vehicle": ("vehicles", ("transport-ground", "transport-water", "transport-air"),
                {"automobile": "car", "delivery truck": "truck", "kick scooter": "scooter", "police car": "cruiser",
                 "fire engine": "firetruck", "motor scooter": "moped", "flying saucer": "saucer",
                 "sport utility vehicle": "jeep", "passenger ship": "liner", "racing car": "racer",
                 "aerial tramway": "gondola", "pickup truck": "pickup"}),
    "building": ("buildings", ("place-building", "place-religious"),
                 {"convenience store": "store", "office building": "office", "post office": "post",
                  "statue of liberty": "statue", "tokyo tower": "tower", "classical building": "temple",
                  "japanese castle": "pagoda", "derelict house": "ruin", "house with garden": "cottage",
                  "tent": "tent", "fountain": "fountain"}),
    "garment": ("garments", ("clothing",),
                {"t-shirt": "shirt", "billed cap": "cap", "top hat": "hat", "running shoe": "sneaker",
                 "man’s shoe": "shoe", "woman’s boot": "boot", "high-heeled shoe": "heel", "woman’s sandal": "sandal",
                 "thong sandal": "flipflop", "lab coat": "labcoat", "safety vest": "vest", "socks": "sock",
                 "gloves": "glove", "woman’s hat": "sunhat", "graduation cap": "mortarboard",
                 "one-piece swimsuit": "swimsuit", "ballet shoes": "slipper", "woman’s clothes": "blouse"}),
    "instrument": ("instruments", ("musical-instrument",),
                   {"musical keyboard": "piano", "bell": "bell", "long drum": "conga", "postal horn": "horn",
                    "musical note": "note"}),
    "tool": ("tools", ("tool", "science", "writing"),
             {"scissors": "scissors", "paperclip": "paperclip", "pushpin": "pushpin", "broom": "broom",
              "bucket": "bucket", "plunger": "plunger", "razor": "razor", "sponge": "sponge",
              "toothbrush": "toothbrush", "carpentry saw": "saw", "key": "key", "syringe": "syringe",
              "compass": "compass", "test tube": "flask", "straight ruler": "ruler", "spoon": "spoon"}),
    "device": ("devices", ("phone", "computer", "light-video", "time", "music", "sound"),
               {"mobile phone": "phone", "light bulb": "bulb", "mantelpiece clock": "clock", "alarm clock": "alarm",
                "film projector": "projector", "robot": "robot", "electric plug": "plug", "hourglass done": "hourglass",
                "desktop computer": "computer", "computer mouse": "clicker", "floppy disk": "floppy",
                "video game": "gamepad", "telephone receiver": "receiver"}),
    "toy": ("toys", ("sport", "game"),
            {"soccer ball": "football", "teddy bear": "teddy", "yo-yo": "yoyo", "nesting dolls": "doll",
             "balloon": "balloon", "game die": "dice", "boxing glove": "mitt", "flying disc": "frisbee",
             "puzzle piece": "puzzle", "ping pong": "paddle", "jigsaw": "jigsaw", "boomerang": "boomerang",
             "crystal ball": "crystal", "slot machine": "slots", "ice skate": "skate", "roller skate": "rollerskate",
             "kite": "kite", "joystick": "joystick", "water pistol": "squirter", "piñata": "pinata"}),
}  # fmt: skip
DROPPED = set(
    "bird bug microbe feather wing rosette bouquet cooking butter salt bacon fondue metro station motorway wheel "
    "construction anchor seat parachute tram brick rock wood houses wedding lipstick ring crown chains link dna "
    "alembic polar post note computer batteries popcorn glasses goggles sunglasses jeans briefs shorts tennis bowling "
    "clicker slots saucer cricket fly pick joker receiver sound video dvd hole thread knot yarn ice chestnut mate bat "
    "seal comet orange left right square above below place sauropod landslide memo spaghetti custard dango oden tamale "
    "falafel abacus badminton lacrosse skis hut kaaba synagogue coral worm egg dice coconut fries rice honey salad "
    "bowtie softball amphora videocassette trackball pager scissors ewe ox ram boar orangutan locomotive trolleybus "
    "monorail olive cheese stadium hyacinth kimono sari seedling".split()
)
SPEECH_WORDS = (
    "what is are at the top middle bottom left right center of above below it and where there any a an how many kind "
    "thing things no again which one count every do you see more than look now next to picture in"
).split()


def candidates(modules: Path) -> list[dict[str, str]]:
    """Concepts with a category, a name and an emoji, from CLDR data."""
    data = json.loads((modules / "emojibase-data/en/data.json").read_text(encoding="utf-8"))
    groups = json.loads((modules / "emojibase-data/meta/groups.json").read_text(encoding="utf-8"))["subgroups"]
    rows: dict[str, dict[str, str]] = {}
    for entry in data:
        label, subgroup = entry["label"].lower(), groups.get(str(entry.get("subgroup")))
        for category, (_, subgroups, renamed) in CATEGORIES.items():
            name = renamed.get(label) or (label if subgroup in subgroups else "")
            if name.isascii() and name.isalpha() and name not in DROPPED and label not in DROPPED - {name}:
                rows.setdefault(name, {"name": name, "category": category, "emoji": entry["emoji"]})
    return sorted(rows.values(), key=lambda r: r["name"])


def draw_noto(emoji: str) -> Image.Image | None:
    """The Noto drawing, RGBA on a transparent square."""
    font = ImageFont.truetype(NOTO, 109)
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((80, 80), emoji, font=font, embedded_color=True, anchor="mm")
    return fit(image)


def draw_twemoji(emoji: str, modules: Path) -> Image.Image | None:
    """The Twemoji drawing, or None where there is none."""
    codes = [f"{ord(c):x}" for c in emoji]
    for name in ("-".join(codes), "-".join(c for c in codes if c != "fe0f")):
        path = modules / f"@twemoji/svg/{name}.svg"
        if path.is_file():
            png = cairosvg.svg2png(bytestring=path.read_bytes(), output_width=136, output_height=136)
            return fit(Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGBA"))
    return None


def fit(image: Image.Image) -> Image.Image | None:
    """The drawing cut out and centred on a square just large enough."""
    box = image.getbbox()
    if box is None:
        return None
    cut = image.crop(box)
    side = max(cut.size)
    square = Image.new("RGBA", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


def variants(drawing: Image.Image) -> np.ndarray:
    """Tiles (6, 32, 32, 4): each size at each angle, within its size."""
    tiles = []
    for size in SIZES:
        for angle in ANGLES:
            # Rotated with room around it, then brought to size: nothing is cut off.
            turned = fit(drawing.rotate(-angle, Image.Resampling.BICUBIC, expand=True))
            assert turned is not None
            small = turned.resize((size, size), Image.Resampling.LANCZOS)
            tile = Image.new("RGBA", (TILE, TILE))
            tile.paste(small, ((TILE - size) // 2, (TILE - size) // 2))
            array = np.asarray(tile).copy()
            array[array[..., 3] == 0] = 0
            tiles.append(array)
    return np.stack(tiles)


def small_view(tiles: np.ndarray) -> np.ndarray:
    """The upright drawing at 16 pixels over grey, flat float."""
    tile = tiles[1].astype(np.float32)
    over = tile[..., :3] * tile[..., 3:] / 255 + 160 * (1 - tile[..., 3:] / 255)
    return over.reshape(16, 2, 16, 2, 3).mean((1, 3)).ravel()


def choose(rows: list[dict[str, str]], views: np.ndarray) -> list[int]:
    """Drop one of the most similar pair, the one with the closer other neighbours, until ``WANTED`` remain."""
    distance = np.sqrt(((views[:, None] - views[None]) ** 2).mean(-1))
    np.fill_diagonal(distance, np.inf)
    kept = list(range(len(rows)))
    while len(kept) > WANTED:
        part = distance[np.ix_(kept, kept)]
        counts = {c: sum(rows[k]["category"] == c for k in kept) for c in CATEGORIES}
        scarce = np.array([counts[rows[k]["category"]] <= 12 for k in kept])
        part[np.ix_(scarce, scarce)] = np.inf
        i, j = np.unravel_index(part.argmin(), part.shape)
        second = [np.partition(part[k], 1)[1] for k in (i, j)]
        loser = i if (second[0] < second[1] and not scarce[i]) or scarce[j] else j
        del kept[int(loser)]
    return kept


def record(word: str, voice: str, folder: Path) -> np.ndarray:
    """One spoken word, trimmed, faded and brought to one loudness, int16."""
    path = folder / "word.wav"
    subprocess.run(["flite", "-voice", voice, "-t", word, "-o", str(path)], check=True)
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE, rate
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    wave = wave[max(0, loud[0] - 160) : loud[-1] + 320]
    fade = np.linspace(0, 1, 160, dtype=np.float32)
    wave[:160] *= fade
    wave[-160:] *= fade[::-1]
    return (np.clip(wave * 0.1 / np.sqrt((wave**2).mean()), -1, 1) * 32767).astype(np.int16)


def speech(words: list[str], out: Path) -> dict[str, dict[str, list[int]]]:
    """Record every word in every voice; returns where each clip lies."""
    index: dict[str, dict[str, list[int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for voice in VOICES:
            parts, at, index[voice] = [], 0, {}
            for word in words:
                clip = record(word, voice, Path(folder))
                index[voice][word] = [at, at + len(clip)]
                at += len(clip)
                parts.append(clip)
            soundfile.write(out / f"speech_{voice}.flac", np.concatenate(parts), RATE, subtype="PCM_16")
    return index


def spoken(rows: list[dict[str, str]]) -> set[str]:
    """The names to record: the shortest of every category."""
    by_length = sorted(rows, key=lambda r: (len(r["name"]), r["name"]))
    first = [r["name"] for c in CATEGORIES for r in [x for x in by_length if x["category"] == c][:SPOKEN_PER_CATEGORY]]
    return set(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node-modules", type=Path, default=Path("node_modules"))
    parser.add_argument("--out", type=Path, default=Path("mmenv/worlds/assets"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows, drawings = [], []
    for row in candidates(args.node_modules):
        pair = draw_noto(row["emoji"]), draw_twemoji(row["emoji"], args.node_modules)
        if pair[0] is not None and pair[1] is not None:
            rows.append(row)
            drawings.append([variants(d) for d in pair if d is not None])
    kept = choose(rows, np.stack([small_view(d[0]) for d in drawings]))
    rows, drawings = [rows[k] for k in kept], [drawings[k] for k in kept]
    recorded = spoken(rows)
    concepts = [
        {**r, "article": "an" if r["name"][0] in "aeio" else "a", "spoken": r["name"] in recorded} for r in rows
    ]
    (args.out / "concepts.json").write_text(json.dumps(concepts, ensure_ascii=False, indent=0), encoding="utf-8")
    kinds = [{"name": c, "plural": p, "article": "an" if c[0] in "aei" else "a"} for c, (p, *_) in CATEGORIES.items()]
    (args.out / "categories.json").write_text(json.dumps(kinds, indent=0), encoding="utf-8")
    for k, style in enumerate(("noto", "twemoji")):
        sheet = np.concatenate([np.concatenate(list(d[k]), axis=1) for d in drawings])
        Image.fromarray(sheet).save(args.out / f"sprites_{style}.png", optimize=True)
    words = sorted({*SPEECH_WORDS, *CATEGORIES, *(p for p, *_ in CATEGORIES.values()), *recorded})
    clips = {"rate": RATE, "clips": speech(words, args.out)}
    (args.out / "speech.json").write_text(json.dumps(clips), encoding="utf-8")
    print(f"{len(concepts)} concepts, {len(words)} words")
    for c in CATEGORIES:
        names = [r["name"] + ("*" if r["spoken"] else "") for r in concepts if r["category"] == c]
        print(f"{c} {len(names)}: {' '.join(names)}")


if __name__ == "__main__":
    main()
