# SPDX-License-Identifier: Apache-2.0
"""The authors of runs, and approvals by others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("author", sa.String(255)))
    op.add_column(
        "runs", sa.Column("approvals_needed", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column("runs", sa.Column("approve_before", sa.Double))
    op.create_table(
        "approvals",
        sa.Column("run", sa.String(64), primary_key=True),
        sa.Column("person", sa.String(120), primary_key=True),
        sa.Column("identity", sa.String(255), nullable=False),
        sa.Column("plan", sa.String(64), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("approvals")
    for column in ("approve_before", "approvals_needed", "author"):
        op.drop_column("runs", column)
