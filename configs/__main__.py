"""Print the options a run would have: python -m configs CONFIG [key.sub=value ...]"""

import argparse
import sys

from . import ConfigError, dump, load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m configs", description="Print every option a run would have.")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="options that win over the file")
    args = parser.parse_args()
    try:
        print(dump(load(args.config, args.overrides)), end="")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
