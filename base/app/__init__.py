"""Wiring: configuration, logging, commands, threads and their order. Imports everything; nothing imports it."""
