"""Break the service, one shortcut after the other: ``python -m tests.mutants [PART_OF_A_NAME]``.

For each mutant some of its tests must fail, which all pass without it. Works on a copy of the tree.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


def copy_tree(folder: Path) -> None:
    """Copy what git tracks, and what it does not ignore, as it is in the work tree."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


def passes(tests: Iterable[str], folder: Path) -> bool:
    """Run the tests in the folder; tell whether all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        sys.exit(result.stdout + result.stderr)
    return result.returncode == 0


def is_noticed(mutant: Mutant, folder: Path) -> bool:
    """Tell whether a test fails in the folder while the mutant is in place."""
    file = folder / mutant.file
    whole = file.read_text()
    if mutant.original not in whole:
        sys.exit(f"{mutant.name}: {mutant.file} holds no {mutant.original!r}")
    file.write_text(whole.replace(mutant.original, mutant.replacement))
    try:
        return not passes(mutant.tests, folder)
    finally:
        file.write_text(whole)


def main() -> None:
    """Try the mutants; exit with 1 where one goes unnoticed."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [mutant for mutant in MUTANTS if part in mutant.name]
    if not chosen:
        sys.exit(f"no mutant's name has {part!r} in it")
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        # As root the PostgreSQL of the tests has to come through.
        folder.chmod(0o755)
        copy_tree(folder)
        if not passes(sorted({test for mutant in chosen for test in mutant.tests}), folder):
            sys.exit("the tests fail without a mutant")
        unnoticed = 0
        for mutant in chosen:
            noticed = is_noticed(mutant, folder)
            unnoticed += not noticed
            print("noticed  " if noticed else "UNNOTICED", mutant.name, flush=True)
    sys.exit(bool(unnoticed))


if __name__ == "__main__":
    main()
