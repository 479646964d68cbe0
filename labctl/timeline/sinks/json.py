"""A timeline as JSON: the fields of `labctl.timeline.events`, which labctl/schemas/timeline.schema.json publishes.

Times are nanoseconds of CLOCK_MONOTONIC; bytes are base64; `type` of an event is the name of its class.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from labctl.errors import InputError
from labctl.structs import MsgspecError, convert, to_builtins
from labctl.timeline.events import Timeline

SCHEMA = "labctl-timeline/1"  # the number changes when a reader of the old form would misread the new one


def write(timeline: Timeline, file: BinaryIO) -> None:
    """Write the timeline as one line of UTF-8 JSON.

    Lone surrogates (undecodable bytes of names) become JSON's escape for them, so that the text is always UTF-8.
    """
    text = json.dumps({"schema": SCHEMA, **to_builtins(timeline)}, ensure_ascii=False, separators=(",", ":"))
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def read(text: bytes | str) -> Timeline:
    """Return the timeline that `write` wrote. InputError if it is not one."""
    try:
        data: Any = json.loads(text)
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise InputError(f"timeline: cannot read it: `schema` is not {SCHEMA}. Was it written by another version?")
        return convert(data, Timeline)
    except (ValueError, MsgspecError) as error:
        raise InputError(f"timeline: cannot read it: {error}.") from error
