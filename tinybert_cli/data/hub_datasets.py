"""A dataset on the Hub: all its rows, or a stream of them that can go on from where it was."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from tinybert_cli.config import Data
from tinybert_cli.data.readers import with_class_names
from tinybert_cli.errors import InputError, UserError
from tinybert_cli.types import Rows

if TYPE_CHECKING:
    from datasets import IterableDataset

State = dict[str, Any]  # where a stream is, a JSON value of the `datasets` library

_COMMIT = re.compile(r"@([0-9a-f]{40})(/|$)")


def read_hub_dataset(data: Data, split: str, name: str) -> Rows:
    """All rows of a split.

    Args:
        split: the key of the split in the config, for messages.
        name: of the split in the dataset.

    Raises:
        InputError: there is no such dataset or split, or no network.
    """
    import datasets

    assert data.dataset_name is not None
    with _loading(data, split):
        loaded = datasets.load_dataset(
            data.dataset_name, data.dataset_config_name, split=name, revision=data.dataset_revision
        )
    rows = Rows(loaded.to_dict(), ((f"{data.dataset_name}[{name}]", len(loaded)),))
    return with_class_names(rows, loaded.features.to_dict())


class HubStream:
    """The rows of a split, read as a stream.

    Args:
        split: the key of the split in the config, for messages.
        name: of the split in the dataset.
        revision: the commit that an earlier run has read; None: the one that the config names, or the newest.

    Raises:
        InputError: there is no such dataset or split, or no network.
    """

    def __init__(self, data: Data, split: str, name: str, revision: str | None = None) -> None:
        import datasets

        assert data.dataset_name is not None
        with _loading(data, split):
            builder = datasets.load_dataset_builder(
                data.dataset_name, data.dataset_config_name, revision=revision or data.dataset_revision
            )
            self._dataset: IterableDataset = builder.as_streaming_dataset(split=name)
        self._opened = functools.partial(builder.as_streaming_dataset, split=name)
        self.origin = f"{data.dataset_name}[{name}]"
        commit = _COMMIT.search(str(builder.base_path or ""))
        self.facts = {
            "dataset": data.dataset_name,
            "config": builder.config.name,
            "split": name,
            "revision": commit[1] if commit else revision or data.dataset_revision,
            "fingerprint": builder.hash,
        }

    def parts(self, size: int, *, begin: int = 0, state: State | None = None) -> Iterator[Rows]:
        """The rows in parts of `size`, with class names.

        Args:
            state: from `state()`, after `begin` rows.

        Raises:
            InputError: the stream breaks; names the last row that was read.
        """
        self._dataset = self._opened()  # one that has loaded a state starts there each time
        if state is not None:
            self._dataset.load_state_dict(state)
        features = {} if self._dataset.features is None else self._dataset.features.to_dict()
        rows = iter(self._dataset)
        while part := self._next(rows, size, begin):
            names = dict.fromkeys([*features, *(name for row in part for name in row)])
            columns = {name: [row.get(name) for row in part] for name in names}
            selected = range(begin, begin + len(part))
            begin += len(part)
            yield with_class_names(Rows(columns, ((self.origin, begin),), selected=selected), features)

    def state(self) -> State:
        """Where the stream is: after the parts that were read."""
        state: State = self._dataset.state_dict()
        return state

    def _next(self, rows: Iterator[dict[str, Any]], size: int, begin: int) -> list[dict[str, Any]]:
        part: list[dict[str, Any]] = []
        try:
            part.extend(islice(rows, size))
        except (UserError, MemoryError):
            raise
        except Exception as error:  # of the network, of a file on the Hub, or of its reader
            message = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(
                f"the stream of '{self.origin}' broke: {message}",
                where=f"{self.origin}, after row {begin + len(part):,}",
                hint="check the network and huggingface.co",
            ) from error
        return part


@contextmanager
def _loading(data: Data, split: str) -> Iterator[None]:
    """Errors of the `datasets` library as those of the user's input."""
    import datasets

    try:
        yield
    except ValueError as error:  # an unknown configuration or split; the message lists the valid ones
        hint = None
        if "Unknown split" in str(error) or "Bad split" in str(error):
            hint = f"set data.{split}_split_name to one of them, or data.{split}_file"
        raise InputError(f"cannot load the dataset '{data.dataset_name}': {error}", hint=hint) from error
    except (OSError, datasets.exceptions.DatasetsError) as error:  # includes every network failure
        message, _, _ = str(error).partition("\n")
        raise InputError(
            f"cannot load the dataset '{data.dataset_name}': {message}",
            hint="without network: set data.train_file and data.validation_file to local files, or fill the cache "
            f"where there is one: hf download --repo-type dataset {data.dataset_name}",
        ) from error
