"""The command line: commands read their arguments, call the other rooms, and print."""
