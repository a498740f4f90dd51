"""Entry point of ``care-trials`` and ``python -m service``."""

import signal


def main() -> None:
    """Run the command line; signals that stop or reload the process wait until it handles them."""
    # The imports take half a second, in which SIGHUP would kill the process. cli.main or
    # http.server unblocks the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM, signal.SIGINT})

    from service import cli

    cli.main(prog_name="care-trials")


if __name__ == "__main__":
    main()
