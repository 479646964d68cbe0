"""Requests and answers of sock_diag(7) are packed and read as pyroute2 packs and reads them."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from pyroute2.netlink import diag  # type: ignore[import-untyped]  # it has no annotations

from labctl.kernel import sock_diag
from labctl.kernel.netlink import HEADER, attribute, message


def test_a_request_for_inet_sockets() -> None:
    theirs = diag.inet_diag_req()
    theirs["sdiag_family"], theirs["sdiag_protocol"] = socket.AF_INET6, socket.IPPROTO_TCP
    theirs["idiag_states"], theirs["idiag_cookie"] = 0x1FFF, 2**64 - 1
    theirs["idiag_src"] = theirs["idiag_dst"] = 0
    theirs.encode()
    ours = sock_diag.inet_request(socket.AF_INET6, socket.IPPROTO_TCP, 0x1FFF)
    assert bytes(theirs.data)[HEADER.size :] == ours


@pytest.mark.parametrize(
    ("family", "local", "peer"),
    [(socket.AF_INET, "192.0.2.1", "192.0.2.2"), (socket.AF_INET6, "2001:db8::1", "2001:db8::2")],
)
def test_an_inet_socket_is_read_as_pyroute2_reads_it(family: int, local: str, peer: str) -> None:
    packed = [ip_address(text).packed.ljust(16, b"\0") for text in (local, peer)]
    payload = sock_diag.INET_MESSAGE.pack(
        family, 1, 0, 0, b"\x13\x88\x9c\x40", *packed, 21, bytes(8), 0, 5, 6, 1000, 4711
    )
    theirs = diag.inet_diag_msg(message(20, 0, payload))
    theirs.decode()
    ours = sock_diag.decode_inet(payload, sock_diag.Transport.TCP)
    assert (theirs["idiag_src"], theirs["idiag_sport"]) == (str(ours.local), ours.local_port) == (local, 5000)
    assert (theirs["idiag_dst"], theirs["idiag_dport"]) == (str(ours.peer), ours.peer_port) == (peer, 40000)
    assert (theirs["idiag_rqueue"], theirs["idiag_wqueue"]) == (ours.receive_queue, ours.send_queue) == (5, 6)
    assert (theirs["idiag_uid"], theirs["idiag_inode"]) == (ours.uid, ours.inode) == (1000, 4711)
    assert (theirs["idiag_state"], theirs["idiag_if"]) == (ours.state, ours.ifindex)


def test_a_unix_socket_is_read_as_pyroute2_reads_it() -> None:
    fixed = sock_diag.UNIX_MESSAGE.pack(socket.AF_UNIX, socket.SOCK_STREAM, 10, 4711, bytes(8))
    payload = fixed + attribute(0, b"/run/x.sock\0") + attribute(2, b"\x01\0\0\0") + attribute(4, b"\2\0\0\0\4\0\0\0")
    theirs = diag.unix_diag_msg(message(20, 0, payload))
    theirs.decode()
    ours = sock_diag.decode_unix(payload)
    assert (theirs["udiag_ino"], theirs["udiag_type"], theirs["udiag_state"]) == (ours.inode, ours.type, ours.state)
    assert theirs.get_attr("UNIX_DIAG_NAME") == ours.path == "/run/x.sock"
    assert theirs.get_attr("UNIX_DIAG_PEER") == ours.peer_inode == 1
    assert theirs.get_attr("UNIX_DIAG_RQLEN")["udiag_wqueue"] == ours.accept_queue_limit == 4
