# SPDX-License-Identifier: Apache-2.0
"""A week of many VNFs in minutes: real schedulers, conductors and clean-up of two hosts on one
database, by a clock that is played, with a host that is killed and revived at random.
"""
