"""The nouns: frozen values and enums that every package speaks in. Imports nothing of ours."""
