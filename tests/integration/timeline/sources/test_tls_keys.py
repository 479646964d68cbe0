"""TLS keys of programs with SSLKEYLOGFILE: read from their hosts, and used by tshark to decrypt."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.lab.client.handle import Lab
from labctl.timeline.recording import Recording, RecordOptions
from labctl.timeline.sinks.pcapng import write
from labctl.timeline.sources.tls_keys import key_files, read_keys
from tests.labs import WAIT_S, pair_plan

KEYS = "/tmp/tls-keys"
PLAN = pair_plan(environment=(("SSLKEYLOGFILE", KEYS),))

SERVER = """\
import http.server, os, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server = http.server.HTTPServer(("10.0.0.2", 443), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.handle_request()
"""
CLIENT = """\
import http.client, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
connection = http.client.HTTPSConnection("10.0.0.2", context=context)
connection.request("GET", "/secret-page")
print(connection.getresponse().status)
"""


def test_the_files_are_those_of_nodes_and_services_and_of_the_environment() -> None:
    assert key_files(PLAN, {}) == (("client", KEYS), ("server", KEYS))
    assert key_files(pair_plan(), {"SSLKEYLOGFILE": "/k"}) == (("client", "/k"), ("server", "/k"))
    assert key_files(pair_plan(), {"SSLKEYLOGFILE": "relative"}) == ()


def test_a_file_that_nobody_wrote_has_no_keys() -> None:
    with Lab.open(PLAN) as lab:
        assert read_keys(lab, key_files(PLAN, {})) == ""


@pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("openssl") is None, reason="needs the programs tshark and openssl"
)
def test_tshark_decrypts_what_a_program_with_a_key_file_received(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-days", "2",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True, timeout=WAIT_S,
    )  # fmt: skip
    options = RecordOptions(sample_interval_s=0, kernel=False)
    with Lab.open(PLAN, visible_paths=[tmp_path]) as lab, Recording.start(lab, options, plan=PLAN) as recording:
        recording.wait_ready()
        ours, its = os.pipe()
        server = lab.spawn("server", [sys.executable, "-c", SERVER], cwd=str(tmp_path), stdout=its)
        os.close(its)
        with open(ours, "rb") as output:
            assert output.readline() == b"ready\n"
            client = lab.spawn("client", [sys.executable, "-c", CLIENT], cwd="/")
            assert client.wait(WAIT_S) == 0
            assert server.wait(WAIT_S) == 0
        client.close()
        server.close()
        timeline = recording.stop()
    assert "CLIENT_TRAFFIC_SECRET_0" in timeline.tls_keys
    file = tmp_path / "tls.pcapng"
    with file.open("wb") as binary:
        write(timeline, binary)
    argv = ["tshark", "-r", str(file), "-Y", "http.request", "-T", "fields", "-e", "http.request.uri"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=WAIT_S).stdout
    assert listed == "/secret-page\n"
