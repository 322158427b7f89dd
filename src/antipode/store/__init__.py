# SPDX-License-Identifier: Apache-2.0
"""The local database: VNF definitions, runs with their steps, and the ledger of frozen servers."""
