"""Why verifiers are wrong about families of pairs, found by looking at what each makes of the pair; by (family, is equal)."""

from __future__ import annotations

REASONS: dict[tuple[str, bool], str] = {}
