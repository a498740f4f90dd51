"""The modules of the service, as syntax trees."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules() -> dict[str, ast.Module]:
    """Return the service's modules by their paths."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in sorted((ROOT / "service").rglob("*.py"))
    }
