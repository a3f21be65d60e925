"""The command line of tz: `python -m tz` lists the commands."""

from tz._commands.main import main

if __name__ == "__main__":
    main()
