"""Keys of sysctls as people write them."""

from __future__ import annotations

import pytest

from labctl.kernel.namespaces import sysctl_path


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.core.somaxconn", "net/core/somaxconn"),
        ("net/core/somaxconn", "net/core/somaxconn"),
        ("net.ipv4.tcp_syncookies", "net/ipv4/tcp_syncookies"),
        ("net.ipv4.conf.eth0.rp_filter", "net/ipv4/conf/eth0/rp_filter"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net.ipv4.conf.eth0.100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net.ipv6.neigh.a.b.c.gc_stale_time", "net/ipv6/neigh/a.b.c/gc_stale_time"),
    ],
)
def test_a_key_names_its_file(key: str, path: str) -> None:
    assert sysctl_path(key) == f"/proc/sys/{path}"


@pytest.mark.parametrize("key", ["", "net", "kernel.hostname", "net..core", "net/../kernel/hostname", "/net/core/x"])
def test_a_key_that_is_not_below_net_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"not below net\."):
        sysctl_path(key)
