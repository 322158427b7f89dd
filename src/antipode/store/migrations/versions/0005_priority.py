# SPDX-License-Identifier: Apache-2.0
"""The order in which runs begin, kept with each run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("priority", sa.Integer, nullable=False, server_default="10"))
    op.execute("UPDATE runs SET priority = 0 WHERE kind = 'failover'")


def downgrade() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.drop_column("priority")
