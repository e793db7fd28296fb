"""Backstop: a stop-loss trading daemon for Kalshi. The architecture is in README.md beside this file."""
