# SPDX-License-Identifier: Apache-2.0
"""Questions of runs to operators, and their answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "questions",
        sa.Column("run", sa.String(64), primary_key=True),
        sa.Column("step", sa.String(64), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("whole", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("wants", sa.String(16), nullable=False),
        sa.Column("asked_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("answered_at", sa.Double),
        sa.Column("answer", sa.Text),
        sa.Column("answered_by", sa.String(255)),
        sa.Column("settled_at", sa.Double),
    )
    op.create_index("questions_open", "questions", ["answered_at", "expires_at"])
    op.create_index("questions_of_whole", "questions", ["whole"])


def downgrade() -> None:
    op.drop_table("questions")
