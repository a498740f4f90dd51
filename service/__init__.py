"""HTTP service that batch-upserts care-case clinical-trial records into PostgreSQL."""

__version__ = "1.0.0"
