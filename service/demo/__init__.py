"""The demo, and the embedded PostgreSQL that it and the tests run on."""
