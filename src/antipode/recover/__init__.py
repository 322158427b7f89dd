# SPDX-License-Identifier: Apache-2.0
"""How a VNF comes back at its backup site: plain functions, one step of the mission each."""
