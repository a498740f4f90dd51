"""Batch upserts of clinical-trial records of care cases into PostgreSQL, over HTTP."""

__version__ = "1.0.0"
