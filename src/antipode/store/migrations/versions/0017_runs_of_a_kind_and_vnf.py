# SPDX-License-Identifier: Apache-2.0
"""An index by which the runs of a kind are found among many of a VNF."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("runs_of_vnf_and_kind", "runs", ["vnf", "kind", "started_at"])


def downgrade() -> None:
    op.drop_index("runs_of_vnf_and_kind", "runs")
