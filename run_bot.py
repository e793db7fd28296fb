"""Start Backstop: `python run_bot.py [COMMAND]`, see `python run_bot.py --help`."""

import sys

from base.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
