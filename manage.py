#!/usr/bin/env python3
"""Django's command line for Muster."""

import sys

from config.local.environment import set_environment
from config.start import start


def main() -> None:
    set_environment(sys.argv[1] if len(sys.argv) > 1 else None)
    start()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
