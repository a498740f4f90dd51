"""The runs to a table of ratios, a table of figures, raw JSON and a chart."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import msgspec

from . import chart
from .figures import Run
from .goals import GOALS
from .scenarios import FAIR_TITLE, LARGE_SIZES, LARGE_TITLE, SCENARIOS

NAMES = {
    "limit-1": "the limit, 1 session",
    "limit-2": "the limit, 2 sessions",
    "service-1": "this service, 1 worker",
    "service-2": "this service, 2 workers",
    "textbook": "textbook handler",
    "fastapi": "FastAPI + SQLAlchemy",
    "fastify": "Fastify + postgres.js",
    "bare-asyncpg": "bare asyncpg",
}
TITLES = {
    **{scenario.name: scenario.title for scenario in SCENARIOS},
    **{f"large-{size}": LARGE_TITLE.format(size) for size in LARGE_SIZES},
    "fair-alone": FAIR_TITLE.format("no"),
    "fair-beside": FAIR_TITLE.format("back-to-back"),
    "idle": "idle",
}
BEGIN = "<!-- from here on written by: python -m tests.bench --readme -->"
END = "<!-- up to here -->"
CHARTED = ("existing", "existing-real", "new")

Rows = list[Sequence[str]]


def write(runs: Sequence[Run], folder: Path, command: str, postgres: str) -> str:
    """Write report.md, figures.json and chart.svg into a folder; return the report."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = machine_and_versions(postgres)
    ratios = _table(["ratio", "median", "lowest", "highest", "goal", "met"], _ratio_rows(runs))
    figures = _table(
        [
            *("what", "contestant", "items/s", "lowest", "highest", "median ms", "p99 ms"),
            *("CPU µs/item", "PostgreSQL µs/item", "load CPU s", "load share of a core"),
        ],
        _figure_rows(runs),
    )
    facts = "".join(f"- {name}: {value}\n" for name, value in machine.items())
    report = (
        f"`{command}`; rounds: {max(run.round for run in runs)}; the contestants take turns.\n\n"
        f"{ratios}\n{figures}\n{facts}"
    )
    (folder / "report.md").write_text(report)
    raw = {"command": command, "machine": machine, "runs": runs}
    (folder / "figures.json").write_bytes(msgspec.json.format(msgspec.json.encode(raw)) + b"\n")
    panels = {
        TITLES[name]: {NAMES[c]: _rates(runs, name, c) for c in _contestants(runs, name)}
        for name in CHARTED
        if _contestants(runs, name)
    }
    (folder / "chart.svg").write_text(chart.draw(panels))
    return report


def into_readme(report: str, readme: Path) -> None:
    """Put the report's table of ratios and its facts between the README's marks."""
    first_line, _, rest = report.partition("\n\n")
    ratios, _, rest = rest.partition("\n\n")
    facts = rest.partition("\n\n")[2]
    before, _, following = readme.read_text().partition(BEGIN)
    after = following.partition(END)[2]
    section = f"\n{first_line}\n\n{ratios}\n\n{facts}"
    readme.write_text(f"{before}{BEGIN}{section}{END}{after}")


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
