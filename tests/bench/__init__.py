"""The benchmark: this service beside PostgreSQL's own limit and what users would pick instead."""
