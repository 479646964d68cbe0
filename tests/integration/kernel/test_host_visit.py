"""Visits of a thread to a host: there it has the host's network, hostname and files; then its own again."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from labctl.kernel import host_visit, namespaces, syscalls
from tests.integration.inside import inside

FILES = {"/etc/hosts": "192.0.2.1 h1\n"}


def network() -> int:
    descriptor = namespaces.current_network()
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def own_namespaces() -> None:
    """Enter namespaces of this user namespace, so that setns(2) lets an ordinary user's threads return to them."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)


@inside
def test_a_thread_has_the_hosts_network_hostname_and_names_until_it_leaves() -> None:
    own_namespaces()
    made = namespaces.new_network()
    home, hostname, directory = network(), socket.gethostname(), os.getcwd()
    host = host_visit.open_host(made, "h1", FILES, "host h1")
    assert host is not None
    origin = host_visit.enter(host)
    assert network() == os.fstat(made).st_ino
    assert Path("/etc/hosts").read_text() == FILES["/etc/hosts"]
    assert (socket.gethostname(), os.getcwd()) == ("h1" if host.hostname is not None else hostname, directory)
    assert os.listdir("/sys/class/net") == ["lo"]
    host_visit.leave(origin)
    assert (network(), socket.gethostname(), os.getcwd()) == (home, hostname, directory)
    assert Path("/etc/hosts").read_text() != FILES["/etc/hosts"]
    host.close()


@inside
def test_visits_leave_no_descriptor_open() -> None:
    own_namespaces()
    before = set(os.listdir("/proc/self/fd"))
    host = host_visit.open_host(namespaces.new_network(), "h1", FILES, "host h1")
    assert host is not None
    for _ in range(2):
        host_visit.leave(host_visit.enter(host))
    host.close()
    assert set(os.listdir("/proc/self/fd")) == before
