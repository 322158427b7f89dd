# SPDX-License-Identifier: Apache-2.0
"""Turns at a site, which all processes of a database share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "turn_gates",
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("passed", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_table(
        "turns",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("site", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("vnf", sa.String(64), nullable=False),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("claim", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("asked_at", sa.Double, nullable=False),
        sa.Column("is_held", sa.Boolean, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("turns_at_site", "turns", ["site", "kind", "until"])


def downgrade() -> None:
    op.drop_table("turns")
    op.drop_table("turn_gates")
