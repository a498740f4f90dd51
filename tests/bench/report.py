"""The results as tables, and in the documents that show them."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean, median

from .figures import RATE, Results
from .goals import GOALS, Goal
from .scenarios import (
    ALL,
    CURVES,
    EXISTING,
    MAIN,
    NAMES,
    ONE,
    OTHER,
    REAL,
    SCENARIOS,
    Scenario,
)

ROOT = Path(__file__).parents[2]
REPORT = Path(__file__).parent / "results/report.md"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs/performance.md")

TITLES = {scenario.name: scenario.title for scenario in SCENARIOS}
COMPARED = ("service_cpu_us", "postgres_cpu_us", "p99_ms")
FIGURES = {
    "median ms": ("median_ms", 2),
    "p99 ms": ("p99_ms", 2),
    "CPU µs/item": ("service_cpu_us", 1),
    "PostgreSQL µs/item": ("postgres_cpu_us", 1),
    "load µs/item": ("load_cpu_us", 1),
    "load share of a core": ("load_cpu_share", 2),
    "peak MB": ("peak_mb", 0),
    "idle MB": ("idle_mb", 0),
}
"""The columns of the whole report: fields of the figures, and their digits."""

_PART = re.compile(r"(<!-- (\w+): written by make bench-report -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = list[Sequence[str]]


def text(results: Results) -> str:
    """Return the whole report: plain numbers, goals, all figures, and what they depend on."""
    parts = _parts(results)
    names = ("rates", "cpu", "goals", "run")
    return "\n".join([*(parts[name] for name in names), _figures(results)])


def publish(results: Results) -> None:
    """Write the report and the parts of the documents."""
    REPORT.write_text(text(results))
    parts = _parts(results)
    for document in DOCUMENTS:
        before = document.read_text()
        document.write_text(_PART.sub(lambda m: f"{m[1]}{parts[m[2]]}{m[3]}", before))


def _parts(results: Results) -> Mapping[str, str]:
    """Return what stands between the marks of the documents, by the names in the marks."""
    rounds = max(run.round for run in results.runs)
    facts = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    return {
        "run": f"`{results.command}`; rounds: {rounds}. {facts}.\n",
        "rates": _rates(results, MAIN, ALL),
        "curves": _rates(results, {s: s.title for s in CURVES}, ALL),
        "readme": _rates(
            results,
            {s: MAIN[s] for s in (EXISTING, REAL)},
            [name for name in ALL if name != "service-2"],
        ),
        "cpu": _cpu(results),
        "goals": _goals(results),
    }


def _rates(results: Results, titles: Mapping[Scenario, str], names: Sequence[str]) -> str:
    """Return the items per second to three digits, one column for each contestant."""
    present = [name for name in names if any(results.middle(s.name, name) for s in titles)]
    rows: Rows = [
        [title, *(_three_digits(results.middle(s.name, name)) for name in present)]
        for s, title in titles.items()
    ]
    return _table(["items per second", *(NAMES[name] for name in present)], rows)


def _three_digits(value: float | None) -> str:
    return "" if value is None else f"{float(f'{value:.3g}'):,.0f}"


def _cpu(results: Results) -> str:
    """Return what the cores allow at the CPU that an item costs, beside what was reached."""
    fields = ("postgres_cpu_us", "service_cpu_us", "load_cpu_us")
    rows: Rows = []
    for scenario, title in MAIN.items():
        costs = [results.middle(scenario.name, ONE, field) or 0 for field in fields]
        rate = results.middle(scenario.name, ONE)
        if rate:
            allowed = results.cores * 1e6 / sum(costs)
            figures = (_three_digits(allowed), _three_digits(rate), f"{rate / allowed:.0%}")
            rows.append([title, *(f"{cost:.1f}" for cost in costs), *figures])
    heads = ("PostgreSQL, µs per item", "service, µs", "load generator, µs")
    return _table(["", *heads, "the cores allow, items/s", "reached", "share"], rows)


def _goals(results: Results) -> str:
    rows: Rows = []
    for goal in GOALS:
        reached = goal.reached(results)
        if reached is not None:
            values = (reached.median, reached.lowest, reached.highest)
            met = {True: "yes", False: "**no**", None: ""}[reached.is_met]
            rows.append([goal.title, *(f"{value:.2f}" for value in values), goal.wanted, met])
    return _table(["ratio", "median", "lowest", "highest", "goal", "met"], rows)


def _figures(results: Results) -> str:
    rows: Rows = []
    for scenario, name in results.turns():
        rates = results.by_round(scenario, name, RATE).values()
        others = [(results.middle(scenario, name, f), digits) for f, digits in FIGURES.values()]
        rows.append(
            [
                *(TITLES[scenario], NAMES[name]),
                *(f"{rate:,.0f}" for rate in (median(rates), min(rates), max(rates))),
                *("" if value is None else f"{value:.{digits}f}" for value, digits in others),
            ]
        )
    return _table(["what", "contestant", "items/s", "lowest", "highest", *FIGURES], rows)


def side_by_side(results: Results, other: Path) -> str:
    """Return the medians of this checkout and another, their ratio in each round, and its means.

    The means are geometric, of the ratio's medians over all scenarios.
    """
    names = list(dict.fromkeys(scenario for scenario, _ in results.turns()))
    compared = [(name, field) for name in names for field in (RATE, *COMPARED)]
    rows: Rows = []
    ratios_by_field: dict[str, list[float]] = {RATE: [], COMPARED[0]: [], COMPARED[1]: []}
    for scenario, field in [*compared, (names[0], "idle_mb")]:
        ratio = Goal("", (scenario, ONE, field), (scenario, OTHER, field)).reached(results)
        if ratio is not None:
            medians = (results.middle(scenario, name, field) or 0 for name in (ONE, OTHER))
            figures = (*medians, ratio.median, ratio.lowest, ratio.highest)
            if field in ratios_by_field:
                ratios_by_field[field].append(ratio.median)
            title = "idle process" if field == "idle_mb" else TITLES[scenario]
            rows.append([title, field, *(f"{figure:,.2f}" for figure in figures)])
    heads = ("what", "figure", "here", "there", "ratio", "lowest", "highest")
    means = [f"{field} {geometric_mean(ratios):.3f}" for field, ratios in ratios_by_field.items()]
    return f"there: {other}\n\n{_table(heads, rows)}\n\nGeometric means: {', '.join(means)}"


def machine_and_versions(postgres: str) -> dict[str, str]:
    """Return what the figures depend on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    node = shutil.which("node")
    packages = ("aiohttp", "asyncpg", "msgspec", "uvloop", "fastapi", "sqlalchemy")
    return {
        "Machine:": f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}",
        "PostgreSQL": postgres,
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
        "Node": subprocess.check_output([node, "--version"], text=True).strip() if node else "none",
    }


def _table(heads: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table, padded so that it reads well in a terminal."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )
