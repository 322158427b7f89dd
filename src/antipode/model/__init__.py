# SPDX-License-Identifier: Apache-2.0
"""What a VNF, a recovery point, a manifest and a plan are: pydantic models without I/O."""
