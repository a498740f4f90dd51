"""The command ``care-trials``, also ``python -m service``."""

import signal


def main() -> None:
    """Run the command, with the signals that stop or reload a process pending at first."""
    # The imports take half a second, in which SIGHUP would kill the process. Whatever handles
    # the signals unblocks them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM, signal.SIGINT})

    from service import cli

    cli.main()


if __name__ == "__main__":
    main()
