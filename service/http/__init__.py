"""Request to bytes, outcomes to 207: everything that knows HTTP."""
