"""A local Kalshi. Shares the model and nothing else with the daemon: it must not agree with its mistakes."""
