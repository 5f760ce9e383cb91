"""Objectives, one file each. A loss takes hidden states at the loss tokens and the head, and returns a sum over tokens."""
