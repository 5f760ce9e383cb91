"""The peers' side of the comparison, run where they are installed: reads questions as JSON, a line each, and writes verdicts.

IFEval by lm-evaluation-harness, IFBench by if-verifiable, languages by langdetect. The modules of their checkers are loaded
without the packages around them, which need much more; nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

SITE = Path(sys.prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
os.environ["NLTK_DATA"] = str(
    SITE / "llama_index" / "core" / "_static" / "nltk_cache"
)  # Punkt and stop words, as shipped there


def bare_package(name: str) -> None:
    """Make submodules of a package importable without running its __init__."""
    module = types.ModuleType(name)
    module.__path__ = [str(SITE / name.replace(".", "/"))]
    sys.modules[name] = module


def load() -> dict[str, Any]:
    """The checkers by id, of both suites."""
    import langdetect
    import nltk

    nltk.download = lambda *args, **kwargs: True
    langdetect.DetectorFactory.seed = 0  # its answers are random otherwise
    for name in ("lm_eval", "lm_eval.tasks", "if_verifiable"):
        bare_package(name)
    from if_verifiable.ifbench import instructions_registry as ifbench
    from lm_eval.tasks.ifeval import instructions_registry as ifeval

    return {**ifeval.INSTRUCTION_DICT, **ifbench.INSTRUCTION_DICT}


def follows(checkers: dict[str, Any], question: dict[str, Any]) -> bool | str:
    """The verdict as the suites give it: an empty response follows nothing. A str says why there is none."""
    checker = checkers[question["instruction"]](question["instruction"])
    try:
        checker.build_description(**question["kwargs"])
        return bool(question["response"].strip() and checker.check_following(question["response"]))
    except Exception as error:  # noqa: BLE001 - whatever a checker raises is no verdict
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def language(text: str) -> str | None:
    import langdetect

    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


def messages(code: str) -> list[str]:
    """The translations of Django's own messages into a language, as plain text."""
    from gettext import GNUTranslations

    found = []
    for path in sorted((SITE / "django").glob(f"**/locale/{code}/LC_MESSAGES/django.mo")):
        with path.open("rb") as file:
            catalog = GNUTranslations(file)._catalog
        found += [text for key, text in catalog.items() if key and isinstance(text, str)]
    return found


def sample_answers() -> list[dict[str, Any]]:
    """IFBench's own data set with the answers of a model: the instructions of each prompt, and the response."""
    folder = SITE / "ifbench" / "data"
    answers = {
        row["prompt"]: row["response"] for row in map(json.loads, (folder / "sample_output.jsonl").open(encoding="utf-8"))
    }
    rows = [json.loads(line) for line in (folder / "IFBench_test.jsonl").open(encoding="utf-8")]
    kept = ("prompt", "instruction_id_list", "kwargs")
    return [
        {**{name: row[name] for name in kept}, "response": answers[row["prompt"]]} for row in rows if row["prompt"] in answers
    ]


def main() -> None:
    checkers = load()
    names = ("lm_eval", "if-verifiable", "langdetect", "django")
    print(json.dumps({name: version(name) for name in names}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "text" in question:
            answer: Any = language(question["text"])
        elif "samples" in question:
            answer = sample_answers()
        elif "code" in question:
            answer = messages(question["code"])
        else:
            answer = follows(checkers, question)
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
