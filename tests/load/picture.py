"""Draw the last report with headless Chromium: ``python -m tests.load.picture``."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PAGE, PICTURE = RESULTS / "report.html", Path(__file__).parents[1] / "pictures" / "load.png"
BROWSERS = ("chromium", "google-chrome", "chromium-browser", "chrome")


def draw(browser: str) -> None:
    """Write the picture of the report. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="browser-") as profile:
        command = [
            browser, "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--hide-scrollbars", "--window-size=1400,2200",
            "--virtual-time-budget=10000", f"--screenshot={PICTURE}", PAGE.as_uri(),
        ]  # fmt: skip
        if os.geteuid() == 0:
            # Chromium's sandbox refuses root; the page is our own file.
            command.insert(1, "--no-sandbox")
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"the picture needs one of {', '.join(BROWSERS)}")
    draw(browser)
    print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
