"""`python -m base.sandbox`."""

from __future__ import annotations

import sys

from base.sandbox.cli import main

sys.exit(main())
