# SPDX-License-Identifier: Apache-2.0
"""The long-running service: conductor, reapers and clean-up."""
