"""Run the command line as `python -m monkeylib.cli`."""

from monkeylib.cli.app import main

if __name__ == "__main__":
    main()
