"""The command line: `python -m tz` says what one can do."""

from tz._commands.main import main

if __name__ == "__main__":
    main()
