"""Render plans as text, JSON and shell scripts."""

from __future__ import annotations

import json
import subprocess

from hypothesis import HealthCheck, settings

from labctl import topology
from labctl.plan.build import build
from labctl.plan.render import render_json, render_shell, render_text
from tests.unit.topology.drafts import resolved

MODEST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_the_text_form_counts_and_lists() -> None:
    text = render_text(build(topology.load("star:2")))
    assert text.splitlines()[:4] == [
        "topology star-2: 2 hosts, 1 switch, 2 links, 18 operations",
        "make host h1",
        "make host h2",
        "make switch s1",
    ]


def test_the_json_form_names_every_field() -> None:
    shown = json.loads(render_json(build(topology.load("pair"))))
    assert shown["topology"] == "pair"
    assert shown["nodes"][0] == {"name": "client", "kind": "host", "environment": {}}
    link = next(one for one in shown["operations"] if one["operation"] == "make_link")
    assert link["a"] == {"node": "client", "ifname": "eth0", "mac": "02:1a:5f:a7:7d:de", "mtu": 1500, "bridge": ""}


def test_the_shell_form_is_a_posix_script_that_quotes_what_it_must() -> None:
    made = resolved(
        "name: 'a; reboot'", "hosts: {büro: {sysctls: {net.ipv4.tcp_rmem: '1 2 3'}}, b: }", "links: [[büro, b]]"
    )
    script = render_shell(build(made))
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    assert "ip netns add 'büro'" in script
    assert "sysctl -qw 'net.ipv4.tcp_rmem=1 2 3'" in script


def test_secrets_of_wireguard_are_in_the_script_only() -> None:
    key = "QAJ/BvwpDW8q0BTGqi7ZUDWcXyDKMCZfVLGDUUgW/EM="
    peer = f"{{public_key: {key}, preshared_key: {key.replace('Q', 'R', 1)}}}"
    wireguard = f"{{wireguard: {{private_key: {key.replace('Q', 'a', 1)}, peers: [{peer}]}}}}"
    made = build(resolved(f"hosts: {{a: {{interfaces: {{wg0: {wireguard}}}}}, b: }}", "links: [[a, b]]"))
    for text, secrets in ((render_text(made), 0), (render_json(made), 0), (render_shell(made), 2)):
        assert (key.replace("Q", "a", 1) in text) + (key.replace("Q", "R", 1) in text) == secrets
