"""Demo, and the embedded PostgreSQL that it and the tests use."""
