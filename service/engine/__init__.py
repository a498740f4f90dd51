"""Items to committed outcomes: no JSON, no HTTP."""
