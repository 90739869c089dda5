"""`python -m tinybert_cli` is `tinybert`."""

from tinybert_cli.cli import main

if __name__ == "__main__":
    main()
