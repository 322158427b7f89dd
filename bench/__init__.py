# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`: antipode beside a floor and beside the plain `openstack` command, measured in
one run on the lab.
"""
