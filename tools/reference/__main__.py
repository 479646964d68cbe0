"""Writes the manual pages and completion scripts below share/: `python -m tools.reference` in the checkout."""

from __future__ import annotations

from tools.reference.files import SHARE, shared_files

made = {SHARE / place: text for place, text in shared_files().items()}
for path in SHARE.rglob("*"):
    if path.is_file() and path not in made:
        path.unlink()  # of a command that is no more
for path, text in made.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
