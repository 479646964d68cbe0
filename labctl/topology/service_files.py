"""The models of a topology file's services, as they are written."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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


class ServiceFile(FileModel):
    """A program that runs as long as the lab does."""

    run: Annotated[_Command | None, Field(min_length=1, description="The program and its arguments.")] = None
    shell: Annotated[str | None, Field(min_length=1, description="Instead of `run`: text for sh.")] = None
    env: Annotated[dict[str, _Word], Field(description="Environment variables.")] = Field(default={})
    cwd: Annotated[str | None, Field(description="Where it runs, relative to the file's directory.")] = None
    ready: ReadyFile | None = None
    within: Annotated[str | None, Field(description="How long it may take to be ready; 10s.")] = None
    restart: Annotated[
        Literal["no", "on-failure", "always"], Field(description="When it is started again after it has ended.")
    ] = "no"
    after: Annotated[
        list[str], Field(description="Services that are ready before it starts: db, or another-node/db.")
    ] = Field(default=[])
