# SPDX-License-Identifier: Apache-2.0
"""The Alembic migrations of the local database, run when it is opened."""
