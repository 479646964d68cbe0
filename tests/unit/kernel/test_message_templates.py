"""The stored messages are those of the installed pyroute2, and its classes are not imported for them."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from labctl.kernel import message_templates, rtnl


@pytest.mark.skipif(sys.byteorder != "little", reason="a machine with little-endian numbers")
def test_the_stored_messages_are_what_pyroute2_encodes() -> None:
    encoded = {shape: encode() for shape, encode in rtnl.PLACEHOLDERS.items()}
    assert encoded == message_templates.ENCODED, "written by: python -m tests.unit.kernel.write_message_templates"
    assert importlib.metadata.version("pyroute2") == message_templates.PYROUTE2


@pytest.mark.skipif(sys.byteorder != "little", reason="a machine with little-endian numbers")
def test_pyroute2_is_not_imported_for_stored_messages() -> None:
    program = """
import sys
from ipaddress import ip_interface
from labctl.kernel import rtnl
rtnl.load_message_classes()
rtnl.new_address(1, ip_interface("10.0.0.1/24"))
print([name for name in sys.modules if name.startswith("pyroute2")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_another_version_of_pyroute2_encodes_messages_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = rtnl.new_bridge("br0", 7, 1500)
    monkeypatch.setattr(message_templates, "PYROUTE2", "0.0.1")
    monkeypatch.setattr(message_templates, "ENCODED", {})
    caches = (rtnl._are_stored, rtnl._bridge_template)
    try:
        for each in caches:
            each.cache_clear()
        assert rtnl.new_bridge("br0", 7, 1500) == stored
    finally:
        for each in caches:
            each.cache_clear()
