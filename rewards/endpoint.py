"""A judge behind an OpenAI-compatible chat endpoint: plain HTTP, retries with growing pauses, a deadline for each judgement.

The key comes from an environment variable that the recipe names; it is sent to the endpoint and written nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from rewards.errors import UserError
from rewards.judge import Ask, Reply

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
RETRIED = (408, 409, 425, 429)  # and every 5xx
MAX_ANSWER_BYTES = 16 << 20
MAX_ERROR_CHARS = 300  # of an endpoint's words about a request that it refused


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where the endpoint is and how patiently it is asked."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    endpoint: str  # up to the version, such as https://host/v1; requests go to /chat/completions below it
    name: str  # the model's, as the endpoint knows it
    api_key_env: str | None = None  # the environment variable that holds the key; null: no key is sent
    timeout_s: Annotated[float, Gt(0)] = 60.0  # of one attempt
    deadline_s: Annotated[float, Gt(0)] = 300.0  # of one judgement: all attempts and the pauses between them
    num_parallel: Annotated[int, Gt(0)] = 16  # requests at once
    num_retries: Annotated[int, Ge(0)] = 5  # after 408, 409, 425, 429, 5xx, a broken connection or a timeout


class _RefusedError(Exception):
    """An attempt that failed. `pause_s`: what the endpoint asked to wait; `final`: another attempt would fail the same."""

    def __init__(self, reason: str, *, final: bool = False, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.final, self.pause_s = final, pause_s


class Endpoint:
    """A `Completer`. What it cannot get an answer for within the deadline is a reply without a text."""

    def __init__(
        self, config: EndpointConfig, max_tokens: int, temperature: float, top_p: float = 1.0, stop: Sequence[str] = ()
    ) -> None:
        """Raises UserError where the environment variable for the key is not set."""
        self.config = config
        self._url = config.endpoint.rstrip("/") + "/chat/completions"
        self._settings: dict[str, Any] = {"model": config.name, "max_tokens": max_tokens, "temperature": temperature}
        if top_p < 1.0:
            self._settings["top_p"] = top_p
        if stop:
            self._settings["stop"] = list(stop)
        self._headers = {"Content-Type": "application/json"}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env)
            if not key:
                raise UserError(f"judge.model.api_key_env: the environment variable {config.api_key_env} is not set")
            self._headers["Authorization"] = f"Bearer {key}"

    async def complete(self, asks: Sequence[Ask]) -> list[Reply]:
        """A reply to each ask, in order; at most `num_parallel` requests are under way at once."""
        room = asyncio.Semaphore(self.config.num_parallel)

        async def one(ask: Ask) -> Reply:
            async with room:
                return await self._reply(ask)

        return await asyncio.gather(*(one(ask) for ask in asks))

    async def _reply(self, ask: Ask) -> Reply:
        config, until = self.config, time.monotonic() + self.config.deadline_s
        seed = int(hashlib.sha256(ask.stream.encode()).hexdigest()[:7], 16)  # for endpoints that draw by it
        body = json.dumps({**self._settings, "messages": [m.as_dict() for m in ask.messages], "seed": seed}).encode()
        jitter, problem = random.Random(ask.stream), "no attempt"
        for attempt in range(config.num_retries + 1):
            try:
                return _read(await self._attempt(body, until))
            except _RefusedError as error:
                problem = str(error)
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * (0.5 + jitter.random() / 2)
                pause_s = max(pause_s, error.pause_s)
                if error.final or attempt == config.num_retries or time.monotonic() + pause_s >= until:
                    break
            await asyncio.sleep(pause_s)
        return Reply(None, f"{self._url}: {problem}")

    async def _attempt(self, body: bytes, until: float) -> Any:
        """The endpoint's answer, parsed. A thread that waits longer than the limit is left to itself."""
        limit_s = min(self.config.timeout_s, until - time.monotonic())
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # from now on nobody can cancel it, and the thread may always set it

        def run() -> None:
            try:
                future.set_result(self._post(body, limit_s))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)

        threading.Thread(target=run, name="judge endpoint", daemon=True).start()
        try:
            async with asyncio.timeout(limit_s):  # a socket's own limit begins again with each byte
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise _RefusedError(f"no answer within {limit_s:.1f} s") from None

    def _post(self, body: bytes, timeout_s: float) -> Any:
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        try:
            with _OPENER.open(request, timeout=timeout_s) as response:
                return json.loads(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                words = error.read(MAX_ERROR_CHARS).decode(errors="replace")
            again = error.code in RETRIED or error.code >= 500
            raise _RefusedError(f"HTTP {error.code}: {words}", final=not again, pause_s=_asked_s(error)) from None
        except (OSError, http.client.HTTPException) as error:  # urllib's own errors are OSErrors, timeouts too
            raise _RefusedError(f"{type(error).__name__}: {error}") from None
        except ValueError as error:
            raise _RefusedError(f"an answer that is not JSON: {error}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would hand the key on to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _asked_s(error: urllib.error.HTTPError) -> float:
    """Seconds that the endpoint asks to wait (Retry-After); 0 where it does not, or gives a date."""
    value = error.headers.get("Retry-After", "")
    return min(float(value), LONGEST_PAUSE_S) if value.isdigit() else 0.0


def _read(answer: Any) -> Reply:
    """The text of the first choice. Thinking that the endpoint has taken out of it stays out."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return Reply(None, f"an answer without a choice: {json.dumps(answer)[:MAX_ERROR_CHARS]}")
    if not isinstance(text, str):
        return Reply(None, "an answer without a text")
    return Reply(text, "it was cut (length)" if choice.get("finish_reason") == "length" else "")
