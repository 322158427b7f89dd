# SPDX-License-Identifier: Apache-2.0
"""What another process needs to resume a run: its request, its claim, and its slot."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("request", sa.JSON))
        runs.add_column(sa.Column("flow_version", sa.Integer))
        runs.add_column(sa.Column("claim", sa.Integer, nullable=False, server_default="0"))
        runs.add_column(sa.Column("conductor", sa.String(255)))
        runs.add_column(sa.Column("abort_requested_at", sa.Double))
        runs.add_column(sa.Column("ending", sa.String(16)))
        runs.add_column(sa.Column("slot", sa.String(128)))
        runs.create_unique_constraint("one_run_for_a_slot", ["slot"])
    with op.batch_alter_table("freezes") as freezes:
        freezes.add_column(sa.Column("run", sa.String(64)))


def downgrade() -> None:
    with op.batch_alter_table("freezes") as freezes:
        freezes.drop_column("run")
    with op.batch_alter_table("runs") as runs:
        runs.drop_constraint("one_run_for_a_slot", type_="unique")
        for column in (
            "slot",
            "ending",
            "abort_requested_at",
            "conductor",
            "claim",
            "flow_version",
            "request",
        ):
            runs.drop_column(column)
