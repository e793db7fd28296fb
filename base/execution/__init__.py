"""Orders out, answers in: the gateway port and exit episodes."""
