"""A hatchling build hook: the wheel carries the folders topologies/ and scenarios/ as labctl/_shipped/,
and beside them the script that allows user namespaces where AppArmor restricts them.

Only a real wheel does. An editable installation finds the folders in the checkout, and copies of them beside would go
stale; that is why this is not `force-include` in pyproject.toml, which applies to both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShippedFolders(BuildHookInterface):  # type: ignore[type-arg]  # its configuration's type is hatchling's own
    """Adds the shipped examples to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds; `version` is the kind of wheel, "standard" or "editable"."""
        if version != "editable":
            for folder in ("topologies", "scenarios"):
                build_data["force_include"][str(Path(self.root, folder))] = f"labctl/_shipped/{folder}"
            script = "allow-user-namespaces"  # for `labctl doctor --fix`
            build_data["force_include"][str(Path(self.root, "tools", script))] = f"labctl/_shipped/{script}"
