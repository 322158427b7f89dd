# SPDX-License-Identifier: Apache-2.0
"""A bounded history: which runs had their orphans collected, and indexes for frequent queries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEXES = (
    ("runs_of_vnf", "runs", ["vnf", "started_at"]),
    ("runs_in_state", "runs", ["state", "started_at"]),
    ("runs_ended", "runs", ["ended_at"]),
    ("freezes_of_run", "freezes", ["run", "thawed_at"]),
)


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("collected_at", sa.Double))
    for name, table, columns in INDEXES:
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, table, _ in reversed(INDEXES):
        op.drop_index(name, table)
    with op.batch_alter_table("runs") as runs:
        runs.drop_column("collected_at")
