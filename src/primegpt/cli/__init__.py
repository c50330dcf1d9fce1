"""The command line: parses, calls `primegpt.api`, prints; no logic of its own."""
