"""Reads config.pbtxt: as much of protobuf's text format as such files use."""

import re

TOKEN = re.compile(
    r'\s+|#[^\n]*|(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<word>[A-Za-z_]\w*)'
    r"|(?P<number>-?\d+(?:\.\d+)?)|(?P<mark>[{}\[\]:,])"
)


def tokens(source: str) -> list:
    found, at = [], 0
    while at < len(source):
        match = TOKEN.match(source, at)
        if match is None:
            raise ValueError(f"{source[at:at + 40]!r} is no text format")
        if match.lastgroup:
            found.append((match.lastgroup, match.group()))
        at = match.end()
    return found


def scalar(kind: str, token: str):
    if kind == "text":
        return token[1:-1]
    if kind == "number":
        return float(token) if "." in token else int(token)
    if token in ("true", "false"):
        return token == "true"
    return token


class Parser:
    def __init__(self, source: str):
        self.tokens = tokens(source)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> tuple:
        kind, token = self.tokens[self.at]
        if expected and token != expected:
            raise ValueError(f"{token!r} stands where {expected!r} is needed")
        self.at += 1
        return kind, token

    def value(self):
        if self.peek() == "{":
            self.take()
            message = self.message("}")
            self.take("}")
            return message
        if self.peek() == "[":
            self.take()
            items = []
            while self.peek() != "]":
                items.append(self.value())
                if self.peek() != "]":
                    self.take(",")
            self.take("]")
            return items
        kind, token = self.take()
        if kind == "mark":
            raise ValueError(f"{token!r} stands where a value is needed")
        return scalar(kind, token)

    def message(self, end: str) -> dict:
        fields = {}
        while self.peek() != end:
            kind, name = self.take()
            if kind != "word":
                raise ValueError(f"{name!r} stands where a field is needed")
            if self.peek() == ":":
                self.take()
            value = self.value()
            if name == "parameters":
                fields.setdefault(name, {})[value["key"]] = value["value"]["string_value"]
            elif isinstance(value, list) and isinstance(fields.get(name), list):
                fields[name] += value  # a list goes on
            elif name in fields:
                raise ValueError(f"field {name} is there twice")
            else:
                fields[name] = value
        return fields


def parse(source: str) -> dict:
    """Fields by name; `parameters` as {key: text}."""
    return Parser(source).message("")
