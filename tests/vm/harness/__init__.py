# SPDX-License-Identifier: Apache-2.0
"""Guests with a real kernel: what boots them, talks to them and takes them away. ../README.md tells the whole."""
