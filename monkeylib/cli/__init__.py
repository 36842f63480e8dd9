"""The command line: `monkeylib --help`. One module per command; each imports what it needs when it runs."""

from monkeylib.cli.app import main

__all__ = ["main"]
