"""The running daemon as other commands see it: whether there is one, and a question to its own API."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from gateway.cli._site_file import data_dir

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from pathlib import Path

    from gateway.config import SiteFile


ANSWER_WITHIN_S = 30.0
"""Two commits, also on a slow card."""


OPTIONS = {"points": "--point", "seconds": "--for", "valid_s": "--valid", "device": "device", "act": "act"}
"""Fields of a request whose option, or argument, is not called as they are."""


def by_options(refusal: str) -> str:
    """A refusal as who typed the command understands it: fields of the request by their options."""
    import re

    return re.sub(
        r"\bbody\.(\w+)(\.\d+)*(?=: )", lambda at: OPTIONS.get(at[1], "--" + at[1].replace("_", "-")), refusal
    )


def is_running(data_dir: Path) -> bool:
    """Whether a daemon holds this data directory."""
    import fcntl

    try:
        with (data_dir / "lock").open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not there yet, or another user's: then nobody could ask it anyway
        return False
    return False


def ask(
    site_file: SiteFile, base: Path, path: str, *, timeout_s: float, body: dict[str, Any] | None = None
) -> HTTPResponse:
    """The daemon's answer (docs/api.md); `path` lies below /api/v1/, or begins with "/". A `body` is posted. Raises URLError
    when none answers, HTTPError when it refuses, ConfigError when the token cannot be read, or is wanted and not there."""
    import urllib.error
    import urllib.request
    from urllib.parse import urljoin

    from gateway.config import read_secret
    from gateway.errors import ConfigError, Problem

    headers = {"Content-Type": "application/json"}
    if site_file.api.token_file is not None:
        token = read_secret(base / site_file.api.token_file)
        headers["Authorization"] = f"Bearer {token.reveal()}"
    content = None if body is None else json.dumps(body).encode()
    url = urljoin(f"http://{site_file.api.listen}/api/v1/", path)
    request = urllib.request.Request(url, content, headers)  # noqa: S310  # http
    # No proxy stands between a command and the daemon of the same box.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer: HTTPResponse = opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 401 and site_file.api.token_file is None:
            error.close()
            expected = "a file with a secret, by which the gateway knows the commands of its own box"
            raise ConfigError(
                [Problem("site file", None, "api.token_file", "none", expected, "docs/access.md 未配置本机令牌")]
            ) from error
        raise
    return answer


def asked(args: argparse.Namespace, path: str, body: dict[str, Any] | None = None, *, doubt: str = "") -> Any:
    """The daemon's answer; None when there is none or it refuses, which is told. `doubt`: what to do when it may have heard."""
    import urllib.error
    from http.client import HTTPException

    site_file, _ = data_dir(args)
    try:
        try:
            with ask(site_file, args.config.resolve().parent, path, timeout_s=ANSWER_WITHIN_S, body=body) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                said = f"{by_options(json.load(error)['detail'])} 服务拒绝"
    except (HTTPException, ValueError, KeyError):
        said = f"what answers at {site_file.api.listen} ([api] listen) is another program 端口被其他程序占用"
    except (urllib.error.URLError, ConnectionError) as error:
        why = getattr(error, "reason", error)
        said = f"no gateway answers at {site_file.api.listen} ({why}): start it with  fangkong run  服务未运行"
    except TimeoutError:
        said = f"the gateway did not answer; {doubt} 服务无响应"
    print(json.dumps({"ok": False, "error": said}, ensure_ascii=False) if args.json else said, file=sys.stderr)
    return None
