"""The portfolio that the threads share."""
