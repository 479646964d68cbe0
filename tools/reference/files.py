"""What an installation has below share/: manual pages and completion scripts, by their places there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.reference.manual import manual_pages

SHARE = Path(__file__).resolve().parents[2] / "share"
# Where bash-completion, zsh (site-functions of a prefix in its fpath) and fish look for a command's script.
_COMPLETIONS = (
    ("bash", "bash-completion/completions/labctl"),
    ("zsh", "zsh/site-functions/_labctl"),
    ("fish", "fish/vendor_completions.d/labctl.fish"),
)


def shared_files() -> dict[str, str]:
    """The files' texts."""
    return {**{f"man/{place}": text for place, text in manual_pages().items()}, **_completions()}


def _completions() -> dict[str, str]:
    """As `labctl completion SHELL` prints them."""
    run = (sys.executable, "-m", "labctl", "completion")
    return {
        place: subprocess.run([*run, shell], check=True, capture_output=True, text=True).stdout
        for shell, place in _COMPLETIONS
    }
