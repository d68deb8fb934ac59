"""What can happen to a file on a disk, by name."""

import os
from collections.abc import Callable
from pathlib import Path


def flip(file: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


SPOILT: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "cut by a byte": lambda file: os.truncate(file, file.stat().st_size - 1),
    "grown": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "a bit flipped": flip,
}
