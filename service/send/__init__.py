"""The send command: for people with a file."""
