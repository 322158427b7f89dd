# SPDX-License-Identifier: Apache-2.0
"""Which process may execute a run: one host by file locks, several by a job board."""
