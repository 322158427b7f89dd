# SPDX-License-Identifier: Apache-2.0
"""Lists of runs of one kind."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("runs_of_kind", "runs", ["kind", "started_at"])


def downgrade() -> None:
    op.drop_index("runs_of_kind", "runs")
