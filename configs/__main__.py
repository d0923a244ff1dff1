"""Print every option of a run as YAML: python -m configs [CONFIG] [key.sub=value ...] [--brief]

Without CONFIG: the defaults. Each option stands below its explanation, its type and its range.
"""

import argparse
import signal
import sys

from configs import ConfigError, describe, dump, load, split_overrides


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m configs",
        description="Print every option of a run as YAML, with explanations.",
        epilog="Options may be changed by key.sub=value, anywhere on the command line.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file (default: the defaults of all options)")
    parser.add_argument("--brief", action="store_true", help="without the explanations")
    overrides, rest = split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(rest)
    try:
        config = load(args.config, overrides)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((dump if args.brief else describe)(config), end="")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that closes early, such as `| head`, ends it quietly
    sys.exit(main())
