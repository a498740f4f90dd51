"""Shortcuts that break the definition, each with the tests that must go red for it."""
