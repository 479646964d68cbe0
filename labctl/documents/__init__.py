"""YAML text to positioned data to validated models, with errors that name file, line and column."""
