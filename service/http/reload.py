"""SIGHUP: the settings are read again and take effect without a dropped request."""

import asyncio
import logging
import ssl
from collections.abc import Callable

from service.config import ConfigurationError, Server, Settings
from service.http import certificate, check
from service.http.app_state import ReloadableState

logger = logging.getLogger(__name__)

LISTENING = ("host", "port", "management_port", "reuse_port", "base_path")
"""Settings of the server that stay until a restart; so does whether there is TLS."""


class Reload:
    """Reads the settings again; those that cannot be used change nothing."""

    def __init__(
        self, states: ReloadableState, tls: ssl.SSLContext | None, read: Callable[[], Settings]
    ) -> None:
        self._generations = states
        self._started_with = states.current.settings.server
        self._tls = tls
        self._read = read

    def now(self) -> None:
        """Let what is in the file hold from now on; tell in the log what came of it."""
        try:
            settings = self._read()
            # In a context of its own first: half a certificate must not replace a whole one.
            certificate.make_tls_context(settings.server)
            self._generations.replace(settings)
            if self._tls is not None and settings.server.tls_certificate is not None:
                certificate.load(self._tls, settings.server)
                certificate.export_expiry(settings.server)
        except ConfigurationError as error:
            problems = "; ".join(str(error).splitlines())
            logger.error(f"settings not read again, the old ones stay: {problems}")
            return
        logger.info("settings read again; the environment is still that of the start")
        self._checking = asyncio.create_task(check.log(settings))
        if waiting := _needing_restart(self._started_with, settings.server):
            logger.warning(f"only a restart changes {', '.join(waiting)}")


def _needing_restart(old: Server, new: Server) -> list[str]:
    changed = [name for name in LISTENING if getattr(old, name) != getattr(new, name)]
    if (old.tls_certificate is None) != (new.tls_certificate is None):
        changed.append("tls_certificate")
    return [f"server.{name}" for name in changed]
