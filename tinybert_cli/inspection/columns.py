"""Which task a file is for, and which of its columns are texts and labels: the choice, with a reason for each part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tinybert_cli import tasks
from tinybert_cli.data.readers import format_of
from tinybert_cli.errors import InputError
from tinybert_cli.inspection.column_kinds import Column, describe
from tinybert_cli.inspection.evidence import (
    are_tags,
    are_words,
    best_named,
    have_same_lengths,
    is_language,
    labels_in_cells,
    tag_rank,
)
from tinybert_cli.label_values import as_number, in_quotes
from tinybert_cli.types import Rows

Choose = Callable[[str, Sequence[str]], str]  # asks the user for one of several columns

LISTED = 12  # columns in a message
LARGEST = 6  # classes in a message

LABEL_NAMES = (
    "label", "labels", "class", "category", "intent", "target", "gold", "gold_label", "y", "sentiment", "topic",
    "emotion", "score", "rating", "stars", "similarity", "tag", "tags", "kategorie", "klasse", "categoria",
    "catégorie", "classe", "etiqueta", "标签", "类别",
)  # fmt: skip
TEXT_NAMES = (
    "text", "sentence", "content", "body", "message", "review", "comment", "description", "document", "utterance",
    "tweet", "post", "query", "question", "inhalt", "texto", "texte", "文本", "title", "subject", "headline",
)  # fmt: skip
PAIRS = (
    ("premise", "hypothesis"), ("question", "sentence"), ("query", "passage"), ("query", "document"),
    ("question", "passage"), ("question", "answer"), ("question", "context"), ("source", "target"),
    ("anchor", "positive"), ("left", "right"),
)  # fmt: skip
SIDES = (("source", "target"), ("src", "tgt"), ("src", "trg"))
ANSWER_START = re.compile(r"(.+[._ ])?answer_?starts?", re.IGNORECASE)


@dataclass(frozen=True)
class Guess:
    """The task, its columns, and why they were chosen."""

    task: str
    text: list[str]
    label: str | list[str]
    reasons: Mapping[str, str]  # of "task", "text" and "label"
    separator: str | None = None  # of several labels in one cell
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Table:
    """The columns of a file, and what the user has chosen."""

    rows: Rows
    columns: Mapping[str, Column]
    task: str | None  # None: not chosen
    text: Sequence[str]  # empty: not chosen
    label: Sequence[str]
    separator: str | None  # of several labels in one cell; None: not chosen
    choose: Choose | None

    def of_kind(self, *kinds: str) -> list[Column]:
        """The columns of these kinds that are not chosen for something else."""
        return [column for column in self.columns.values() if column.kind in kinds and column.name not in self.text]


def guess(
    rows: Rows,
    *,
    task: str | None = None,
    text: Sequence[str] = (),
    label: Sequence[str] = (),
    separator: str | None = None,
    choose: Choose | None = None,
) -> Guess:
    """The task and its columns.

    Args:
        task: the user's choice; None = from the columns.
        text: the user's text columns.
        label: the user's label column, or one column per class.
        separator: the user's separator of several labels in one cell.
        choose: called where the columns leave a choice; None = that is an error.

    Raises:
        ConfigError: there is no such task.
        InputError: the columns do not tell; lists what each of them holds.
    """
    for name in (*text, *label):
        rows.column(name)  # raises, with the columns that exist
    table = _Table(rows, describe(rows), task, text, label, separator, choose)
    _check_chosen(table, task)
    for finder in _FINDERS if task is None else [_finder_of(task)]:
        if (result := finder(table)) is not None:
            if task is None and isinstance(result.label, str) and result.task != "token-classification":
                _check_no_tags(table, [result.label])
                _check_no_lists(table, table.columns[result.label])
            _check_header(table, result)
            used = {*result.text, *([result.label] if isinstance(result.label, str) else result.label)}
            return replace(result, unused=[name for name in table.columns if name not in used])
    _check_no_tags(table, [*table.columns])
    raise _unclear(table, task)


# -- tasks whose columns have a form of their own ------------------------------------------------------------------


def _question_answering(table: _Table) -> Guess | None:
    """Answers with positions, and the text column that has them there.

    Raises:
        InputError: the position of an answer is a column of its own, and no column has the name of a label.
    """
    answers = [table.columns[name] for name in table.label] or table.of_kind("answers")
    starts = next(filter(ANSWER_START.fullmatch, table.columns), None)
    if not answers and starts is not None and best_named(_label_candidates(table), LABEL_NAMES) is None:
        raise InputError(
            f"{in_quotes(starts)} is where an answer begins, but no column has answers with their positions",
            where=table.rows.origins[0][0],
            hint='write both in one column, answers: {"text": ["Berlin"], "answer_start": [17]}; if it is no question '
            "answering: --text COLUMN --label COLUMN",
        )
    if len(answers) != 1 or answers[0].kind != "answers":
        return None
    texts = [column for column in table.columns.values() if column.kind in ("text", "constant")]
    context = best_named(texts, ("context", "passage", "paragraph", "document")) or max(
        texts, key=lambda column: column.words, default=None
    )
    others = [column for column in texts if column is not context]
    question = best_named(others, ("question", "query")) or min(others, key=lambda column: column.words, default=None)
    if context is None or question is None:
        return None
    names = list(table.text) or [question.name, context.name]
    reasons = {
        "task": f"'{answers[0].name}' has answers with positions in a context",
        "text": "the question and its context",
        "label": "the answers",
    }
    return Guess("question-answering", names, answers[0].name, reasons)


def _token_classification(table: _Table) -> Guess | None:
    """Two lists of the same length in every row: words, and their tags."""
    lists = [column for column in table.columns.values() if column.kind == "list"]
    words = [column for column in lists if column.name in (table.text or [column.name])]
    for column in sorted(words, key=lambda column: -column.distinct):
        tags = [
            other
            for other in lists
            if other.name in (table.label or [other.name])
            and (table.text or other.distinct < column.distinct)
            and other is not column
            and have_same_lengths(table.rows, column.name, other.name)
            and are_words(table.rows.column(column.name))
        ]
        if tags:
            chosen = max(tags, key=tag_rank)
            others = f", one of {len(tags)} columns of tags" if len(tags) > 1 else ""
            reasons = {
                "task": f"'{chosen.name}' has a tag for each word in '{column.name}'",
                "text": "lists of words",
                "label": f"{chosen.distinct} tags{others}",
            }
            return Guess("token-classification", [column.name], chosen.name, reasons)
    return None


def _multi_label(table: _Table) -> Guess | None:
    """A list of labels per row, cells with several labels, or one column with 0 or 1 per class."""
    flags = list(table.label) if len(table.label) > 1 else [] if table.label else _flags(table)
    if flags:
        why = f"{len(flags)} columns have 0 or 1 in every row"
        return _with_texts(table, "multi-label-classification", flags, why, "one column per class")
    candidates = [table.columns[name] for name in table.label] or [*table.of_kind("list"), *_label_candidates(table)]
    best = best_named(candidates, LABEL_NAMES)
    for column in candidates if best is None else [best]:
        if column.kind == "list":
            why = f"'{column.name}' has a list of labels in each row"
            return _with_texts(
                table, "multi-label-classification", column.name, why, f"{column.distinct or 'several'} labels"
            )
        chosen = table.task is not None or table.separator is not None
        splits = column.kind == "text" or (column.may_have_lists and chosen)
        wanted = table.task is not None
        if splits and (cells := labels_in_cells(column, table.separator, wanted=wanted)) is not None:
            separator, count = cells
            why = f"cells of '{column.name}' have several labels, separated by {in_quotes(separator)}"
            result = _with_texts(table, "multi-label-classification", column.name, why, f"{count} labels")
            return None if result is None else replace(result, separator=separator)
    return None


def _flags(table: _Table) -> list[str]:
    """Columns that have 0 or 1 in every row, if there are several and no other label."""
    flags = [column for column in table.of_kind("number", "boolean", "constant") if column.is_flag]
    others = [column for column in _label_candidates(table) if not column.is_flag]
    if len([column for column in flags if column.kind != "constant"]) < 2 or best_named([*flags, *others], LABEL_NAMES):
        return []
    return [] if others and len(flags) < 3 else [column.name for column in flags]


def _translation(table: _Table) -> Guess | None:
    """Two text columns that are named by languages, or source and target."""
    if table.text and table.label:
        texts = [*table.text, *table.label]
    else:
        texts = [column.name for column in table.columns.values() if column.kind == "text" and not column.is_category]
        texts = [name for name in texts if is_language(name)] or texts
    is_chosen = table.task == "translation" and bool(table.text and table.label)
    named = is_chosen or all(map(is_language, texts)) or tuple(name.lower() for name in texts) in SIDES
    if len(texts) != 2 or not named or (not table.label and _label_candidates(table)):
        return None
    reasons = {
        "task": f"two columns of texts, '{texts[0]}' and '{texts[1]}'",
        "text": "the text to translate",
        "label": "its translation",
    }
    return Guess("translation", [texts[0]], texts[1], reasons)


# -- one label or one number per text ------------------------------------------------------------------------------


def _one_label(table: _Table) -> Guess | None:
    """A class or a number per text, whichever the label column holds."""
    column = _label(table, lambda column: column.is_category or column.kind in ("number", "text"))
    if column is None:
        return None
    return _regression_of(table, column) if column.is_measure else _classes_of(table, column)


def _regression(table: _Table) -> Guess | None:
    column = _label(table, lambda column: column.kind == "number")
    return None if column is None else _regression_of(table, column)


def _text_classification(table: _Table) -> Guess | None:
    column = _label(table, lambda column: column.is_category or column.kind in ("number", "text"))
    return None if column is None else _classes_of(table, column)


def _regression_of(table: _Table, column: Column) -> Guess | None:
    return _with_texts(table, "regression", column.name, f"'{column.name}' has {column.phrase()}", column.phrase())


def _classes_of(table: _Table, column: Column) -> Guess | None:
    counts = ", ".join(f"{name} ({count:,})" for name, count in list(column.counts.items())[:LARGEST])
    more = ", ..." if column.distinct > LARGEST else ""
    number = "; for a number: --task regression" if column.kind == "number" and column.distinct > 2 else ""
    why = f"'{column.name}' has {column.distinct} classes{number}"
    return _with_texts(table, "text-classification", column.name, why, f"{counts}{more}{_other_labels(table, column)}")


def _other_labels(table: _Table, chosen: Column) -> str:
    """The columns with classes that the user may want instead of the chosen one."""
    others = [column.name for column in _label_candidates(table) if column.is_category and column is not chosen]
    if table.label or not others:
        return ""
    listed = ", ".join(in_quotes(name) for name in others[:LARGEST])
    return f"; {listed}{', ...' * (len(others) > LARGEST)} {'has' if len(others) == 1 else 'have'} classes, too"


def _with_texts(table: _Table, task: str, label: str | list[str], why: str, label_reason: str) -> Guess | None:
    """The guess with its text columns; None if no column has texts."""
    texts = _text_columns(table, [label] if isinstance(label, str) else label)
    if texts is None:
        return None
    names, text_reason = texts
    return Guess(task, names, label, {"task": why, "text": text_reason, "label": label_reason})


def _label(table: _Table, fits: Callable[[Column], bool]) -> Column | None:
    """The label column: the user's, the one with the best name, the only one, or the one the user chooses."""
    if table.label:
        column = table.columns[table.label[0]]
        return column if len(table.label) == 1 and fits(column) else None
    candidates = [column for column in _label_candidates(table) if fits(column)]
    with_names = [column for column in candidates if column.name in table.rows.class_names]
    if best := with_names[0] if len(with_names) == 1 else best_named(candidates, LABEL_NAMES):
        return best
    categories = [column for column in candidates if column.is_category] or candidates
    if len(categories) < 2:
        return categories[0] if categories else None
    if table.choose is not None:
        return table.columns[table.choose("Which column is the label?", [column.name for column in categories])]
    listed = "; ".join(f"{column.name}: {column.phrase()}" for column in categories[:LISTED])
    raise InputError(
        f"{len(categories)} columns may be the label: {listed}",
        where=table.rows.origins[0][0],
        hint=f"name it: --label {categories[0].name}",
    )


def _label_candidates(table: _Table) -> list[Column]:
    """The columns that may be a label by their values."""
    columns = [column for column in table.columns.values() if column.name not in table.text]
    columns = [column for column in columns if column.is_category or column.is_measure]
    return [column for column in columns if column.name.lower() not in TEXT_NAMES] or columns


def _text_columns(table: _Table, labels: Sequence[str]) -> tuple[list[str], str] | None:
    """The text column, or the two of a pair, and why; None if no column has texts."""
    if table.text:
        return list(table.text), "as given"
    columns = [column for column in table.of_kind("text") if column.name not in labels]
    texts = [column for column in columns if not column.is_category] or columns
    if not texts:
        return None
    if pair := _pair([column.name for column in texts]):
        return list(pair), "a pair of texts"
    best = best_named(texts, TEXT_NAMES)
    longest = max(texts, key=lambda column: column.words)
    chosen = longest if best is None or longest.words > 2 * best.words else best
    others = f", the longest of {len(texts)} columns with texts" if len(texts) > 1 and chosen is longest else ""
    return [chosen.name], f"{chosen.phrase()}{others}"


def _pair(names: Sequence[str]) -> tuple[str, str] | None:
    lower = {name.lower(): name for name in names}
    for first, second in PAIRS:
        if first in lower and second in lower:
            return lower[first], lower[second]
    stems: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(r"(.+?)[-_ ]?([12ab])", name, re.IGNORECASE):
            stems.setdefault(match[1].lower(), []).append(name)
    return next(((pair[0], pair[1]) for pair in stems.values() if len(pair) == 2), None)


# -- errors ----------------------------------------------------------------------------------------------------


def _check_chosen(table: _Table, task: str | None) -> None:
    """InputError for a label column that cannot be one: an id, dates, one value, a different text in each row."""
    if task == "translation":
        return
    for name in table.label:
        column = table.columns[name]
        unique_texts = column.kind == "text" and column.filled > 10 and column.distinct * 2 > column.filled
        reason = ""
        if column.kind in ("id", "date", "link", "empty", "constant", "mapping", "amount"):
            reason = column.phrase()
        elif (
            unique_texts
            and labels_in_cells(column, table.separator) is None
            and not (len(table.text) == 1 and is_language(name))
        ):
            reason = f"{column.distinct:,} different texts in {column.filled:,} rows"
        if reason and len(table.label) == 1:
            raise InputError(
                f"the column '{name}' cannot be the label: {reason}",
                where=table.rows.origins[0][0],
                hint=f"name another one with --label: {'; '.join(_phrases(table))}",
            )


def _check_no_tags(table: _Table, names: Sequence[str]) -> None:
    """InputError if one of the columns has tags of words: no other column has the words, or they would be found."""
    for name in names:
        if are_tags(table.rows.column(name)):
            raise InputError(
                f"{in_quotes(name)} has tags of words, but no column has a list of as many words in each row",
                where=table.rows.origins[0][0],
                hint="write the words and the tags of each text as lists in .jsonl, or a word and its tag per line in "
                ".conll; if they are labels of whole texts, name the task with --task",
            )


def _check_no_lists(table: _Table, column: Column) -> None:
    """InputError if the numbers of the label column may be lists, and neither task nor separator is chosen."""
    if column.may_have_lists and table.separator is None:
        example = next(text for text in column.counts if "," in text)
        raise InputError(
            f"{in_quotes(column.name)} has cells such as '{example}': a number with a decimal comma, or two labels",
            where=table.rows.origins[0][0],
            hint="--task regression for numbers, --task multi-label-classification for labels",
        )


def _check_header(table: _Table, result: Guess) -> None:
    """InputError if the names of the columns look like a row: that of the label is one of its values, or a number.

    Common names of text columns, and columns that the user has named, are names.
    """
    first, text, label = table.rows.origins[0][0], result.text[0], result.label
    is_named = bool(table.text and table.label) or text.casefold() in TEXT_NAMES
    if is_named or not isinstance(label, str) or format_of(Path(first)) not in ("csv", "tsv"):
        return
    if label in table.columns[label].counts or as_number(label) is not None:
        raise InputError(
            f"the first line looks like a row, not like the names of the columns: {in_quotes(text[:80])}, "
            f"{in_quotes(label)}",
            where=f"{first}:1",
            hint="write a line with names above it: text,label; if these are the names, give them with --text and "
            "--label",
        )


def _unclear(table: _Table, task: str | None) -> InputError:
    wanted = f"the columns of {task}" if task else "a text column and its label"
    hint = "name them: --text COLUMN --label COLUMN (two text columns: --text FIRST,SECOND)"
    if mappings := [column.name for column in table.columns.values() if column.kind == "mapping"]:
        hint = (
            f"write what is in '{mappings[0]}' as columns of their own; then, if needed, --text and --label name them"
        )
    elif amounts := [column.name for column in table.columns.values() if column.kind == "amount"]:
        hint = f"if '{amounts[0]}' is what to predict, write it as plain numbers, such as 1234.5; else {hint}"
    elif len(table.columns) == 1:
        hint = "add a column with labels; text without labels can be given beside a file with labels: --unlabeled FILE"
    return InputError(
        f"cannot tell {wanted} from the columns:\n     " + "\n     ".join(_phrases(table)),
        where=table.rows.origins[0][0],
        hint=hint,
    )


def _phrases(table: _Table) -> Iterator[str]:
    listed = list(table.columns.values())
    yield from (f"{column.name}: {column.phrase()}" for column in listed[:LISTED])
    if len(listed) > LISTED:
        yield f"... ({len(listed)} columns)"


def _finder_of(task: str) -> Callable[[_Table], Guess | None]:
    tasks.find(task)  # raises, with the names
    if task not in _FINDER_OF_TASK:
        raise InputError(f"init writes no recipe for {task}", hint=f"copy one: tinybert init DIR --task {task}")
    return _FINDER_OF_TASK[task]


_FINDERS = (_question_answering, _token_classification, _multi_label, _translation, _one_label)
_FINDER_OF_TASK: dict[str, Callable[[_Table], Guess | None]] = {
    "question-answering": _question_answering,
    "token-classification": _token_classification,
    "multi-label-classification": _multi_label,
    "translation": _translation,
    "text-classification": _text_classification,
    "regression": _regression,
}
