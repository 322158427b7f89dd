# SPDX-License-Identifier: Apache-2.0
"""The pages of the console, a module for each thing that they are about."""
