"""Network namespaces by descriptor, and their sysctls, on the real kernel."""

from __future__ import annotations

import errno
import os

import pytest

from labctl.kernel.namespaces import (
    current_network,
    entered,
    new_network,
    read_sysctl,
    values_that_work,
    write_sysctl,
)
from labctl.kernel.netlink import NETLINK_ROUTE, open_socket
from labctl.kernel.routes import links
from labctl.kernel.syscalls import CLONE_NEWUTS
from tests.integration.inside import inside

pytestmark = pytest.mark.stock_kernel


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


@inside
def test_a_new_network_has_only_lo_and_lasts_as_long_as_its_descriptor() -> None:
    home = current_network()
    made = new_network()
    with entered(made), open_socket(NETLINK_ROUTE) as sock:
        assert [(link.name, link.up) for link in links(sock)] == [("lo", False)]
    check = current_network()
    assert inode(check) == inode(home) != inode(made)
    for fd in (home, made, check):
        os.close(fd)


@inside
def test_an_exception_inside_a_namespace_leads_home() -> None:
    home, made = current_network(), new_network()
    with pytest.raises(ZeroDivisionError), entered(made):
        raise ZeroDivisionError
    back = current_network()
    assert inode(back) == inode(home)


@inside
def test_the_way_home_from_another_kind_of_namespace_has_to_be_given() -> None:
    with pytest.raises(ValueError, match="home="), entered(0, CLONE_NEWUTS):
        pass


@inside
def test_the_range_that_a_sysctl_accepts_is_found_and_its_value_stays() -> None:
    before = read_sysctl("net.ipv4.ip_default_ttl")
    assert values_that_work("net.ipv4.ip_default_ttl") == "Whole numbers from 1 to 255 work."
    assert read_sysctl("net.ipv4.ip_default_ttl") == before


@inside
def test_a_refused_value_of_a_sysctl_is_einval() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        write_sysctl("net.ipv4.ip_default_ttl", "256")
