"""Instructions that a program can check, by their published ids. Recipes name the reward `rewards.instructions:verify`."""

from rewards.instructions.catalog import CHECKS as CHECKS
from rewards.instructions.checks import check as check
from rewards.instructions.verifier import verify as verify
