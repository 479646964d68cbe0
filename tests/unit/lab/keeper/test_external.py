"""Name servers for labs with `nat`, and what of a running lab cannot be changed."""

from __future__ import annotations

import pytest

from labctl.lab.keeper.external import resolv_conf


def resolved(files: dict[str, str]) -> list[str]:
    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    text = resolv_conf(tuple(files) or ("/etc/resolv.conf",), read)
    return [line.split()[1] for line in text.splitlines() if line.startswith("nameserver")]


def test_the_machines_name_servers_are_the_labs() -> None:
    assert resolved({"/etc/resolv.conf": "search x\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"}) == [
        "192.0.2.53",
        "2001:db8::53",
    ]


def test_behind_a_resolver_on_the_loopback_are_the_real_ones() -> None:
    files = {
        "/etc/resolv.conf": "nameserver 127.0.0.53\n",
        "/run/systemd/resolve/resolv.conf": "nameserver 192.0.2.1\n",
    }
    assert resolved(files) == ["192.0.2.1"]


@pytest.mark.parametrize("server", ["127.0.0.1", "::1", "fe80::1%eth0", "fe80::1", "nonsense"])
def test_a_server_that_only_the_machine_reaches_is_left_out(server: str) -> None:
    assert resolved({"/etc/resolv.conf": f"nameserver {server}\n"}) == []


def test_a_machine_without_the_file_has_no_name_server() -> None:
    assert resolved({}) == []
