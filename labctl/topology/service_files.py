"""The models of a topology file's services, as they are written."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from labctl.documents.source import Mistake
from labctl.documents.validate import FileModel

_Word = str | int | float
_Command = list[_Word]


class ReadyFile(FileModel):
    """How a service shows that it is ready: one of these."""

    listening: Annotated[
        str | None, Field(description="A socket that listens: tcp/8000, udp/53, unix//run/x.sock.")
    ] = None
    line: Annotated[str | None, Field(description="A regular expression that a line of its output matches.")] = None
    file: Annotated[str | None, Field(description="A file that is there.")] = None
    command: Annotated[_Command | None, Field(min_length=1, description="A command that succeeds on the node.")] = None


class ProgramFile(FileModel):
    """A program on a node: what services and commands have in common."""

    run: Annotated[_Command | None, Field(min_length=1, description="The program and its arguments.")] = None
    shell: Annotated[str | None, Field(min_length=1, description="Instead of `run`: text for sh.")] = None
    env: Annotated[dict[str, _Word], Field(description="Environment variables.")] = Field(default={})
    cwd: Annotated[str | None, Field(description="Where it runs, relative to the file's directory.")] = None


class CommandFile(ProgramFile):
    """A command that is run once, to its end, before the services are started."""

    within: Annotated[str | None, Field(description="How long it may take; 30s.")] = None


def _command_alone(value: object) -> object:
    if isinstance(value, str | list | dict):
        return {"shell": value} if isinstance(value, str) else {"run": value} if isinstance(value, list) else value
    raise Mistake("expected a command: text for sh, a list, or a mapping with `run` or `shell`")


CommandAlone = Annotated[
    CommandFile, BeforeValidator(_command_alone, json_schema_input_type=str | _Command | CommandFile)
]


class ServiceFile(ProgramFile):
    """A program that runs as long as the lab does."""

    ready: ReadyFile | None = None
    within: Annotated[str | None, Field(description="How long it may take to be ready; 10s.")] = None
    restart: Annotated[
        Literal["no", "on-failure", "always"], Field(description="When it is started again after it has ended.")
    ] = "no"
    after: Annotated[
        list[str], Field(description="Services that are ready before it starts: db, or another-node/db.")
    ] = Field(default=[])
