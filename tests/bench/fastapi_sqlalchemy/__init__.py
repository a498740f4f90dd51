"""What a Python user would pick instead: FastAPI and SQLAlchemy."""
