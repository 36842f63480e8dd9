"""Run the command line as `python -m monkeylib.cli`."""

from monkeylib.cli.main import main

if __name__ == "__main__":
    main()
