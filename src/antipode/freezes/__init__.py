# SPDX-License-Identifier: Apache-2.0
"""Unquiescing whatever is past its deadline: primitives, ledger and reaper."""
