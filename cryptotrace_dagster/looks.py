"""One visual language for the dashboard, the charts in Discord, the plots in Dagster and the terminal.

Owns colours, shapes and the words for states. Colours are those of Okabe and Ito (2008), which people with any colour
vision can tell apart; a shape or a word always says the same again. Stays out: drawing.
"""

from dataclasses import dataclass

RISING_SIGN, FALLING_SIGN, STEADY_SIGN = "▲", "▼", "■"


@dataclass(frozen=True)
class Palette:
    """The colours on one background."""

    background: str
    text: str
    faint: str  # axes, grids
    rising: str  # hollow candles
    falling: str  # full candles
    score: str
    info: str
    warning: str
    critical: str


LIGHT = Palette(
    background="#FFFFFF",
    text="#1F2933",
    faint="#D5DAE1",
    rising="#0072B2",
    falling="#D55E00",
    score="#7A4FA3",
    info="#0072B2",
    warning="#B87700",
    critical="#B3005E",
)
DARK = Palette(
    background="#11161D",
    text="#E6EAF0",
    faint="#364150",
    rising="#56B4E9",
    falling="#F08A4B",
    score="#C9A6F0",
    info="#56B4E9",
    warning="#E69F00",
    critical="#FF7AB8",
)


@dataclass(frozen=True)
class SeverityLook:
    """How a severity is marked where colour may not be seen."""

    sign: str
    word: str
    echarts_symbol: str
    matplotlib_marker: str
    badge_color: str


SEVERITIES: dict[str, SeverityLook] = {
    "info": SeverityLook("●", "info", "circle", "o", "blue"),
    "warning": SeverityLook("▲", "warning", "triangle", "^", "orange"),
    "critical": SeverityLook("◆", "critical", "diamond", "D", "red"),
}


@dataclass(frozen=True)
class AnomalyState:
    """A range of anomaly scores in words, with how often a bar scores that high."""

    least_score: float
    word: str
    frequency: str
    sign: str
    badge_color: str


ANOMALY_STATES = (
    AnomalyState(2.0, "extreme", "less than once in 100 days", "◆", "red"),
    AnomalyState(1.0, "rare", "less than once in 10 days", "▲", "orange"),
    AnomalyState(0.0, "unusual", "less than once a day", "●", "blue"),
    AnomalyState(float("-inf"), "calm", "an everyday sight", "○", "gray"),
)


def anomaly_state(score: float | None) -> AnomalyState:
    """Return the state of a score; none yet counts as calm."""
    value = float("-inf") if score is None else score
    return next(state for state in ANOMALY_STATES if value >= state.least_score)


@dataclass(frozen=True)
class Badge:
    """A state as a small label: shape, word and colour say the same."""

    sign: str
    word: str
    color: str


def symbol_badge(score: float | None, alert_severity: str | None) -> Badge:
    """Return what to say of a symbol: its gravest alert of late, which is what people come to look for, else its score."""
    if alert_severity is not None:
        return Badge(SEVERITIES[alert_severity].sign, "alert", SEVERITIES[alert_severity].badge_color)
    state = anomaly_state(score)
    return Badge(state.sign, state.word, state.badge_color)


def direction_sign(change: float) -> str:
    """Return the shape of a change: up, down or steady."""
    if change > 0:
        return RISING_SIGN
    return FALLING_SIGN if change < 0 else STEADY_SIGN


def price_text(price: float) -> str:
    """Return a price with the digits that matter: 61,250.50, 154.83, 0.5608 or 0.00001234."""
    size = abs(price)
    if size >= 1000:
        return f"{price:,.2f}"
    least = 2 if size >= 1 else 4
    digits = f"{price:.{4 if size >= 1 else 8}f}"
    whole, _, places = digits.partition(".")
    return f"{whole}.{places.rstrip('0').ljust(least, '0')}"


def age_text(seconds: float) -> str:
    """Return a length of time in whole words: 0.8 s, 42 s, 5 min, 3 h, 2 days."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 trade, 20 trades."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short_number(value: float) -> str:
    """Return a large number in short: 950, 12.3 k, 4.56 M, 7.8 G."""
    for limit, divisor, unit in ((999.5e6, 1e9, " G"), (999.5e3, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(value) >= limit:  # three digits of what is just below the unit are the unit
            return f"{value / divisor:.3g}{unit}"
    return f"{value:,.0f}"
