"""`Topology`: from a file, a shape or YAML text, or built in code with the words of topology files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from labctl.topology.model import Link, Node
    from labctl.topology.model import Topology as Model

Text = str | int
Settings = Mapping[str, Text]
Member = str | Mapping[str, Any]
Routes = Literal["automatic", "none"]
Commands = str | Sequence[str | Sequence[Text] | Mapping[str, Any]]


class Topology:
    """A network to make a lab of. You can add to one that is built in code until a lab uses it.

    Methods take what topology files take (docs/topology-files.md), and check it as a file is checked: `check`, or
    making the lab, raises DocumentError with every mistake.
    """

    def __init__(
        self,
        name: str = "topology",
        *,
        mtu: int | None = None,
        addresses: str | None = None,
        about: str = "",
        routes: Routes | None = None,
    ) -> None:
        """Make an empty topology. `mtu` is in bytes; `addresses` is "dual" (the default), "ipv4" or "ipv6"."""
        self._name = name
        self._model: Model | None = None
        self._text: str | None = None
        given = {"name": name, "about": about or None, "mtu": mtu, "addresses": addresses, "routes": routes}
        self._data = _given(given)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **parameters: object) -> Self:
        """Read a file; keywords are values of its `parameters`. DocumentError has every mistake in it."""
        from labctl import topology

        model = topology.load(Path(path), arguments=parameters)
        if model.imported is not None:
            return cls._of_imported(model)
        loaded = cls.of_model(model)
        if not parameters:
            loaded._text = Path(path).read_text(encoding="utf-8")
        return loaded

    @classmethod
    def _of_imported(cls, model: Model) -> Self:
        """Return the topology of another tool's file; warn if it lacks something that the file has."""
        from warnings import warn

        from labctl.observe.derived_delays import feasible

        model = feasible(model)
        loaded = cls.of_model(model)
        if model.imported is not None:
            loaded._text = model.imported.text
            missing = [line for line in model.imported.report if line.startswith("left out")]
            if missing:
                warn("\n  ".join([f"{model.imported.path}: {model.imported.summary}", *missing]), stacklevel=4)
        return loaded

    @classmethod
    def shape(cls, text: str) -> Self:
        """Make a shape: "pair", "star:4", "line:3", "tree:2,3", "mesh:4". InputError."""
        from labctl.topology.draft import from_shape
        from labctl.topology.resolve import resolve

        return cls.of_model(resolve(from_shape(text))[0])

    @classmethod
    def parse(cls, text: str, *, name: str = "topology.yaml") -> Self:
        """Read YAML text; messages call it `name`. DocumentError has every mistake in it."""
        parsed = cls.of_model(_resolved(text, name))
        parsed._text = text
        return parsed

    @classmethod
    def of(cls, source: Topology | str | os.PathLike[str]) -> Topology:
        """Return `source` itself, or the topology of the file or shape of that name. DocumentError, InputError."""
        from labctl import topology

        if isinstance(source, Topology):
            return source
        if isinstance(source, str) and topology.is_shape(source) and not os.path.isfile(source):
            return cls.shape(source)
        if isinstance(source, str) and source.isalpha() and not os.path.exists(source):
            return cls.shape(source)  # raises, and names the shapes
        return cls.load(source)

    @classmethod
    def of_model(cls, model: Model) -> Self:
        """Return the topology that is resolved already: of a file, or of a running lab."""
        made = cls(model.name)
        made._model = model
        return made

    def __repr__(self) -> str:
        if self._model is None:
            return f"<Topology {self.name}, not checked>"
        return f"<Topology {self.name}, {len(self._model.nodes)} nodes, {len(self._model.links)} links>"

    @property
    def name(self) -> str:
        """The topology's name."""
        return self._name if self._model is None else self._model.name

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in file order, with interfaces, addresses and routes. DocumentError if the topology is wrong."""
        return self.check().nodes

    @property
    def hosts(self) -> tuple[Node, ...]:
        """The hosts alone."""
        return self.check().hosts

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, in file order."""
        return self.check().links

    def host(
        self,
        name: str,
        *,
        count: int | None = None,
        sysctls: Settings | None = None,
        environment: Settings | None = None,
        limits: Mapping[str, Any] | None = None,
        expose: Iterable[Text] | None = None,
        services: Mapping[str, Any] | None = None,
        exec: Commands | None = None,
        routes: Routes | None = None,
        files: Mapping[str, Mapping[str, Text]] | None = None,
        binds: Iterable[Member] | None = None,
        private: Iterable[str] | None = None,
        firewall: str | Mapping[str, Any] | None = None,
    ) -> Self:
        """Add a host; `count` makes NAME-1, NAME-2, ... Returns the topology, as the other methods do."""
        given: dict[str, Any] = {
            "count": count,
            "sysctls": sysctls,
            "environment": environment,
            "limits": limits,
            "expose": expose,
        }
        given |= {"services": services, "exec": exec, "routes": routes, "firewall": firewall}
        return self._node("hosts", name, given | {"files": files, "binds": binds, "private": private})

    def router(
        self,
        name: str,
        *,
        count: int | None = None,
        sysctls: Settings | None = None,
        environment: Settings | None = None,
        limits: Mapping[str, Any] | None = None,
        services: Mapping[str, Any] | None = None,
        exec: Commands | None = None,
        routes: Routes | None = None,
        files: Mapping[str, Mapping[str, Text]] | None = None,
        binds: Iterable[Member] | None = None,
        private: Iterable[str] | None = None,
        nat: bool | str | Mapping[str, Any] = False,
        forward: Sequence[str | Mapping[str, Any]] | None = None,
        firewall: str | Mapping[str, Any] | None = None,
    ) -> Self:
        """Add a router; with `nat=True`, the lab reaches the machine's network through it, else `nat` is a preset."""
        given: dict[str, Any] = {"count": count, "sysctls": sysctls, "environment": environment, "limits": limits}
        given |= {"services": services, "exec": exec, "routes": routes, "nat": nat or None, "forward": forward}
        return self._node(
            "routers", name, given | {"firewall": firewall, "files": files, "binds": binds, "private": private}
        )

    def switch(self, name: str, *, sysctls: Settings | None = None) -> Self:
        """Add a switch."""
        return self._node("switches", name, {"sysctls": sysctls})

    def network(
        self,
        name: str,
        *,
        members: Iterable[Member] = (),
        ipv4: str | bool | None = None,
        ipv6: str | bool | None = None,
        mtu: int | None = None,
    ) -> Self:
        """Add a switch with these nodes on it. A member is a name, or a mapping as in files ({"node": ..., ...})."""
        return self._node("networks", name, {"members": members, "ipv4": ipv4, "ipv6": ipv6, "mtu": mtu})

    def link(
        self,
        a: Member,
        b: Member,
        *,
        ipv4: str | bool | None = None,
        ipv6: str | bool | None = None,
        mtu: int | None = None,
        delay: str | None = None,
        jitter: str | None = None,
        loss: str | None = None,
        rate: str | None = None,
        **others: object,
    ) -> Self:
        """Add a link between two nodes. An end is a name, or a mapping as in files ({"node": ..., "interface": ...}).

        `delay` ("20ms"), `jitter`, `loss` ("1%"), `rate` ("10mbit") and `others`, the further keys of links in files
        (preset="4g", discipline="fq_codel"), hold for each direction.
        """
        given: dict[str, Any] = {"ends": [a, b], "ipv4": ipv4, "ipv6": ipv6, "mtu": mtu}
        given |= {"delay": delay, "jitter": jitter, "loss": loss, "rate": rate, **others}
        self._check_changeable()
        self._data.setdefault("links", []).append(_given(given))
        return self

    def check(self) -> Model:
        """Return the resolved topology, with all omitted values derived. DocumentError has every mistake."""
        if self._model is not None:
            return self._model
        return _resolved(self.to_yaml(), self._name)

    def freeze(self) -> Model:
        """Do as `check`; the topology can no longer be added to."""
        if self._model is None:
            text = self.to_yaml()
            self._model, self._text = _resolved(text, self._name), text
        return self._model

    def to_yaml(self) -> str:
        """Return the same topology as a file; of a shape or a running lab with all derived values."""
        if self._text is not None:
            return self._text
        if self._model is None:
            return _dump(self._data)
        from labctl.topology.resolved_file import text_of

        return text_of(self._model.file)

    def _node(self, kind: str, name: str, given: Mapping[str, Any]) -> Self:
        self._check_changeable()
        nodes = self._data.setdefault(kind, {})
        if name in nodes:
            raise ValueError(f"topology {self.name}: {name} is already among its {kind}")
        nodes[name] = _given(given)
        return self

    def _check_changeable(self) -> None:
        if self._model is not None:
            raise RuntimeError(f"{self!r} cannot be changed: it was loaded, or a lab uses it")


def _resolved(text: str, name: str) -> Model:
    from labctl import topology
    from labctl.documents import DocumentError, parse

    model, diagnostics = topology.resolve_inline(parse(text, name), (), Path())
    if diagnostics or model is None:
        raise DocumentError(diagnostics)
    return model


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the values that are not None into plain dicts and lists."""
    return {key: _plain(value) for key, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | IPv4Network | IPv6Network):
        return [_plain(each) for each in value]
    return value


def _dump(data: Mapping[str, Any]) -> str:
    """Return YAML that reads back as the same values: ambiguous texts are quoted."""
    import re

    import yaml

    base: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's is five times as fast

    class Dumper(base):  # type: ignore[misc, valid-type]  # known at run time only
        pass

    plain = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
    words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None if plain.fullmatch(value) and value.lower() not in words else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(dict(data), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
