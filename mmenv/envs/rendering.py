"""An episode as a person should see it: picture, sound, prompt, response, scores; drawn, or in text."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from mmenv.envs.fonts import draw_line, wrapped
from mmenv.envs.view import EpisodeView

WIDTH, MARGIN, PICTURE, WAVE = 720, 24, 288, 64
INK, FAINT, PAPER, PANEL = (32, 36, 44), (120, 126, 138), (252, 251, 248), (239, 237, 231)
BLUE, AMBER = (0, 114, 178), (230, 159, 0)


def render_frame(view: EpisodeView) -> np.ndarray:
    """The episode as a picture, uint8 (H, 720, 3)."""
    left = MARGIN + (PICTURE + MARGIN if view.sample.image is not None else 0)
    height = 2 * MARGIN + max(PICTURE, 320) + (WAVE + MARGIN if view.sample.audio is not None else 0)
    canvas = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    if view.sample.image is not None:
        picture = Image.fromarray(view.sample.image).resize((PICTURE, PICTURE), Image.Resampling.NEAREST)
        canvas.paste(picture, (MARGIN, MARGIN))
        draw.rectangle((MARGIN - 1, MARGIN - 1, MARGIN + PICTURE, MARGIN + PICTURE), outline=FAINT)
    if view.sample.audio is not None:
        _wave(draw, view.sample.audio, MARGIN, height - MARGIN - WAVE, WIDTH - 2 * MARGIN)
        draw_line(draw, MARGIN, height - MARGIN - WAVE - 18, view.sample.said, 12, FAINT)
    y = _paragraph(draw, left, MARGIN, "prompt", view.prompt or "(spoken)", INK)
    for reply in view.history[-2:]:
        y = _paragraph(
            draw,
            left,
            y,
            "earlier reply",
            f"{reply.response or '(silence)'}   {_numbers(reply.reward, reply.gold)}",
            FAINT,
        )
    label = "response" if view.stop is None else f"response, ended by {view.stop}"
    y = _paragraph(draw, left, y, label, view.response + ("" if view.stop else " _"), BLUE)
    _bar(draw, left, y + 2, "tokens", view.tokens_used / view.budget, f"{view.tokens_used} of {view.budget}", FAINT)
    if view.reward is not None:
        _bar(draw, left, y + 44, "reward", 0.5 + view.reward / 6, f"{view.reward:+.2f}", BLUE, begin=0.5)
    if view.gold is not None:
        _bar(draw, left, y + 86, "gold", view.gold, f"{view.gold:.2f}", AMBER)
    return np.asarray(canvas)


def _paragraph(draw: ImageDraw.ImageDraw, x: int, y: int, label: str, text: str, colour: tuple[int, int, int]) -> int:
    """A label over wrapped text; returns where the next one goes."""
    draw_line(draw, x, y, label, 12, FAINT)
    lines = wrapped(text, max(12, (WIDTH - x - MARGIN) // 9), 3)
    for k, line in enumerate(lines):
        draw_line(draw, x, y + 16 + 22 * k, line, 17, colour)
    return y + 26 + 22 * max(1, len(lines))


def _bar(
    draw: ImageDraw.ImageDraw, x: int, y: int, label: str, share: float, text: str, colour: tuple[int, int, int],
    begin: float = 0.0,
) -> None:  # fmt: skip
    """A labelled bar filled from ``begin`` to ``share``."""
    right = WIDTH - MARGIN
    draw_line(draw, x, y, label, 12, FAINT)
    draw_line(draw, right, y, text, 12, INK, right=True)
    draw.rounded_rectangle((x, y + 18, right, y + 26), 4, fill=PANEL)
    ends = sorted(x + (right - x) * min(1.0, max(0.0, end)) for end in (begin, share))
    if ends[1] > ends[0] + 4:
        draw.rounded_rectangle((ends[0], y + 18, ends[1], y + 26), 4, fill=colour)
    if begin:
        zero = x + (right - x) * begin
        draw.line((zero, y + 15, zero, y + 29), fill=FAINT)


def _wave(draw: ImageDraw.ImageDraw, audio: np.ndarray, x: int, y: int, width: int) -> None:
    """The envelope of a sound, a column a few milliseconds."""
    draw.rounded_rectangle((x, y, x + width, y + WAVE), 6, fill=PANEL)
    columns = np.array_split(audio, width // 3)
    for k, column in enumerate(columns):
        reach = 1 + (WAVE / 2 - 4) * min(1.0, float(np.abs(column).max()) if len(column) else 0.0)
        middle = y + WAVE / 2
        draw.line((x + 3 * k + 1, middle - reach, x + 3 * k + 1, middle + reach), fill=BLUE)


def _numbers(reward: float | None, gold: float | None) -> str:
    parts = [f"reward {reward:+.2f}" if reward is not None else "", f"gold {gold:.2f}" if gold is not None else ""]
    return "  ".join(p for p in parts if p)


def render_ansi(view: EpisodeView) -> str:
    """The episode as text."""
    sample = view.sample
    lines = [f"sample    {sample.id}"]
    if sample.image is not None:
        lines.append(f"image     {sample.image.shape[1]} x {sample.image.shape[0]} pixels")
    if sample.audio is not None:
        blocks = " .:-=+*#%@"
        parts = [min(9, int(14 * float(np.abs(c).max(initial=0.0)))) for c in np.array_split(sample.audio, 48)]
        lines.append(f"audio     {''.join(blocks[p] for p in parts)}  {len(sample.audio) / 16_000:.1f} s")
    lines.append(f"prompt    {view.prompt or '(spoken)'}")
    if sample.said:
        lines.append(f"said      {sample.said}")
    lines += [f"earlier   {r.response or '(silence)'}   {_numbers(r.reward, r.gold)}" for r in view.history]
    lines.append(f"response  {view.response}{'' if view.stop else ' _'}   ({view.tokens_used} of {view.budget} tokens)")
    if view.stop is not None:
        lines.append(f"ended     by {view.stop}   {_numbers(view.reward, view.gold)}")
    lines += [f"          {name} {value:+.2f}" for name, value in view.components.items()]
    return "\n".join(lines)
