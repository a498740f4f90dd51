"""Reload of the settings at SIGHUP, without a dropped request."""

import asyncio
import logging
import ssl
from collections.abc import Callable

from service.config import ConfigurationError, Server, Settings
from service.http import certificate, check
from service.http.app_state import ReloadableState

logger = logging.getLogger(__name__)

LISTENING = ("host", "port", "management_port", "reuse_port", "base_path")
"""Settings of the server that need a restart; so does switching TLS on or off."""


class Reload:
    """Reloads the settings; a configuration that is not usable changes nothing."""

    def __init__(
        self, states: ReloadableState, tls: ssl.SSLContext | None, read: Callable[[], Settings]
    ) -> None:
        self._states = states
        self._started_with = states.current.settings.server
        self._tls = tls
        self._read = read

    def run(self) -> None:
        """Use the current configuration from now on, and log the result."""
        try:
            settings = self._read()
            # Tested in a context of its own, because a failure leaves a context half changed.
            certificate.make_tls_context(settings.server)
            self._states.replace(settings)
            if self._tls is not None and settings.server.tls_certificate is not None:
                certificate.load(self._tls, settings.server)
                certificate.export_expiry(settings.server)
        except ConfigurationError as error:
            problems = "; ".join(str(error).splitlines())
            logger.error(f"reload failed, keeping the previous configuration: {problems}")
            return
        logger.info("configuration reloaded (environment variables unchanged)")
        self._checking = asyncio.create_task(check.log(settings))
        if changed := _find_restart_settings(self._started_with, settings.server):
            logger.warning(f"restart required for: {', '.join(changed)}")


def _find_restart_settings(old: Server, new: Server) -> list[str]:
    changed = [name for name in LISTENING if getattr(old, name) != getattr(new, name)]
    if (old.tls_certificate is None) != (new.tls_certificate is None):
        changed.append("tls_certificate")
    return [f"server.{name}" for name in changed]
