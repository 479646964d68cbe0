from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.formats.machine_changes import change_of


@pytest.mark.parametrize(
    ("command", "change"),
    [
        ("apt-get install -y curl", "it installs software on the machine"),
        ("sudo apk add tcpdump && true", "it installs software on the machine"),
        ("useradd bob", "`useradd` changes the machine"),
        ("echo nameserver 1.1.1.1 > /etc/resolv.conf", "it writes to /etc/resolv.conf, a file of the machine"),
        ("cat x >>/etc/hosts", "it writes to /etc/hosts, a file of the machine"),
        ("rm -rf /var/lib/x", "it changes /var/lib/x, a file of the machine"),
        ("cp /tmp/a /etc/b", "it changes /etc/b, a file of the machine"),
        ("chmod 600 /etc/shadow", "it changes /etc/shadow, a file of the machine"),
        ("sed -i s/a/b/ /etc/ssh/sshd_config", "it changes /etc/ssh/sshd_config, a file of the machine"),
        ("touch notes", "it changes notes, a file of the machine"),
        ("touch /tmp/../etc/x", "it changes /tmp/../etc/x, a file of the machine"),
        ("sysctl -w kernel.msgmax=1", "the setting belongs to the machine"),
        ("if true; then rm /x; fi", "it changes /x, a file of the machine"),
        ('sh -c "apt update"', "it installs software on the machine"),
        ("killall sshd", "`killall` changes the machine"),
        ("python3 -m http.server > server.log", "it writes to server.log, a file of the machine"),
    ],
)
def test_what_changes_the_machine_is_named(command: str, change: str) -> None:
    assert change_of(command) == change


@pytest.mark.parametrize(
    "command",
    [
        "echo up > /tmp/x",
        "ip route add 10.0.0.0/8 via 10.0.0.1 2>/dev/null",
        "cp /etc/hosts /tmp/hosts",
        "sleep 1 >/dev/null 2>&1",
        "sysctl -w net.ipv4.ip_forward=1",
        "iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
        'echo "a > b"',
        "mkdir -p /run/named",
        "sed s/a/b/ /etc/hosts",
        'sh -c "echo ready > /tmp/ready"',
    ],
)
def test_other_commands_are_kept(command: str) -> None:
    assert change_of(command) == ""


def test_directories_of_the_node_may_be_changed() -> None:
    assert change_of("chown frr:frr /etc/frr/frr.conf", ["/etc/frr"]) == ""
    assert change_of("chown frr:frr /etc/frr", ["/etc/frr"]) == ""
    assert change_of("touch /etc/frrx", ["/etc/frr"]) != ""


@given(st.text("rm cp>/etc'\"|&;()$ -", max_size=40))
def test_any_text_is_judged(text: str) -> None:
    assert isinstance(change_of(text), str)
