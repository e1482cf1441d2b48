"""``python -m crackcam train|predict|explain``: the console script."""

from crackcam.cli.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
