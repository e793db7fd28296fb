"""A local Kalshi. Shares model and nothing else with the daemon, so that it cannot agree with its mistakes."""
