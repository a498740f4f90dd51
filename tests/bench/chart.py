"""The charts, as SVG."""

# pygal is installed only with the dependency group bench.
# mypy: disable-error-code="import-not-found"

from collections.abc import Mapping, Sequence

import pygal
from pygal.style import Style

COLOURS = {
    "service-1": "#1f6feb",
    "service-2": "#79b8ff",
    "textbook": "#d4a72c",
    "fastapi": "#1a7f37",
    "fastify": "#cf222e",
    "limit": "#8b949e",
}


def curves(
    title: str, x_title: str, places: Sequence[int], lines: Mapping[str, Sequence[float | None]],
    names: Mapping[str, str],
) -> str:  # fmt: skip
    """Return a line for each contestant, both axes logarithmic."""
    chart = pygal.Line(
        **_common(title, [COLOURS[name] for name in lines]), height=460,
        logarithmic=True, x_title=x_title, stroke_style={"width": 2}, dots_size=3,
    )  # fmt: skip
    chart.x_labels = [f"{place:,}" for place in places]
    rates = [rate for line in lines.values() for rate in line if rate]
    steps = [step * 10**power for power in range(7) for step in (1, 2, 5)]
    lowest = max(step for step in steps if step <= min(rates))
    chart.y_labels = [step for step in steps if lowest <= step <= max(rates)]
    chart.range = (lowest, max(rates) * 1.2)
    for name, line in lines.items():
        chart.add(names[name], line)
    return _svg(chart)


def stacked(title: str, bars: Mapping[str, Sequence[float]]) -> str:
    """Return a bar for each name, of the CPU of the service and of PostgreSQL in µs."""
    chart = pygal.HorizontalStackedBar(
        **_common(title, ["#1f6feb", "#8b949e"]), height=130 + 34 * len(bars), max_scale=6
    )
    # pygal puts the first bar at the bottom.
    ordered = list(bars.items())[::-1]
    chart.x_labels = [f"{name}: {own:.1f} + {other:.1f}" for name, (own, other) in ordered]
    for place, part in enumerate(("service", "PostgreSQL")):
        chart.add(part, [parts[place] for _, parts in ordered])
    return _svg(chart)


def _common(title: str, colours: Sequence[str]) -> dict[str, object]:
    style = Style(
        background="#ffffff", plot_background="#ffffff", font_family="system-ui, sans-serif",
        foreground="#24292f", foreground_strong="#24292f", foreground_subtle="#57606a",
        guide_stroke_color="#d0d7de", major_guide_stroke_color="#d0d7de", opacity=1,
        label_font_size=13, major_label_font_size=13, legend_font_size=13, title_font_size=15,
        colors=tuple(colours),
    )  # fmt: skip
    return {
        "style": style, "title": title, "width": 820, "js": [], "no_prefix": True,
        "truncate_legend": -1, "truncate_label": -1, "legend_at_bottom": True,
        "legend_at_bottom_columns": 3, "value_formatter": "{:,.0f}".format,
    }  # fmt: skip


def _svg(chart: pygal.Graph) -> str:
    return f"{chart.render(is_unicode=True, pretty_print=True)}\n"
