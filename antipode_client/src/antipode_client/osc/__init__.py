# SPDX-License-Identifier: Apache-2.0
"""The plug-in of python-openstackclient."""
