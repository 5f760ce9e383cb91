"""Text of conversations: prompts, turns and tool results as a model sees them, and calls read out of what it wrote.

Text alone: no token ids and no torch. `rl/chat.py` calls it and turns text into ids.
"""
