"""The command line: one thin file per command; it prints for people, and with `--json` for programs."""
