"""Text as users write it: `~` at the start of a path is the home folder, `${NAME}` an environment variable.

Everything that a user writes passes through here once, in a config or on the command line. Paths that the program has
made are never read this way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from tinybert_cli.errors import ConfigError

Report = Callable[[str, str, str], None]  # called with a problem, a hint and the part of the text that it is about

_VARIABLE = re.compile(
    r"\$\$"
    r"|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|[^}]*\}?)"
    r"|\$(?P<bare>[A-Za-z_][A-Za-z0-9_]*)"
)


def with_home(path: str) -> str:
    """The path with the home folder in place of `~` or `~user`; unchanged if there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111  Path.expanduser raises for an unknown user


def with_variables(text: str, where: str, report: Report) -> str:
    """The text with the values of `${NAME}` and `${NAME:-default}`, and `$` for `$$`.

    Args:
        where: the text is, for messages.
        report: called for each problem, whose part of the text is left as it is.
    """

    def value_of(match: re.Match[str]) -> str:
        name, default, bare = match["name"], match["default"], match["bare"]
        if match[0] == "$$":
            return "$"
        if bare is not None:
            if bare in os.environ:
                hint = f"write ${{{bare}}}; or $${bare} for these characters"
                report(f"`${bare}` in {where} is not expanded", hint, match[0])
            return match[0]
        if name is None or "${" in (default or ""):
            hint = "write ${NAME} or ${NAME:-default}; or $${ for these characters"
            report(f"invalid variable `{match[0]}` in {where}", hint, match[0])
        elif default is not None:
            return os.environ.get(name) or default.replace("$$", "$")
        elif name in os.environ:
            return os.environ[name]
        else:
            what = f"the environment variable {name} is not set, but {where} uses it"
            report(what, f"set it, or write ${{{name}:-default}}; or $${{{name}}} for these characters", match[0])
        return match[0]

    return _VARIABLE.sub(value_of, text)


def argument_path(path: str) -> str:
    """A path on the command line, by the same rules as in a config, unless it exists as it is written.

    Raises:
        ConfigError: a variable is not set.
    """
    if os.path.lexists(path):
        return path

    def report(what: str, hint: str, part: str) -> None:
        raise ConfigError(what, hint=hint)

    return with_home(with_variables(path, f"the argument '{path}'", report))
