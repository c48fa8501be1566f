"""Plots for Dagster's metadata, in the visual language of the charts in Discord: small PNGs, drawn with Pillow.

Owns the calibration plot. Stays out: where the numbers come from (pipeline/detector_report.py).
"""

import base64
import io
import math

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from cryptotrace_dagster.looks import LIGHT

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 200, 150, 4
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 34, 12, 24, 26
LOWEST, HIGHEST = 0.01, 24.0  # times a day; below, a week says nothing
TICKS = (0.1, 1.0, 10.0)


def calibration_plot(rates: pl.DataFrame) -> bytes:
    """Return one panel a detector: how often it was that strange (upwards) against how often it promised to be.

    `rates` has detector, promised and observed, both in hours a day. On the line a detector keeps its word; above it, it
    rings more often. What was never observed stands at the lower edge as a hollow point.

    Raises:
        ValueError: there are no rates.
    """
    names = rates["detector"].unique().sort().to_list()
    if not names:
        raise ValueError("A calibration plot needs at least one detector.")
    columns = min(COLUMNS, len(names))
    size = (columns * PANEL_WIDTH, math.ceil(len(names) / columns) * PANEL_HEIGHT)
    image = Image.new("RGB", size, LIGHT.background)
    draw = ImageDraw.Draw(image)
    for index, name in enumerate(names):
        left, top = index % columns * PANEL_WIDTH, index // columns * PANEL_HEIGHT
        points = rates.filter(pl.col("detector") == name).select("promised", "observed").rows()
        _draw_panel(draw, left, top, name, points)
    buffer = io.BytesIO()
    image.quantize(16).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def as_markdown_image(png: bytes, description: str) -> str:
    """Return the picture as Markdown that carries it."""
    return f"![{description}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _draw_panel(draw: ImageDraw.ImageDraw, left: int, top: int, name: str, points: list[tuple[float, float]]) -> None:
    x0, x1 = left + MARGIN_LEFT, left + PANEL_WIDTH - MARGIN_RIGHT
    y0, y1 = top + PANEL_HEIGHT - MARGIN_BOTTOM, top + MARGIN_TOP

    def share(value: float) -> float:
        inside = min(max(value, LOWEST), HIGHEST)
        return math.log(inside / LOWEST) / math.log(HIGHEST / LOWEST)

    def place(promised: float, observed: float) -> tuple[float, float]:
        return x0 + share(promised) * (x1 - x0), y0 - share(observed) * (y0 - y1)

    draw.text((left + 8, top + 6), name, fill=LIGHT.text, font=ImageFont.load_default(12))
    for tick in TICKS:
        x, y = place(tick, tick)
        draw.line((x, y0, x, y1), fill=LIGHT.faint)
        draw.line((x0, y, x1, y), fill=LIGHT.faint)
        draw.text((x, y0 + 4), f"{tick:g}", fill=LIGHT.text, font=ImageFont.load_default(10), anchor="ma")
        draw.text((x0 - 4, y), f"{tick:g}", fill=LIGHT.text, font=ImageFont.load_default(10), anchor="rm")
    draw.line((*place(LOWEST, LOWEST), *place(HIGHEST, HIGHEST)), fill=LIGHT.info)
    seen = [place(promised, observed) for promised, observed in sorted(points) if observed > 0]
    if len(seen) > 1:
        draw.line(seen, fill=LIGHT.score, width=2)
    for promised, observed in points:
        x, y = place(promised, observed)
        fill = LIGHT.score if observed > 0 else LIGHT.background
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=fill, outline=LIGHT.score)
