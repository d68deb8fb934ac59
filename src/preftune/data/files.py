"""Rows of local files: one file, the files that a glob matches, or a saved data set."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from preftune.data.contents import file_hash, files_hash
from preftune.data.delimited import csv_chunks
from preftune.data.objects import json_chunks, json_line_chunks
from preftune.data.rows import Chunk
from preftune.data.tables import SPLITS, STATE, arrow_chunks, parquet_chunks, saved_files, saved_splits
from preftune.refusals import Refusal

_READERS: dict[str, Callable[[Path, str], Iterator[Chunk]]] = {
    ".json": json_chunks,
    ".jsonl": json_line_chunks,
    ".csv": csv_chunks,
    ".parquet": parquet_chunks,
}
_PACKED = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
}


@dataclass(frozen=True)
class LocalSource:
    """Files that are read as one source.

    Attributes:
        path: What the user gave.
        key: The setting that gave it, for error sentences.
        name: The source as the ledger shows it.
        files: By the names that origins show, in the order in which they are read.
        saved: They are a saved data set, whose rows are numbered through.
    """

    path: str
    key: str
    name: str
    files: dict[str, Path]
    saved: bool = False

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows of all files.

        Raises:
            Refusal: A file is empty, cannot be read, or is not in the format that its name says.
        """
        try:
            if self.saved:
                arrow = {part: file for part, file in self.files.items() if part != STATE}
                yield from arrow_chunks(arrow, self.name)
                return
            for name, file in self.files.items():
                _refuse_packed(file, name)
                yield from _READERS[file.suffix.lower()](file, name)
        except OSError as error:
            raise Refusal(self._unreadable(error)) from None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the files' names, which origins show, and bytes.

        Raises:
            Refusal: A file cannot be read.
        """
        try:
            return files_hash(self.files)
        except OSError as error:
            raise Refusal(self._unreadable(error)) from None

    def content_hash(self) -> str:
        """Return the SHA-256 of the bytes of one file, or of the names and bytes of several.

        Raises:
            Refusal: A file cannot be read.
        """
        if len(self.files) > 1:
            return self.fingerprint()
        try:
            return file_hash(*self.files.values())
        except OSError as error:
            raise Refusal(self._unreadable(error)) from None

    def _unreadable(self, error: OSError) -> str:
        if isinstance(error, PermissionError):
            return f"{self.key} must name a file that may be read, got {str(error.filename or self.path)!r}"
        return f"{self.key} must name a file that can be read, got {error.strerror} for {self.path!r}"


def local_source(path: str, split: str, key: str) -> LocalSource:
    """Return the files that `path` stands for.

    Args:
        path: A file, a glob, or a directory that `save_to_disk` wrote.
        split: Split of a saved `DatasetDict`; files have no splits.
        key: The setting that gave `path`.

    Raises:
        Refusal: There is no such file, none matches, their kinds differ or are unknown, or a directory holds no
            saved data set.
    """
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        return _saved_source(path, Path(place), split, key)
    if os.path.isfile(place):
        files = [Path(place)]
    elif os.path.exists(place):
        raise Refusal(f"{key} must name a file, got {path!r}, which is none")
    elif glob.has_magic(place):
        files = _matched(path, place, key)
    else:
        raise Refusal(f"{key} must name a file that exists, got {path!r}")
    kinds = sorted({file.suffix.lower() for file in files})
    if unknown := [suffix for suffix in kinds if suffix not in _READERS]:
        got = repr(path) if len(files) == 1 else f"{path!r}, which matches {', '.join(s or 'none' for s in unknown)}"
        raise Refusal(f"{key} must end in {', '.join(_READERS)}, got {got}")
    if len(kinds) > 1:
        raise Refusal(f"{key} must match files of one kind, got {', '.join(kinds)} for {path!r}")
    return LocalSource(path, key, Path(place).name, _named(files))


def local_name(path: str, split: str) -> str:
    """Return the name of a local source as the ledger shows it."""
    place = Path(path).expanduser()
    return f"{place.name}[{split}]" if os.path.isfile(place / SPLITS) else place.name


def _matched(path: str, place: str, key: str) -> list[Path]:
    files = [Path(match) for match in sorted(set(glob.glob(place, recursive=True))) if os.path.isfile(match)]
    if not files:
        raise Refusal(f"{key} must match at least one file, got {path!r}, which matches none")
    return files


def _named(files: list[Path]) -> dict[str, Path]:
    """Return files by name, with as many of their directories as make the names differ."""
    parts = 1
    while len(named := {Path(*file.parts[-parts:]).as_posix(): file for file in files}) < len(files):
        parts += 1
    return named


def _saved_source(path: str, directory: Path, split: str, key: str) -> LocalSource:
    name = local_name(path, split)
    if (directory / SPLITS).is_file():
        if split not in (splits := saved_splits(directory)):
            raise Refusal(
                f"{key.removesuffix('path')}split must be a split of {directory.name}, got {split!r}; it has "
                f"{', '.join(sorted(splits)) or 'none'}"
            )
        directory = directory / split
    if (directory / STATE).is_file():
        return LocalSource(path, key, name, saved_files(directory), saved=True)
    held = Counter(file.suffix.lower() for file in directory.iterdir() if file.suffix.lower() in _READERS)
    suffix = max(sorted(held), key=lambda each: held[each], default=".jsonl")
    raise Refusal(
        f"{key} must name a file, a glob or a saved data set, got the directory {path!r}; for the files in it set "
        f"{key}='{os.path.join(path, '*' + suffix)}'"
    )


def _refuse_packed(file: Path, name: str) -> None:
    with file.open("rb") as opened:
        head = opened.read(8)
    if not head:
        raise Refusal(f"{name} must hold at least one row, got an empty file")
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise Refusal(f"{name} must be a {file.suffix.lower()} file, got {what}; unpack it first")
