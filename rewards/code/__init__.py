"""The code verifier: `rewards.code:verify` as a reward, `judge` for other code. Docs: docs/code_rewards.md."""

from rewards.code.judging import judge
from rewards.code.limits import CodeLimits
from rewards.code.problem import Problem, program_of, read_problem
from rewards.code.reward import verify
from rewards.code.running import NotJudgedError
from rewards.code.verdict import CaseResult, CodeResult, CodeVerdict

__all__ = [
    "CaseResult",
    "CodeLimits",
    "CodeResult",
    "CodeVerdict",
    "NotJudgedError",
    "Problem",
    "judge",
    "program_of",
    "read_problem",
    "verify",
]
