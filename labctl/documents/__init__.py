"""YAML text to positioned data to validated models, with errors that name file, line and column.

Declarations that validate it, and that JSON Schema is made from, are in `labctl.documents.shapes`.
"""

from labctl.documents.document import Document, KeyPath, parse, read
from labctl.documents.source import Diagnostic, DocumentError, Mistake, Position, in_file_order, suggest

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
