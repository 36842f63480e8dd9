"""`python -m monkeylib`: the command line where its script is not on the path."""

from monkeylib.cli import main

if __name__ == "__main__":
    main()
