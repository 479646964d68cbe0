"""Topologies as files of other tools."""
