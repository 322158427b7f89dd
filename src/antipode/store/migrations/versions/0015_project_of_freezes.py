# SPDX-License-Identifier: Apache-2.0
"""The project of a server that may be frozen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("freezes") as freezes:
        freezes.add_column(sa.Column("project", sa.String(64)))


def downgrade() -> None:
    with op.batch_alter_table("freezes") as freezes:
        freezes.drop_column("project")
