"""Errors of users' code, told with the place in their own file, not in ours or in a library's."""

from __future__ import annotations

import os
import sys
import sysconfig

from trtpipe import project

_PACKAGE = os.path.dirname(os.path.realpath(__file__))


def said(error: BaseException) -> str:
    """Give an exception's class and message, and the line of users' code that it came through last, if it did."""
    text = f"{type(error).__name__}: {error}"
    place = _place(error)
    return f"{text} ({place})" if place else text


def _place(error: BaseException) -> str | None:
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{_name(error.filename)}:{error.lineno}"
    found = None
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if _is_users(code.co_filename):
            function = "" if code.co_name.startswith("<") else f", in {code.co_name}"
            found = f"{_name(code.co_filename)}:{trace.tb_lineno}{function}"
        trace = trace.tb_next
    return found


def _is_users(file: str) -> bool:
    """Tell whether a file is neither ours nor of the interpreter nor an installed package."""
    real = os.path.realpath(file)
    if file.startswith("<") or not real.endswith(".py") or real.startswith(os.path.join(_PACKAGE, "")):
        return False
    if "site-packages" in real.split(os.sep) or "dist-packages" in real.split(os.sep):
        return False
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sys.prefix, sys.base_prefix)
    return not any(real.startswith(os.path.join(os.path.realpath(f), "")) for f in folders if f != "/usr")


def _name(file: str) -> str:
    return project.name(file, project.root(os.path.dirname(os.path.abspath(file))))
