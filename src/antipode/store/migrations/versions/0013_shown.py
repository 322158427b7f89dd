# SPDX-License-Identifier: Apache-2.0
"""The plans of runs as their authors were shown them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("shown", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    op.drop_column("runs", "shown")
