"""From the bytes that a recorder kept, or from other records, to events."""
