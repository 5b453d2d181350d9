"""``python -m cpsched`` is the command line."""

from cpsched.cli.main import entry

entry()
