# SPDX-License-Identifier: Apache-2.0
"""Lists of runs of one kind and state."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("runs_of_kind_in_state", "runs", ["kind", "state", "started_at"])


def downgrade() -> None:
    op.drop_index("runs_of_kind_in_state", "runs")
