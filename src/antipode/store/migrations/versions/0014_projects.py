# SPDX-License-Identifier: Apache-2.0
"""The projects of VNFs and runs, keys of requests, policies, and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("vnfs") as vnfs:
        vnfs.add_column(sa.Column("project", sa.String(64)))
        vnfs.add_column(sa.Column("policy", sa.String(64)))
        vnfs.create_index("vnfs_of_project", ["project", "name"])
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("project", sa.String(64)))
        runs.add_column(sa.Column("request_key", sa.String(64)))
        runs.add_column(sa.Column("request_digest", sa.String(64)))
        runs.create_index("runs_of_request", ["request_key"], unique=True)
        runs.create_index("runs_of_project", ["project", "started_at"])
        runs.create_index("runs_by_time", ["started_at"])
    op.create_table(
        "policies",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("changed_by", sa.String(255), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("identity", sa.String(255)),
        sa.Column("user_id", sa.String(64)),
        sa.Column("site", sa.String(64)),
        sa.Column("project", sa.String(64)),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["at"])


def downgrade() -> None:
    op.drop_table("audit")
    op.drop_table("policies")
    with op.batch_alter_table("runs") as runs:
        for index in ("runs_by_time", "runs_of_project", "runs_of_request"):
            runs.drop_index(index)
        for column in ("request_digest", "request_key", "project"):
            runs.drop_column(column)
    with op.batch_alter_table("vnfs") as vnfs:
        vnfs.drop_index("vnfs_of_project")
        vnfs.drop_column("policy")
        vnfs.drop_column("project")
