"""What SIGHUP takes in, and what it cannot: somebody who edits `.env` must not believe a setting in force."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from base.app.config import Config, changed_names, load_config
from base.app.logging_setup import reload_level
from base.app.rules import RulesInForce
from base.errors import ConfigError
from base.log import log_event

logger = logging.getLogger(__name__)


def reload(running: Config, rules: RulesInForce, environ: Mapping[str, str], directory: Path) -> bool:
    """Take in the level of the log and the rules; return whether the rules were taken. What else is
    written differently now, or would be refused at the next start, is said."""
    reload_level(environ, directory)
    try:
        names = changed_names(running, load_config(environ, directory))
    except ConfigError as exc:
        for problem in exc.problems:
            log_event(logger, logging.WARNING, "next_start_refused", why=problem)
    else:
        if names:
            log_event(
                logger,
                logging.WARNING,
                "restart_needed",
                names=",".join(names),
                why="SIGHUP reads LOG_LEVEL and the rules file again, nothing else",
            )
    return rules.reload()
