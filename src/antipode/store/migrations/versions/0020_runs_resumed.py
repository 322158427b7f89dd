# SPDX-License-Identifier: Apache-2.0
"""Runs that an operator has a service resume; lists of runs of one kind and state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("resumed_at", sa.Double, nullable=True))
    op.add_column("runs", sa.Column("resumed_claim", sa.Integer, nullable=True))
    op.create_index("runs_of_kind_in_state", "runs", ["kind", "state", "started_at"])


def downgrade() -> None:
    op.drop_index("runs_of_kind_in_state", "runs")
    with op.batch_alter_table("runs") as runs:
        runs.drop_column("resumed_claim")
        runs.drop_column("resumed_at")
