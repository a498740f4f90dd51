"""A load in stages, beside the locustfile: ``--stages 10s:4,30s:16,10s:2``.

    locust -f tests/load/locustfile.py,tests/load/stages.py --headless --stages 10s:4,30s:16 …

Each stage is DURATION:USERS; ``--spawn-rate`` says how fast the users change (10 a second).
``--users`` and ``--run-time`` have no part in it. ``tests.load.run`` adds this file by itself.
"""

import argparse
from typing import Any, ClassVar, NamedTuple

from locust import LoadTestShape, events
from locust.util.timespan import parse_timespan


class Stage(NamedTuple):
    """The number of users until so many seconds after the start."""

    until: float
    users: int


def stages(text: str) -> list[Stage]:
    """Return the stages. Raises ArgumentTypeError."""
    read: list[Stage] = []
    for part in text.split(","):
        duration, _, users = part.partition(":")
        try:
            begin = read[-1].until if read else 0.0
            read.append(Stage(begin + parse_timespan(duration), int(users)))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected DURATION:USERS,…, such as 10s:4,30s:16; got {part!r}"
            ) from None
    return read


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Add the option to Locust's own."""
    parser.add_argument("--stages", type=stages, required=True, help="DURATION:USERS,…")


class Stages(LoadTestShape):
    """Goes through the stages and ends the test after the last."""

    use_common_options: ClassVar[bool] = True

    def tick(self) -> tuple[int, float] | None:
        """Return the users to have now and how fast to get there; None ends the test."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        for stage in options.stages:
            if self.get_run_time() < stage.until:
                return stage.users, options.spawn_rate or 10
        return None
