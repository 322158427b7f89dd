# SPDX-License-Identifier: Apache-2.0
"""Lists of the runs of a project that are in one state, or of one VNF."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("runs_of_project_in_state", "runs", ["project", "state", "started_at"])
    op.create_index("runs_of_project_and_vnf", "runs", ["project", "vnf", "started_at"])


def downgrade() -> None:
    op.drop_index("runs_of_project_and_vnf", "runs")
    op.drop_index("runs_of_project_in_state", "runs")
