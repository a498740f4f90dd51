"""A bar chart as SVG: a panel for each scenario, a bar for each contestant."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

Panels = Mapping[str, Mapping[str, Sequence[float]]]

WIDTH = 760
NAMES_WIDTH = 190
FIGURES_WIDTH = 130
BAR, STEP = 16, 24
TITLE = 34
COLOURS = {"this service": "#1f6feb", "the limit": "#8b949e"}
OTHER_COLOUR = "#d4a72c"


def draw(panels: Panels) -> str:
    """Return the chart; a bar is the median of the rounds, the line on it their spread."""
    parts = []
    top = 10
    for title, bars in panels.items():
        parts.append(f'<text x="10" y="{top + 18}" class="title">{escape(title)}</text>')
        top += TITLE
        longest = max(max(rates) for rates in bars.values())
        for name, rates in bars.items():
            parts.append(_bar(name, rates, top, (WIDTH - NAMES_WIDTH - FIGURES_WIDTH) / longest))
            top += STEP
        top += 10
    style = (
        "text{font:13px system-ui,sans-serif;fill:#24292f}"
        ".title{font-weight:600}.spread{stroke:#24292f;stroke-width:1.5}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}"'
        f' viewBox="0 0 {WIDTH} {top}" role="img" aria-label="Items per second">\n'
        f"<style>{style}</style>\n"
        f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _bar(name: str, rates: Sequence[float], top: int, scale: float) -> str:
    colour = next((c for start, c in COLOURS.items() if name.startswith(start)), OTHER_COLOUR)
    middle = median(rates)
    lowest, highest = (NAMES_WIDTH + rate * scale for rate in (min(rates), max(rates)))
    text, line = top + BAR - 4, top + BAR / 2
    return (
        f'<text x="{NAMES_WIDTH - 8}" y="{text}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{NAMES_WIDTH}" y="{top}" width="{middle * scale:.1f}" height="{BAR}"'
        f' fill="{colour}"/>'
        f'<line x1="{lowest:.1f}" x2="{highest:.1f}" y1="{line}" y2="{line}" class="spread"/>'
        f'<text x="{highest + 6:.1f}" y="{text}">{middle:,.0f} items/s</text>'
    )
