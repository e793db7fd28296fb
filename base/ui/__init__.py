"""Read-only surfaces: page, API, metrics, terminal tables. Decides nothing."""
