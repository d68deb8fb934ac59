"""Text of models and rows, made safe to print."""

# Escape sequences would steer the terminal, bidirectional controls reorder what is read, and lone surrogates have
# no encoding to be printed in.
_CONTROL = {
    code: "\ufffd"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x061C,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    )
    if chr(code) not in "\n\t"
}


def inert(text: str) -> str:
    """Return `text` with each control character but newline and tab replaced by U+FFFD."""
    return text.translate(_CONTROL)
