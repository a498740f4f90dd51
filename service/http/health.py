"""Liveness check of the configured listener, from the same machine."""

import http.client
import ssl
from http import HTTPStatus

from service.config import Server
from service.wire import LIVE_PATH

TIMEOUT_SECONDS = 4


def liveness_error(server: Server) -> str | None:
    """Return why the service does not answer /livez; None if it does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
    if server.management_port is not None or server.tls_certificate is None:
        port = server.management_port or server.port
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    else:
        port = server.port
        # The certificate is for the public name, not for this address.
        unverified = ssl.create_default_context()
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_SECONDS, context=unverified
        )
    try:
        connection.request("GET", LIVE_PATH)
        status = connection.getresponse().status
    except ConnectionRefusedError:
        return f"nothing is listening on {host}:{port}"
    except TimeoutError:
        return f"{host}:{port} did not respond within {TIMEOUT_SECONDS} seconds"
    except (OSError, http.client.HTTPException) as error:
        return f"cannot connect to {host}:{port} ({type(error).__name__})"
    finally:
        connection.close()
    return None if status == HTTPStatus.OK else f"{host}:{port} returned status {status}"
