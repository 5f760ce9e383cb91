"""Tokens, policy, engines, rollouts and training. torch is imported from this package upwards."""
