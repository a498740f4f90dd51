"""Who may have the metrics where there is no port for supervisors alone."""

from unittest.mock import Mock

import pytest
from aiohttp.test_utils import make_mocked_request

from service.config import Auth, Jwt, Settings, Tuning
from service.http.app_state import ReloadableState
from service.http.envelope import Problem
from service.http.probes import Probes, is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_a_process_of_this_machine_is_known(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "", None]
)
def test_others_are_not_taken_for_one(address: str | None) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize("has_own_port", [False, True])
async def test_metrics_go_to_strangers_on_a_port_of_their_own_alone(*, has_own_port: bool) -> None:
    transport = Mock()
    transport.get_extra_info.return_value = ("192.0.2.1", 1)
    request = make_mocked_request("GET", "/metrics", transport=transport)
    states = ReloadableState(Settings(Auth({}, Jwt(["HS256"], "x" * 32)), {}), Tuning())
    probes = Probes(states, has_own_port=has_own_port)

    if has_own_port:
        assert (await probes.metrics(request)).status == 200
    else:
        with pytest.raises(Problem, match="only served to this machine") as raised:
            await probes.metrics(request)
        assert raised.value.status == 403
