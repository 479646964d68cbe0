"""PyYAML's parser and the classes of its events and errors, without its loaders and dumpers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from labctl.submodules import import_submodule

if TYPE_CHECKING:
    from yaml import (
        AliasEvent,
        CollectionStartEvent,
        DocumentStartEvent,
        Event,
        MappingEndEvent,
        MappingStartEvent,
        MarkedYAMLError,
        NodeEvent,
        ScalarEvent,
        SequenceEndEvent,
        YAMLError,
    )
else:
    _events, _errors = import_submodule("yaml.events"), import_submodule("yaml.error")
    MarkedYAMLError, YAMLError = _errors.MarkedYAMLError, _errors.YAMLError
    Event, NodeEvent = _events.Event, _events.NodeEvent
    AliasEvent, ScalarEvent = _events.AliasEvent, _events.ScalarEvent
    CollectionStartEvent, DocumentStartEvent = _events.CollectionStartEvent, _events.DocumentStartEvent
    MappingStartEvent, MappingEndEvent = _events.MappingStartEvent, _events.MappingEndEvent
    SequenceEndEvent = _events.SequenceEndEvent

__all__ = [
    "AliasEvent", "CollectionStartEvent", "DocumentStartEvent", "Event", "MappingEndEvent", "MappingStartEvent",
    "MarkedYAMLError", "NodeEvent", "ScalarEvent", "SequenceEndEvent", "YAMLError", "parse",
]  # fmt: skip


def parse(text: str) -> Iterator[Event]:
    """Yield the events of the text, from libyaml's parser if PyYAML was built with it. Raises YAMLError."""
    try:
        parser = import_submodule("yaml._yaml").CParser(text)
    except ImportError:
        import yaml

        yield from yaml.parse(text, Loader=yaml.SafeLoader)
        return
    while parser.check_event():
        yield parser.get_event()
