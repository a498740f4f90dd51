"""Bytes to items, without I/O."""
