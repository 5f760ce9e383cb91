"""Merging specialists into one student by on-policy full-vocabulary distillation. Empty until that stage is built."""
