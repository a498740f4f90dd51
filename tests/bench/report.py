"""The runs to a table of ratios, a table of figures, raw JSON and a chart."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import msgspec

from . import chart
from .figures import Run
from .goals import GOALS, Goal
from .scenarios import BESIDE, FAIR_TITLE, LARGE_SIZES, LARGE_TITLE, ONE, OTHER, SCENARIOS

NAMES = {
    "limit-1": "the limit, 1 session",
    "limit-2": "the limit, 2 sessions",
    "service-1": "this service, 1 process",
    "service-2": "this service, 2 processes",
    "textbook": "textbook handler",
    "fastapi": "FastAPI + SQLAlchemy",
    "fastify": "Fastify + postgres.js",
    "bare-asyncpg": "bare asyncpg",
}
TITLES = {
    **{scenario.name: scenario.title for scenario in SCENARIOS},
    **{f"large-{size}": LARGE_TITLE.format(size) for size in LARGE_SIZES},
    **{
        f"fair-{label}": FAIR_TITLE.format(beside.title if beside else "nothing")
        for label, beside in BESIDE.items()
    },
    "idle": "idle",
}
_BEGIN = re.compile(r"<!-- from here on written by: .+ -->")
_END = "<!-- up to here -->"
CHARTED = ("existing", "existing-real", "new")

Rows = list[Sequence[str]]


def compose(runs: Sequence[Run], command: str, machine: Mapping[str, str]) -> str:
    """Return the report: ratios and goals, all figures, and what they depend on."""
    ratios = _table(["ratio", "median", "lowest", "highest", "goal", "met"], _ratio_rows(runs))
    figures = _table(
        [
            *("what", "contestant", "items/s", "lowest", "highest", "median ms", "p99 ms"),
            *("CPU µs/item", "PostgreSQL µs/item", "load CPU s", "load share of a core"),
        ],
        _figure_rows(runs),
    )
    facts = "".join(f"- {name}: {value}\n" for name, value in machine.items())
    return (
        f"`{command}`; rounds: {max(run.round for run in runs)}; the contestants take turns.\n\n"
        f"{ratios}\n{figures}\n{facts}"
    )


def write(
    report: str, runs: Sequence[Run], folder: Path, command: str, machine: Mapping[str, str]
) -> None:
    """Write report.md, figures.json and chart.svg into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(report)
    raw = {"command": command, "machine": machine, "runs": runs}
    (folder / "figures.json").write_bytes(msgspec.json.format(msgspec.json.encode(raw)) + b"\n")
    panels = {
        TITLES[name]: {NAMES[c]: _rates(runs, name, c) for c in _contestants(runs, name)}
        for name in CHARTED
        if _contestants(runs, name)
    }
    (folder / "chart.svg").write_text(chart.draw(panels))


def side_by_side(runs: Sequence[Run], other: Path) -> str:
    """Return the medians of this checkout and another, and their ratio in each round."""
    rows: Rows = []
    for scenario in dict.fromkeys(run.scenario for run in runs):
        field = "resident_mb" if scenario == "idle" else "items_per_second"
        here, there = (_values(runs, scenario, name, field) for name in (ONE, OTHER))
        ratio = Goal("", (scenario, ONE, field), (scenario, OTHER, field)).reached(runs)
        if ratio is None:
            continue
        fields = ("service_cpu_us", "postgres_cpu_us", "p99_ms")
        others = [_values(runs, scenario, name, field) for field in fields for name in (ONE, OTHER)]
        rows.append(
            [
                f"{TITLES[scenario]}, {'MB' if scenario == 'idle' else 'items/s'}",
                *(f"{median(values):,.0f}" for values in (here, there)),
                *(f"{value:.2f}" for value in (ratio.median, ratio.lowest, ratio.highest)),
                *(f"{median(values):.1f}" if values else "" for values in others),
            ]
        )
    heads = [
        *("what", "here", "there", "ratio", "lowest", "highest", "CPU µs/item", "CPU there"),
        *("PostgreSQL µs/item", "PostgreSQL there", "p99 ms", "p99 there"),
    ]
    return f"there: {other}\n\n{_table(heads, rows)}"


def into_document(report: str, document: Path) -> None:
    """Put the report's table of ratios and its facts between the document's marks."""
    first_line, _, rest = report.partition("\n\n")
    ratios, _, rest = rest.partition("\n\n")
    facts = rest.partition("\n\n")[2]
    text = document.read_text()
    begin = _BEGIN.search(text)
    if begin is None or _END not in text[begin.end() :]:
        raise ValueError(f"{document} lacks the marks {_BEGIN.pattern} and {_END}")
    after = text[begin.end() :].partition(_END)[2]
    section = f"\n{first_line}\n\n{ratios}\n\n{facts}"
    document.write_text(f"{text[: begin.end()]}{section}{_END}{after}")


def machine_and_versions(postgres: str) -> Mapping[str, str]:
    """Return what the figures depend on."""
    model = next(
        (
            line.partition(": ")[2]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    facts = {"machine": f"{os.cpu_count()} cores, {model}", "PostgreSQL": postgres}
    facts["Python"] = platform.python_version()
    for package in ("aiohttp", "asyncpg", "msgspec", "uvloop", "fastapi", "sqlalchemy"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        output = subprocess.run(["node", "--version"], capture_output=True, text=True)
        facts["Node"] = output.stdout.strip()
    except FileNotFoundError:
        pass
    return facts


def _contestants(runs: Sequence[Run], scenario: str) -> list[str]:
    return list(dict.fromkeys(run.contestant for run in runs if run.scenario == scenario))


def _rates(runs: Sequence[Run], scenario: str, contestant: str) -> list[float]:
    return _values(runs, scenario, contestant, "items_per_second")


def _values(runs: Sequence[Run], scenario: str, contestant: str, field: str) -> list[float]:
    values = (
        getattr(run.figures, field)
        for run in runs
        if (run.scenario, run.contestant) == (scenario, contestant)
    )
    return [value for value in values if value is not None]


def _ratio_rows(runs: Sequence[Run]) -> Rows:
    rows: Rows = []
    for goal in GOALS:
        reached = goal.reached(runs)
        if reached is not None:
            values = (reached.median, reached.lowest, reached.highest)
            met = {True: "yes", False: "**no**", None: ""}[reached.is_met]
            rows.append([goal.title, *(f"{value:.2f}" for value in values), goal.wanted, met])
    return rows


def _figure_rows(runs: Sequence[Run]) -> Rows:
    rows: Rows = []
    for scenario in dict.fromkeys(run.scenario for run in runs):
        if scenario == "idle":
            continue
        for contestant in _contestants(runs, scenario):
            rates = _rates(runs, scenario, contestant)
            fields = (
                *(("median_ms", 2), ("p99_ms", 2), ("service_cpu_us", 1), ("postgres_cpu_us", 1)),
                *(("load_cpu_seconds", 2), ("load_cpu_share", 2)),
            )
            rows.append(
                [
                    TITLES[scenario],
                    NAMES[contestant],
                    *(f"{rate:,.0f}" for rate in (median(rates), min(rates), max(rates))),
                    *(
                        f"{median(values):.{digits}f}" if values else ""
                        for field, digits in fields
                        for values in [_values(runs, scenario, contestant, field)]
                    ),
                ]
            )
    return rows


def _table(heads: Sequence[str], rows: Rows) -> str:
    """Return a Markdown table, padded so that it reads well in a terminal."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )
