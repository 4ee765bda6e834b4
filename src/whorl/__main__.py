"""`python -m whorl`, and the command `whorl`."""

import sys


def main() -> None:
    """Runs the command line. (Its imports stand inside, so that an interrupt while they run is no traceback.)"""
    try:
        from whorl.extras import require

        try:
            require("the command line", "cli")
        except ValueError as error:
            print(f"whorl: {error}", file=sys.stderr)
            sys.exit(2)
        from whorl.cli import main as run

        run()
    except KeyboardInterrupt:
        print("whorl: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
