"""The network namespace of a socket, on the real kernel."""

from __future__ import annotations

import os
import socket

import pytest

from labctl.kernel.namespaces import new_network, socket_in
from labctl.kernel.socket_network import network_of
from tests.integration.inside import inside

pytestmark = pytest.mark.stock_kernel


@inside
def test_a_socket_lives_where_it_was_made() -> None:
    made = new_network()
    with socket_in(made, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        lives_in = network_of(sock)
        assert os.path.sameopenfile(lives_in, made)
        assert not os.get_inheritable(lives_in)
        assert not os.get_inheritable(sock.fileno())
    assert not os.get_inheritable(made)
