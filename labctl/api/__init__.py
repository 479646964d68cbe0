"""The Python API: what `from labctl import Lab` leads to. A thin layer over `labctl.lab`; see docs/python-api.md."""
