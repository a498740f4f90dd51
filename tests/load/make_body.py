"""Write batches to a file, one a line, for put.lua: ``python -m tests.load.make_body``.

    python -m tests.load.make_body --items 1000 --batches 16 /tmp/batches.json

Records are those of service/sample.json with keys of their own; no two batches of the file
share one, so that connections seldom wait for each other's rows. A file with one batch is a
plain request body: ``curl --data-binary @FILE``.
"""

import argparse
import random
from pathlib import Path

from tests.load.batches import FIRST_KEY, Records, build


def bodies(items: int, batches: int, bad_share: float = 0.0) -> bytes:
    """Return the batches, a line each; JSON holds no bare line break."""
    records, chance = Records(), random.Random(0)
    starts = range(FIRST_KEY, FIRST_KEY + items * batches, items)
    lines = (
        build(records, range(start, start + items), chance, bad_share=bad_share).body
        for start in starts
    )
    return b"\n".join(lines)


def main() -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.make_body", description=__doc__)
    parser.add_argument("--items", type=int, default=1000, help="in each batch (1000)")
    parser.add_argument("--batches", type=int, default=1, help="a line each (1)")
    parser.add_argument("--bad-share", type=float, default=0.0, help="share of bad items (0)")
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    content = bodies(arguments.items, arguments.batches, arguments.bad_share)
    arguments.file.write_bytes(content)
    print(
        f"{arguments.file}: {arguments.batches} x {arguments.items} items, {len(content):,} bytes"
    )


if __name__ == "__main__":
    main()
