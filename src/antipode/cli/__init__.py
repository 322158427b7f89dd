# SPDX-License-Identifier: Apache-2.0
"""What an operator types.

These modules import nothing heavy: that is left to the moment a command runs.
"""
