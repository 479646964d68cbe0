"""The models of a topology file, as it is written. The JSON Schema for editors is made from them.

Addresses and prefixes are texts here: what they mean depends on each other, so `reading.py` looks at them all together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from labctl.documents.source import Mistake
from labctl.documents.validate import FileModel
from labctl.topology.service_files import CommandAlone, CommandFile, ServiceFile

MTU_MIN, MTU_MAX = 68, 65535  # RFC 791; ETH_MAX_MTU (linux/if_ether.h)
COUNT_MAX = 5000
PORT_MAX = 65535
PIDS_MAX = 4_194_304  # PID_MAX_LIMIT (linux/threads.h)

_MTU = Annotated[int, Field(ge=MTU_MIN, le=MTU_MAX, description="Largest packet in bytes.")]
_Text = Annotated[str, Field(min_length=1)]
_Values = dict[str, str | int]
_Value = str | int | float | None


def _nothing_is_empty(value: object) -> object:
    """`gw:` with nothing behind it is a mapping with nothing in it."""
    return {} if value is None else value


def _node_alone(value: object) -> object:
    if isinstance(value, str | dict):
        return {"node": value} if isinstance(value, str) else value
    raise Mistake("expected a node's name, or a mapping with `node`", "write for example `- client`")


def _ends_alone(value: object) -> object:
    if isinstance(value, list | dict):
        return {"ends": value} if isinstance(value, list) else value
    raise Mistake("expected two nodes, or a mapping with `ends`", "write for example `- [client, server]`")


def _command_list(value: object) -> object:
    return [value] if isinstance(value, str | dict) else value


Routes = Literal["automatic", "none"]


class ImpairedFile(FileModel):
    """What happens to packets on their way."""

    delay: Annotated[_Value, Field(description="How much later a packet arrives: 20ms.")] = None
    jitter: Annotated[_Value, Field(description="By how much the delay varies, to either side: 2ms.")] = None
    loss: Annotated[_Value, Field(description="How many packets are lost: 1%.")] = None
    rate: Annotated[_Value, Field(description="At most so many bits a second: 10mbit.")] = None


class EndFile(ImpairedFile):
    """A node's end of a link, or its membership in a network; delay and the like are those of what it sends."""

    node: Annotated[_Text, Field(description="The node's name; a group's name (`count`) stands for all of the group.")]
    interface: Annotated[str | None, Field(description="Name of the interface; by default eth0, eth1, ...")] = None
    mac: Annotated[str | None, Field(description="aa:bb:cc:dd:ee:ff")] = None
    ipv4: Annotated[str | bool | None, Field(description="10.0.1.5 or 10.0.1.5/24; false for none.")] = None
    ipv6: Annotated[str | bool | None, Field(description="fd00:1::5 or fd00:1::5/64; false for none.")] = None


_End = Annotated[EndFile, BeforeValidator(_node_alone, json_schema_input_type=str | EndFile)]


class LinkFile(ImpairedFile):
    """A direct link between two nodes; delay and the like hold for each direction."""

    ends: Annotated[list[_End], Field(min_length=2, max_length=2)]
    mtu: _MTU | None = None
    ipv4: Annotated[str | bool | None, Field(description="Prefix of the link; false for none.")] = None
    ipv6: Annotated[str | bool | None, Field(description="Prefix of the link; false for none.")] = None


def _port_alone(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | dict):
        raise Mistake("expected a port such as `8080:80`, or a mapping with `machine` and `port`")
    return value if isinstance(value, dict) else {"written": str(value)}


class ExposureFile(FileModel):
    """A port of the machine that leads to a port of the host."""

    machine: Annotated[
        str | int | None, Field(description="Port of the machine; 192.0.2.1:8080 for one of its addresses only.")
    ] = None
    port: Annotated[int | None, Field(ge=1, le=PORT_MAX, description="Port of the host.")] = None
    protocol: Literal["tcp", "udp"] = "tcp"
    written: SkipJsonSchema[str | None] = Field(default=None, exclude=True)


_Exposure = Annotated[
    ExposureFile, BeforeValidator(_port_alone, json_schema_input_type=str | Annotated[int, Field(ge=1)] | ExposureFile)
]


class LimitsFile(FileModel):
    """How much all programs of a node together may have."""

    pids: Annotated[int | None, Field(ge=2, le=PIDS_MAX, description="Processes and threads.")] = None
    memory: Annotated[str | int | None, Field(description="256MiB; a plain number is bytes.")] = None
    cpu: Annotated[str | int | float | None, Field(description="50% is half of one processor, 200% two.")] = None


class SwitchFile(FileModel):
    """A switch, to be linked to other switches."""

    sysctls: Annotated[_Values, Field(description="Kernel settings below net., for example net.core.somaxconn.")] = (
        Field(default={})
    )


class NodeFile(SwitchFile):
    """A host or a router."""

    count: Annotated[int | None, Field(ge=1, le=COUNT_MAX, description="Makes NAME-1, NAME-2, ...")] = None
    environment: Annotated[_Values, Field(description="Environment variables of programs that run there.")] = Field(
        default={}
    )


class LimitedFile(NodeFile):
    """A node that programs run on."""

    limits: Annotated[LimitsFile | None, Field(description="Bounds for its programs (a control group).")] = None
    exec: Annotated[
        list[CommandAlone],
        BeforeValidator(_command_list, json_schema_input_type=str | CommandFile | list[CommandAlone]),
        Field(description="Commands that are run in this order, each to its end, before the services are started."),
    ] = Field(default=[])
    services: Annotated[dict[str, ServiceFile], Field(description="Programs that run as long as the lab does.")] = (
        Field(default={})
    )
    routes: Annotated[
        Routes | None, Field(description="none: no static routes are given to it; automatic: those that it needs.")
    ] = None


class HostFile(LimitedFile):
    """A host."""

    expose: Annotated[
        list[_Exposure], Field(description="Ports of the machine that lead here: 8080:80, 192.0.2.1:5353:53/udp.")
    ] = Field(default=[])


class RouterFile(LimitedFile):
    """A router."""

    nat: Annotated[bool, Field(description="The machine's network is reached through it.")] = False


class NetworkFile(FileModel):
    """A switch with the members' interfaces on it."""

    members: list[_End] = Field(default=[])
    mtu: _MTU | None = None
    ipv4: Annotated[str | bool | None, Field(description="Prefix of the network; false for none.")] = None
    ipv6: Annotated[str | bool | None, Field(description="Prefix of the network; false for none.")] = None


_Host = Annotated[HostFile, BeforeValidator(_nothing_is_empty, json_schema_input_type=HostFile | None)]
_Router = Annotated[RouterFile, BeforeValidator(_nothing_is_empty, json_schema_input_type=RouterFile | None)]
_Switch = Annotated[SwitchFile, BeforeValidator(_nothing_is_empty, json_schema_input_type=SwitchFile | None)]
_Network = Annotated[NetworkFile, BeforeValidator(_nothing_is_empty, json_schema_input_type=NetworkFile | None)]
_Hosts = Annotated[
    dict[str, _Host], BeforeValidator(_nothing_is_empty, json_schema_input_type=dict[str, HostFile | None] | None)
]
_Routers = Annotated[
    dict[str, _Router], BeforeValidator(_nothing_is_empty, json_schema_input_type=dict[str, RouterFile | None] | None)
]
_Link = Annotated[LinkFile, BeforeValidator(_ends_alone, json_schema_input_type=list[str | EndFile] | LinkFile)]


class TopologyFile(FileModel):
    """Hosts, routers and switches, and how they are linked."""

    name: Annotated[_Text | None, Field(description="By default the file's name.")] = None
    about: Annotated[str, Field(description="One sentence on what the topology is for.")] = ""
    include: Annotated[list[_Text], Field(description="Files whose parts come first.")] = Field(default=[])
    mtu: _MTU = 1500
    addresses: Annotated[Literal["dual", "ipv4", "ipv6"], Field(description="Which are given out.")] = "dual"
    ipv4_pool: Annotated[str | None, Field(description="Where automatic prefixes come from; 10.0.0.0/8.")] = None
    ipv6_pool: Annotated[str | None, Field(description="Where automatic prefixes come from; fd00::/16.")] = None
    routes: Annotated[
        Routes, Field(description="Which static routes the nodes of this file get, unless a node has its own `routes`.")
    ] = "automatic"
    hosts: _Hosts = Field(default={})
    routers: _Routers = Field(default={})
    switches: dict[str, _Switch] = Field(default={})
    networks: dict[str, _Network] = Field(default={})
    links: list[_Link] = Field(default=[])


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a topology file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "labctl topology",
        **{key: value for key, value in TopologyFile.model_json_schema(mode="validation").items() if key != "title"},
    }
