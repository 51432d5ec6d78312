"""Reads and writes GGUF files for the tests that need wrong ones. Needs only the standard library."""

import dataclasses
import pathlib
import struct

TEXT, LIST = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclasses.dataclass
class Tensor:
    name: str
    sizes: list  # fastest first
    type: int
    offset: int  # from the begin of the data


@dataclasses.dataclass
class Gguf:
    version: int = 3
    metadata: dict = dataclasses.field(default_factory=dict)  # key: (kind, bytes of the value)
    tensors: list = dataclasses.field(default_factory=list)
    data: bytes = b""
    alignment: int = 32

    def head(self) -> bytes:
        """All before the data, without the padding."""
        out = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors), len(self.metadata))
        for key, (kind, value) in self.metadata.items():
            out += text(key) + struct.pack("<I", kind) + value
        for tensor in self.tensors:
            count = len(tensor.sizes)
            out += text(tensor.name) + struct.pack(f"<I{count}Q", count, *tensor.sizes)
            out += struct.pack("<IQ", tensor.type, tensor.offset)
        return out

    def write(self, path) -> None:
        head = self.head()
        pathlib.Path(path).write_bytes(head + b"\0" * (-len(head) % self.alignment) + self.data)

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def values(kind: int, form: str, *numbers) -> tuple:
    """A list of numbers, as metadata."""
    return LIST, struct.pack(f"<IQ{len(numbers)}{form}", kind, len(numbers), *numbers)


def texts(*words) -> tuple:
    return LIST, struct.pack("<IQ", TEXT, len(words)) + b"".join(text(word) for word in words)


def read_gguf(path) -> Gguf:
    raw = pathlib.Path(path).read_bytes()
    at = 4

    def take(form: str):
        nonlocal at
        found = struct.unpack_from("<" + form, raw, at)
        at += struct.calcsize("<" + form)
        return found[0] if len(found) == 1 else found

    def take_text() -> str:
        nonlocal at
        length = take("Q")
        at += length
        return raw[at - length : at].decode()

    def skip(kind: int) -> None:
        nonlocal at
        if kind == TEXT:
            take_text()
        elif kind == LIST:
            kind, count = take("IQ")
            for _ in range(count):
                skip(kind)
        else:
            at += WIDTHS[kind]

    version, tensors, entries = take("IQQ")
    found = Gguf(version)
    for _ in range(entries):
        key, kind = take_text(), take("I")
        begin = at
        skip(kind)
        found.metadata[key] = (kind, raw[begin:at])
    for _ in range(tensors):
        name, count = take_text(), take("I")
        sizes = [take("Q") for _ in range(count)]
        found.tensors.append(Tensor(name, sizes, *take("IQ")))
    found.data = raw[at + -at % found.alignment :]
    return found
