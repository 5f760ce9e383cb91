"""The agent that runs inside every box, whatever its layer; the host imports `frames` alone.

It is started as `python -c "...; from sandbox.guest.main import main; main()"` by the box's own Python, 3.9 or newer, so these
modules import nothing but the standard library and each other.
"""
