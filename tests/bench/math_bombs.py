"""Completions that are made to hang, crash or exhaust a verifier of mathematics; none of them is a right answer to its task."""

from __future__ import annotations

BOMBS: dict[str, tuple[str, str]] = {  # name: (gold answer, completion)
    "power tower": ("5", "\\boxed{9^{9^{9^{9}}}}"),
    "power tower in Python's spelling": ("5", "The answer is 9**9**9**9"),
    "power tower, brackets": ("5", "$\\boxed{((9^9)^9)^{9^{9^9}}}$"),
    "large power against a number": ("7", "$\\boxed{7^{9999999}}$"),
    "power of a power of x": ("x^2", "$\\boxed{(((x^2+3)^{999}+7)^{999}+y)^{999}}$"),
    "expansion of a sum": ("x+1", "$\\boxed{(a+b+c+d+x+y+z)^{60}-(a+b+c+d+x+y+z)^{59}(a+b+c+d+x+y+z)}$"),
    "factorial": ("5", "$\\boxed{99999999!}$"),
    "factorial of factorials": ("5", "$\\boxed{((9!)!)!}$"),
    "binomial coefficient": ("5", "$\\boxed{\\binom{99999999}{49999999}}$"),
    "prime to be found": ("5", "$\\boxed{\\sqrt{" + "9" * 300 + "1}}$"),
    "integer of 100 000 digits": ("5", "$\\boxed{" + "7" * 100_000 + "}$"),
    "decimal with a large exponent": ("5", "$\\boxed{10^{-99999999}}$"),
    "integral": ("5", "$\\boxed{\\int_0^1 \\frac{\\sin(x^5+x)\\ln(1+x^7)}{\\sqrt{x^9+x+1}} dx}$"),
    "double integral": ("\\pi", "$\\boxed{\\int_0^1\\int_0^1 \\frac{e^{xy}\\sin(x^3y)}{1+x^5+y^7} dx dy}$"),
    "sum": ("5", "$\\boxed{\\sum_{k=1}^{99999999} \\frac{\\sin k}{k^k}}$"),
    "product": ("5", "$\\boxed{\\prod_{k=1}^{9999999} (k^2+1)}$"),
    "limit": ("5", "$\\boxed{\\lim_{x \\to 0} \\frac{\\sin(\\tan x)-\\tan(\\sin x)}{x^7 e^{1/x}}}$"),
    "nested radicals": ("2", "$\\boxed{" + "\\sqrt{2+" * 60 + "2" + "}" * 60 + "}$"),
    "trigonometric sum": (
        "1",
        "$\\boxed{" + "+".join(f"\\sin^{{{k}}}({k}x)\\cos^{{{k}}}({k + 1}x)" for k in range(2, 30)) + "}$",
    ),
    "equation of high degree": ("x^{11}+x+1=0", "$\\boxed{x^{13}+7x^{11}+x^5+\\sin(x)e^x+3=0}$"),
    "system of inequalities": ("x>1", "$\\boxed{x^7-3x^5+x^4-x+11 > \\sin(x)+e^{x}}$"),
    "matrix power": ("5", "$\\boxed{\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{9999999}}$"),
    "brackets in brackets": ("5", "$\\boxed{" + "(" * 5_000 + "5" + ")" * 5_000 + "}$"),
    "fractions in fractions": ("5", "$\\boxed{" + "\\frac{1}{1+" * 800 + "1" + "}" * 800 + "}$"),
    "braces": ("5", "$\\boxed{" + "{" * 20_000 + "5" + "}" * 20_000 + "}$"),
    "boxes without an end": ("5", "\\boxed{" * 20_000),
    "many boxes": ("5", " and ".join(f"$\\boxed{{{k}}}$" for k in range(6, 5_000))),
    "dollars": ("5", "$" * 50_001 + "x"),
    "brackets of formulas": ("5", "\\[" * 20_000 + "\\(" * 20_000),
    "answers without an answer": ("5", "the final answer is " * 10_000),
    "signs": ("5", "$\\boxed{" + "-" * 30_000 + "1}$"),
    "long sum": ("5", "$\\boxed{" + "x+" * 10_000 + "x}$"),
    "set of 20 000 numbers": ("\\{1,2\\}", "$\\boxed{\\{" + ",".join(map(str, range(20_000))) + "\\}}$"),
    "set of expressions": ("\\{1,2\\}", "$\\boxed{\\{" + ",".join(f"\\sqrt{{x^{k}+{k}}}" for k in range(2, 60)) + "\\}}$"),
    "spaces": ("5", "$\\boxed{5" + " " * 100_000 + "x}$"),
    "digits of other scripts": ("5", "$\\boxed{" + "\u0664" * 50_000 + "}$"),
    "combining marks": ("5", "$\\boxed{5" + "\u0301" * 50_000 + "}$"),
    "digits and commas": ("5", "1," * 50_000 + "x"),
    "digits and spaces": ("5", "The answer is " + "111 " * 20_000 + "x"),
    # Against this verifier: too near to the answer for floating point, and sympy does not come back.
    "a trace of logarithms": (
        "1",
        "$\\boxed{\\log_2(2)+e^{-99}\\ln(\\sin(\\cos(\\tan(x^7+x)))+3)\\sqrt{x^{11}+\\sin^{20}(x)+3}}$",
    ),
    "a trace of powers": ("2^x", "$\\boxed{2^x+e^{-99}\\left(x^{\\sqrt{x}}+\\sqrt[7]{x+y}\\right)^{x^{y^z}}}$"),
    "a trace of sines": (
        "x",
        "$\\boxed{x+" + "+".join(f"\\sin^2({k}x+y)+\\cos^2({k}x+y)-1" for k in range(2, 7)) + "+e^{-90}\\sin(x)}$",
    ),
    "traces in a set": (
        "\\{1, 2, 3\\}",
        "$\\boxed{\\{"
        + ", ".join(f"{k}+e^{{-99}}\\ln(\\sin(\\cos(\\tan(x^7+{k}x)))+3)\\sqrt{{x^9+3}}" for k in (1, 2, 3))
        + "\\}}$",
    ),
    "equals": ("5", "$\\boxed{" + "x=" * 3_000 + "x}$"),
}
