"""Draws networks into docs/_static/networks: `tools/docs --networks`."""

from __future__ import annotations

import sys
from pathlib import Path

from labctl.drawing.diagram import NOT_LIVE, Labels, Live, diagram_of
from labctl.drawing.svg import document
from labctl.topology import load

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "_static" / "networks"
# Name of the picture: topology, labels.
NETWORKS = {
    "office": ("topologies/office.yaml", Labels.ADDRESSES),
    "home": ("topologies/home.yaml", Labels.ADDRESSES),
    "two-lans-interfaces": ("topologies/two-lans.yaml", Labels.INTERFACES),
    "home-live": ("topologies/home.yaml", Labels.ADDRESSES),
    "star-300": ("star:300", Labels.ADDRESSES),
    "tree-3-4": ("tree:3,4", Labels.NAMES),
    "mesh-10": ("mesh:10", Labels.NAMES),
}


# As a running lab could be.
LIVE = {
    "home-live": Live(
        down=frozenset({("web", "eth0")}),
        impairments={("gw", "eth1"): ("80ms, 2% loss", "delay 80ms loss 2%")},
        notes={"web": ("http does not run",)},
    )
}


def drawn(name: str) -> str:
    """Return the picture of that name."""
    source, labels = NETWORKS[name]
    topology = load(ROOT / source if source.endswith(".yaml") else source, routes=False)
    return document(diagram_of(topology, labels, live=LIVE.get(name, NOT_LIVE)))


def main() -> int:
    """Write all pictures."""
    PICTURES.mkdir(exist_ok=True)
    for name in NETWORKS:
        (PICTURES / f"{name}.svg").write_text(drawn(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
