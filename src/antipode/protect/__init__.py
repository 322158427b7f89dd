# SPDX-License-Identifier: Apache-2.0
"""How recovery points are made: plain functions, one step of the mission each."""
