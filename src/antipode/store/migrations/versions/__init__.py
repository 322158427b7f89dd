"""The Alembic migrations of the local database, run when it is opened."""
