# SPDX-License-Identifier: Apache-2.0
"""What Alembic runs: the migrations, on the connection that `store.database` hands over."""

from __future__ import annotations

from alembic import context

from antipode.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=context.config.attributes["version_table"],
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
