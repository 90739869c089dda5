"""Names and texts of users on a terminal, in JSON, in Markdown, in Python code and in a shell command.

A text may contain escape sequences that clear the screen, characters that reverse the rest of a line, or Markdown.
"""

from __future__ import annotations

import codecs
import re
import shlex
from typing import Any

from tinybert_cli import strict_json

# Control characters, line separators, marks that change the direction of a text, and halves of characters.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_MARKUP = re.compile(
    r"\\(?=[!-/:-@\[-`{-~])"  # an escape
    r"|[`*]|~~|\$"  # code, emphasis, strikethrough, mathematics
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; not inside a word
    r"|(?<=\])[(\[:]"  # links
    r"|<(?=[A-Za-z/!?])|&(?=#|\w+;)"  # HTML
)


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with escapes such as `\x1b` for invisible characters, except those in `keep`."""
    return _INVISIBLE.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def message(text: str) -> str:
    """A message of one or several lines for the terminal."""
    return printable(text, keep="\n\t")


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    r"""`\u00e9` for a character that an encoding does not have; valid in JSON, too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)), error.end


ESCAPED = "tinybert.escape"  # a way to handle errors in writing text, for `errors=` of a file
codecs.register_error(ESCAPED, _escape_unencodable)


def as_json(value: Any) -> str:
    """The value as JSON on one line, without invisible characters."""
    text = strict_json.dumps(value)
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def markdown(text: str) -> str:
    """The text as it is to be read, in a line of Markdown."""
    return _MARKUP.sub(_literal, printable(text))


def markdown_cell(text: str) -> str:
    """The text as it is to be read, in a cell of a Markdown table."""
    return markdown(text).replace("|", "\\|")


def in_python(text: str) -> str:
    """The text between the double quotes of a Python string."""
    return as_json(text)[1:-1]


def shell_word(text: str) -> str:
    """The text as one word of bash, on one line."""
    if text.isprintable():
        return shlex.quote(text)
    letters = (c if c.isprintable() and c not in "\\'" else f"\\U{ord(c):08x}" for c in text)
    return f"$'{''.join(letters)}'"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _literal(match: re.Match[str]) -> str:
    if match[0] in "<&":
        return {"<": "&lt;", "&": "&amp;"}[match[0]]
    return "\\~\\~" if match[0] == "~~" else f"\\{match[0]}"
