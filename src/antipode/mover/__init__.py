# SPDX-License-Identifier: Apache-2.0
"""The mover: reads backups as they lie in the object store, and brings volumes to what they hold by
writing only the blocks that differ.
"""
