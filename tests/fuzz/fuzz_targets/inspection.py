"""inspect_hex: explains or refuses any text, never raises, and what it gives is JSON."""

import json

from emwire.inspect import FORMS, inspect_hex

from .open_aead import OpenAead

KEY = bytes(16)


def check(data: bytes) -> None:
    """Byte 0 chooses the form and what is given; the rest is the text, or the bytes it stands for."""
    if not data:
        return
    choice, rest = data[0], data[1:]
    text = rest.hex() if choice & 8 else rest.decode("utf-8", "surrogateescape")
    explained = inspect_hex(
        text,
        KEY if choice & 16 else None,
        0xA0B0C0D0 if choice & 32 else None,
        lambda key: OpenAead(),
        FORMS[(choice & 7) % len(FORMS)],
    )
    json.dumps(explained)
    assert ("error" in explained) == ("layer" in explained)
