"""The small candle chart of an alert, as PNG.

Owns colours, scales and labels. Drawn with Pillow in a few milliseconds, without a font cache or a display, because a
picture must never be what an alert waits for. Stays out: which candles (pipeline/delivery.py).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from cryptotrace_dagster.domain.wording import number
from cryptotrace_dagster.looks import LIGHT

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 12, 78, 30, 26  # margins: prices stand on the right, times below
VOLUME_SHARE = 0.22
RISING, FALLING = LIGHT.rising, LIGHT.falling
PAPER, INK, FAINT, MARK = LIGHT.background, LIGHT.text, LIGHT.faint, "#7A7F87"


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    top: float
    bottom: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; the highest is at the top."""
        span = self.high - self.low or 1.0
        return float(self.bottom - (value - self.low) / span * (self.bottom - self.top))


def candle_chart(
    candles: pl.DataFrame, title: str, marked_at: datetime, seconds: int, strange: Sequence[tuple[datetime, str]] = ()
) -> bytes:
    """Return the candles (`start, open, high, low, close, volume`, one each so many seconds) with the alert's moment marked.

    `strange` are moments with the severity by which they are marked above the candles.

    Raises:
        ValueError: there are no candles.
    """
    if candles.is_empty():
        raise ValueError("A chart needs at least one candle.")
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    rows = candles.sort("start").to_dicts()
    first, last = rows[0]["start"], max(rows[-1]["start"], marked_at)
    slots = (last - first).total_seconds() / seconds + 1
    width = (WIDTH - LEFT - RIGHT) / slots

    def across(instant: datetime) -> float:
        return LEFT + (float((instant - first).total_seconds()) / seconds + 0.5) * float(width)

    plot_bottom = HEIGHT - BOTTOM
    price_bottom = plot_bottom - (plot_bottom - TOP) * VOLUME_SHARE
    lows, highs = [row["low"] for row in rows], [row["high"] for row in rows]
    prices = _Scale(min(lows), max(highs), TOP + 6, price_bottom - 6)
    volumes = _Scale(0.0, max(row["volume"] for row in rows), price_bottom + 4, plot_bottom)
    _draw_frame(draw, title, prices, rows[-1]["close"])
    mark = across(marked_at)
    draw.line((mark, TOP, mark, plot_bottom), fill=MARK)
    for row in rows:
        _draw_candle(draw, row, across(row["start"]), max(1.0, width * 0.36), prices, volumes)
    for moment, severity in strange:
        _draw_mark(draw, across(moment), severity)
    _draw_times(draw, first, marked_at, across)
    buffer = io.BytesIO()
    image.quantize(32).save(buffer, "PNG")
    return buffer.getvalue()


def _draw_frame(draw: ImageDraw.ImageDraw, title: str, prices: _Scale, latest: float) -> None:
    draw.text((LEFT, 8), title, fill=INK, font=_font(13))
    taken: list[float] = []
    for price, colour in ((latest, INK), (prices.high, MARK), (prices.low, MARK)):
        y = prices(price)
        if all(abs(y - other) >= 14 for other in taken):
            draw.line((LEFT, y, WIDTH - RIGHT, y), fill=FAINT)
            draw.text((WIDTH - RIGHT + 6, y), number(price), fill=colour, font=_font(12), anchor="lm")
            taken.append(y)


def _draw_candle(
    draw: ImageDraw.ImageDraw, row: dict[str, float], x: float, half: float, prices: _Scale, volumes: _Scale
) -> None:
    is_rising = row["close"] >= row["open"]
    colour = RISING if is_rising else FALLING
    upper, lower = sorted((prices(row["open"]), prices(row["close"])))
    draw.line((x, prices(row["high"]), x, prices(row["low"])), fill=colour)
    box = (x - half, upper, x + half, max(lower, upper + 1))
    draw.rectangle(box, fill=PAPER if is_rising and half >= 2 else colour, outline=colour)
    draw.rectangle((x - half, volumes(row["volume"]), x + half, volumes(0.0)), fill=colour)


def _draw_mark(draw: ImageDraw.ImageDraw, x: float, severity: str) -> None:
    """Draw the severity's shape (disc, triangle, diamond) at the upper edge, filled with its colour."""
    colour, y, r = getattr(LIGHT, severity), TOP + 2, 5
    if severity == "info":
        draw.ellipse((x - r + 1, y - r + 1, x + r - 1, y + r - 1), fill=colour)
    elif severity == "warning":
        draw.polygon([(x - r, y + r - 1), (x + r, y + r - 1), (x, y - r)], fill=colour)
    else:
        draw.polygon([(x - r, y), (x, y - r), (x + r, y), (x, y + r)], fill=colour)


def _draw_times(
    draw: ImageDraw.ImageDraw, first: datetime, marked_at: datetime, across: Callable[[datetime], float]
) -> None:
    y = HEIGHT - BOTTOM + 6
    draw.text((LEFT, y), f"{first:%H:%M:%S}", fill=MARK, font=_font(11))
    mark = min(max(across(marked_at), LEFT + 120), WIDTH - RIGHT)
    draw.text((mark, y), f"{marked_at:%H:%M:%S} UTC", fill=INK, font=_font(11), anchor="ra")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
