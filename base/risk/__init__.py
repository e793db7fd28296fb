"""Decisions about exits, limits and coverage. Pure, but for the checker thread in stop_loss.py."""
