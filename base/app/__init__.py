"""Wiring: configuration, logging, commands, threads and their order. Nothing imports it."""
