# SPDX-License-Identifier: Apache-2.0
"""Discovery of a VNF at a site."""
