from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.formats import startup
from labctl.formats.sketch import Device, Line, Port, Sketch
from labctl.formats.startup import (
    configure,
    frr_addresses,
    interfaces_file,
    modern_command,
    program_exists,
    route_of,
    routing_config,
    routing_daemons,
)
from tests.unit.formats.samples import written


def configured(*lines: str, shell: bool = True) -> tuple[Device, list[Port], Sketch]:
    sketch = Sketch("x", "tool")
    device = sketch.device("pc")
    ports = [Port("pc", "eth0"), Port("pc", "eth1")]
    sketch.network("a", ports[:1])
    sketch.network("b", ports[1:])
    configure(sketch, device, [Line(text, number) for number, text in enumerate(lines, 1)], shell=shell)
    return device, ports, sketch


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("ip address add 10.0.0.1/24 dev eth0", "10.0.0.1/24"),
        ("ip a a dev eth0 10.0.0.1/24 brd +", "10.0.0.1/24"),
        ("sudo /sbin/ip -4 addr replace 10.0.0.1/24 broadcast 10.0.0.255 dev eth0", "10.0.0.1/24"),
        ("ifconfig eth0 10.0.0.1 netmask 255.255.255.0 up", "10.0.0.1/255.255.255.0"),
        ("ifconfig eth0 10.0.0.1/24 up", "10.0.0.1/24"),
        ("ifconfig eth0 172.16.0.1", "172.16.0.1/16"),
        ("ip -6 addr add 2001:db8::1/64 dev eth0", "2001:db8::1/64"),
        ("ifconfig eth0 inet6 add 2001:db8::1/64", "2001:db8::1/64"),
    ],
)
def test_addresses_become_those_of_the_port(line: str, address: str) -> None:
    device, (eth0, _), _ = configured(line)
    from ipaddress import ip_interface

    assert [ip_interface(one) for one in (*eth0.ipv4, *eth0.ipv6)] == [ip_interface(address)]
    assert device.commands == []


def test_settings_macs_and_what_labctl_does_itself_are_taken() -> None:
    device, (eth0, eth1), _ = configured(
        "ip link set dev eth0 up",
        "ip link set eth0 address 02:00:00:00:00:0A",
        "ifconfig eth1 hw ether 02:00:00:00:00:0b up",
        "sysctl -w net.ipv4.ip_forward=1",
        "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter",
        "hostname pc",
        "/etc/init.d/networking restart",
    )
    assert (eth0.mac, eth1.mac) == ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
    assert device.settings == {"sysctls": {"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.rp_filter": 0}}
    assert device.commands == []


def test_mtus_queueing_and_offload_are_taken() -> None:
    device, (eth0, eth1), _ = configured(
        "ip link set dev eth0 mtu 1400 up",
        "ifconfig eth1 mtu 1300 up",
        "tc qdisc replace dev eth1 root handle 1: tbf rate 1mbit burst 32kbit latency 400ms",
        "ethtool -K eth0 tx off rx off",
    )
    assert (eth0.mtu, eth1.mtu) == (1400, 1300)
    assert eth1.impairment == {"rate": "1mbit"}
    assert (device.settings, device.commands) == ({"offload": False}, [])


@pytest.mark.parametrize(
    "line",
    [
        "ip address add 10.0.0.1/24 dev eth0; ip link set eth0 up",
        "ip address add 10.0.0.1/24 dev eth0 && ip link set eth0 up",
        "bash -c 'ip address add 10.0.0.1/24 dev eth0; ip link set eth0 up'",
        "sh -c 'ip address add 10.0.0.1/24 dev eth0'",
    ],
)
def test_simple_lists_of_commands_are_taken_apart(line: str) -> None:
    device, (eth0, _), _ = configured(line)
    assert (eth0.ipv4, device.commands) == (["10.0.0.1/24"], [])


@pytest.mark.parametrize(
    "line", ["true || false", "echo 'a; b' && true", "true & true", "bash -c 'for i in 1; do true; done'"]
)
def test_other_lists_of_commands_stay_whole(line: str) -> None:
    assert configured(line)[0].commands == [line]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("brctl addbr br0", "ip link add br0 type bridge"),
        ("brctl addif br0 eth0 eth1", "ip link set eth0 master br0 && ip link set eth1 master br0"),
        ("brctl stp br0 on", "ip link set br0 type bridge stp_state 1"),
        ("vconfig add eth0 10", "ip link add link eth0 name eth0.10 type vlan id 10"),
        ("ifconfig br0 10.0.0.1/24 up", "ip address add 10.0.0.1/24 dev br0 && ip link set br0 up"),
        ("sudo /sbin/route add -net 10.1.0.0 netmask 255.255.0.0 gw 10.0.0.1 dev eth0",
         "ip route add 10.1.0.0/255.255.0.0 via 10.0.0.1 dev eth0"),
        ("brctl show", ""),
    ],
)  # fmt: skip
def test_commands_of_net_tools_have_a_modern_form(old: str, new: str) -> None:
    assert modern_command(old.split()) == new


def test_commands_have_their_origin() -> None:
    device, _, _ = configured("ip link add br0 type bridge", "sleep 9 &")
    assert [device.origins[name].number for name in ("ip link add br0 type bridge", "sleep")] == [1, 2]


def test_commands_of_vtysh_run_after_frr() -> None:
    sketch = Sketch("x", "tool")
    device = sketch.device("r")
    device.routing = {"content": ""}
    lines = ["systemctl start frr", "vtysh -c 'show run'", "vtysh -c 'conf t'"]
    configure(sketch, device, [Line(text) for text in lines])
    if program_exists("zebra"):
        assert device.settings["services"]["vtysh"] == {
            "shell": "vtysh -c 'show run'\nvtysh -c 'conf t'",
            "after": ["frr"],
        }


def test_netem_stays_a_command() -> None:
    command = "tc qdisc add dev eth0 root netem delay 100ms loss 50%"
    assert configured(command)[0].commands == [command]


def test_a_file_of_daemons_selects_what_runs(tmp_path: Path) -> None:
    written(tmp_path, "etc/frr/daemons", "zebra=yes\nospfd=yes\nbgpd=no\nwatchfrr_enable=yes\n")
    assert routing_daemons(tmp_path) == ["ospfd", "staticd"]
    assert routing_config(tmp_path, "r1") == {"content": ""}
    assert routing_daemons(tmp_path / "etc") == []


def test_other_commands_stay_in_order() -> None:
    lines = ["ip route add default via 10.0.0.1", "ip link add br0 type bridge", "ip addr add 10.0.0.1/24 dev br0"]
    assert configured(*lines)[0].commands == lines


def test_a_script_stays_whole_from_its_control_flow_on() -> None:
    device, (eth0, _), sketch = configured(
        "ip addr add 10.0.0.1/24 dev eth0", "for i in 1 2; do", "  ip addr add 10.0.$i.1/24 dev eth1", "done"
    )
    assert eth0.ipv4 == ["10.0.0.1/24"]
    assert device.commands == [{"shell": "for i in 1 2; do\n  ip addr add 10.0.$i.1/24 dev eth1\ndone\n"}]
    assert [str(note).partition(":")[0] for note in sketch.report.notes] == ["pc (line 2)"]


def test_what_a_script_configures_outside_of_its_control_flow_is_taken() -> None:
    device, (eth0, eth1), _ = configured(
        "A=1",
        "if test -d /shared; then",
        "  ip addr add 10.9.0.1/24 dev eth1",
        "fi",
        "for i in 1 2; do ip addr add 10.0.$i.1/24 dev eth1; done",
        "ip addr add 10.0.0.1/24 dev eth0",
        "ip addr add 10.0.$A.1/24 dev eth1",
        "systemctl restart networking",
    )
    assert (eth0.ipv4, eth1.ipv4) == (["10.0.0.1/24"], [])
    script = device.commands[0]["shell"]
    assert script.startswith("A=1\nif test -d /shared; then\n  ip addr")
    assert script.endswith("done\nip addr add 10.0.$A.1/24 dev eth1\n")


def test_a_program_in_the_background_becomes_a_service() -> None:
    device, _, _ = configured("nohup sleep 100 &", "sleep 5 > /tmp/x &", "true && true")
    assert device.settings["services"] == {"sleep": {"run": ["sleep", "100"]}, "sleep-2": {"shell": "sleep 5 > /tmp/x"}}
    assert device.commands == ["true", "true"]


def test_a_command_of_a_program_that_the_machine_lacks_is_left_out() -> None:
    device, _, sketch = configured("no-such-program --now")
    assert device.commands == []
    assert [str(one) for one in sketch.report.missing] == [
        "pc: `no-such-program --now` (line 1): the program is not installed on this machine"
    ]


@pytest.mark.parametrize("line", ["systemctl start web", "systemctl enable --now web", "service web start"])
def test_a_daemon_becomes_a_service(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setitem(startup.DAEMONS, "web", startup.Daemon("sh", "-c", "sleep 9", ready="tcp/80", private=("/v",)))
    device, _, _ = configured(line)
    expected = {"web": {"run": ["sh", "-c", "sleep 9"], "ready": {"listening": "tcp/80"}}}
    assert device.settings == {"services": expected, "private": ["/v"]}


def test_a_daemon_that_the_machine_or_labctl_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(startup.DAEMONS, "web", startup.Daemon("no-such-program"))
    device, _, sketch = configured("/etc/init.d/web start", "systemctl start other.service", "service web stop")
    assert device.settings == {}
    assert len(sketch.report.missing) == 2


def test_interfaces_files_become_commands() -> None:
    text = "auto eth0\niface eth0 inet static\n address 10.0.0.1\n netmask 255.0.0.0\n gateway 10.0.0.9\n up true\n"
    assert [line.text for line in interfaces_file(text, "x")] == [
        "ip address add 10.0.0.1/8 dev eth0",
        "ip route replace default via 10.0.0.9 dev eth0",
        "true",
    ]


def test_programs_of_sbin_and_built_in_commands_exist() -> None:
    assert program_exists("cd")
    assert program_exists("sh")
    assert not program_exists("no-such-program")


@given(st.lists(st.text(max_size=40), max_size=6), st.booleans())
def test_any_script_is_read(lines: list[str], shell: bool) -> None:
    configured(*lines, shell=shell)


@given(st.text(max_size=200))
def test_any_interfaces_file_is_read(text: str) -> None:
    assert interfaces_file(text, "x") is not None


@pytest.mark.parametrize(
    ("command", "route"),
    [
        ("ip route add default via 10.0.0.1 dev eth0", (None, "10.0.0.1", 0)),
        ("ip r a 10.2.0.0/16 via 10.0.0.1 metric 5", ("10.2.0.0/16", "10.0.0.1", 5)),
        ("ip -6 route replace default via fd00::1", (None, "fd00::1", 0)),
        ("route add default gw 10.0.0.1", (None, "10.0.0.1", 0)),
        ("route add -net 10.2.0.0 netmask 255.255.0.0 gw 10.0.0.1", ("10.2.0.0/16", "10.0.0.1", 0)),
        ("ip route add 10.2.0.1/16 via 10.0.0.1", None),
        ("ip route add blackhole 10.2.0.0/16", None),
        ("ip route add default dev eth0", None),
        ("ip route del default via 10.0.0.1", None),
    ],
)
def test_routes_by_a_gateway_are_understood(command: str, route: tuple[str | None, str, int] | None) -> None:
    found = route_of(command)
    shown = None if found is None else (None if found.to is None else str(found.to), str(found.via), found.metric)
    assert shown == route


@given(st.text("ip route add via dev 10.0/fd:", max_size=40))
def test_any_command_is_a_route_or_none(command: str) -> None:
    assert route_of(f"ip route add {command}") is None or command


def test_host_addresses_of_lo_are_loopback_addresses() -> None:
    device, _, _ = configured("ip addr add 10.255.0.1/32 dev lo", "ip addr add 10.255.1.1/24 dev lo")
    assert device.settings == {"loopback": ["10.255.0.1"]}
    assert device.commands == ["ip addr add 10.255.1.1/24 dev lo"]


def test_a_script_of_assignments_alone_has_no_effect() -> None:
    assert configured("export A=1", "B=2")[0].commands == []


def test_files_of_single_routing_daemons_become_one_configuration(tmp_path: Path) -> None:
    (tmp_path / "etc/quagga").mkdir(parents=True)
    (tmp_path / "etc/quagga/zebra.conf").write_text(
        "hostname r1\npassword zebra\ninterface eth0\n ip address 10.0.0.1/24\n"
    )
    (tmp_path / "etc/quagga/ripd.conf").write_text("router rip\n network 10.0.0.0/8\nlog file /var/log/ripd.log\n")
    content = "interface eth0\n ip address 10.0.0.1/24\nrouter rip\n network 10.0.0.0/8\n"
    assert routing_config(tmp_path, "r1") == {"content": content}
    (tmp_path / "etc/frr").mkdir()
    (tmp_path / "etc/frr/frr.conf").write_text("")
    assert routing_config(tmp_path, "r1") == "r1/etc/frr/frr.conf"
    assert routing_config(tmp_path / "etc", "r1") is None


def test_addresses_of_the_routing_daemons_are_those_of_the_ports() -> None:
    sketch = Sketch("x", "tool")
    device = sketch.device("pc")
    sketch.network("a", [Port("pc", "eth0")])
    frr_addresses(
        sketch, device, "interface eth0\n ip address 10.0.0.1/24\nexit\ninterface lo\n ip address 10.9.0.1/32\n"
    )
    assert sketch.cables[0].ports[0].ipv4 == ["10.0.0.1/24"]


def test_frr_is_started_with_its_configuration_or_reported() -> None:
    sketch = Sketch("x", "tool")
    device = sketch.device("pc")
    configure(sketch, device, [Line("systemctl start frr", 3)])
    assert [str(one) for one in sketch.report.missing] == ["pc: FRR (line 3): the device has no configuration for it"]
    device.routing = "pc/frr.conf"
    configure(sketch, device, [Line("/etc/init.d/frr start", 3)])
    started = {"services": {"frr": {"use": "frr", "config": "pc/frr.conf"}}, "private": ["/var/log/frr"]}
    assert device.settings == (started if program_exists("zebra") else {})


def test_commands_that_change_the_machine_are_left_out() -> None:
    device, _, sketch = configured(
        "echo x > /etc/motd", "export A=1", "rm /etc/motd", "ip route add 10.0.0.0/8 dev eth0"
    )
    assert device.commands == []
    assert [str(one) for one in sketch.report.missing] == [
        "pc: `echo x > /etc/motd` (line 1): it writes to /etc/motd, a file of the machine",
        "pc: the script (line 2): it changes /etc/motd, a file of the machine",
    ]


def test_what_only_a_container_needs_is_ignored() -> None:
    device, (eth0, _), sketch = configured(
        "ip addr add 192.0.2.1/24 dev eth0",
        "ip addr flush dev eth0",
        "ip addr add 10.0.0.1/24 dev eth0",
        "ip route del default",
        "ip route del default via 172.20.20.1 dev eth0",
        "sleep infinity",
        "tail -f /dev/null",
    )
    assert (device.commands, eth0.ipv4, sketch.report.missing) == ([], ["10.0.0.1/24"], ())
