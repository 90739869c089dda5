"""Runs the command line as `python -m tinybert_cli`."""

from tinybert_cli.cli import main

if __name__ == "__main__":
    main()
