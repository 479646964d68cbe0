"""YAML text to positioned data to validated models, with errors that name file, line and column.

Declarations that validate it, and that JSON Schema is made from, are in `labctl.documents.schema`.
"""

from labctl.documents.diagnostics import Diagnostic, DocumentError, Mistake, Position, in_file_order, suggest
from labctl.documents.yaml_tree import Document, KeyPath, parse, read

__all__ = [
    "Diagnostic",
    "Document",
    "DocumentError",
    "KeyPath",
    "Mistake",
    "Position",
    "in_file_order",
    "parse",
    "read",
    "suggest",
]
