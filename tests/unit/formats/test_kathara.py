from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.errors import InputError
from labctl.formats.kathara import read
from tests.unit.formats.samples import DATA, shells, translated, written

LAB = DATA / "kathara"


def test_collision_domains_are_networks_or_links() -> None:
    data, _ = translated(LAB)
    members = data["networks"]["A"]["members"]
    assert members == [
        {"node": "pc1", "ipv4": "195.11.14.5"},
        {"node": "pc2", "ipv4": "195.11.14.6"},
        {"node": "r1", "mac": "02:00:00:00:00:01", "ipv4": "195.11.14.1"},
    ]
    assert data["links"] == [{"ends": [{"node": "r1", "ipv4": "200.1.1.1/24"}, {"node": "web", "ipv4": False}]}]


def test_devices_with_several_interfaces_are_routers_without_static_routes() -> None:
    data, _ = translated(LAB)
    assert (list(data["hosts"]), list(data["routers"]), data["routes"]) == (["pc1", "pc2", "web"], ["r1"], "none")


def test_startup_scripts_and_interfaces_files_become_keys_and_commands() -> None:
    data, _ = translated(LAB)
    assert data["hosts"]["pc1"] == {"gateway": "195.11.14.1"}
    assert data["routers"]["r1"]["exec"] == [
        {"shell": "echo up > /tmp/eth1", "may_fail": True, "origin": "r1/etc/network/interfaces:5"}
    ]
    assert data["hosts"]["web"]["exec"][-1]["shell"].startswith("for i in eth0; do\n")


def test_folders_of_devices_are_placed() -> None:
    data, _ = translated(LAB)
    assert data["hosts"]["web"]["files"] == {"/": {"source": "web"}}
    assert "files" not in data["hosts"]["pc1"]


def test_what_a_container_would_have_is_reported() -> None:
    _, found = translated(LAB)
    reported = "\n".join(found.report)
    for expected in ("pc1 (line 7): the image kathara/base", "web: mem=64m (line 14)", "lab.dep: labctl starts all"):
        assert expected in reported
    assert "pc2.startup: the daemon no-such-daemon (line 4)" in reported


def test_the_file_lab_conf_stands_for_its_directory() -> None:
    assert translated(LAB / "lab.conf")[0] == translated(LAB)[0]


def test_a_lab_without_commands_gets_automatic_addresses(tmp_path: Path) -> None:
    written(tmp_path, "lab.conf", 'pc1[0]="A"\npc2[0]="A"\n')
    data, _ = translated(tmp_path)
    assert (data["links"], "routes" in data) == ([["pc1", "pc2"]], False)


@pytest.mark.parametrize(
    ("text", "message"),
    [("pc1[0]=A\nnonsense\n", "lab.conf:2: `nonsense` is not DEVICE"), ("# empty\n", "there are no devices")],
)
def test_a_mistake_is_reported_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    written(tmp_path, "lab.conf", text)
    with pytest.raises(InputError, match=message):
        read(tmp_path, "x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("ab[]01=/\"#' \n", max_size=20), max_size=6))
def test_any_text_is_read_or_refused(tmp_path: Path, lines: list[str]) -> None:
    written(tmp_path, "lab.conf", "\n".join(lines))
    try:
        read(tmp_path, "x")
    except InputError as error:
        assert "lab.conf" in str(error)  # noqa: PT017


def test_a_device_without_interfaces_is_a_host(tmp_path: Path) -> None:
    written(tmp_path, "lab.conf", 'pc1[0]=A\nbrowser[bridged]=true\nbrowser[port]="3000:3000"\n')
    data, _ = translated(tmp_path)
    assert data["hosts"]["browser"] == {"expose": ["3000:3000"]}


def test_link_local_addresses_are_set_because_routes_may_use_them(tmp_path: Path) -> None:
    written(tmp_path, "lab.conf", "r1[0]=A\nr2[0]=A\n")
    written(tmp_path, "r1.startup", "ip address add fe80::1/64 dev eth0\nip route add default via fe80::2 dev eth0\n")
    data, _ = translated(tmp_path)
    assert shells(data["hosts"]["r1"]) == [
        "ip -6 address add fe80::1/64 dev eth0 nodad",
        "ip route add default via fe80::2 dev eth0",
    ]
