# SPDX-License-Identifier: Apache-2.0
"""Since when a VNF is known, whose definition may have been replaced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vnfs", sa.Column("known_since", sa.Double, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("vnfs") as vnfs:
        vnfs.drop_column("known_since")
