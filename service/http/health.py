"""Asks the configured listener whether it is alive, from the same machine."""

import http.client
import ssl
from http import HTTPStatus

from service.config import Server
from service.wire import LIVE_PATH

ASK_SECONDS = 4


def liveness_error(server: Server) -> str | None:
    """Return why the listener does not answer as it should, None where it does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    if server.management_port is not None or server.tls_certificate is None:
        port = server.management_port or server.port
        connection = http.client.HTTPConnection(host, port, timeout=ASK_SECONDS)
    else:
        # Its own certificate names what others call it by.
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, server.port, timeout=ASK_SECONDS, context=trusting
        )
    try:
        connection.request("GET", LIVE_PATH)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()
    return None if status == HTTPStatus.OK else f"status {status}"
