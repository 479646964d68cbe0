"""Drawings of networks: as SVG, as text, and in the languages of Mermaid and Graphviz."""
