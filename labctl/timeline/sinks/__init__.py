"""From a timeline to what people and other programs read."""
