"""What a file is known by."""

from pathlib import Path

import pytest

from preftune import seals


def test_a_small_file_is_known_by_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(300_000))
    before = seals.known_by(file)
    with file.open("r+b") as content:
        content.seek(100_000)
        content.write(b"\1")
    assert seals.known_by(file) != before


@pytest.mark.parametrize("place", [0, 150_000, 299_999])
def test_a_large_file_is_known_by_its_size_start_middle_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(seals, "_LARGE", 200_000)
    file = tmp_path / "file"
    file.write_bytes(bytes(300_000))
    before = seals.known_by(file)
    with file.open("r+b") as content:
        content.seek(place)
        content.write(b"\1")
    assert seals.known_by(file) != before
    file.write_bytes(bytes(300_001))
    assert seals.known_by(file) != before
