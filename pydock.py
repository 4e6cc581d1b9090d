#!/usr/bin/env python3
"""pydock: a Docker client, and an engine for images, in one file, for any host that has Python.

On the command line, in place of `docker`:

    python3 pydock.py pull busybox
    python3 pydock.py images
    DOCKER_HOST=ssh://me@build1 python3 pydock.py ps -a

In a program, copied beside it:

    import pydock
    client = pydock.Client()
    print([c["Names"] for c in client.containers(all=True)])

Nothing but the standard library is needed, Python 3.6 or newer.  The sections,
in order; each uses only what stands above it:

    1 Constants and errors      7 Transports       13 Registry
    2 Text                      8 Client           14 Image store
    3 Go templates              9 Streams          15 Embedded engine
    4 References               10 Archives         16 main
    5 Configuration, credentials
    6 Endpoints                11 Flags
                               12 DockerCli

MIT licence.
"""
import base64
import errno
import http.client
import io
import json
import os
import re
import socket
import sys
import time
from urllib.parse import quote, urlencode, urlsplit

__version__ = "0.1.0"

__all__ = [
    "ApiError", "AuthConfig", "Body", "BuildContext", "BuildDisplay", "Client", "ConfigFile", "ConnectionFailed",
    "DockerCli", "DockerError", "DockerIgnore", "Endpoint", "FlagSet", "Hijacked", "ImageStore", "JsonStream",
    "Manifest", "NotFound", "ProgressDisplay", "Reference", "Registry", "RegistryError", "StatusError",
    "StreamFailed", "TarStream", "Template", "TemplateError", "Unauthorized", "UsageError", "choose_platform",
    "decode_trace", "extract_tar", "main", "parse_host", "parse_reference", "parse_repository_tag", "pull_image",
    "push_image", "resolve_endpoint", "resolve_repository_name",
]


# ======================================================================================================================
# 1  Constants and errors
# ======================================================================================================================

DOCKER_LEVEL = "28.2.2"                 # the docker command whose behaviour this file follows
API_VERSION = "1.51"                    # the newest Engine API spoken
API_WITHOUT_HEADER = "1.24"             # what an engine speaks that names no version in its ping
DEFAULT_SOCKET = "/var/run/docker.sock"
DEFAULT_HOST = "unix://" + DEFAULT_SOCKET
INDEX_SERVER = "https://index.docker.io/v1/"    # the key of Docker Hub's credentials
INDEX_NAME = "docker.io"
INDEX_ALIASES = ("docker.io", "index.docker.io")
PING_TIMEOUT = 30                       # seconds; an engine that cannot answer a ping by then answers nothing
MIB = 1 << 20
RECEIVE_SIZE = MIB >> 3                 # one receive: what a unix socket hands over at once, and no memory to speak of
ERROR_BODY_LIMIT = MIB                  # of an error answer
ANSWER_LIMIT = 512 * MIB                # of an answer that is decoded in memory
JSON_TYPE = "application/json"
TAR_TYPE = "application/x-tar"
NO_PROCESSES = ("pydock's own engine keeps images and runs no processes: start Docker or Podman, or name an engine "
                "that runs with -H or DOCKER_HOST")


class DockerError(Exception):
    """The base of every error that this module raises on purpose; its text is fit for a user."""


class StatusError(DockerError):
    """Ends a command with an exit status.

    `status` is the text for stderr, empty where everything has been said; `status_code` is the exit status.
    """

    def __init__(self, status: str = "", status_code: int = 1):
        super().__init__(status)
        self.status = status
        self.status_code = status_code


class UsageError(StatusError):
    """A command line that cannot be parsed; exit status 125 for a flag, 1 for a count of arguments."""


class ConnectionFailed(DockerError):
    """No engine was reached, or the connection to it broke."""


class ApiError(DockerError):
    """The engine refused a request: `status` is the HTTP status, `message` the engine's words."""

    def __init__(self, status: int, message: str, text: str = ""):
        super().__init__(text or "Error response from daemon: " + message)
        self.status = status
        self.message = message


class NotFound(ApiError):
    """HTTP 404."""


class Unauthorized(ApiError):
    """HTTP 401, or an engine's report that the registry wants a login."""


class StreamFailed(DockerError):
    """An `errorDetail` within a message stream that began with status 200; `code` is the engine's, or 0."""

    def __init__(self, message: str, code: int = 0):
        super().__init__(message)
        self.code = code


# What Go's system calls say, where the C library's words differ by more than the first letter.
_GO_ERRNO = {errno.EPIPE: "broken pipe", errno.EIO: "input/output error"}


def os_error_text(error: OSError) -> str:
    """An operating system error in the words that Go programs use: `no such file or directory`."""
    if error.errno is None:
        return str(error)
    if error.errno < 0:
        return "no such host"           # look-ups of names have numbers of their own
    text = _GO_ERRNO.get(error.errno) or os.strerror(error.errno)
    return text[:1].lower() + text[1:]


def path_error_text(error: OSError, verb: str = "open") -> str:
    """As Go reports a failed file operation: `open /x: permission denied`."""
    text = os_error_text(error)
    return text if error.filename is None else "%s %s: %s" % (verb, error.filename, text)


# ======================================================================================================================
# 2  Text
# ======================================================================================================================

_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def _scaled(size, base, units, digits):
    unit = 0
    while size >= base and unit < len(units) - 1:
        size /= base
        unit += 1
    return "%.*g%s" % (digits, size, units[unit])


def format_size(size: float, digits: int = 4) -> str:
    """A number of bytes in decimal units with `digits` significant digits: `1.98MB`."""
    return _scaled(float(size), 1000.0, _DECIMAL_UNITS, digits)


def format_binary_size(size: float) -> str:
    """A number of bytes in binary units: `23.54GiB`."""
    return _scaled(float(size), 1024.0, _BINARY_UNITS, 4)


def format_duration(seconds: float) -> str:
    """A length of time in words, as the CREATED column has it: `About an hour`, `3 weeks`."""
    seconds = int(seconds)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else "%d seconds" % seconds
    minutes = seconds // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else "%d minutes" % minutes
    hours = int(seconds / 3600.0 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else "%d hours" % hours
    if hours < 24 * 14:
        return "%d days" % (hours // 24)
    if hours < 24 * 60:
        return "%d weeks" % (hours // 168)
    if hours < 24 * 365 * 2:
        return "%d months" % (hours // 720)
    return "%d years" % (seconds // 3600 // 24 // 365)


def format_time(timestamp: float) -> str:
    """Unix seconds as local time with zone: `2026-11-24 02:55:16 +0000 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(timestamp))


def parse_rfc3339(text: str) -> float:
    """Unix seconds of an RFC 3339 time (fraction cut to microseconds); ValueError if it is none."""
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))$", text)
    if not match:
        raise ValueError("not an RFC 3339 time: %r" % text)
    import calendar
    seconds = calendar.timegm(tuple(int(n) for n in match.groups()[:6]))
    offset = (int(match.group(9)) * 60 + int(match.group(10))) * 60 if match.group(8) else 0
    return seconds + float(match.group(7) or 0) - (-offset if match.group(8) == "-" else offset)


def format_rfc3339(timestamp: float) -> str:
    """Unix seconds as local time in RFC 3339: `2026-11-24T02:55:16+01:00`."""
    local = time.localtime(timestamp)
    zone = "%s%02d:%02d" % (("-" if local.tm_gmtoff < 0 else "+",) + divmod(abs(local.tm_gmtoff) // 60, 60))
    return "%04d-%02d-%02dT%02d:%02d:%02d" % local[:6] + (zone if local.tm_gmtoff else "Z")


_MINUTES = {}                           # the last minute asked for: what stands before and behind its seconds


def format_nanoseconds(nanoseconds: int) -> str:
    """Unix nanoseconds as `format_rfc3339` has seconds, with nine digits behind them."""
    minute, rest = divmod(nanoseconds, 60 * 10 ** 9)
    if minute not in _MINUTES:
        text = format_rfc3339(minute * 60)
        _MINUTES.clear()
        _MINUTES[minute] = text[:17], text[19:]
    head, zone = _MINUTES[minute]
    return "%s%02d.%09d%s" % ((head,) + divmod(rest, 10 ** 9) + (zone,))


def format_utc(nanoseconds: int) -> str:
    """Unix nanoseconds in RFC 3339, UTC, without needless digits: `2026-11-24T01:55:16.5Z`."""
    fraction = (".%09d" % (nanoseconds % 10 ** 9)).rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 10 ** 9)) + fraction + "Z"


_DURATION_UNITS = {"ns": 1, "us": 10 ** 3, "\u00b5s": 10 ** 3, "\u03bcs": 10 ** 3, "ms": 10 ** 6, "s": 10 ** 9,
                   "m": 60 * 10 ** 9, "h": 3600 * 10 ** 9}


def parse_duration(text: str) -> int:
    """A length of time as Go writes it (`1h30m`, `1.5s`) in nanoseconds; ValueError in Go's words."""
    sign, rest = re.match(r"([-+]?)(.*)\Z", text, re.DOTALL).groups()
    total = 0
    while rest != "0" or total:
        match = re.match(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)", rest)
        whole, fraction, unit = match.groups("")
        if not whole + fraction:
            raise ValueError("time: invalid duration " + go_quote(text))
        if unit not in _DURATION_UNITS:
            raise ValueError("time: %s duration %s" % ("unknown unit %s in" % go_quote(unit) if unit else
                                                       "missing unit in", go_quote(text)))
        total += int(whole + fraction) * _DURATION_UNITS[unit] // 10 ** len(fraction)
        rest = rest[match.end():]
        if not rest:
            break
    return -total if sign == "-" else total


def parse_timestamp(text: str) -> str:
    """A time for the engine: a duration before now, an RFC 3339 time or a part of one, or Unix seconds.

    Returns Unix seconds as `--since` and `--until` send them, `1704153600.000000000`; DockerError in docker's words.
    """
    try:
        if text != "0":
            return str((int(time.time() * 1e9) - parse_duration(text)) // 10 ** 9)
    except ValueError:
        pass
    try:
        return _absolute_time(text)
    except ValueError as error:
        if "-" in text:
            raise DockerError("parsing time %s%s" % (go_quote(text), error))
    if not re.match(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?\Z", text):
        raise DockerError("failed to parse value as time or duration: " + go_quote(text))
    return text


# The parts of a time as Go's layouts name them, and how they are written.
_TIME_PARTS = (("2006", "[0-9]{4}"), ("-", "-"), ("01", "[0-9]{2}"), ("-", "-"), ("02", "[0-9]{2}"), ("T", "T"),
               ("15", "[0-9]{1,2}"), (":", ":"), ("04", "[0-9]{2}"), (":", ":"), ("05", "[0-9]{2}"),
               (".999999999", r"(?:[.,][0-9]+)?"), ("Z07:00", "Z|[-+][0-9]{2}:[0-9]{2}"))
_TIME_RANGES = {"01": ("month", 1, 12), "15": ("hour", 0, 23), "04": ("minute", 0, 59), "05": ("second", 0, 59)}


def _absolute_time(text):
    """Unix seconds and nanoseconds of a date and a time of day, read by the layout that its punctuation suggests."""
    local = not re.search("[zZ+]", text) and text.count("-") != 3
    colons = text.count(":") - (not local and not re.search("[zZ]", text) and ":" in text)
    count = 12 if "." in text or "T" in text and colons > 1 else 5 if "T" not in text else 9 if colons else 7
    parts = _TIME_PARTS[:count] + _TIME_PARTS[-1:] * (not local)
    rest, found = text, {}
    for name, pattern in parts:
        match = re.match(pattern, rest)
        if not match:
            raise ValueError(' as "%s": cannot parse %s as "%s"' % (
                "".join(part for part, _ in parts if part[0] != "." or "." in text), go_quote(rest), name))
        rest = rest[match.end():]
        found[name] = match.group()
        word, least, most = _TIME_RANGES.get(name, ("", 0, 0))
        if word and not least <= int(found[name]) <= most:
            raise ValueError(": %s out of range" % word)
    offset = time.localtime().tm_gmtoff             # today's, whatever was in force then, as docker has it
    if not local:
        hours, minutes = (int(found["Z07:00"][at:at + 2] or 0) for at in (1, 4))
        if hours > 24 or minutes > 60:
            raise ValueError(": time zone offset %s out of range" % ("hour" if hours > 24 else "minute"))
        offset = (hours * 3600 + minutes * 60) * (-1 if found["Z07:00"][0] == "-" else 1)
    if rest:
        raise ValueError(": extra text: " + go_quote(rest))
    import calendar
    year, month, day, hour, minute, second = (
        int(found.get(part, 0)) for part in ("2006", "01", "02", "15", "04", "05"))
    cycles, year = year // 400, year % 400 + 2000   # Python's calendar begins with the year 1 and ends with 9999
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise ValueError(": day out of range")
    moment = calendar.timegm((year, month, day, hour, minute, second)) + (cycles - 5) * 146097 * 86400
    return "%d.%s" % (moment - offset, found.get(".999999999", "")[1:10].ljust(9, "0"))


def natural_key(text: str) -> list:
    """A key for sorting that puts `a2` before `a10`."""
    return [(48, int(part), len(part)) if len(part) > 1 or "0" <= part <= "9" else (ord(part),)
            for part in re.findall("[0-9]+|[^0-9]", text)]


def is_ascii(text: str) -> bool:
    return len(text.encode("utf-8", "surrogatepass")) == len(text)


def is_narrow(text: str) -> bool:
    """Whether each character takes one terminal cell, told fast: ASCII, and the `…` of what was cut."""
    return is_ascii(text) or is_ascii(text.replace("\u2026", ""))


def display_width(text: str) -> int:
    """How many terminal cells a text takes; East Asian wide characters take two, combining marks none."""
    if is_narrow(text):
        return len(text)
    import unicodedata
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def ellipsis(text: str, width: int) -> str:
    """`text`, cut to `width` terminal cells with a closing `…` where it is longer."""
    if len(text) * 2 <= width or display_width(text) <= width:
        return text
    if width < 2:
        return text[:width]
    if is_narrow(text):
        return text[:width - 1] + "\u2026"
    room, cut = width - 1, 0
    while cut < len(text):
        room -= display_width(text[cut])
        if room < 0:
            break
        cut += 1
    return text[:cut] + "\u2026"


_GO_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
               "\\": "\\\\", '"': '\\"'}


def go_quote(text: str) -> str:
    """A text as a Go string literal (`strconv.Quote`)."""
    if text.isprintable() and "\\" not in text and '"' not in text:
        return '"' + text + '"'
    out = []
    for char in text:
        code = ord(char)
        if char in _GO_ESCAPES:
            char = _GO_ESCAPES[char]
        elif not char.isprintable():
            char = ("\\x%02x" if code < 0x80 else "\\u%04x" if code < 0x10000 else "\\U%08x") % code
        out.append(char)
    return '"' + "".join(out) + '"'


def visible(text: str) -> str:
    """A foreign text with its control characters spelled out, so that it cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else go_quote(c)[1:-1] for c in text)


def columns(rows, minimum: int = 10, padding: int = 3) -> str:
    """Lay out rows of cells in columns, as Go's tab writer does.

    A column is as wide as its widest cell plus `padding`, at least `minimum`, within each run of neighbouring lines
    that have it; the last cell of a line belongs to no column.  A line break within a cell ends the line there.
    Returns the text, one line a row, each with its line end.
    """
    lines = [tuple(row) for row in rows]
    if not lines:
        return ""
    if len(set(map(len, lines))) == 1:
        text = "\t".join(map("\t".join, lines))
        if is_narrow(text) and "\n" not in text and text.count("\t") == len(lines) * len(lines[0]) - 1:
            widths = [max(minimum, max(map(len, cells)) + padding) for cells in list(zip(*lines))[:-1]]
            layout = "".join("%%-%ds" % width for width in widths) + "%s\n"
            return "".join([layout % line for line in lines])
    lines = [line.split("\t") for line in "\n".join("\t".join(line) for line in lines).split("\n")]
    out = [[] for _ in lines]
    _fill_column(lines, out, 0, len(lines), 0, minimum, padding)
    return "".join("".join(cells) + "\n" for cells in out)


def _fill_column(lines, out, first, last, column, minimum, padding):
    """Write one column of the lines first..last, and those to the right of it."""
    start = first
    while start < last:
        if column == len(lines[start]) - 1:
            out[start].append(lines[start][column])
        if column >= len(lines[start]) - 1:
            start += 1
            continue
        end = start
        while end < last and column < len(lines[end]) - 1:
            end += 1
        width = max(minimum, max(display_width(lines[i][column]) for i in range(start, end)) + padding)
        for i in range(start, end):
            out[i].append(lines[i][column] + " " * (width - display_width(lines[i][column])))
        _fill_column(lines, out, start, end, column + 1, minimum, padding)
        start = end


def indent_json(raw: str, indent: str = "    ") -> str:
    """Re-indent a JSON text and leave everything else in it as it is: order, number spelling, escapes."""
    out, level = [], 0
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+', raw)
    for i, token in enumerate(tokens):
        if token in "{[":
            if tokens[i + 1:i + 2] in (["}"], ["]"]):
                out.append(token)
                continue
            level += 1
            token += "\n" + indent * level
        elif token in "}]":
            if tokens[i - 1] not in ("{", "["):
                level -= 1
                token = "\n" + indent * level + token
        elif token == ",":
            token += "\n" + indent * level
        elif token == ":":
            token = ": "
        out.append(token)
    return "".join(out)


def compact_json(value) -> str:
    """JSON without blanks, as the engine and its clients write it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def go_json_error(error: ValueError) -> str:
    """A JSON decoder's complaint in the words of Go's."""
    text, at = getattr(error, "doc", ""), getattr(error, "pos", 0)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    at += len(text[at:]) - len(text[at:].lstrip())
    if at >= len(text):
        return "unexpected end of JSON input" if text.strip() else "EOF"
    said = str(error)                   # CPython's words, then PyPy's
    if said.startswith("Error when decoding"):
        at -= 1
    if said.startswith(("Expecting value", "Error when decoding")):
        for literal in ("true", "false", "null"):
            wrong = next((i for i, char in enumerate(literal) if text[at + i:at + i + 1] != char), None)
            if wrong and at + wrong < len(text):
                return "invalid character %s in literal %s (expecting '%s')" % (
                    _go_char(text[at + wrong]), literal, literal[wrong])
    places = {("Expecting property name", "Key name must be"): "looking for beginning of object key string",
              ("Expecting ':'", "No ':' found"): "after object key", ("Extra data",): "after top-level value"}
    place = next((place for words, place in places.items() if said.startswith(words)), "looking for beginning of value")
    if said.startswith("Expecting ','") or "when decoding array" in said or "when decoding object" in said:
        place = "after value"
    return "invalid character %s %s" % (_go_char(text[at]), place)


def json_kind(value) -> str:
    """What Go calls a decoded JSON value in its complaints."""
    for kind, word in ((bool, "bool"), (str, "string"), ((int, float), "number"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return word
    return "null"


def _go_char(char):
    char = char.encode("utf-8", "surrogateescape")[:1].decode("latin-1")
    return "'\\''" if char == "'" else "'\"'" if char == '"' else "'" + go_quote(char)[1:-1] + "'"


# ======================================================================================================================
# 3  Go templates
# ======================================================================================================================
#
#   text --_lex--> tokens --_Parser--> nodes --_Run, on a Value--> text
#
# A Value is data as JSON has it with the name of its Go type.  Decoded JSON is "interface {}" throughout; the objects
# of the engine's API have the types of GO_TYPES, whose names show in complaints and whose fields have an order.


class TemplateError(DockerError):
    """A template that cannot be parsed or executed, in the words of Go's text/template."""

    output = ""                         # what was written before it failed


class Number(str):
    """A number of a JSON text in its own spelling (`json.Number`)."""


class Row:
    """A row of a list as a template sees it: fields that are computed when they are asked for.

    `columns_of` is {field: (heading, function of the item)}; a third member is the function that serves where the
    whole row is shown as JSON.  A field whose heading is None takes one argument more, a string.  `used` collects the
    names of the fields that are asked for.
    """

    __slots__ = ("columns_of", "item", "column", "used")

    def __init__(self, columns_of: dict, item, used: set = None):
        self.columns_of, self.item, self.column = columns_of, item, 1
        self.used = set() if used is None else used

    def get(self, field: str, *args):
        """A field's value."""
        self.used.add(field)
        column = self.columns_of[field]
        return (column[self.column] if self.column < len(column) else column[1])(self.item, *args)

    def to_json(self) -> dict:
        """All fields, by name."""
        self.column = 2
        return {field: self.get(field) for field in sorted(self.columns_of) if self.columns_of[field][0] is not None}


_NATURAL = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}", Number: "json.Number",
            dict: "map[string]interface {}", Row: "*formatter.rowContext"}
_KINDS = {"": "", "bool": "bool", "string": "string", "json.Number": "string", "float64": "float", "uint8": "int",
          "interface {}": "interface", "struct {}": "struct", "time.Time": "struct", "time.Duration": "int"}
_ZEROS = {"bool": False, "string": "", "int": 0, "float": 0.0, "struct": {}}


def _kind(type_name):
    """The kind of a Go type, all integers being "int"."""
    if type_name not in _KINDS:
        name = _underlying(type_name)
        _KINDS[type_name] = {"*": "ptr", "[": "slice"}.get(name[0]) or "map" * name.startswith("map[") or (
            "int" * name.startswith(("int", "uint")) or _KINDS.get(name, "struct"))
    return _KINDS[type_name]


def _underlying(type_name):
    definition = _go_types().get(type_name)
    return definition if isinstance(definition, str) else type_name


def _element(type_name):
    """The type that a pointer, slice or map type holds."""
    name = _underlying(type_name)
    return name[1:] if name[0] == "*" else name.partition("]")[2]


class Value:
    """Data with the name of its Go type, which is empty for no value at all."""

    __slots__ = ("type", "data")

    def __init__(self, type_name: str, data):
        self.type = type_name
        self.data = data

    @property
    def kind(self):
        """The kind of the type, one word for what templates tell apart."""
        return _kind(self.type)

    def concrete(self):
        """What an interface holds, all else itself."""
        return wrap(self.data) if self.type == "interface {}" else self

    def indirect(self):
        """What a pointer or an interface leads to; one that leads nowhere itself."""
        value = self
        while value.data is not None and value.kind in ("ptr", "interface"):
            value = wrap(value.data) if value.type == "interface {}" else _typed(_element(value.type), value.data)
        return value

    def truth(self):
        """Whether `if` takes it for true."""
        value = self.concrete()
        return value.kind == "struct" or (value.data is not None if value.kind == "ptr" else bool(value.data))

    def items(self):
        """The (key, element) pairs of a map, in order, or of a slice, as Values."""
        element = _element(self.type)
        if self.kind == "map":
            key_type = _underlying(self.type)[4:].partition("]")[0]
            return [(Value(key_type, key), _typed(element, self.data[key])) for key in sorted(self.data or ())]
        items = self.data or [None] * 2 * self.type.startswith("[2]")
        return [(Value("int", i), _typed(element, item)) for i, item in enumerate(items)]

    def fields(self):
        """(name, JSON name or "+" for embedded, whether it is left out when empty, Value) of a struct's fields."""
        for name, (key, omit, type_name) in (_go_types().get(self.type) or {}).items():
            yield name, key, omit, _typed(type_name, self.data if key == "+" else self.data.get(key))

    def field(self, name: str):
        """A struct's field, or one of an embedded struct, or None."""
        embedded = []
        for known, key, _, value in self.fields():
            if known == name:
                return value
            embedded += [value.indirect().field(name)] if key == "+" else []
        return next((value for value in embedded if value), None)


def wrap(data) -> Value:
    """Python data as a Value of the type that Go would give it."""
    return data if isinstance(data, Value) else Value(_NATURAL.get(type(data), ""), data)


def _typed(type_name, data):
    """Decoded JSON as a Value of a Go type, or as what it is where an engine has something else there."""
    kind = _kind(type_name)
    if data is None or kind in ("interface", "ptr"):
        return Value(type_name, _ZEROS.get(kind) if data is None else data)
    fits = {"map": dict, "slice": list, "string": str, "bool": bool, "struct": (dict, Row)}.get(kind, (int, float))
    return Value(type_name, data) if isinstance(data, str if type_name == "time.Time" else fits) else wrap(data)


# -- how Go prints -----------------------------------------------------------------------------------------------------


def go_json(value) -> str:
    """JSON as Go's encoder writes it, the whole row of a list with what HTML would mind escaped."""
    value = wrap(value).indirect()
    kind, data = value.kind, value.data
    if data is None:
        return "null"
    if kind == "slice":
        return "[%s]" % ",".join([go_json(item) for _, item in value.items()])
    if kind == "map":
        return "{%s}" % ",".join(["%s:%s" % (go_json(key.data), go_json(item)) for key, item in value.items()])
    if value.type == "time.Time":
        return '"%s"' % (data or "0001-01-01T00:00:00Z")
    if kind == "struct" and not isinstance(data, Row):
        return "{%s}" % ",".join([
            go_json(item)[1:-1] if key == "+" else '"%s":%s' % (key, go_json(item))
            for _, key, omit, item in value.fields() if item.data or not omit or item.kind == "struct"])
    if isinstance(data, Number):
        return data
    if kind == "float":
        return str(int(data)) if data == int(data) and abs(data) < 1e21 else repr(data)
    text = json.dumps(data.to_json() if kind == "struct" else data, separators=(",", ":"), ensure_ascii=False)
    for char in "\u2028\u2029" + "<>&" * (kind == "struct"):
        text = text.replace(char, "\\u%04x" % ord(char))
    return text


def go_text(value: Value) -> str:
    """A value as a template prints it, a pointer's target in its place."""
    value = value.indirect()
    return _Verb().show(value) if value.type else "<no value>"


def _go_float(number):
    """A float as %v prints it: as few digits as tell it from its neighbours."""
    digits = len(repr(number).partition("e")[0].replace(".", "").strip("-0")) or 1
    text = "%.*e" % (digits - 1, number)
    exponent = int(text.partition("e")[2])
    return "%.*f" % (max(digits - 1 - exponent, 0), number) if -4 <= exponent < 6 else text


def _go_duration(nanoseconds):
    """A time.Duration as Go prints it: 1h2m3.5s."""
    for size, unit in ((10 ** 9, "s"), (10 ** 6, "ms"), (1000, "\u00b5s"), (1, "ns")):
        if nanoseconds >= size or not nanoseconds:
            break
    minutes, rest = divmod(nanoseconds, 60 * 10 ** 9)
    text = "%dh%dm" % divmod(minutes, 60) if minutes >= 60 else "%dm" % minutes if minutes else ""
    return text + ("%.9f" % (rest / size)).rstrip("0").rstrip(".") + unit


def _go_time(text):
    """A time.Time as Go prints it, out of its RFC 3339 form."""
    match = re.match(r"(\S+)T([\d:]+(?:\.\d+?)?)\.?0*(Z|[+-]\d\d:\d\d)\Z", text or "0001-01-01T00:00:00Z")
    zone = match.group(3).replace(":", "") if match else ""
    return "%s %s %s" % (match.group(1), match.group(2), "+0000 UTC" if zone in ("Z", "+0000") else zone + " " + zone
                         ) if match else text


class _Verb:
    """A verb of Go's printf with its flags."""

    __slots__ = ("verb", "flags", "width", "precision")

    def __init__(self, verb="v", flags="", width=0, precision=None):
        self.verb, self.flags, self.width, self.precision = verb, flags, width, precision

    def show(self, value, depth=0):
        """The text of a Value, that of composite ones part by part."""
        value = value.concrete()
        kind, data = value.kind, value.data
        if self.verb == "T":
            return self.pad(value.type or "<nil>")
        if kind in ("", "ptr") and data is None:
            return self.pad("<nil>") if self.verb == "v" or depth else "%%!%s(%s<nil>)" % (
                self.verb, value.type + "=" * bool(value.type))
        if value.type == "time.Time" or value.type == "time.Duration" and self.verb in "vs":
            value = Value("string", _go_time(data) if kind == "struct" else _go_duration(data))
        elif kind == "ptr":
            is_struct = not depth and _kind(_element(value.type)) == "struct"
            return "&" + self.show(value.indirect(), 1) if is_struct else "0xc%09x" % (id(data) & 0xfffffffff)
        elif kind == "slice":
            return "[%s]" % " ".join([self.show(item, 1) for _, item in value.items()])
        elif kind == "map":
            pairs = [(self.show(key, 1), self.show(item, 1)) for key, item in value.items()]
            return "map[%s]" % " ".join(map(":".join, pairs))
        elif kind == "struct":
            return "{%s}" % " ".join([("+" in self.flags) * (name + ":") + self.show(item, 1)
                                      for name, _, _, item in value.fields()])
        return self.scalar(value.kind, value.data, value.type)

    def scalar(self, kind, data, type_name):
        """The text of a basic value; Python's own formatting agrees with Go's in most."""
        verb = self.verb
        flags = self.flags.replace("+", "") if verb == "v" else self.flags
        layout = "%%%s%s%s" % (flags, self.width or "", "" if self.precision is None else ".%d" % self.precision)
        if kind == "string" and verb in "vs":
            return (layout.replace("0", "", self.flags.count("0")) + "s") % data
        if kind == "string" and verb == "q":
            return self.pad("`%s`" % data if "#" in flags and "`" not in data else go_quote(data))
        if kind == "string" and verb in "xX":
            pieces = ["%02x" % byte for byte in data.encode("utf-8", "surrogateescape")]
            return self.pad((" " if " " in flags else "").join(pieces if verb == "x" else [p.upper() for p in pieces]))
        if kind == "bool" and verb in "vt":
            return self.pad("true" if data else "false")
        if kind == "int" and verb in "cq" and not (0 <= data < 0xd800 or 0xdfff < data < 0x110000):
            data = 0xfffd
        if kind == "int" and verb in "vdxXoc":
            return (layout + verb.replace("v", "d")) % data
        if kind == "int" and verb in "bqU":
            return self.pad(format(data, "b") if verb == "b" else "U+%04X" % data if verb == "U" else
                            "'%s'" % go_quote(chr(data))[1:-1])
        if kind == "float" and verb in "vgG" and self.precision is None:
            text = ("+" if "+" in flags and data >= 0 else "") + _go_float(data)
            return self.pad(text.upper() if verb == "G" else text)
        if kind == "float" and verb in "eEfFgG":
            return (layout + verb) % data
        return "%%!%s(%s=%s)" % (verb, type_name, _Verb("v", flags, self.width, self.precision).scalar(kind, data, ""))

    def pad(self, text):
        """The text in its width."""
        return text.ljust(self.width) if "-" in self.flags else text.rjust(self.width)


def go_printf(template: str, args) -> str:
    """Go's Sprintf on Values; widths out of arguments and numbered arguments are left out."""
    out, used, end = [], 0, 0
    for match in re.finditer(r"%([-+# 0]*)(\d*)(?:\.(\d*))?(.?)", template, re.S):
        flags, width, precision, verb = match.groups()
        out.append(template[end:match.start()])
        end = match.end()
        if verb in ("%", ""):
            out.append(verb or "%!(NOVERB)")
        elif used == len(args):
            out.append("%%!%s(MISSING)" % verb)
        else:
            precision = None if precision is None else int(precision or 0)
            out.append(_Verb(verb, flags, int(width or 0), precision).show(args[used]))
            used += 1
    out.append(template[end:])
    extra = [arg.concrete() for arg in args[used:]]
    if extra:
        out.append("%%!(EXTRA %s)" % ", ".join([arg.type + "=" * bool(arg.type) + _Verb().show(arg) for arg in extra]))
    return "".join(out)


def _print(*args):
    """Go's Sprint: a blank between two operands of which none is a string."""
    args = [arg.concrete() for arg in args]
    return "".join([" " * (i > 0 and "string" not in (arg.kind, args[i - 1].kind)) + _Verb().show(arg)
                    for i, arg in enumerate(args)])


# -- functions ---------------------------------------------------------------------------------------------------------


def _bytes(text):
    return text.encode("utf-8", "surrogateescape")


def _len(value):
    value = value.indirect()
    if value.kind not in ("string", "slice", "map"):
        raise ValueError("reflect: call of reflect.Value.Type on zero Value" if not value.type else
                         "len of nil pointer" if value.data is None else "len of type " + value.type)
    return len(_bytes(value.data) if value.kind == "string" else value.data or ())


def _position(value, limit):
    """An index or a bound below the limit."""
    value = value.concrete()
    if value.kind != "int":
        raise ValueError("cannot index slice/array with " + ("type " + value.type if value.type else "nil"))
    if not 0 <= value.data < limit:
        raise ValueError("index out of range: %d" % value.data)
    return value.data


def _index(value, *keys):
    value = value.concrete()
    if not value.type:
        raise ValueError("index of untyped nil")
    for key in keys:
        value, key = value.indirect(), key.concrete()
        if value.kind == "map":
            key_type = _underlying(value.type)[4:].partition("]")[0]
            if key.type != key_type:
                raise ValueError("value has type %s; should be %s" % (key.type, key_type) if key.type else
                                 "value is nil; should be of type " + key_type)
            value = _typed(_element(value.type), (value.data or {}).get(key.data))
        elif value.kind == "slice":
            items = value.items()
            value = items[_position(key, len(items))][1]
        elif value.kind == "string":
            value = Value("uint8", _bytes(value.data)[_position(key, len(_bytes(value.data)))])
        else:
            raise ValueError("index of nil pointer" if value.data is None else "can't index item of type " + value.type)
    return value


def _slice(value, *bounds):
    value = value.indirect()
    if value.kind not in ("string", "slice"):
        raise ValueError("can't slice item of type " + value.type if value.type else "slice of untyped nil")
    if len(bounds) > 2 + (value.kind == "slice"):
        raise ValueError("cannot 3-index slice a string" if len(bounds) == 3 else
                         "too many slice indexes: %d" % len(bounds))
    data = _bytes(value.data) if value.kind == "string" else value.data or []
    first, last = ([_position(bound, len(data) + 1) for bound in bounds] + [0, len(data)][len(bounds):])[:2]
    if first > last:
        raise ValueError("invalid slice index: %d > %d" % (first, last))
    data = data[first:last]
    return Value(value.type, data.decode("utf-8", "surrogateescape") if value.kind == "string" else data)


def _eq(first, *others):
    first = first.concrete()
    if not others:
        raise ValueError("missing argument for comparison")
    for other in others:
        other = other.concrete()
        if first.type and other.type and first.kind != other.kind:
            raise ValueError("incompatible types for comparison")
        if first.type and other.type and first.kind in ("slice", "map"):
            raise ValueError("non-comparable type %s: %s" % (_Verb("s").show(first), first.type))
        if first.data == other.data:
            return True
    return False


def _less(first, second):
    first, second = first.concrete(), second.concrete()
    if {first.kind, second.kind} - {"bool", "int", "float", "string"} or first.kind == second.kind == "bool":
        raise ValueError("invalid type for comparison")
    if first.kind != second.kind:
        raise ValueError("incompatible types for comparison")
    return first.data < second.data


_HTML = {38: "&amp;", 39: "&#39;", 34: "&#34;", 60: "&lt;", 62: "&gt;", 0: "\ufffd"}
_JS = {i: "\\u%04X" % i if i not in b"'\"\\" else "\\" + chr(i) for i in bytes(range(32)) + b"&<=>'\"\\"}


def _escape(table, args):
    args = [arg.indirect().concrete() for arg in args]
    text = _print(*args) if all(arg.type for arg in args) else "<no value>"
    return text.translate(table) if table else quote(text, safe="~ ").replace(" ", "+")


# {name: (types of the parameters, function)}: "..." at the end stands for any number more of any type.  A parameter of
# any type gets the Value, one of a type the data.
_FUNCTIONS = {
    "and": ("any ...", None), "or": ("any ...", None), "not": ("any", lambda value: not value.truth()),
    "len": ("any", _len), "index": ("any ...", _index), "slice": ("any ...", _slice),
    "print": ("...", _print), "printf": ("string ...", lambda form, *args: go_printf(form, args)),
    "println": ("...", lambda *args: " ".join(map(_Verb().show, args)) + "\n"),
    "html": ("...", lambda *args: _escape(_HTML, args)), "js": ("...", lambda *args: _escape(_JS, args)),
    "urlquery": ("...", lambda *args: _escape(None, args)),
    "eq": ("any ...", _eq), "ne": ("any any", lambda first, second: not _eq(first, second)),
    "lt": ("any any", _less), "ge": ("any any", lambda first, second: not _less(first, second)),
    "le": ("any any", lambda first, second: _less(first, second) or _eq(first, second)),
    "gt": ("any any", lambda first, second: not (_less(first, second) or _eq(first, second))),
    "json": ("any", go_json), "lower": ("string", str.lower), "upper": ("string", str.upper),
    "split": ("string string", lambda text, by: Value("[]string", text.split(by) if by else list(text))),
    "join": ("[]string string", lambda texts, by: by.join(texts or ())),
    "title": ("string", lambda text: re.sub(r"(?<!\w)[^\W\d_]", lambda match: match.group().upper(), text)),
    "pad": ("string int int", lambda text, before, after: text and " " * before + text + " " * after),
    "truncate": ("string int", lambda text, size: _bytes(text)[:size].decode("utf-8", "surrogateescape")),
}
# What some of these make of the headings of a table.
_HEADING_FUNCTIONS = dict(_FUNCTIONS, **{
    name: (takes.replace("[]", ""), lambda heading, *_: heading) for name, (takes, _) in _FUNCTIONS.items()
    if name in ("json", "split", "join", "title", "lower", "upper", "truncate")})
_HEADING_FUNCTIONS["json"] = "string", str


# -- parsing -----------------------------------------------------------------------------------------------------------

_KEYWORDS = ("block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with")
_OPERANDS = ("bool", "char", "dot", "field", "word", "number", "nil", "string", "variable", "left")
_CONSTANTS = ("bool", "dot", "nil", "number", "string")
_SPACE = " \t\r\n"
_NUMBER = r"(?:[+-]|(?=\.?\d))(?:0[xX][\da-fA-F_]*|0[oO][0-7_]*|0[bB][01_]*|[\d_]*)(?:\.[\d_]*)?(?:[eE][+-]?[\d_]*)?"
_TOKEN = r'''(?P<close>[ \t\r\n]+-}}|}})|(?P<space>[ \t\r\n]+)|(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|
(?P<string>"(?:[^"\\\n]|\\[^\n])*"|`[^`]*`)|(?P<char>'(?:[^'\\\n]|\\[^\n])*')|
(?P<number>(?=(?P<n>NUMBER))(?P=n))(?![\w+-])|
(?:(?P<field>\.\w+)|(?P<dot>\.)|(?P<variable>\$\w*)|(?P<word>[^\W\d]\w*))(?=[ \t\r\n.,|:)(]|}}|\Z)|
(?P<left>\()|(?P<right>\))|(?P<other>(?![\w:'"`.$+-])[!-~])'''.replace("NUMBER", _NUMBER).replace("\n", "")
_UNTERMINATED = {'"': "unterminated quoted string", "`": "unterminated raw quoted string",
                 "'": "unterminated character constant", ":": "expected :=", "": "unclosed action"}


def _lex(text):
    """The tokens of a template, as (kind, position, text); the last is "eof" or "error"."""
    pattern = re.compile(_TOKEN)
    tokens, at, trim = [], 0, False
    while True:
        start = text.find("{{", at)
        piece = text[at:] if start < 0 else text[at:start]
        if trim:
            at += len(piece) - len(piece.lstrip(_SPACE))
            piece = piece.lstrip(_SPACE)
        end = start + 2
        if start >= 0 and text[end:end + 1] == "-" and text[end + 1:end + 2] in tuple(_SPACE):
            piece = piece.rstrip(_SPACE)
            end += 2
        if piece:
            tokens.append(("text", at, piece))
        if start < 0:
            return tokens + [("eof", len(text), "")]
        at = end
        if text.startswith("/*", at):
            comment = re.compile(r"/\*.*?\*/(([ \t\r\n]-)?}})?", re.S).match(text, at)
            if not comment or not comment.group(1):
                return tokens + [("error", at, "comment ends before closing delimiter" if comment else
                                  "unclosed comment")]
            at, trim = comment.end(), bool(comment.group(2))
            continue
        tokens.append(("open", start, "{{"))
        depth, kind = 0, "open"
        while kind != "close":
            match = pattern.match(text, at)
            kind = match.lastgroup if match else "error"
            depth += {"left": 1, "right": -1}.get(kind, 0)
            if not match or depth < 0 or depth and kind == "close":
                return tokens + [("error", at, _token_complaint(text[at:]) if not match else
                                  "unexpected right paren" if depth < 0 else "unclosed left paren")]
            found = match.group()
            if kind == "word":
                kind = found if found in _KEYWORDS else "bool" if found in ("true", "false") else kind
            tokens.append((kind, at, "}}" if kind == "close" else found))
            at = match.end()
        trim = found != "}}"


def _token_complaint(rest):
    """What is wrong with a token that is none."""
    number = re.match(_NUMBER + r"(\w|[+-]\d*)?", rest)
    word = re.match(r"[.$]?\w*", rest).group()
    if not rest or rest[0] in _UNTERMINATED:
        return _UNTERMINATED[rest[:1]]
    if number:
        return "bad number syntax: " + go_quote(number.group())
    code_point = "U+%04X" % ord(rest[len(word)]) + " '%s'" % rest[len(word)] * rest[len(word)].isprintable()
    return ("bad character " if word else "unrecognized character in action: ") + code_point


class _Node:
    """A node of a parsed template; what its members hold depends on the kind."""

    __slots__ = ("kind", "at", "value", "parts", "other")

    def __init__(self, kind, at, value=None, parts=(), other=None):
        self.kind, self.at, self.value, self.parts, self.other = kind, at, value, parts, other

    def __str__(self):
        """The node as complaints show it."""
        kind, value, other = self.kind, self.value, self.other
        parts = ["(%s)" % part if part.kind == "pipe" and kind != "pipe" else str(part) for part in self.parts]
        if kind == "pipe":
            return (", ".join(value) + " %s " % other if value else "") + " | ".join(parts)
        if kind == "command":
            return " ".join(parts)
        if kind in ("field", "variable", "chain"):
            return "".join(parts) + "." * (kind != "variable") + ".".join(value)
        if kind == "template":
            return "{{template %s%s}}" % (go_quote(value), " %s" % other if other else "")
        return "{{%s}}" % kind if kind in ("end", "else") else other


class _Parser:
    """Makes `trees` of a template's text: {name: nodes}, its own name for what stands outside of definitions."""

    def __init__(self, text, name):
        self.text, self.name = text, name
        self.tokens, self.next = _lex(text), 0
        self.variables, self.ranges, self.trees = ["$"], 0, {}
        root = []
        while self.tokens[self.next][0] != "eof":
            root.append(self.node(True))
            if root[-1].kind in ("end", "else"):
                self.fail("unexpected %s" % root[-1])
        self.add(name, [node for node in root if node.value != ""])

    def fail(self, words):
        """Raises a complaint about the token that was seen last."""
        line = self.text.count("\n", 0, self.tokens[self.next - 1][1]) + 1
        raise TemplateError("template: %s:%d: %s" % (self.name, line, words))

    def take(self, *wanted, place=""):
        """The next token that is no space; it is to be one of the wanted kinds, if any are given."""
        while self.tokens[self.next][0] == "space":
            self.next += 1
        kind, _, text = token = self.tokens[self.next]
        self.next += 1
        if wanted and kind not in wanted:
            if kind == "error":
                self.fail(text)
            shown = go_quote(text[:10]) + "..." * (len(text) > 10)
            shown = "EOF" if kind == "eof" else "<%s>" % text if kind in _KEYWORDS or kind == "dot" else shown
            self.fail("unexpected %s in %s" % (shown, place))
        return token

    def peek(self):
        """The kind of the next token that is no space."""
        kind = self.take()[0]
        self.next -= 1
        return kind

    def add(self, name, nodes):
        """Enters a definition: one that has something in it only once."""
        if nodes and self.trees.get(name):
            self.fail("template: multiple definition of template " + go_quote(name))
        self.trees[name] = nodes or self.trees.get(name, ())

    def define(self, name, place):
        """Reads the body of a definition or a block."""
        if place == "define clause":
            self.take("close", place=place)
        outer, self.variables, self.ranges = (self.variables, self.ranges), ["$"], 0
        nodes, end = self.body()
        if end.kind != "end":
            self.fail("unexpected %s in %s" % (end, place))
        self.variables, self.ranges = outer
        self.add(name, nodes)

    def body(self):
        """The nodes up to an `end` or `else`, and that."""
        nodes = []
        while self.tokens[self.next][0] != "eof":
            nodes.append(self.node())
            if nodes[-1].kind in ("end", "else"):
                return nodes[:-1], nodes[-1]
        self.next += 1
        self.fail("unexpected EOF")

    def node(self, outermost=False):
        """One piece of text or one action; a definition leaves no text."""
        kind, at, text = self.take("text", "open", place="input")
        if kind == "text":
            return _Node("text", at, text)
        kind = self.peek()
        if kind == "define" and outermost:
            self.take()
            self.define(self.unquote(self.take("string", place="define clause")[2]), "define clause")
            return _Node("text", at, "")
        if kind not in _KEYWORDS or kind in ("define", "nil"):
            return _Node("action", at, self.pipeline("command", "close"))
        self.take()
        if kind in ("if", "with", "range"):
            return self.control(kind, at)
        if kind in ("template", "block"):
            _, at, text = self.take("string", place=kind + " clause")
            name, pipe = self.unquote(text), None
            if kind == "block" or self.peek() != "close":
                pipe = self.pipeline(kind + " clause", "close")
            else:
                self.take()
            if kind == "block":
                self.define(name, "block clause")
            return _Node("template", at, name, (), pipe)
        if kind != "else" or self.peek() not in ("if", "with"):
            self.take("close", place="{{%s}}" % kind if kind in ("break", "continue") else kind)
        if kind in ("break", "continue") and not self.ranges:
            self.fail("{{%s}} outside {{range}}" % kind)
        return _Node(kind, at)

    def control(self, kind, at):
        """An if, with or range."""
        known, other = len(self.variables), None
        pipe = self.pipeline(kind, "close")
        self.ranges += kind == "range"
        nodes, end = self.body()
        self.ranges -= kind == "range"
        if end.kind == "else":
            if kind != "range" and self.peek() == kind:
                other = [self.control(*self.take()[:2])]
            else:
                other, end = self.body()
                if end.kind != "end":
                    self.fail("expected end; found %s" % end)
        del self.variables[known:]
        return _Node(kind, at, pipe, nodes, other)

    def pipeline(self, place, close):
        """Declarations and commands up to a token of the kind `close`; the node's `other` is "=" for assignments."""
        self.peek()
        at, names, sign, commands = self.tokens[self.next][1], [], "", []
        while self.peek() == "variable":
            back, name, (kind, _, text) = self.next, self.take()[2], self.take()
            if kind not in ("declare", "assign") and text != ",":
                self.next = back
                break
            names.append(name)
            self.variables.append(name)
            if text != ",":
                sign = text
                break
            if place != "range" or len(names) > 1:
                self.fail("too many declarations in " + place)
            if self.peek() not in ("variable", "close", "right"):
                self.fail("range can only initialize variables")
        while self.peek() != close:
            if self.peek() not in _OPERANDS:
                self.take("", place=place)
            commands.append(self.command())
        self.take()
        if not commands:
            self.fail("missing value for " + place)
        for stage, command in enumerate(commands[1:], 2):
            if command.parts[0].kind in _CONSTANTS:
                self.fail("non executable command in pipeline stage %d" % stage)
        return _Node("pipe", at, names, commands, sign)

    def command(self):
        """Operands up to a bar or the end of the pipeline."""
        at, operands = self.tokens[self.next][1], [self.operand()]
        while self.tokens[self.next][0] == "space" and self.peek() in _OPERANDS:
            operands.append(self.operand())
        if self.peek() not in ("close", "right"):
            self.take("pipe", place="operand")
        return _Node("command", at, None, operands)

    def operand(self):
        """A constant, name or parenthesis, with the fields that follow it."""
        kind, at, text = self.take()
        if kind == "left":
            node = self.pipeline("parenthesized pipeline", "right")
        elif kind == "word" and text not in _FUNCTIONS or kind == "variable" and text not in self.variables:
            self.fail(("function %s not defined" if kind == "word" else "undefined variable %s") % go_quote(text))
        else:
            value = (wrap(self.unquote(text)) if kind == "string" else wrap(text == "true") if kind == "bool" else
                     wrap(self.number(text)) if kind in ("number", "char") else
                     [text.lstrip(".")] if kind in ("field", "variable") else wrap(None) if kind == "nil" else text)
            node = _Node("number" if kind == "char" else kind, at, value, (), text)
        at, names = self.tokens[self.next][1], []
        while self.tokens[self.next][0] == "field":
            names.append(self.take()[2][1:])
        if names and node.kind in _CONSTANTS:
            self.fail("unexpected . after term " + go_quote(str(node)))
        if names and node.kind in ("field", "variable"):
            return _Node(node.kind, at, node.value + names)
        return _Node("chain", at, names, [node]) if names else node

    def unquote(self, text):
        """The text of a Go literal, as `strconv.Unquote` reads it."""
        if text[0] == "`":
            return text[1:-1].replace("\r", "")
        pattern = (r"\\(x[\da-fA-F]{2}|(?:u|U0000)(?![dD][89a-fA-F])[\da-fA-F]{4}|U00(?:0[1-9a-fA-F]|10)[\da-fA-F]{4}|"
                   r"[0-3][0-7]{2}|[abfnrtv\\%s])" % text[0])
        if "\\" in re.sub(pattern, "", text):
            self.fail("invalid syntax")
        return text[1:-1].encode("ascii", "backslashreplace").decode("unicode_escape")

    def number(self, text):
        """The value of a number or a character constant."""
        if text[0] == "'":
            char = self.unquote(text)
            if len(char) != 1:
                self.fail("malformed character constant: " + text if char else "invalid syntax")
            return ord(char)
        for base in [None] if re.search("^[^xX]*[.eE]", text) else [0, 8]:
            try:
                number = float(text) if base is None else int(text, base)
                break
            except ValueError:
                number = None
        if number is None or abs(number) >= 1 << 63 and isinstance(number, int):
            self.fail(("illegal number syntax: " if number is None else "integer overflow: ") + go_quote(text))
        return number


# -- execution ---------------------------------------------------------------------------------------------------------

_NONE = Value("", None)                 # what the first command of a pipeline gets from the one before it


class Template:
    """A parsed Go template; TemplateError for one that makes no sense.

    `strict`: a map's missing key is an error (`missingkey=error`).
    """

    def __init__(self, text: str, name: str = ""):
        self.text, self.name, self.strict = text, name, False
        self.trees = _Parser(text, name).trees

    def execute(self, value, functions: dict = None) -> str:
        """The text for `value`: a Row, decoded JSON or a Value."""
        run = _Run(self, wrap(value), functions or _FUNCTIONS)
        try:
            run.walk(run.root, self.trees[self.name])
        except TemplateError as error:
            error.output = "".join(run.out)
            raise
        return "".join(run.out)

    def execute_typed(self, type_name: str, value, text: str) -> str:
        """The text for an object of the engine, or, where its type lacks something, for all that its JSON `text` has.

        Without `text` what the type lacks is an error.
        """
        try:
            if type_name:
                return self.execute(_typed(type_name, value))
        except TemplateError:
            if not text:
                raise
        self.strict = True
        return self.execute(json.loads(text, parse_int=Number, parse_float=Number))

    def headings(self, names: dict) -> str:
        """The headings of a table whose rows the template gives: `names` is {field: heading}."""
        try:
            return self.execute(Value("formatter.SubHeaderContext", names), _HEADING_FUNCTIONS)
        except TemplateError as error:
            return error.output


class _Run:
    """One execution of a template."""

    def __init__(self, template, value, functions):
        self.template, self.root, self.functions = template, value, functions
        self.name = template.name       # that of the definition at work
        self.node = None                # what a complaint is about
        self.variables = [["$", value]]
        self.out = []

    def fail(self, words):
        """Raises a complaint about the node at work."""
        before = self.template.text[:self.node.at]
        raise TemplateError("template: %s:%d:%d: executing %s at <%s>: %s" % (
            self.template.name, before.count("\n") + 1, len(_bytes(before[before.rfind("\n") + 1:])),
            go_quote(self.name), self.node, words))

    def walk(self, dot, nodes):
        """Executes nodes; returns "break" or "continue" where one of these ends them."""
        for node in nodes:
            kind, pipe = node.kind, node.value
            if kind == "text":
                self.out.append(pipe)
                continue
            if kind in ("break", "continue"):
                return kind
            if kind == "template":
                self.call_template(dot, node)
                continue
            known, end = len(self.variables), None
            value = self.pipeline(dot, pipe)
            if kind == "action":
                if not pipe.value:
                    self.out.append(go_text(value))
                continue
            if kind == "range":
                end = self.loop(dot, node, value)
            elif value.truth():
                end = self.walk(value if kind == "with" else dot, node.parts)
            elif node.other:
                end = self.walk(dot, node.other)
            del self.variables[known:]
            if end:
                return end
        return None

    def loop(self, dot, node, value):
        """Executes a range."""
        value, names = value.indirect(), node.value.value
        if value.kind == "int":
            if len(names) > 1:
                self.fail("can't use %s to iterate over more than one variable" % go_text(value))
            items = [(Value(value.type, i),) * 2 for i in range(value.data)]
        elif value.kind in ("slice", "map"):
            items = value.items()
        elif value.type:
            self.fail("range can't iterate over " + go_text(value))
        else:
            items = ()
        known = len(self.variables)
        for item in items:
            given = [[name, part] for name, part in zip(names, item[2 - max(len(names), 1):])]
            if node.value.other == "=":
                for name, part in given:
                    self.variable(name)[1] = part
            else:
                self.variables[known - len(names):known] = given
            end = self.walk(item[1], node.parts)
            del self.variables[known:]
            if end == "break":
                break
        return None if items else self.walk(dot, node.other or ())

    def call_template(self, dot, node):
        """Executes a template within this one."""
        self.node = node
        if node.value not in self.template.trees:
            self.fail("template %s not defined" % go_quote(node.value))
        value = self.pipeline(dot, node.other) if node.other else wrap(None)
        outer, self.name, self.variables = (self.name, self.variables), node.value, [["$", value]]
        try:
            self.walk(value, self.template.trees[node.value])
        except RecursionError:
            self.fail("exceeded maximum template depth (100000)")
        self.name, self.variables = outer

    def variable(self, name):
        """The innermost variable of a name, as [name, value]."""
        return next((pair for pair in reversed(self.variables) if pair[0] == name), None) or self.fail(
            "undefined variable: " + name)

    def pipeline(self, dot, pipe):
        """The value of a pipeline."""
        self.node = pipe
        value = _NONE
        for command in pipe.parts:
            value = self.command(dot, command, value).concrete()
        for name in pipe.value:
            if pipe.other == "=":
                self.variable(name)[1] = value
            else:
                self.variables.append([name, value])
        return value

    def command(self, dot, command, final):
        """The value of a command; `final` is what the one before it in the pipeline gave."""
        first, args = command.parts[0], command.parts[1:]
        if first.kind != "pipe":
            self.node = first
        if first.kind == "word":
            return self.function(dot, command, first.value, args, final)
        if first.kind in ("field", "chain") or first.kind == "variable" and first.value[1:]:
            return self.fields(dot, first, args, final)
        if args or final is not _NONE:
            self.fail("can't give argument to non-function %s" % first)
        if first.kind == "nil":
            self.fail("nil is not a command")
        return self.operand(dot, first)

    def operand(self, dot, node):
        """The value of an operand."""
        self.node, kind = node, node.kind
        if kind in ("field", "chain", "variable"):
            return self.fields(dot, node, (), _NONE)
        if kind == "pipe":
            return self.pipeline(dot, node)
        if kind == "word":
            return self.function(dot, node, node.value, (), _NONE)
        return dot if kind == "dot" else node.value

    def fields(self, dot, node, args, final):
        """The value of a chain of fields, of which the last gets the arguments."""
        self.node, names, value = node, node.value, dot
        if node.kind == "variable":
            value, names = self.variable(names[0])[1], names[1:]
        elif node.kind == "chain":
            value = self.operand(dot, node.parts[0])
        for i, name in enumerate(names, 1):
            last = i == len(names)
            value = self.field(dot, node, name, value, args if last else (), final if last else _NONE)
        return value

    def field(self, dot, node, name, value, args, final):
        """The value of a field, a map's entry or a method."""
        found, has_args = value.indirect(), args or final is not _NONE
        kind, data = found.kind, found.data
        if not value.type:
            if self.template.strict:
                self.fail("nil data; no entry for key " + go_quote(name))
            return value
        if kind == "interface":
            self.fail("nil pointer evaluating %s.%s" % (value.type, name))
        if isinstance(data, Row) and name in data.columns_of:
            takes = "string" if data.columns_of[name][0] is None else ""
            found = self.invoke(dot, node, name, takes, lambda *given: data.get(name, *given), args, final)
            return found if found.type else Value("*v1.Platform", None)
        takes, method = _METHODS.get(found.type, {}).get(name, ("", None))
        if method:
            return self.invoke(dot, node, name, takes, lambda *given: method(data, *given), args, final)
        if kind == "struct" and not isinstance(data, Row):
            found = found.field(name)
            if found and has_args:
                self.fail("%s has arguments but cannot be invoked as function" % name)
            if found:
                return found
        elif kind == "map":
            if has_args:
                self.fail("%s is not a method but has arguments" % name)
            if name not in (data or ()) and self.template.strict:
                self.fail("map has no entry for key " + go_quote(name))
            return _typed(_element(found.type), data[name]) if name in (data or ()) else wrap(None)
        elif kind == "ptr" and Value(_element(found.type), {}).field(name):
            self.fail("nil pointer evaluating %s.%s" % (value.type, name))
        return self.fail("can't evaluate field %s in type %s" % (name, value.type))

    def function(self, dot, command, name, args, final):
        """The value of a function's call."""
        takes, function = self.functions[name]
        if function or not args and final is _NONE:
            return self.invoke(dot, command, name, takes, function, args, final)
        for arg in args:
            value = self.operand(dot, arg)
            if value.truth() == (name == "or"):
                return value
        return value if final is _NONE else final

    def invoke(self, dot, node, name, takes, function, args, final):
        """Calls a function with arguments of the types it takes."""
        types, count = takes.split(), len(args) + (final is not _NONE)
        more = types[-1:] == ["..."]
        types = types[:-1] if more else types
        if count < len(types) or count > len(types) and not more:
            self.fail("wrong number of args for %s: want %s%d got %d" % (
                name, "at least " * more, len(types), count))
        types += ["any"] * (count - len(types))
        given = [self.fitting(self.operand(dot, arg), wanted, arg) for arg, wanted in zip(args, types)]
        if final is not _NONE:
            given.append(self.fitting(final, types[-1], None))
        try:
            return wrap(function(*given))
        except ValueError as error:
            self.node = node
            return self.fail("error calling %s: %s" % (name, error))

    def fitting(self, value, wanted, node):
        """An argument for a parameter of that type: its data, for parameters of any type the Value."""
        if wanted == "any":
            return value
        if wanted[0] == "[" and not value.type:
            return []
        if node and node.kind in _CONSTANTS and node.kind != "dot" and value.kind != _kind(wanted):
            self.fail("cannot assign nil to " + wanted if not value.type else
                      "can't handle %s for arg of type %s" % (node, wanted) if wanted[0] == "[" else
                      "expected %s; found %s" % (wanted.replace("int", "integer"), node))
        if not value.type:
            self.fail("invalid value; expected " + wanted)
        inner = value.concrete()
        inner = inner if inner.type else value
        if inner.type == "*" + wanted and inner.data is not None:
            return inner.data
        if inner.type != wanted and not (wanted[0] == "[" and _underlying(inner.type) == wanted):
            self.fail("wrong type for value; expected %s; got %s" % (wanted, inner.type))
        return inner.data


# {type: {method: (types of the parameters, function of the data)}}
_METHODS = {
    "formatter.SubHeaderContext": {
        "Label": ("string", lambda _, name: re.sub("[-_]", " ", name.rpartition(".")[2]))},
    "nat.Port": {"Port": ("", lambda port: port.partition("/")[0]), "Proto": ("", lambda port: port.partition("/")[2]),
                 "Int": ("", lambda port: int(port.partition("/")[0]))},
}

# The types of the engine's API: NAME = TYPE FIELD...; TYPE FIELD..., or NAME... = TYPE.  A field is spelled NAME>KEY
# where JSON has another name, NAME? where it is left out when empty; +NAME is embedded.
GO_TYPES = """
container.Config = string Hostname Domainname User; bool AttachStdin AttachStdout AttachStderr; nat.PortSet
 ExposedPorts?; bool Tty OpenStdin StdinOnce; []string Env; strslice.StrSlice Cmd; *v1.HealthcheckConfig Healthcheck?;
 bool ArgsEscaped?; string Image; map[string]none Volumes; string WorkingDir; strslice.StrSlice Entrypoint; bool
 NetworkDisabled?; string MacAddress?; []string OnBuild; map[string]string Labels; string StopSignal?; *int
 StopTimeout?; strslice.StrSlice Shell?
container.ContainerJSONBase = string ID>Id Created Path; []string Args; *container.State State; string Image
 ResolvConfPath HostnamePath HostsPath LogPath Name; int RestartCount; string Driver Platform MountLabel ProcessLabel
 AppArmorProfile; []string ExecIDs; *container.HostConfig HostConfig; storage.DriverData GraphDriver; *int64 SizeRw?
 SizeRootFs?
container.DefaultNetworkSettings = string EndpointID Gateway GlobalIPv6Address; int GlobalIPv6PrefixLen; string
 IPAddress; int IPPrefixLen; string IPv6Gateway MacAddress
container.DeviceMapping = string PathOnHost PathInContainer CgroupPermissions
container.DeviceRequest = string Driver; int Count; []string DeviceIDs; [][]string Capabilities; map[string]string
 Options
container.Health = string Status; int FailingStreak; []*container.HealthcheckResult Log
container.HealthcheckResult = time.Time Start End; int ExitCode; string Output
container.HostConfig = []string Binds; string ContainerIDFile; container.LogConfig LogConfig; container.NetworkMode
 NetworkMode; nat.PortMap PortBindings; container.RestartPolicy RestartPolicy; bool AutoRemove; string VolumeDriver;
 []string VolumesFrom; [2]uint ConsoleSize; map[string]string Annotations?; strslice.StrSlice CapAdd CapDrop;
 container.CgroupnsMode CgroupnsMode; []string DNS>Dns DNSOptions>DnsOptions DNSSearch>DnsSearch ExtraHosts GroupAdd;
 container.IpcMode IpcMode; container.CgroupSpec Cgroup; []string Links; int OomScoreAdj; container.PidMode PidMode;
 bool Privileged PublishAllPorts ReadonlyRootfs; []string SecurityOpt; map[string]string StorageOpt? Tmpfs?;
 container.UTSMode UTSMode; container.UsernsMode UsernsMode; int64 ShmSize; map[string]string Sysctls?; string Runtime?;
 container.Isolation Isolation; container.Resources +Resources; []any Mounts?; []string MaskedPaths ReadonlyPaths; *bool
 Init?
container.InspectResponse = *container.ContainerJSONBase +ContainerJSONBase; []container.MountPoint Mounts;
 *container.Config Config; *container.NetworkSettings NetworkSettings; *any ImageManifestDescriptor?
container.LogConfig = string Type; map[string]string Config
container.MountPoint = mount.Type Type?; string Name? Source Destination Driver? Mode; bool RW; mount.Propagation
 Propagation
container.NetworkSettings = container.NetworkSettingsBase +NetworkSettingsBase; container.DefaultNetworkSettings
 +DefaultNetworkSettings; map[string]*network.EndpointSettings Networks
container.NetworkSettingsBase = string Bridge SandboxID SandboxKey; nat.PortMap Ports; bool HairpinMode; string
 LinkLocalIPv6Address; int LinkLocalIPv6PrefixLen; []network.Address SecondaryIPAddresses SecondaryIPv6Addresses
container.Resources = int64 CPUShares>CpuShares Memory NanoCPUs>NanoCpus; string CgroupParent; uint16 BlkioWeight;
 []*any BlkioWeightDevice; []*any BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps; int64
 CPUPeriod>CpuPeriod CPUQuota>CpuQuota CPURealtimePeriod>CpuRealtimePeriod CPURealtimeRuntime>CpuRealtimeRuntime; string
 CpusetCpus CpusetMems; []container.DeviceMapping Devices; []string DeviceCgroupRules; []container.DeviceRequest
 DeviceRequests; int64 KernelMemory? KernelMemoryTCP? MemoryReservation MemorySwap; *int64 MemorySwappiness; *bool
 OomKillDisable; *int64 PidsLimit; []*units.Ulimit Ulimits; int64 CPUCount>CpuCount CPUPercent>CpuPercent; uint64
 IOMaximumIOps IOMaximumBandwidth
container.RestartPolicy = container.RestartPolicyMode Name; int MaximumRetryCount
container.State = string Status; bool Running Paused Restarting OOMKilled Dead; int Pid ExitCode; string Error StartedAt
 FinishedAt; *container.Health Health?
events.Actor = string ID; map[string]string Attributes
events.Message = string Status>status? ID>id? From>from?; events.Type Type; events.Action Action; events.Actor Actor;
 string Scope>scope?; int64 Time>time? TimeNano>timeNano?
image.InspectResponse = string ID>Id; []string RepoTags RepoDigests; string Parent Comment Created? Container?;
 *container.Config ContainerConfig?; string DockerVersion Author; *v1.DockerOCIImageConfig Config; string Architecture
 Variant? Os OsVersion?; int64 Size VirtualSize?; storage.DriverData GraphDriver; image.RootFS RootFS; image.Metadata
 Metadata; *any Descriptor?; []any Manifests?
image.Metadata = time.Time LastTagTime
image.RootFS = string Type?; []string Layers?
nat.PortBinding = string HostIP>HostIp HostPort
network.Address = string Addr; int PrefixLen
network.ConfigReference = string Network
network.EndpointIPAMConfig = string IPv4Address? IPv6Address?; []string LinkLocalIPs?
network.EndpointResource = string Name EndpointID MacAddress IPv4Address IPv6Address
network.EndpointSettings = *network.EndpointIPAMConfig IPAMConfig; []string Links Aliases; string MacAddress;
 map[string]string DriverOpts; int GwPriority; string NetworkID EndpointID Gateway IPAddress; int IPPrefixLen; string
 IPv6Gateway GlobalIPv6Address; int GlobalIPv6PrefixLen; []string DNSNames
network.IPAM = string Driver; map[string]string Options; []network.IPAMConfig Config
network.IPAMConfig = string Subnet? IPRange? Gateway?; map[string]string AuxAddress>AuxiliaryAddresses?
network.Inspect = string Name ID>Id; time.Time Created; string Scope Driver; bool EnableIPv4 EnableIPv6; network.IPAM
 IPAM; bool Internal Attachable Ingress; network.ConfigReference ConfigFrom; bool ConfigOnly;
 map[string]network.EndpointResource Containers; map[string]string Options Labels; []any Peers?; map[string]any
 Services?
registry.IndexInfo = string Name; []string Mirrors; bool Secure Official
registry.ServiceConfig = []*any AllowNondistributableArtifactsCIDRs?; []string AllowNondistributableArtifactsHostnames?;
 []*any InsecureRegistryCIDRs; map[string]*registry.IndexInfo IndexConfigs; []string Mirrors; map[string]any
 ExtraFields?
storage.DriverData = map[string]string Data; string Name
swarm.Info = string NodeID NodeAddr; swarm.LocalNodeState LocalNodeState; bool ControlAvailable; string Error; []any
 RemoteManagers; int Nodes? Managers?; *any Cluster?; []string Warnings?
system.Commit = string ID Expected?
system.Info = string ID; int Containers ContainersRunning ContainersPaused ContainersStopped Images; string Driver;
 [][2]string DriverStatus SystemStatus?; system.PluginsInfo Plugins; bool MemoryLimit SwapLimit KernelMemory?
 KernelMemoryTCP? CPUCfsPeriod>CpuCfsPeriod CPUCfsQuota>CpuCfsQuota CPUShares CPUSet PidsLimit IPv4Forwarding Debug; int
 NFd; bool OomKillDisable; int NGoroutines; string SystemTime LoggingDriver CgroupDriver CgroupVersion?; int
 NEventsListener; string KernelVersion OperatingSystem OSVersion OSType Architecture IndexServerAddress;
 *registry.ServiceConfig RegistryConfig; int NCPU; int64 MemTotal; []any GenericResources; string DockerRootDir
 HTTPProxy>HttpProxy HTTPSProxy>HttpsProxy NoProxy Name; []string Labels; bool ExperimentalBuild; string ServerVersion;
 map[string]system.RuntimeWithStatus Runtimes; string DefaultRuntime; swarm.Info Swarm; bool LiveRestoreEnabled;
 container.Isolation Isolation; string InitBinary; system.Commit ContainerdCommit RuncCommit InitCommit; []string
 SecurityOptions; string ProductLicense?; []system.NetworkAddressPool DefaultAddressPools?; *any FirewallBackend?;
 []string CDISpecDirs; []any DiscoveredDevices?; *any Containerd?; []string Warnings
system.NetworkAddressPool = string Base; int Size
system.PluginsInfo = []string Volume Network Authorization Log
system.Runtime = string Path>path?; []string Args>runtimeArgs?; string Type>type?; map[string]any Options>options?
system.RuntimeWithStatus = system.Runtime +Runtime; map[string]string Status>status?
system.clientInfo = bool Debug; *system.platformInfo Platform?; string Version? Context; []any Plugins; []string
 Warnings
system.clientVersion = *system.platformInfo Platform?; string Version APIVersion>ApiVersion DefaultAPIVersion GitCommit
 GoVersion Os Arch BuildTime Context
system.dockerInfo = *system.Info +Info; []string ServerErrors?; string UserName?; *system.clientInfo ClientInfo;
 []string ClientErrors?
system.platformInfo = string Name?
system.sparseInfo = *system.clientInfo ClientInfo; []string ClientErrors
system.versionInfo = system.clientVersion Client; *types.Version Server
types.ComponentVersion = string Name Version; map[string]string Details
types.Version = types.VersionPlatform Platform; []types.ComponentVersion Components; string Version
 APIVersion>ApiVersion MinAPIVersion? GitCommit GoVersion Os Arch KernelVersion?; bool Experimental?; string BuildTime?
types.VersionPlatform = string Name
units.Ulimit = string Name; int64 Hard Soft
v1.DockerOCIImageConfig = v1.ImageConfig +ImageConfig; v1.DockerOCIImageConfigExt +DockerOCIImageConfigExt
v1.DockerOCIImageConfigExt = *v1.HealthcheckConfig Healthcheck?; []string OnBuild? Shell?
v1.HealthcheckConfig = []string Test?; time.Duration Interval? Timeout? StartPeriod? StartInterval?; int Retries?
v1.ImageConfig = string User?; map[string]none ExposedPorts?; []string Env? Entrypoint? Cmd?; map[string]none Volumes?;
 string WorkingDir?; map[string]string Labels?; string StopSignal?; bool ArgsEscaped?
volume.UsageData = int64 RefCount Size
volume.Volume = *any ClusterVolume?; string CreatedAt? Driver; map[string]string Labels; string Mountpoint Name;
 map[string]string Options; string Scope; map[string]any Status?; *volume.UsageData UsageData?
container.NetworkMode nat.Port container.RestartPolicyMode container.CgroupnsMode container.IpcMode container.CgroupSpec
 container.PidMode container.UTSMode container.UsernsMode container.Isolation mount.Type mount.Propagation
 swarm.LocalNodeState events.Type events.Action = string
nat.PortMap = map[nat.Port][]nat.PortBinding
strslice.StrSlice = []string
nat.PortSet = map[nat.Port]none
formatter.SubHeaderContext = map[string]string
"""
_TYPES = {}


def _go_types():
    """GO_TYPES as {type: its definition, or {field: (JSON name, whether it is left out when empty, type)}}."""
    for line in [] if _TYPES else GO_TYPES.strip().replace("\n ", " ").split("\n"):
        names, _, definition = re.sub(r"\bany\b", "interface {}", line.replace("]none", "]struct {}")).partition(" = ")
        fields = {}
        for group in definition.split("; "):
            type_name, *words = re.split(r" (?!\{)", group)
            for word in words:
                name, _, key = word.strip("+?").partition(">")
                fields[name] = "+" if word[0] == "+" else key or name, word[-1] == "?", type_name
        _TYPES.update((name, fields or definition) for name in names.split())
    return _TYPES


# ======================================================================================================================
# 4  References
# ======================================================================================================================

DEFAULT_TAG = "latest"
_NAME_LIMIT = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = r"(?:%s(?:\.%s)*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?" % (_LABEL, _LABEL)
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = r"(?P<domain>%s)/(?P<path>%s(?:/%s)*)(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>%s))?\Z" % (
    _DOMAIN, _COMPONENT, _COMPONENT, _DIGEST)
_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


def parse_repository_tag(name: str) -> tuple:
    """Split `name` into (repository, tag or digest); the second is empty where there is none.

    A colon that belongs to a registry's port is no tag; behind an `@` stands a digest, and a tag before it is dropped.
    """
    repository, at, digest = name.partition("@")
    head, colon, tag = repository.rpartition(":")
    if not colon or "/" in tag:
        head, tag = repository, ""
    return head, digest if at else tag


def resolve_repository_name(name: str) -> tuple:
    """Where a repository lives: (registry, remote name), for a name without tag.

    The registry is `INDEX_SERVER` for Docker Hub, under any of its names, else the name's first part, which must
    contain a `.` or a `:`, be `localhost`, or contain a capital letter.  Raises DockerError for a name that is none.
    """
    if "://" in name:
        raise DockerError('Invalid repository name (ex: "registry.domain.tld/myrepos")')
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        registry, remote = (INDEX_SERVER if first in INDEX_ALIASES else first), rest
    else:
        registry, remote = INDEX_SERVER, name
    if registry == INDEX_SERVER and "/" not in remote:
        remote = "library/" + remote
    domain = INDEX_NAME if registry == INDEX_SERVER else registry
    _match_reference(domain, remote)
    return registry, remote


def _match_reference(domain, remote):
    repository = parse_repository_tag(remote)[0]
    if repository != repository.lower():
        raise DockerError("invalid reference format: repository name (%s) must be lowercase" % repository)
    match = re.match(_REFERENCE, domain + "/" + remote, re.ASCII)
    if not match:
        raise DockerError("invalid reference format")
    if len(match.group("path")) > _NAME_LIMIT:
        raise DockerError("repository name must not be more than %d characters" % _NAME_LIMIT)
    return match


class Reference:
    """An image reference, normalised: `domain`, `path`, `tag` and `digest` (empty where absent).

    The rules are those of the distribution project's reference grammar.
    """

    def __init__(self, domain: str, path: str, tag: str = "", digest: str = ""):
        self.domain = domain
        self.path = path
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """The full repository name: `docker.io/library/busybox`."""
        return self.domain + "/" + self.path

    @property
    def index(self) -> str:
        """The key of the registry's credentials."""
        return INDEX_SERVER if self.domain == INDEX_NAME else self.domain

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: `busybox`, `user/app`, `localhost:5000/app`."""
        if self.domain != INDEX_NAME:
            return self.name
        official = self.path[len("library/"):] if self.path.startswith("library/") else ""
        return official if official and "/" not in official else self.path

    def with_default_tag(self) -> "Reference":
        """The same reference, with the tag `latest` if it has neither tag nor digest."""
        return self if self.tag or self.digest else Reference(self.domain, self.path, DEFAULT_TAG)

    @property
    def suffix(self) -> str:
        """What follows the name: `:tag`, `@digest`, both or nothing."""
        return (self.tag and ":" + self.tag) + (self.digest and "@" + self.digest)

    def __str__(self):
        return self.name + self.suffix


def parse_reference(text: str) -> Reference:
    """Parse and normalise an image reference; DockerError with the reference grammar's words if it is none."""
    if re.match(r"[a-f0-9]{64}\Z", text):
        raise DockerError("invalid repository name (%s), cannot specify 64-byte hexadecimal strings" % text)
    name = parse_repository_tag(text)[0]
    if "://" in name or not name:
        raise DockerError("invalid reference format")
    registry, remote = resolve_repository_name(name)
    match = _match_reference(INDEX_NAME if registry == INDEX_SERVER else registry, remote + text[len(name):])
    digest = match.group("digest") or ""
    if digest:
        algorithm, _, hexadecimal = digest.partition(":")
        if algorithm not in _DIGEST_LENGTHS:
            raise DockerError("unsupported digest algorithm")
        if len(hexadecimal) != _DIGEST_LENGTHS[algorithm]:
            raise DockerError("invalid checksum digest length")
    return Reference(match.group("domain"), match.group("path"), match.group("tag") or "", digest)


_ARCHITECTURES = {"i386": "386", "i586": "386", "i686": "386", "x86_64": "amd64", "x86-64": "amd64",
                  "amd64/v1": "amd64", "aarch64": "arm64", "arm64/8": "arm64/v8", "armhf": "arm", "armv7l": "arm",
                  "armv8l": "arm/v8", "armel": "arm/v6", "armv6l": "arm/v6", "loongarch64": "loong64"}
_SYSTEMS = {"macos": "darwin", "linux": "linux", "windows": "windows", "darwin": "darwin", "freebsd": "freebsd"}


def host_architecture() -> str:
    """This machine's architecture, as images name it: `amd64`, `arm64`, `arm/v6`, …"""
    machine = os.uname().machine.lower() if hasattr(os, "uname") else "amd64"
    return _ARCHITECTURES.get(machine, machine)


def normal_platform(text: str) -> str:
    """A platform as engines name it, `linux/arm64` for `linux/aarch64`; DockerError in docker's words if it is none."""
    system, _, arch = text.lower().partition("/")
    wrong = "" if re.match(r"[\w.-]+(/[\w.-]+){0,2}\Z", text, re.ASCII) else "cannot parse platform specifier"
    if not arch and system not in _SYSTEMS:
        system, arch = sys.platform, system
        if _ARCHITECTURES.get(arch, arch) not in "386 amd64 arm arm64 loong64 ppc64le riscv64 s390x wasm".split():
            wrong = wrong or "unknown operating system or architecture"
    if wrong:
        raise DockerError("%s: %s: invalid argument" % (go_quote(text), wrong))
    arch = re.sub(r"^arm/([5-8])$", r"arm/v\1", arch or host_architecture())
    return _SYSTEMS.get(system, system) + "/" + _ARCHITECTURES.get(arch, arch)


# ======================================================================================================================
# 5  Configuration and credentials
# ======================================================================================================================

TOKEN_USER = "<token>"                  # the user name under which helpers keep identity tokens
_NO_CREDENTIALS = ("credentials not found in native keychain", "no usernames for", "no credentials server url",
                   "no credentials username")


class AuthConfig:
    """The credentials for one registry, with the fields of the API's AuthConfig object."""

    FIELDS = ("username", "password", "auth", "email", "serveraddress", "identitytoken", "registrytoken")

    def __init__(self, **fields):
        for field in self.FIELDS:
            setattr(self, field, fields.get(field) or "")

    def to_json(self) -> dict:
        """The non-empty fields, in the order in which the API lists them."""
        return {field: getattr(self, field) for field in self.FIELDS if getattr(self, field)}

    def header(self) -> str:
        """The value of `X-Registry-Auth`: padded base64url of the JSON; `e30=` for nobody."""
        return base64.urlsafe_b64encode(compact_json(self.to_json()).encode("utf-8", "surrogateescape")).decode("ascii")

    def __bool__(self):
        return bool(self.username or self.password or self.identitytoken or self.registrytoken)

    def __repr__(self):
        return "AuthConfig(username=%r, serveraddress=%r)" % (self.username, self.serveraddress)


def _decode_auth(text):
    """User name and password of an `auth` field; ValueError with Docker's words if it is none."""
    if not text:
        return "", ""
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, UnicodeEncodeError):
        at = next((i for i, c in enumerate(text) if not (c.isalnum() or c in "+/=") or not is_ascii(c)),
                  len(text.rstrip("=")))
        raise ValueError("illegal base64 data at input byte %d" % at)
    user, colon, password = decoded.decode("utf-8", "surrogateescape").partition(":")
    if not colon:
        raise ValueError("Invalid auth configuration file")
    return user, password.strip("\0")


def registry_hostname(server: str) -> str:
    """The host part of a registry's key: without scheme and path."""
    return re.sub(r"^https?://", "", server).partition("/")[0]


class ConfigFile:
    """`config.json` and, where it is absent, the older `.dockercfg`.

    Reading never fails: what could not be used is told in `warning`, for the caller to show.  `data` is the decoded
    file; `save` writes it back with all keys that this program does not know.
    """

    _KINDS = dict({"auths": (dict, "map[string]types.AuthConfig"), "HttpHeaders": (dict, "map[string]string"),
                   "credHelpers": (dict, "map[string]string"), "aliases": (dict, "map[string]string")},
                  **{key: (str, "string") for key in (
                      "credsStore", "currentContext", "detachKeys", "psFormat", "imagesFormat", "networksFormat",
                      "volumesFormat", "statsFormat")})

    def __init__(self, directory: str = ""):
        self.directory = directory or default_config_directory()
        self.path = os.path.join(self.directory, "config.json")
        self.data = {}
        self.auths = {}
        self.warning = ""
        self._detected = ""

    @classmethod
    def load(cls, directory: str = "") -> "ConfigFile":
        """Read the configuration of `directory` (default: `$DOCKER_CONFIG`, else `~/.docker`)."""
        config = cls(directory)
        try:
            config._read()
        except IsADirectoryError:
            config.warning = "Error parsing config file (%s): read %s: is a directory" % (config.path, config.path)
        except OSError as error:
            config.warning = "Error loading config file: " + path_error_text(error)
        except ValueError as error:
            config.warning = "Error parsing config file (%s): %s" % (config.path, error)
        config._read_environment()
        return config

    def _read(self):
        try:
            with open(self.path, "rb") as file:
                text = file.read().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            if "DOCKER_CONFIG" not in os.environ and self.directory == default_config_directory():
                self._read_legacy(os.path.join(os.path.expanduser("~"), ".dockercfg"))
            return
        if not text.strip():
            return
        try:
            data = json.JSONDecoder().raw_decode(text, len(text) - len(text.lstrip()))[0]
        except ValueError as error:
            reason = go_json_error(error)
            raise ValueError("unexpected EOF" if reason == "unexpected end of JSON input" else reason)
        if data is not None and not isinstance(data, dict):
            raise ValueError("json: cannot unmarshal %s into Go value of type configfile.ConfigFile" % json_kind(data))
        self.data = data or {}
        self._read_auths(self.get("auths", {}))
        for key, value in self.data.items():
            wanted = next((kind for name, kind in self._KINDS.items() if name.lower() == key.lower()), None)
            if wanted and value is not None and not isinstance(value, wanted[0]):
                raise ValueError("json: cannot unmarshal %s into Go struct field ConfigFile.%s of type %s" % (
                    json_kind(value), key, wanted[1]))
        for name, value in self.get("HttpHeaders", {}).items():
            if not isinstance(value, str):
                raise ValueError("json: cannot unmarshal %s into Go struct field ConfigFile.HttpHeaders of type "
                                 "string" % json_kind(value))

    def _read_auths(self, entries):
        for server, entry in entries.items():
            if entry is None:
                continue
            if not isinstance(entry, dict):
                raise ValueError('the credentials of "%s" must be an object' % server)
            auth = AuthConfig(**{k.lower(): v for k, v in entry.items() if isinstance(v, str)})
            if auth.auth:
                auth.username, auth.password = _decode_auth(auth.auth)
                auth.auth = ""
            auth.serveraddress = server
            self.auths[server] = auth

    def _read_legacy(self, path):
        """`.dockercfg`: a JSON object of entries, or the two lines `auth = …` and `email = …`."""
        self.path, name = path, self.path
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            return
        else:
            try:
                entries = json.loads(text)
            except ValueError:
                lines = text.split("\n")
                if len(lines) < 2:
                    raise ValueError("The Auth config file is empty")
                values = [line.split(" = ") for line in lines[:2]]
                if any(len(value) != 2 for value in values):
                    raise ValueError("Invalid Auth config file")
                entries = {INDEX_SERVER: {"auth": values[0][1].strip(), "email": values[1][1].strip()}}
            if not isinstance(entries, dict):
                raise ValueError("Invalid Auth config file")
            self._read_auths(entries)
        finally:
            self.path = name

    def _read_environment(self):
        """`DOCKER_AUTH_CONFIG`: credentials given as JSON, which win over the stored ones."""
        text = os.environ.get("DOCKER_AUTH_CONFIG")
        if text:
            try:
                self._read_auths(json.loads(text)["auths"])
                self._from_environment = frozenset(json.loads(text)["auths"])
            except (ValueError, KeyError, TypeError, AttributeError):
                self.warning = self.warning or "DOCKER_AUTH_CONFIG holds no usable credentials"

    _from_environment = frozenset()

    def get(self, key: str, default=None):
        """A value of the file, or `default` where there is none of its type; keys are found in any case, as Go does."""
        for name, value in self.data.items():
            if name.lower() == key.lower() and value is not None and (
                    default is None or isinstance(value, type(default))):
                return value
        return default

    def proxy_variables(self, host: str) -> dict:
        """The variables that tell the containers of an engine which proxies to use, in both cases."""
        proxies = self.get("proxies", {})
        proxies = proxies.get(host) or proxies.get("default") or {}
        return {name: proxies[kind + "Proxy"] for kind in ("http", "https", "no", "ftp", "all")
                if proxies.get(kind + "Proxy") for name in (kind.upper() + "_PROXY", kind + "_proxy")}

    def http_headers(self) -> dict:
        """Extra headers for every request: `$DOCKER_CUSTOM_HEADERS`, else the file's `HttpHeaders`.

        Raises DockerError for a malformed variable.
        """
        text = os.environ.get("DOCKER_CUSTOM_HEADERS", "").strip()
        if not text:
            return {name: value if isinstance(value, str) else "" for name, value in self.get("HttpHeaders", {}).items()
                    if name.lower() != "user-agent"}
        import csv
        headers = {}
        variable = "custom headers from DOCKER_CUSTOM_HEADERS environment variable: "
        if text.count('"') % 2:
            raise DockerError("Failed to initialize: failed to parse %svalue must be formatted as comma-separated "
                              "key=value pairs" % variable)
        for pair in next(csv.reader([text]), []):
            name, equals, value = pair.partition("=")
            if not equals or not name.strip():
                raise DockerError("Failed to initialize: failed to set %s%s: '%s'" % (
                    variable, "value contains a key=value pair with an empty key" if equals else
                    'missing "=" in key=value pair', pair))
            headers[name.strip()] = value
        return headers

    def save(self) -> None:
        """Write the file atomically, with mode 0600 where it is new, through a symbolic link where it is one."""
        auths = {}
        for server, auth in sorted(self.auths.items()):
            if server in self._from_environment:
                continue
            entry = {k: v for k, v in auth.to_json().items() if k in ("email", "identitytoken", "registrytoken")}
            if auth.username or auth.password:
                pair = "%s:%s" % (auth.username, auth.password)
                entry = dict([("auth", base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode("ascii"))],
                             **entry)
            auths[server] = entry
        data = {"auths": auths}
        data.update((k, v) for k, v in self.data.items() if k.lower() not in ("auths", "credsstore"))
        store = self.get("credsStore", "") or self._detected
        if store:
            data["credsStore"] = store
        if not os.path.isdir(self.directory):
            os.makedirs(self.directory, 0o700)
        text = json.dumps(data, indent="\t", ensure_ascii=False)
        write_atomically(self.path, text.encode("utf-8", "surrogateescape"), 0o600)

    # -- credentials ---------------------------------------------------------------------------------------------------

    def helper(self, server: str):
        """The CredentialHelper in charge of a registry, or None where the file itself keeps the credentials.

        With nothing configured and nothing stored, the platform's usual helper is taken if it is installed.
        """
        if server in self._from_environment:
            return None
        suffix = self.get("credHelpers", {}).get(server) or self.get("credsStore", "")
        if not suffix and not self.auths and not self.get("credHelpers", {}) and not self._detected:
            self._detected = _detect_helper()
        suffix = suffix or self._detected
        return CredentialHelper(suffix, detected=suffix == self._detected) if suffix else None

    def resolve_auth_config(self, index: str) -> AuthConfig:
        """The credentials for a registry, by its key; an empty AuthConfig where there are none.

        A helper is asked first; the file is searched for the exact key, then (except for Docker Hub) for one with
        the same host, whatever its scheme and path.  Raises DockerError if a helper fails.
        """
        index = index or INDEX_SERVER
        helper = self.helper(index)
        if helper:
            auth = helper.get(index)
            auth.email = self.auths.get(index, AuthConfig()).email
            return auth
        if index in self.auths or index == INDEX_SERVER:
            return self.auths.get(index, AuthConfig())
        wanted = registry_hostname(index)
        return next((auth for key, auth in sorted(self.auths.items()) if registry_hostname(key) == wanted),
                    AuthConfig())

    def all_credentials(self) -> dict:
        """The credentials for every registry that the file or a helper knows: {key: AuthConfig}."""
        store, found = self.get("credsStore", ""), {}
        try:
            servers = set(CredentialHelper(store).list() if store else self.auths) | set(self.get("credHelpers", {}))
        except DockerError:
            servers = set(self.get("credHelpers", {}))
        for server in servers:
            try:
                found[server] = self.resolve_auth_config(server)
            except DockerError:
                pass                    # the registry will say so if it is needed
        return found

    def store_auth(self, server: str, auth: AuthConfig) -> bool:
        """Keep credentials, in a helper or in the file; true if they now stand in the file unencrypted.

        Raises DockerError or OSError; then nothing has changed.
        """
        helper = self.helper(server)
        if helper:
            helper.store(server, auth)
            self.auths[server] = AuthConfig(serveraddress=server)
        else:
            self.auths[server] = auth
        self.save()
        return not helper and bool(auth.password)

    def erase_auth(self, server: str) -> None:
        """Forget the credentials of a registry; DockerError or OSError if that fails."""
        helper = self.helper(server)
        if helper:
            helper.erase(server)
        if self.auths.pop(server, None) is not None:
            self.save()


def default_config_directory() -> str:
    """`$DOCKER_CONFIG`, else `~/.docker`."""
    return os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")


def _detect_helper():
    import shutil
    if sys.platform == "darwin":
        suffix = "osxkeychain"
    elif sys.platform == "win32":
        suffix = "wincred"
    else:
        suffix = "pass" if shutil.which("pass") else "secretservice"
    return suffix if shutil.which("docker-credential-" + suffix) else ""


class CredentialHelper:
    """An external program that keeps credentials: `docker-credential-SUFFIX`, spoken to over its stdin and stdout.

    `detected` marks a helper that nobody configured.  Every method raises DockerError if the program fails.
    """

    def __init__(self, suffix: str, detected: bool = False):
        self.program = "docker-credential-" + suffix
        self.detected = detected

    def get(self, server: str) -> AuthConfig:
        """The credentials for `server`; empty where the helper has none."""
        out = self._run("get", server, "getting", quiet=True)
        if out is None:
            return AuthConfig()
        try:
            found = json.loads(out)
            user, secret = found["Username"], found["Secret"]
        except (ValueError, KeyError, TypeError):
            raise DockerError("error getting credentials - %s printed no credentials" % self.program)
        if user == TOKEN_USER:
            return AuthConfig(identitytoken=secret, serveraddress=server)
        return AuthConfig(username=user, password=secret, serveraddress=server)

    def store(self, server: str, auth: AuthConfig) -> None:
        user, secret = (TOKEN_USER, auth.identitytoken) if auth.identitytoken else (auth.username, auth.password)
        self._run("store", compact_json({"ServerURL": server, "Username": user, "Secret": secret}) + "\n", "storing")

    def erase(self, server: str) -> None:
        self._run("erase", server, "erasing", quiet=True)

    def list(self) -> dict:
        """All servers that the helper knows, with their user names."""
        try:
            return dict(json.loads(self._run("list", "unused", "listing")))
        except (ValueError, TypeError):
            raise DockerError("error listing credentials - %s printed no list" % self.program)

    def _run(self, action, text, doing, quiet=False):
        """The program's output; None where `quiet` allows it to have no credentials."""
        import subprocess
        failed = "error %s credentials - err: %%s, out: `%%s`" % doing
        try:
            child = subprocess.Popen([self.program, action], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except FileNotFoundError:
            reason = 'exec: "%s": executable file not found in $PATH' % self.program
            raise DockerError(failed % (reason, ""))
        except OSError as error:
            raise DockerError(failed % ("fork/exec %s: %s" % (self.program, os_error_text(error)), ""))
        out = child.communicate(text.encode("utf-8", "surrogateescape"))[0].decode("utf-8", "surrogateescape").strip()
        if not child.returncode:
            return out
        if quiet and out.lower().startswith(_NO_CREDENTIALS):
            return None
        status = "exit status %d" % child.returncode if child.returncode > 0 else "signal: %d" % -child.returncode
        raise DockerError(failed % (status, out))


def write_atomically(path: str, data: bytes, mode: int) -> None:
    """Replace a file in one step: a reader sees the old content or the new, whole.

    A symbolic link stays and its target is written; an existing file keeps its mode and owner, a new one gets `mode`.
    Raises OSError, with nothing changed.
    """
    path = os.path.realpath(path)
    import tempfile
    handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path), dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            old = os.stat(path)
            os.chmod(temporary, old.st_mode & 0o7777)
            if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(temporary, old.st_uid, old.st_gid)
        except FileNotFoundError:
            os.chmod(temporary, mode)
        except PermissionError:
            pass                        # not ours to give away: the new file stays ours
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# ======================================================================================================================
# 6  Endpoints
# ======================================================================================================================

DEFAULT_CONTEXT = "default"
TCP_PORT, TLS_PORT = 2375, 2376


class TlsSettings:
    """How to speak TLS: the paths of three PEM files (empty where there is none) and whether to verify the engine."""

    def __init__(self, ca: str = "", cert: str = "", key: str = "", verify: bool = True):
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


class Endpoint:
    """Where an engine is and how to reach it.

    `host` is the normalised address as messages show it; `proto` is `unix`, `tcp`, `ssh` or `embedded`; `address` a
    socket's path, `(host, port)`, or the folder of the embedded engine; `prefix` a path in front of every request's;
    `tls` a TlsSettings or None; `context` the context's name; `by_default` whether nobody chose it.  `error`, where
    set, says why there is no endpoint: a Client of it fails with that text.
    """

    def __init__(self, host: str = DEFAULT_HOST, tls: TlsSettings = None, context: str = DEFAULT_CONTEXT,
                 error: DockerError = None, by_default: bool = False):
        self.host = host
        self.tls = tls
        self.context = context
        self.error = error
        self.by_default = by_default
        self.proto, _, rest = host.partition("://")
        self.address, self.prefix, self.user = rest, "", ""
        if self.proto == "tcp":
            authority, slash, path = rest.partition("/")
            name, _, port = authority.rpartition(":")
            self.address, self.prefix = (name.strip("[]"), int(port)), (slash + path).rstrip("/")
        elif self.proto == "ssh":
            parts = urlsplit(host)
            self.user, self.address = parts.username or "", (parts.hostname, parts.port)
            self.socket_path = parts.path if parts.path != "/" else ""
        if self.proto != "tcp":
            self.tls = None             # a unix socket or an ssh session needs none

    @property
    def authority(self) -> str:
        """What stands for the host in the URLs of messages."""
        if self.proto == "unix":
            return quote(self.address, safe="")
        if self.proto == "ssh":
            return "docker.example.com"
        if self.proto == "embedded":
            return self.proto
        return urlsplit(self.host).netloc.rpartition("@")[2]

    @property
    def host_header(self) -> str:
        """The `Host` header: engines refuse one that holds a path."""
        return "api.moby.localhost" if self.proto == "unix" else self.authority

    def url(self, path: str) -> str:
        return "%s://%s%s%s" % ("https" if self.tls else "http", self.authority, self.prefix, path)


def parse_host(text: str, tls: bool = False) -> str:
    """Check an engine's address and bring it into its full form.

    `unix://PATH`, `tcp://HOST[:PORT][/PATH]` (default ports 2375, with `tls` 2376), `ssh://[USER@]HOST[:PORT][/PATH]`,
    `embedded://[PATH]`, or a bare `HOST:PORT`; empty means the default socket.  Raises DockerError.
    """
    text = text.strip()
    if not text:
        return "tcp://localhost:%d" % TLS_PORT if tls else DEFAULT_HOST
    proto, separator, rest = text.partition("://")
    if not separator:
        proto, rest = "tcp", text
    if proto == "unix":
        return "unix://" + (rest or DEFAULT_SOCKET)
    if proto == "embedded":
        return "embedded://" + os.path.abspath(os.path.expanduser(rest or default_root()))
    if proto == "ssh":
        return _parse_ssh_host(text)
    if proto in ("npipe", "fd"):
        raise DockerError("protocol not available")
    if proto != "tcp":
        raise DockerError("unable to resolve docker endpoint: invalid bind address format: " + text)
    return _parse_tcp_host(rest, tls)


def default_root() -> str:
    """The folder of the embedded engine, where none is named: `PYDOCK_ROOT`, or the place for a user's data."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.join("~", ".local", "share")
    return os.path.expanduser(os.environ.get("PYDOCK_ROOT") or os.path.join(data, "pydock"))


def _parse_tcp_host(rest, tls):
    wrong = "unable to resolve docker endpoint: "
    if rest.startswith("tcp://"):
        rest = rest[len("tcp://"):]
    authority, slash, path = re.match(r"[^?#]*", rest).group().partition("/")
    authority = authority.rpartition("@")[2]
    match = re.match(r"(\[[^]]*\]|[^:[]*)(?::(.*))?\Z", authority)
    bad_character = re.search(r"[\s<>\"\\^`{|}]", authority)
    if bad_character:
        raise DockerError('%sparse "tcp://%s": invalid character %s in host name' % (
            wrong, rest, go_quote(bad_character.group())))
    if "[" in authority and "]" not in authority:
        raise DockerError('%sparse "tcp://%s": missing \']\' in host' % (wrong, rest))
    host, port = match.groups() if match else ("", "")
    if not match or host.startswith("[") and (not port or not _is_ipv6(host[1:-1])):
        raise DockerError(wrong + "invalid bind address format: " + rest)   # a bracketed address names its port
    if port and not (port.isdigit() and is_ascii(port)):
        raise DockerError('%sparse "tcp://%s": invalid port ":%s" after host' % (wrong, rest, port))
    return "tcp://%s:%s%s%s" % (host or "localhost", port or (TLS_PORT if tls else TCP_PORT), slash, path)


def _is_ipv6(text):
    try:
        return bool(socket.inet_pton(socket.AF_INET6, text.partition("%")[0]))
    except OSError:
        return False


def _parse_ssh_host(text):
    try:
        parts = urlsplit(text)
        port = parts.port               # raises for a wrong one
    except ValueError:
        raise DockerError("ssh host connection is not valid: invalid SSH URL: invalid port in %s" % text)
    for wrong, reason in ((parts.password is not None, "plain-text password is not supported"),
                          (not parts.hostname, "hostname is empty"),
                          (parts.query, 'query parameters are not allowed: "%s"' % parts.query),
                          (parts.fragment, 'fragments are not allowed: "%s"' % parts.fragment),
                          ((parts.hostname or "").startswith("-") or (parts.username or "").startswith("-"),
                           "a name must not start with a dash"),
                          (port == 0, "invalid port")):
        if wrong:
            raise DockerError("ssh host connection is not valid: invalid SSH URL: " + reason)
    return text


def find_tls_files(paths, verify: bool, required=()) -> TlsSettings:
    """TLS settings from the paths of CA, certificate and key; those that do not exist count only if `required`."""
    found = []
    for path in paths:
        try:
            with open(path, "rb"):
                found.append(path)
        except FileNotFoundError as error:
            if path in required:
                raise DockerError("unable to resolve docker endpoint: " + path_error_text(error))
            found.append("")
        except OSError as error:
            raise DockerError("unable to resolve docker endpoint: " + path_error_text(error))
    return TlsSettings(*found, verify=verify)


def context_directory(directory: str, kind: str, name: str) -> str:
    """The folder of a context in the store: `kind` is `meta` or `tls`."""
    import hashlib
    return os.path.join(directory, "contexts", kind, hashlib.sha256(name.encode("utf-8")).hexdigest())


def load_context(config: ConfigFile, name: str) -> Endpoint:
    """The endpoint of a stored context; DockerError if it does not exist or cannot be used."""
    path = os.path.join(context_directory(config.directory, "meta", name), "meta.json")
    wrong = 'unable to resolve docker endpoint: context "%s": ' % name
    try:
        with open(path, encoding="utf-8") as file:
            docker = json.load(file)["Endpoints"]["docker"]
            host, skip_verify = docker["Host"] + "", bool(docker.get("SkipTLSVerify"))
    except FileNotFoundError as error:
        raise DockerError(wrong + "context not found: " + path_error_text(error))
    except OSError as error:
        raise DockerError(wrong + path_error_text(error))
    except json.JSONDecodeError as error:
        reason = go_json_error(error)
        raise DockerError("%sparsing %s: %s" % (wrong, path, reason.replace("EOF", "unexpected end of JSON input")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DockerError("unable to resolve docker endpoint: cannot find docker endpoint in context")
    folder = os.path.join(context_directory(config.directory, "tls", name), "docker")
    tls = find_tls_files([os.path.join(folder, file_name) for file_name in ("ca.pem", "cert.pem", "key.pem")],
                         not skip_verify)
    return Endpoint(parse_host(host, bool(tls.ca)), tls if tls.ca or tls.cert or skip_verify else None, name)


def resolve_endpoint(config: ConfigFile, hosts=(), context: str = "", tls: bool = None, tlsverify: bool = None,
                     tlscacert: str = "", tlscert: str = "", tlskey: str = "") -> Endpoint:
    """Decide which engine to talk to.

    `--context` (an error together with `-H`), `-H`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the configuration's
    `currentContext`, the default socket (see `find_engine` for what stands in for it), in this order.  TLS comes from
    the arguments, else from `DOCKER_TLS`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`; a context brings its own.  Raises
    DockerError.
    """
    environ = os.environ
    if context and hosts:
        raise DockerError("conflicting options: cannot specify both --host and --context")
    host = hosts[0] if hosts else environ.get("DOCKER_HOST", "")
    if not context and not host:
        context = environ.get("DOCKER_CONTEXT") or config.get("currentContext", "")
    try:
        if context and context != DEFAULT_CONTEXT:
            return load_context(config, context)
        verify = bool(environ.get("DOCKER_TLS_VERIFY")) if tlsverify is None else tlsverify
        use_tls = verify or tlsverify is not None or (bool(environ.get("DOCKER_TLS")) if tls is None else tls)
        chosen = host or context
        host = parse_host(host, use_tls)
        if not use_tls or not host.startswith("tcp://"):
            return Endpoint(host, by_default=not chosen)
        folder = environ.get("DOCKER_CERT_PATH") or default_config_directory()
        paths = [given or os.path.join(folder, name) for given, name in (
            (tlscacert, "ca.pem"), (tlscert, "cert.pem"), (tlskey, "key.pem"))]
        return Endpoint(host, find_tls_files(paths, verify, (paths[0], tlscert, tlskey)))
    except DockerError as error:
        raise DockerError("Failed to initialize: %s" % error)


# ======================================================================================================================
# 7  Transports
# ======================================================================================================================
#
#   Client            http.client              Wire                        engine
#     | request ------> head --------------------> sendall -----------------> |
#     |                 head of the answer <------ tap (buffered) <---------- |
#     | Body <----------- what the tap holds, then recv_into <--------------- |   until the body's end, then reuse
#     | Hijacked <======= the same, and sendall, close_write ===============> |   after "101 UPGRADED"
#
# The head of an answer goes through http.client, which reads through a buffer.  Whatever that buffer holds beyond the
# head belongs to the body or to the hijacked stream, so the wire lends http.client a tap that can be stopped: then the
# buffer gives up what it has without asking the socket for more.

CONNECT_TIMEOUT = 30                    # seconds
_HEAD_LIMIT = MIB                       # bytes of an answer's head


class _Tap(io.RawIOBase):
    """What http.client's buffered reader reads from: the wire, until it is stopped."""

    def __init__(self, wire):
        self.wire = wire
        self.stopped = self.at_end = False
        self.taken = 0
        self.last = b""

    def readable(self):
        return True

    def readinto(self, buffer):
        """Take bytes for the head; None, which io takes for "nothing right now", once stopped."""
        if self.stopped:
            return None
        count = self.wire.recv_into(buffer)
        self.taken += count
        self.at_end = not count
        self.last = bytes(buffer[:count]) or self.last
        if self.taken > _HEAD_LIMIT:
            raise http.client.HTTPException("the head of the answer does not end")
        return count


class Wire:
    """One connection to an engine: what http.client wants of a socket, and what streams want of it."""

    def __init__(self, sock):
        self.sock = sock
        self.tap = None

    def makefile(self, mode, *_):
        self.tap = _Tap(self)
        return io.BufferedReader(self.tap)

    def read_ahead(self, reader) -> bytes:
        """The bytes that came along with an answer's head."""
        self.tap.stopped = True
        return reader.read(len(reader.peek()))

    def recv_into(self, buffer) -> int:
        return self.sock.recv_into(buffer)

    def sendall(self, data) -> None:
        self.sock.sendall(data)

    def fileno(self) -> int:
        return self.sock.fileno()

    def answered(self, timeout: float = 0) -> bool:
        """Whether the engine has sent something that was not read yet, or closed, within `timeout` seconds."""
        return _readable(self.sock, timeout)

    def close_write(self) -> None:
        """Tell the engine that nothing more will be sent; its own stream goes on."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        """http.client's close, after an answer that ends with the connection: the body is still to be read."""

    def hang_up(self) -> None:
        self.sock.close()

    def complaint(self) -> str:
        """Why the connection broke, where the transport knows more than the socket."""
        return ""


def _readable(sock, timeout=0):
    """Whether a socket has something to read (`timeout` in seconds, None to wait for ever)."""
    import select
    if hasattr(select, "poll"):
        poll = select.poll()            # select() stops at descriptor 1023
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(timeout and timeout * 1000))
    return bool(select.select([sock], [], [], timeout)[0])


class TlsWire(Wire):
    """A wire with TLS.

    The records pass through memory and not through an SSLSocket, because only so can one direction be closed alone:
    an engine tells a clean half-close from a broken connection by the close_notify alert.
    """

    def __init__(self, sock, context, server_name, server_side=False):
        import ssl
        import threading
        super().__init__(sock)
        self._want_read, self._clean_end = ssl.SSLWantReadError, ssl.SSLZeroReturnError
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side, server_name)
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._decrypted = b""
        self._ready = False
        try:
            self._work(self._tls.do_handshake)
        except ValueError as error:     # Python 3.6's CertificateError, for a wrong name
            failure = ssl.SSLError(str(error))
            failure.reason, failure.verify_message = "CERTIFICATE_VERIFY_FAILED", str(error)
            raise failure
        self._ready = True

    def _work(self, action, *args, sends=False):
        """Run one step of the TLS machine; feed it from the socket as long as it asks.

        One thread may read while another one sends: neither lock is held while the socket makes a reader wait.
        """
        while True:
            wants = False
            try:
                with self._lock:
                    return action(*args)
            except self._want_read:
                wants = True
            finally:
                self._flush(sends or wants and not self._ready)
            data = self.sock.recv(MIB >> 2)
            with self._lock:
                if data:
                    self._received.write(data)
                else:
                    self._received.write_eof()

    def _flush(self, wait):
        """Send what the TLS machine has made; a reader leaves that to a sender that is at it."""
        if self._to_send.pending and self._sending.acquire(wait):
            try:
                with self._lock:
                    data = self._to_send.read()
                self.sock.sendall(data)
            finally:
                self._sending.release()

    def recv_into(self, buffer):
        try:
            return self._work(self._read, buffer)
        except self._clean_end:
            return 0

    def _read(self, buffer):
        if not self._decrypted:
            return self._tls.read(len(buffer), buffer)
        count = min(len(buffer), len(self._decrypted))
        buffer[:count], self._decrypted = self._decrypted[:count], self._decrypted[count:]
        return count

    def sendall(self, data):
        data = memoryview(data)
        for at in range(0, len(data), MIB):
            self._work(self._tls.write, data[at:at + MIB], sends=True)

    def answered(self, timeout=0):
        return bool(self._decrypted or self._tls.pending() or self._received.pending) or _readable(self.sock, timeout)

    def close_write(self):
        """Send the close_notify alert, and keep what has come in so far for `recv_into`."""
        with self._lock:
            # OpenSSL looks for the peer's own alert here and would drop data that it finds instead
            try:
                while True:
                    data = self._tls.read(MIB)
                    if not data:
                        break
                    self._decrypted += data
            except OSError:
                pass                    # nothing is left to read, now or for ever
            try:
                self._tls.unwrap()
            except OSError:
                pass                    # the peer's alert, which has not come yet
        self._flush(True)


class SshWire(Wire):
    """A wire whose far end is `docker system dial-stdio` in an ssh session."""

    def __init__(self, sock, child, command, errors):
        super().__init__(sock)
        self.child, self.command, self.errors = child, command, errors

    def hang_up(self):
        super().hang_up()
        if self.child.poll() is None:
            self.child.terminate()
        self.child.wait()
        self.errors.close()

    def complaint(self):
        """How the ssh session ended and what it wrote to its error output; empty while it runs."""
        import subprocess
        try:
            code = self.child.wait(5)
        except subprocess.TimeoutExpired:
            return ""
        self.errors.seek(0)
        said = self.errors.read(MIB).decode("utf-8", "replace")
        status = "exit status %d" % code if code >= 0 else "signal: %d" % -code
        return ("command [%s] has exited with %s, make sure the URL is valid, and Docker 18.09 or later is installed "
                "on the remote host: stderr=%s" % (" ".join(self.command), status, said))


def dial(endpoint: Endpoint) -> Wire:
    """Open a connection to an engine; OSError (or DockerError for a wrong certificate file) if that fails."""
    return _DIALERS[endpoint.proto](endpoint)


def find_engine(endpoint: Endpoint) -> Endpoint:
    """The endpoint itself; where nobody chose it and no engine is there, one of this user's other engines.

    That is the first of the well-known sockets at which one answers, rootless Docker's, Docker Desktop's and Podman's,
    and, if none does, the embedded engine.  A socket that is there but may not be used is no reason to go elsewhere.
    """
    if not endpoint.by_default or endpoint.proto != "unix":
        return endpoint
    paths = []
    if hasattr(socket, "AF_UNIX"):
        home, run = os.path.expanduser("~"), os.environ.get("XDG_RUNTIME_DIR") or "/run/user/%d" % os.getuid()
        paths = [endpoint.address, run + "/docker.sock", home + "/.docker/run/docker.sock",
                 home + "/.docker/desktop/docker.sock", run + "/podman/podman.sock", "/run/podman/podman.sock"]
    for path in paths:
        found = endpoint if path == endpoint.address else Endpoint("unix://" + path)
        try:
            dial(found).hang_up()
            return found
        except PermissionError:
            if found is endpoint:
                return found
        except OSError:
            pass                        # nobody is there
    return Endpoint(parse_host("embedded://"))


def _dial_unix(endpoint):
    if not hasattr(socket, "AF_UNIX"):
        raise DockerError("this system has no unix sockets: name an engine with -H tcp://HOST:PORT")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_TIMEOUT)
    try:
        sock.connect(endpoint.address)
    except BaseException:
        sock.close()
        raise
    return Wire(sock)


def _dial_tcp(endpoint):
    context = tls_context(endpoint.tls) if endpoint.tls else None
    if endpoint.address[1] > 65535:
        raise OSError("address %d: invalid port" % endpoint.address[1])
    sock = socket.create_connection(endpoint.address, CONNECT_TIMEOUT)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return TlsWire(sock, context, endpoint.address[0]) if context else Wire(sock)
    except BaseException:
        sock.close()
        raise


def tls_context(tls: TlsSettings):
    """An `ssl.SSLContext` for talking to an engine, TLS 1.2 or later; DockerError for a file that is not usable."""
    try:
        import ssl
    except ImportError:
        raise DockerError("this Python has no ssl module, which TLS needs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _refuse_old_tls(context)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.ca:
        try:
            context.load_verify_locations(tls.ca)
        except (ssl.SSLError, ValueError):
            raise DockerError("Failed to initialize: failed to retrieve context tls info: ca.pem seems invalid")
    elif tls.verify:
        context.load_default_certs()
    if tls.cert and tls.key:
        try:
            context.load_cert_chain(tls.cert, tls.key, lambda: "")      # never asks for a password
        except (ssl.SSLError, ValueError) as error:
            raise DockerError("Failed to initialize: " + _certificate_complaint(tls, error))
    return context


def _refuse_old_tls(context):
    import ssl
    if hasattr(ssl, "TLSVersion"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1      # Python 3.6


def _certificate_complaint(tls, error):
    """What is wrong with a pair of certificate and key."""
    for path, words in ((tls.cert, "failed to retrieve context tls info: tls: failed to find any PEM data in "
                         "certificate input"), (tls.key, "no valid private key found")):
        with open(path, "rb") as file:
            text = file.read()
            if b"-----BEGIN" not in text:
                return words
            if b"ENCRYPTED" in text:
                return ("private key is encrypted - support for encrypted private keys has been removed, see "
                        "https://docs.docker.com/go/deprecated/")
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return "failed to retrieve context tls info: tls: private key does not match public key"
    return "failed to retrieve context tls info: %s or %s cannot be used: %s" % (
        tls.cert, tls.key, getattr(error, "reason", None) or error)


def _dial_ssh(endpoint):
    import subprocess
    import tempfile
    host, port = endpoint.address
    command = ["ssh", "-o", "ConnectTimeout=%d" % CONNECT_TIMEOUT, "-T"]
    command += ["-l", endpoint.user] if endpoint.user else []
    command += ["-p", str(port)] if port else []
    command += ["--", host, "docker"]
    command += ["--host", "unix://" + endpoint.socket_path] if endpoint.socket_path else []
    command += ["system", "dial-stdio"]
    ours, theirs = socket.socketpair()
    errors = tempfile.TemporaryFile()
    try:
        # its own session, so that Ctrl-C at our terminal does not cut the connection before we have said goodbye
        child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=errors, start_new_session=True)
    except FileNotFoundError:
        ours.close()
        errors.close()
        raise OSError('exec: "ssh": executable file not found in $PATH')
    finally:
        theirs.close()
    return SshWire(ours, child, command, errors)


class EmbeddedWire(Wire):
    """A wire to the embedded engine, which a thread of this process serves as long as the wire is open."""

    def __init__(self, sock, thread):
        super().__init__(sock)
        self.thread = thread

    def hang_up(self):
        super().hang_up()
        self.thread.join(5)


def _dial_embedded(endpoint):
    import threading
    engine = embedded_engine(endpoint.address)          # the one look upwards in this file: section 15
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=Connection(Wire(theirs), engine).serve, daemon=True)
    thread.start()
    return EmbeddedWire(ours, thread)


_DIALERS = {"unix": _dial_unix, "tcp": _dial_tcp, "ssh": _dial_ssh, "embedded": _dial_embedded}


class _Exchange(http.client.HTTPConnection):
    """One request and the head of its answer, over a wire that is there already."""

    auto_open = 0

    def __init__(self, wire):
        super().__init__("localhost")
        self.sock = wire


class Body:
    """The body of an answer, read past http.client: framing by length, by chunks, or by the end of the connection.

    A context manager.  Each way of reading raises ConnectionFailed if the connection ends before the body does.
    `release(wire)` is called with the wire once the body has been read to its end and the wire can be used again;
    else the wire is closed.
    """

    def __init__(self, wire, response, release):
        self.status = response.status
        self.headers = response.headers
        self.response = response
        self._wire = wire
        self._release = None if response.will_close else release
        ahead = wire.read_ahead(response.fp) if response.fp else b""
        self._chunked = bool(response.chunked)
        self._left = 0 if self._chunked else response.length     # None: until the connection ends
        self._buffer = bytearray(max(RECEIVE_SIZE, len(ahead) + 4096))
        self._view = memoryview(self._buffer)
        self._buffer[:len(ahead)] = ahead
        self._held = len(ahead)         # received bytes that were not handed out yet
        self._sizes = {}                # the chunk heads seen so far; engines repeat a few sizes
        self._in_chunk = False          # a chunk has begun, and the line end behind it is to come
        self._last_head, self._last_size = b"", 0
        self._dense = False             # whether chunks are small: then copies cost less than memoryviews
        self._by_lines = True           # whether no chunk had a line break of its own so far
        self.done = not self._chunked and self._left == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Let go of the connection: keep it for the next request if the body was read whole."""
        wire, self._wire = self._wire, None
        if wire is None:
            return
        self.response.close()
        if self.done and self._release:
            wire.tap = None
            self._release(wire)
        else:
            wire.hang_up()

    def spans(self):
        """Yield for each receive the list of its pieces of payload, buffers that hold until the next one."""
        while not self.done:
            if not self._held and not self._receive():
                break
            source, window = self._buffer, self._view
            if self._dense:
                source = window = bytes(window[:self._held])
            pieces, used = (self._split if self._chunked else self._plain)(source, window, self._held)
            yield pieces
            self._keep(used)

    def blocks(self):
        """Yield for each receive its payload as bytes; best for streams of many small chunks."""
        while not self.done:
            if not self._held and not self._receive():
                break
            data = bytes(self._view[:self._held])
            pieces, used = (self._split if self._chunked else self._plain)(data, data, self._held)
            if pieces:
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._keep(used)

    __iter__ = blocks

    def read(self, limit: int = ANSWER_LIMIT) -> bytes:
        """The whole body; ConnectionFailed if it is longer than `limit` bytes."""
        parts, size = [], 0
        for block in self.blocks():
            parts.append(block)
            size += len(block)
            if size > limit:
                raise ConnectionFailed("the engine's answer is longer than %d bytes" % limit)
        return b"".join(parts)

    def copy_to(self, descriptor: int) -> int:
        """Write the body to a file descriptor; the number of bytes. OSError from writing passes through."""
        if _splices(self._wire, descriptor):
            return self._splice_to(descriptor)
        total = 0
        for pieces in self.spans():
            total += write_pieces(descriptor, pieces)
        return total

    def _splice_to(self, descriptor):
        """`copy_to` for a pipe: the kernel hands large chunks from the socket to the pipe without copying them."""
        total, sock = 0, self._wire.fileno()
        again, size = b"", 0            # the line end of a chunk and a head like the last one; that one's size
        unread = not self._held         # whether all that came has been looked at
        while not self.done:
            wanted = MIB if self._left is None else self._left
            if wanted and not self._held:
                self._wire.answered(None)   # splice keeps who reads our pipe from it for as long as it waits
                try:
                    count = os.splice(sock, descriptor, wanted)
                except OSError as error:
                    if error.errno in (errno.EPIPE, errno.EAGAIN):
                        raise
                    raise ConnectionFailed("the connection broke: " + os_error_text(error))
                if not count and self._left is not None:
                    raise ConnectionFailed("unexpected EOF")
                total += count
                if self._left is None:
                    self.done = not count
                else:
                    self._left -= count
                    self.done = not self._left and not self._chunked
                continue
            # no more than a head as long as the last one and its line ends, so that the payload stays in the socket
            if unread and not self._receive(len(again) or 8):
                break
            unread = True
            if self._held == len(again) and self._buffer.startswith(again):
                self._left, self._held = size, 0
                continue
            pieces, used = (self._split if self._chunked else self._plain)(self._buffer, self._view, self._held)
            total += write_pieces(descriptor, pieces)
            rest = self._held - used
            self._buffer[:rest] = self._buffer[used:self._held]
            self._held = rest
            if self._in_chunk and not rest:
                size = self._last_size
                again = b"\r\n%s\r\n" % self._last_head
        return total

    # -- framing -------------------------------------------------------------------------------------------------------

    def _receive(self, most=None):
        """Take more from the wire (`most` bytes at the most), behind what is held; 0 at a rightful end."""
        try:
            count = self._wire.recv_into(self._view[self._held:most and self._held + most])
        except OSError as error:
            raise ConnectionFailed("the connection broke: " + os_error_text(error))
        if count:
            self._held += count
        elif self._left is None and not self._chunked:
            self.done = True
        else:
            raise ConnectionFailed("unexpected EOF")
        return count

    def _keep(self, used):
        """Move what was not used, a chunk head cut in two, to the front, and take in its rest."""
        rest = self._held - used
        if rest:
            self._buffer[:rest] = self._buffer[used:self._held]
        self._held = rest
        if rest and not self.done:
            self._receive()

    def _plain(self, source, window, held):
        count = held if self._left is None else min(held, self._left)
        if self._left is not None:
            self._left -= count
            self.done = not self._left
        return [window[:count]], count

    def _split(self, source, window, held):
        """Take the chunks out of the first `held` bytes: (pieces of payload, bytes used).

        `source` is searched, and `window`, over the same bytes, is sliced.
        """
        pieces, at, sizes, find, left = [], 0, self._sizes, source.find, self._left
        add = pieces.append
        while True:
            if left:
                end = at + left
                if end > held:
                    add(window[at:held])
                    left, at = end - held, held
                    break
                add(window[at:end])
                at, left = end, 0
            if self._in_chunk:
                if held - at < 2:
                    break
                if source[at] != 13 or source[at + 1] != 10:
                    raise ConnectionFailed("malformed chunked encoding")
                at += 2
                self._in_chunk = False
            if self._dense and self._by_lines and window is source:
                at = self._split_lines(source, at, pieces)
            line_end = find(b"\r\n", at, held)
            if line_end < 0:
                if held - at > 4096:
                    raise ConnectionFailed("header line too long")
                break
            head = bytes(source[at:line_end])
            size = sizes.get(head)
            if size is None:
                size = sizes[head] = self._chunk_size(head)
            if not size:
                at = self._trailer(source, at, line_end, held)
                break
            at, left = line_end + 2, size
            self._in_chunk = True
            self._last_head, self._last_size = head, size
        self._left, self._dense = left, len(pieces) > 64
        return pieces, at

    def _split_lines(self, data, at, pieces):
        """Take whole chunks from `at` on, fast, as long as no payload holds a line break; how far that went."""
        lines, sizes = data[at:].split(b"\r\n"), self._sizes
        count = (len(lines) - 1) // 2 * 2
        heads, found = lines[0:count:2], lines[1:count:2]
        new = set(heads).difference(sizes)
        if all(re.match(rb"[0-9a-fA-F]{1,8}\Z", head) for head in new):
            sizes.update((head, int(head, 16)) for head in new)
            wanted = list(map(sizes.__getitem__, heads))
            if wanted and not wanted[-1]:           # the last chunk of all
                del heads[-1], found[-1], wanted[-1]
            if list(map(len, found)) == wanted:
                pieces += found
                return at + sum(map(len, heads)) + sum(wanted) + 4 * len(heads)
        self._by_lines = False
        return at

    def _chunk_size(self, head):
        digits = head.partition(b";")[0].strip()
        if not re.match(rb"[0-9a-fA-F]{1,15}\Z", digits):
            raise ConnectionFailed("invalid byte in chunk length" if digits else "unexpected EOF")
        if len(self._sizes) > 4096:
            self._sizes.clear()
        return int(digits, 16)

    def _trailer(self, source, at, line_end, held):
        """The last chunk is at `at`; finished if the empty line behind the trailer has come, too."""
        if source[line_end + 2:line_end + 4] == b"\r\n" and line_end + 4 <= held:
            self.done = True
            return line_end + 4
        end = source.find(b"\r\n\r\n", line_end, held)
        if end >= 0:
            self.done = True
            return end + 4
        if held - at > 65536:
            raise ConnectionFailed("header line too long")
        return at


def _splices(wire, descriptor):
    """Whether os.splice works from a wire to a descriptor, and pays: into a pipe, which is made as large as allowed."""
    import stat
    if not hasattr(os, "splice") or isinstance(wire, TlsWire) or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return False
    import fcntl
    try:
        fcntl.fcntl(descriptor, 1031, MIB)      # F_SETPIPE_SZ
    except OSError:
        pass                            # it stays as large as it is
    return not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK


def write_pieces(descriptor: int, pieces) -> int:
    """Write several buffers to a file descriptor, whole, with as few calls as possible; the number of bytes."""
    total = sum(map(len, pieces))
    if not hasattr(os, "writev"):
        pieces = [b"".join(pieces)]
    for at in range(0, len(pieces), 512):
        group = pieces[at:at + 512]
        size = sum(map(len, group))
        try:
            written = os.writev(descriptor, group) if len(group) > 1 else os.write(descriptor, group[0])
        except BlockingIOError:
            written = 0                 # somebody made our output non-blocking: the slow way below
        if written < size:
            write_all(descriptor, b"".join(group)[written:])
    return total


def write_all(descriptor: int, data) -> None:
    """Write all of `data`, also where the descriptor was made non-blocking by whoever shares it."""
    data = memoryview(data)
    while len(data):
        try:
            data = data[os.write(descriptor, data):]
        except BlockingIOError:
            import select
            select.select([], [descriptor], [])


def send_body(wire: Wire, source, length: int = None) -> bool:
    """Send a request's body and return True, or False if the engine answered before it had all of it.

    `source` is an open binary file, or an iterable of bytes and of (descriptor, offset, length), stretches of plain
    files; `length` is its size in bytes where it is known, else the body is sent in chunks.  What is a plain file
    goes out by `sendfile` where the wire allows it.
    """
    if length is not None and hasattr(source, "fileno") and _sends_files(wire):
        return _send_file(wire, source.fileno(), source.tell(), length)
    blocks = _file_blocks(wire, source) if hasattr(source, "read") else source
    for block in blocks:
        if wire.answered():
            return False
        if isinstance(block, tuple):
            if not _send_stretch(wire, *block):
                return False
        elif length is None:
            if block:
                wire.sendall(b"%x\r\n" % len(block))
                wire.sendall(block)
                wire.sendall(b"\r\n")
        else:
            if len(block) > length:
                block = block[:length]
            length -= len(block)
            wire.sendall(block)
            if not length:
                break
    if length is None:
        wire.sendall(b"0\r\n\r\n")
    elif length:
        raise DockerError("the file became shorter while it was sent")
    return True


def _file_blocks(wire, source):
    """The blocks of a file or pipe; an empty one when the engine answers while a pipe has nothing to say."""
    read = getattr(source, "read1", source.read)
    try:
        descriptor = source.fileno()
        waits = not os.path.isfile("/dev/fd/%d" % descriptor)
    except (OSError, AttributeError, io.UnsupportedOperation):
        waits = False
    while True:
        if waits:
            import select
            if wire in select.select([descriptor, wire], [], [])[0]:
                yield b""
        block = read(MIB >> 2)
        if not block:
            return
        yield block


def _sends_files(wire):
    return type(wire) is Wire and hasattr(os, "sendfile")


def _send_stretch(wire, descriptor, offset, length):
    """`send_body` for a part of a plain file: one chunk."""
    wire.sendall(b"%x\r\n" % length)
    if _sends_files(wire):
        if not _send_file(wire, descriptor, offset, length):
            return False
    else:
        os.lseek(descriptor, offset, os.SEEK_SET)
        while length:
            block = os.read(descriptor, min(length, MIB >> 2))
            if not block:
                raise DockerError("the file became shorter while it was sent")
            wire.sendall(block)
            length -= len(block)
    wire.sendall(b"\r\n")
    return True


def _send_file(wire, descriptor, offset, length):
    """`send_body` for a plain file over a plain socket: the kernel copies it."""
    import select
    sock = wire.sock
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    patience = sock.gettimeout()
    sock.setblocking(False)
    try:
        while length:
            if poll.poll()[0][1] & (select.POLLIN | select.POLLERR | select.POLLHUP):
                return False
            try:
                sent = os.sendfile(sock.fileno(), descriptor, offset, min(length, 1 << 30))
            except BlockingIOError:
                continue
            if not sent:
                raise DockerError("the file became shorter while it was sent")
            offset += sent
            length -= sent
    finally:
        sock.settimeout(patience)
    return True


# ======================================================================================================================
# 8  Client
# ======================================================================================================================

_MESSAGE_LIMIT = 64 * MIB               # one JSON message of a stream


class JsonStream:
    """The JSON objects of a stream (API: progress of pull, push, load, build; events; stats).

    Objects may be glued together or cut anywhere.  Iterating yields dicts and raises StreamFailed at an
    `errorDetail`, ConnectionFailed where the stream is cut or is no JSON.  A context manager.
    """

    def __init__(self, body: Body):
        self.body = body
        self._pending = b""
        self._scan = json.JSONDecoder().scan_once

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.body.close()

    def __iter__(self):
        for batch in self.batches():
            for message in batch:
                check_message(message)
                yield message

    def batches(self, skip=None):
        """Yield, for each receive, the list of its objects.  `skip(line)` may name raw lines not worth decoding."""
        for block in self.body.blocks():
            batch = []
            self._pending = self._take(self._pending + block if self._pending else block, batch, skip)
            if len(self._pending) > _MESSAGE_LIMIT:
                raise ConnectionFailed("a message of the engine's does not end within %d bytes" % _MESSAGE_LIMIT)
            if batch:
                yield batch
        self.body.close()
        if self._pending.strip():
            self._take_slowly(self._pending, [], last=True)

    def _take(self, data, batch, skip):
        """Append the objects in `data`, one a line as engines send them, to `batch`; returns the unfinished rest."""
        lines = data.split(b"\n")
        rest = lines.pop()
        scan = self._scan
        for i, line in enumerate(lines):
            if line in (b"", b"\r") or skip and skip(line):
                continue
            text = line.decode("utf-8", "surrogateescape")
            try:
                value, end = scan(text, 0)
            except (StopIteration, ValueError):
                end = -1
            if end < len(text) and (end < 0 or text[end:] != "\r") or not isinstance(value, dict):
                return self._take_slowly(b"\n".join(lines[i:] + [rest]), batch)
            batch.append(value)
        # an engine that ends its messages with no line break: take what is complete
        return self._take_slowly(rest, batch) if rest.endswith(b"}") else rest

    def _take_slowly(self, data, batch, last=False):
        """The same for objects that are glued together or spread over lines; `last`: no more data will come."""
        text, at = data.decode("utf-8", "surrogateescape"), 0
        while True:
            at = len(text) - len(text[at:].lstrip(" \t\r\n\x1e"))
            if at == len(text):
                return b""
            try:
                value, end = self._scan(text, at)
            except StopIteration:
                error = json.JSONDecodeError("Expecting value", text, at)
            except ValueError as caught:
                error = caught
            else:
                if not isinstance(value, dict):
                    raise ConnectionFailed("the engine's stream holds %s where a message was expected" % text[at:end])
                batch.append(value)
                at = end
                continue
            unfinished = text[at] == "{" and (len(text) - error.pos < 8 or "Unterminated" in error.msg)
            if last and not text[error.pos:].strip() or last and "Unterminated" in error.msg:
                raise ConnectionFailed("unexpected EOF")
            if last or not unfinished:
                raise ConnectionFailed(go_json_error(error))
            return text[at:].encode("utf-8", "surrogateescape")


def check_message(message: dict) -> None:
    """Raise StreamFailed if a message of a stream reports an error."""
    detail = message.get("errorDetail")
    if detail is None and isinstance(message.get("error"), str) and message["error"]:
        detail = {"message": message["error"]}
    if detail is not None:
        code, words = 0, str(detail)
        if isinstance(detail, dict):
            words = str(detail.get("message") or message.get("error") or "")
            code = detail.get("code") if isinstance(detail.get("code"), int) else 0
        raise StreamFailed("authentication is required" if code == 401 and not words else words, code)


class Hijacked:
    """A connection that has left HTTP: a byte stream both ways, closed by `close` or at the end of a `with`.

    `content_type` is what the engine announced: `application/vnd.docker.multiplexed-stream` or a raw stream.
    """

    def __init__(self, wire, ahead, content_type):
        self.wire = wire
        self.content_type = content_type
        self._ahead = ahead

    def recv_into(self, buffer) -> int:
        """Receive into a writable buffer; 0 at the end of the stream."""
        if self._ahead:
            count = min(len(buffer), len(self._ahead))
            buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
            return count
        return self.wire.recv_into(buffer)

    def recv(self, size: int = MIB >> 2) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[:self.recv_into(buffer)])

    def spans(self, patience: float = None):
        """Yield what each receive brings as a list of one memoryview, which holds until the next one.

        With `patience`, in seconds, it looks up so often, for a signal may come just when the wait begins.
        """
        buffer = memoryview(bytearray(RECEIVE_SIZE))
        while True:
            while patience and not self.readable(patience):
                pass
            try:
                count = self.recv_into(buffer)
            except OSError as error:
                raise ConnectionFailed("the connection broke: " + os_error_text(error))
            if not count:
                return
            yield [buffer[:count]]

    def readable(self, timeout: float = 0) -> bool:
        """Whether `recv` would return at once, `timeout` seconds from now at the latest."""
        return bool(self._ahead) or self.wire.answered(timeout)

    def sendall(self, data) -> None:
        self.wire.sendall(data)

    def close_write(self) -> None:
        """End our side: the process on the other end reads the end of its input, and may go on writing."""
        self.wire.close_write()

    def fileno(self) -> int:
        return self.wire.fileno()

    def abort(self) -> None:
        """End both directions, so that a thread that receives or sends comes back; `close` is still due."""
        try:
            self.wire.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass                        # the other end was faster

    def close(self) -> None:
        self.wire.hang_up()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Ending:
    """What the engine will say of a container's end; a context manager.

    `body` is its answer, or events up to `last`.
    """

    def __init__(self, body: Body, last: str = ""):
        self.body, self.last = body, last

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.body.close()

    def status(self) -> int:
        """Wait for it: the exit status; DockerError if the engine does not know or has gone."""
        status = 0
        with self:
            for message in JsonStream(self.body):
                if not self.last:
                    if (message.get("Error") or {}).get("Message"):
                        raise DockerError(message["Error"]["Message"])
                    return message.get("StatusCode") or 0
                if message.get("status") == "die":
                    status = int(((message.get("Actor") or {}).get("Attributes") or {}).get("exitCode") or 0)
                if message.get("status") == self.last:
                    return status
        raise ConnectionFailed("unexpected EOF")


def version_tuple(version: str) -> tuple:
    """`1.41` as (1, 41), for comparison; parts that are no numbers count as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def encode_filters(filters) -> str:
    """A filter map, {name: [values]}, as the API's JSON: `{"label":{"a=b":true}}`; empty for none."""
    return compact_json({name: {value: True for value in filters[name]} for name in sorted(filters)}) if filters else ""


def platform_json(platform: str) -> str:
    """`linux/arm64/v8` as the JSON object that later endpoints take; empty for none; DockerError for a wrong one."""
    if not platform:
        return ""
    try:
        names = dict(zip(("os", "architecture", "variant"), normal_platform(platform).split("/")))
    except DockerError as error:
        raise DockerError("invalid platform: %s" % error)
    return compact_json({name: names[name] for name in ("architecture", "os", "variant") if name in names})


_HUNG_UP = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class Client:
    """The Engine API: `call` for an answer, `stream` for a body, `hijack` for a connection, a method per endpoint.

    The API version is negotiated by the first request.  Connections are kept alive and reused; `close`, or the end of
    a `with`, closes them; threads may share a client.  Every method raises ApiError if the engine refuses,
    ConnectionFailed if there is none.

    `endpoint` is an Endpoint, an address such as `tcp://build1:2375`, or None for what the environment says;
    `headers` go with every request; `version` pins the API version; `timeout` bounds every wait for the engine, in
    seconds; `trace`, a callable, is told one line a request.
    """

    def __init__(self, endpoint=None, headers: dict = None, version: str = "", timeout: float = None, trace=None):
        if endpoint is None:
            endpoint = find_engine(resolve_endpoint(ConfigFile.load()))
        elif isinstance(endpoint, str):
            endpoint = Endpoint(parse_host(endpoint))
        if endpoint.error:
            raise endpoint.error
        self.endpoint = endpoint
        self.headers = dict(headers or ())
        self.timeout = timeout
        self.trace = trace
        self.pinned = (version or os.environ.get("DOCKER_API_VERSION", "")).lstrip("v")
        self.engine = {}                # what the ping said: api_version, os_type, builder_version, experimental, swarm
        self.ping_failure = None        # why no version could be negotiated
        self._version = self.pinned
        self._idle = {}                 # "wire": the connection that waits for the next request, if one does

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def another(self) -> "Client":
        """A client of the same engine with connections of its own, for a thread or a signal handler."""
        return Client(self.endpoint, self.headers, self.api_version)

    def close(self) -> None:
        while self._idle:
            self._idle.popitem()[1].hang_up()

    # -- requests ------------------------------------------------------------------------------------------------------

    @property
    def api_version(self) -> str:
        """The version in use: the engine's or ours, whichever is lower."""
        if not self._version:
            self._negotiate()
        return self._version

    @property
    def os_type(self) -> str:
        """The engine's operating system, as its ping names it; empty if there was none."""
        return self.engine.get("os_type", "") if self.api_version else ""

    def at_least(self, version: str) -> bool:
        """Whether the version in use is `version` or later."""
        return version_tuple(self.api_version) >= version_tuple(version)

    def require(self, what: str, version: str) -> None:
        """DockerError if the engine is too old for `what`."""
        if not self.at_least(version):
            raise DockerError("%s requires API version %s, but the Docker daemon API version is %s" % (
                what, version, self.api_version))

    def _negotiate(self):
        """Ping (HEAD, then GET for engines and proxies that refuse it) and settle on a version.

        Without a connection the own version stands, and the request itself will say what is wrong.
        """
        for method in ("HEAD", "GET"):
            try:
                with self._exchange(method, "/_ping", {}, None, None, PING_TIMEOUT) as answer:
                    found, status = answer.headers, answer.status
                    if status in (200, 500):
                        answer.read(ERROR_BODY_LIMIT)
                        break
            except ConnectionFailed as error:
                self._version = API_VERSION
                self.ping_failure = error
                return
        else:
            self._version = API_VERSION
            return
        self.engine = {"api_version": found.get("Api-Version", ""), "os_type": found.get("Ostype", ""),
                       "builder_version": found.get("Builder-Version", ""), "swarm": found.get("Swarm"),
                       "experimental": found.get("Docker-Experimental", "").lower() == "true"}
        theirs = self.engine["api_version"]
        if not theirs:
            theirs = self._version_of_old_engine() if status == 200 else API_VERSION
        self._version = min(theirs, API_VERSION, key=version_tuple)

    def _version_of_old_engine(self):
        """Engines before 1.13 name no version in their ping, but in their answer to /version."""
        try:
            with self._exchange("GET", "/version", {}, None, None, PING_TIMEOUT) as answer:
                return str(json.loads(answer.read(ERROR_BODY_LIMIT).decode("utf-8"))["ApiVersion"])
        except (ConnectionFailed, ValueError, KeyError, TypeError):
            return API_WITHOUT_HEADER

    def call(self, method: str, path: str, query: dict = None, body=None, headers: dict = None, expect=None):
        """One request; its answer decoded from JSON, or None if there is none.

        `path` begins behind the version; `query` values that are None or empty lists are left out, lists repeat;
        `body` is sent as JSON.  With `expect` (dict or list) another kind of answer raises ConnectionFailed, and
        `null` gives an empty one.
        """
        with self.stream(method, path, query, body, headers) as answer:
            data = answer.read()
        if not data.strip() and expect is None:
            return None
        try:
            value = json.loads(data.decode("utf-8", "replace"))
        except ValueError as error:
            raise ConnectionFailed(go_json_error(error))
        except RecursionError:
            raise ConnectionFailed("exceeded max depth")
        if expect and not isinstance(value, expect):
            if value is None:
                return expect()
            raise ConnectionFailed("the engine answered %s %s with JSON of type %s where %s was expected" % (
                method, path, json_kind(value), json_kind(expect())))
        if expect is list and not all(isinstance(item, dict) for item in value):
            raise ConnectionFailed("the engine answered %s %s with a list that holds more than objects" % (
                method, path))
        return value

    def text(self, path: str, query: dict = None) -> str:
        """A GET whose answer is wanted as the engine wrote it, byte for byte."""
        with self.stream("GET", path, query) as answer:
            return answer.read().decode("utf-8", "surrogateescape")

    def stream(self, method: str, path: str, query: dict = None, body=None, headers: dict = None,
               length: int = None) -> Body:
        """One request; its answer's Body, to be read and closed.

        `body` is an object for JSON, or an open binary file or an iterable of bytes, of `length` bytes if known.
        """
        answer = self._exchange(method, self._target(path), query, body, headers, self.timeout, length)
        if method != "GET" and answer.status in (301, 302, 303, 307, 308):
            answer.close()
            raise ConnectionFailed('error during connect: %s "%s": unexpected redirect in response' % (
                method.title(), answer.headers.get("Location", "")))
        if answer.status >= 400:
            with answer:
                raise self._refusal(answer, method, path, query)
        return answer

    def hijack(self, path: str, query: dict = None, body=None) -> Hijacked:
        """POST and take over the connection (API: attach, exec start): both sides then speak the stream's own bytes."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        if body is None:
            headers["Content-Type"] = "text/plain"
        wire, response = self._converse("POST", self._target(path), query, body, headers, self.timeout, fresh=True)
        kind = response.headers.get("Content-Type", "")
        if response.status == 101 or response.status == 200 and "vnd.docker" in kind:
            return Hijacked(wire, wire.read_ahead(response.fp), kind)
        with Body(wire, response, None) as answer:
            if answer.status < 400:
                raise ConnectionFailed("unable to upgrade to tcp, received %d" % answer.status)
            raise self._refusal(answer, "POST", path, query)

    def _target(self, path):
        return "/v%s%s" % (self.api_version, path)

    def _exchange(self, method, path, query, body, headers, timeout, length=None):
        wire, response = self._converse(method, path, query, body, headers, timeout, length)
        return Body(wire, response, self._keep)

    def _keep(self, wire):
        if self._idle.setdefault("wire", wire) is not wire:
            wire.hang_up()

    def _converse(self, method, path, query, body, headers, timeout, length=None, fresh=False):
        """Send a request and read the head of its answer: (wire, http.client's response).

        A kept connection that the engine has closed meanwhile is no error: the request goes out on a new one.
        """
        url = _with_query(path, query)
        while True:
            wire = None
            try:
                wire = None if fresh else self._idle.pop("wire", None)
                reused = wire is not None and not wire.answered()
                if wire and not reused:
                    wire.hang_up()
                if not reused:
                    wire = dial(self.endpoint)
                wire.sock.settimeout(timeout)
                response = self._talk(wire, method, url, body, headers, length)
            except (OSError, http.client.HTTPException) as error:
                failure = self._failure(method, url, error, wire)
                if wire:
                    wire.hang_up()
                if wire and reused and method in ("GET", "HEAD") and isinstance(error, _HUNG_UP):
                    continue
                raise failure
            except BaseException:
                if wire:
                    wire.hang_up()
                raise
            if self.trace:
                self.trace("%s %s: %d" % (method, url, response.status))
            return wire, response

    def _talk(self, wire, method, url, body, headers, length):
        exchange = _Exchange(wire)
        head = {"User-Agent": "pydock/%s (%s)" % (__version__, sys.platform)}
        content = None
        if body is None:
            if method in ("POST", "PUT"):
                head["Content-Length"] = "0"
        elif hasattr(body, "read") or not isinstance(body, (dict, list, str)):
            head.update({"Content-Length": str(length)} if length is not None else {"Transfer-Encoding": "chunked"})
        else:
            content = compact_json(body).encode("utf-8", "surrogatepass") + b"\n"
            head.update({"Content-Type": JSON_TYPE, "Content-Length": str(len(content))})
            body = None
        head.update(headers or ())
        ours = {name.lower() for name in head} | {"host"}
        head.update((name, value) for name, value in self.headers.items() if name.lower() not in ours)
        exchange.putrequest(method, self.endpoint.prefix + url, skip_host=True, skip_accept_encoding=True)
        exchange.putheader("Host", self.endpoint.host_header)
        try:
            for name, value in head.items():
                exchange.putheader(name, value)
        except (ValueError, UnicodeEncodeError):
            raise DockerError("net/http: invalid header field %s" % go_quote(name))
        broken = None
        try:
            exchange.endheaders(content)
            if body is not None:
                send_body(wire, body, length)
        except (BrokenPipeError, ConnectionResetError) as error:
            broken = error              # the engine may have said why before it closed
        try:
            response = exchange.getresponse()
        except (OSError, http.client.HTTPException):
            if broken:
                raise broken
            raise
        if wire.tap.at_end or response.headers.defects:
            line = wire.tap.last.rpartition(b"\n")[2].decode("latin-1")
            raise http.client.HTTPException(
                "unexpected EOF" if not line and wire.tap.at_end else "malformed MIME header" + (
                    ": missing colon: " + go_quote(line) if line and ":" not in line else ""))
        return response

    # -- endpoints -----------------------------------------------------------------------------------------------------

    def ping(self) -> dict:
        """What the engine's ping says: `api_version`, `os_type`, `builder_version`, `experimental`, `swarm`."""
        self._negotiate()
        return self.engine

    def version(self) -> dict:
        """GET /version."""
        return self.call("GET", "/version", expect=dict)

    def info(self) -> dict:
        """GET /info."""
        with self.stream("GET", "/info") as answer:
            try:
                return dict(json.loads(answer.read().decode("utf-8", "replace")) or {})
            except (ConnectionFailed, ValueError, TypeError) as error:
                reason = go_json_error(error) if isinstance(error, json.JSONDecodeError) else error
                raise ApiError(answer.status, "", "Error reading remote info: %s" % reason)

    def containers(self, all: bool = False, limit: int = 0, size: bool = False, filters: dict = None) -> list:
        """GET /containers/json; `filters` is {name: [values]}, `limit` the number of newest ones, 0 for no limit."""
        return self.call("GET", "/containers/json", {
            "all": "1" if all else None, "limit": limit or None, "size": "1" if size else None,
            "filters": encode_filters(filters) or None}, expect=list)

    def images(self, all: bool = False, filters: dict = None) -> list:
        """GET /images/json."""
        return self.call("GET", "/images/json", {
            "all": "1" if all else None, "filters": encode_filters(filters) or None}, expect=list)

    def inspect(self, kind: str, name: str, query: dict = None) -> str:
        """The engine's own JSON text of one object; `kind` is `container`, `image`, `network`, `volume`, …"""
        return self.text(_path_of(kind, name, "/json" if kind in ("container", "image", "plugin") else ""), query)

    def inspect_container(self, name: str) -> dict:
        """GET /containers/NAME/json."""
        return json.loads(self.inspect("container", name))

    @staticmethod
    def _container(name, action=""):
        """The path of an endpoint for one container."""
        if not name.strip():
            raise DockerError("invalid container name or ID: value is empty")
        return "/containers/%s%s" % (name.strip(), action)

    def stop(self, container: str, timeout: int = None, signal: str = "") -> None:
        """POST /containers/NAME/stop: a signal, then, after `timeout` seconds, SIGKILL; no signal before API 1.42."""
        self.call("POST", self._container(container, "/stop"), {
            "t": timeout, "signal": signal if signal and self.at_least("1.42") else None})

    def restart(self, container: str, timeout: int = None, signal: str = "") -> None:
        """POST /containers/NAME/restart; `timeout` and `signal` as for `stop`."""
        self.call("POST", self._container(container, "/restart"), {
            "t": timeout, "signal": signal if signal and self.at_least("1.42") else None})

    def kill(self, container: str, signal: str = "") -> None:
        """POST /containers/NAME/kill: send a signal, SIGKILL if none is named."""
        self.call("POST", self._container(container, "/kill"), {"signal": signal or None})

    def pause(self, container: str) -> None:
        """POST /containers/NAME/pause."""
        self.call("POST", self._container(container, "/pause"))

    def unpause(self, container: str) -> None:
        """POST /containers/NAME/unpause."""
        self.call("POST", self._container(container, "/unpause"))

    def wait(self, container: str) -> int:
        """POST /containers/NAME/wait: the exit status, once the container has ended."""
        return self.call("POST", self._container(container, "/wait"), expect=dict).get("StatusCode") or 0

    def rename(self, container: str, name: str) -> None:
        """POST /containers/NAME/rename."""
        self.call("POST", self._container(container, "/rename"), {"name": name})

    def remove_container(self, container: str, force: bool = False, v: bool = False, link: bool = False) -> None:
        """DELETE /containers/NAME; `v`: and its anonymous volumes; `link`: the link of that name alone."""
        if not container.strip("/"):
            raise DockerError("container name cannot be empty")
        self.call("DELETE", self._container(container.strip("/")), {
            "force": "1" if force else None, "v": "1" if v else None, "link": "1" if link else None})

    def top(self, container: str, ps_args: str = None) -> dict:
        """GET /containers/NAME/top: the container's processes as ps shows them, `Titles` and `Processes`."""
        return self.call("GET", self._container(container, "/top"), {"ps_args": ps_args}, expect=dict)

    def diff(self, container: str) -> list:
        """GET /containers/NAME/changes: each `Path` that was changed (`Kind` 0), added (1) or deleted (2)."""
        return self.call("GET", self._container(container, "/changes"), expect=list)

    def export(self, container: str) -> Body:
        """GET /containers/NAME/export: a tar archive of the container's files."""
        return self.stream("GET", self._container(container, "/export"))

    def commit(self, container: str, repository: str = "", tag: str = "", message: str = "", author: str = "",
               changes=(), pause: bool = True) -> str:
        """POST /commit: make an image of a container; its ID.  `changes` are lines of a Dockerfile."""
        self._container(container)      # for its check
        query = {"container": container.strip(), "repo": repository, "tag": tag, "comment": message, "author": author,
                 "changes": list(changes), "pause": None if pause else "0"}
        try:
            made = self.call("POST", "/commit", query, expect=dict)
        except ApiError as error:
            if "EOF" not in error.message:
                raise
            made = self.call("POST", "/commit", query, {}, expect=dict)     # podman misses a body
        return made.get("Id") or ""

    def import_image(self, source, name: str = "", message: str = "", changes=(), platform: str = "") -> JsonStream:
        """POST /images/create: make an image, named with or without a tag, of a tar archive's files; the progress.

        `source` is an address that the engine fetches, or an open binary file or iterable of bytes.
        """
        sent = not isinstance(source, str)
        return JsonStream(self.stream("POST", "/images/create", {
            "fromSrc": "-" if sent else source, "repo": name or None, "message": message or None,
            "changes": list(changes), "platform": platform.lower() or None},
            body=source if sent else None, headers={"Content-Type": "text/plain"} if sent else None))

    def history(self, image: str, platform: str = "") -> list:
        """GET /images/NAME/history: the layers of an image, the newest first."""
        query = {"platform": platform_json(platform) or None}
        return self.call("GET", "/images/%s/history" % image, query, expect=list)

    def inspect_image(self, name: str) -> dict:
        """GET /images/NAME/json."""
        return json.loads(self.inspect("image", name))

    def create_container(self, config: dict, name: str = "", platform: str = "") -> dict:
        """POST /containers/create: `config` with its `HostConfig` and `NetworkingConfig`; `Id` and `Warnings`."""
        return self.call("POST", "/containers/create", {"name": name or None, "platform": platform or None}, config,
                         expect=dict)

    def update_container(self, container: str, config: dict) -> dict:
        """POST /containers/NAME/update: new limits and restart policy; `Warnings`."""
        return self.call("POST", "/containers/%s/update" % container, body=config, expect=dict)

    def pull(self, name: str, tag: str = "", auth_config: AuthConfig = None, platform: str = "") -> JsonStream:
        """POST /images/create: pull one tag or digest, or every tag where `tag` is empty; the progress messages."""
        return JsonStream(self.stream("POST", "/images/create", {
            "fromImage": name, "tag": tag or None, "platform": platform or None}, headers=_auth_header(auth_config)))

    def push(self, name: str, tag: str = "", auth_config: AuthConfig = None, platform: str = "") -> JsonStream:
        """POST /images/NAME/push: one tag, or every one where `tag` is empty; the progress messages."""
        return JsonStream(self.stream("POST", "/images/%s/push" % name, {
            "tag": tag or None, "platform": platform_json(platform) or None}, headers=_auth_header(auth_config)))

    def login(self, auth: AuthConfig) -> dict:
        """POST /auth: check credentials; `Status`, and `IdentityToken` where the registry gives one."""
        return self.call("POST", "/auth", body=auth.to_json(), expect=dict)

    def search(self, term: str, limit: int = 0, filters: dict = None, auth_config: AuthConfig = None) -> list:
        """GET /images/search: the repositories of a registry whose name holds `term`."""
        return self.call("GET", "/images/search", {
            "term": term, "limit": limit or None, "filters": encode_filters(filters) or None},
            headers=_auth_header(auth_config), expect=list)

    def tag(self, image: str, repository: str, tag: str) -> None:
        """POST /images/NAME/tag."""
        self.call("POST", "/images/%s/tag" % image, {"repo": repository, "tag": tag})

    def remove_image(self, image: str, force: bool = False, noprune: bool = False, platforms=()) -> list:
        """DELETE /images/NAME; what was `Untagged` and `Deleted`."""
        return self.call("DELETE", "/images/%s" % image, {
            "force": "1" if force else None, "noprune": "1" if noprune else None,
            "platforms": [platform_json(platform) for platform in platforms]}, expect=list)

    def get_images(self, names, platform: str = "") -> Body:
        """GET /images/get: a tar archive of the named images."""
        return self.stream("GET", "/images/get", {
            "names": list(names), "platform": platform_json(platform) or None})

    def load_image(self, source, length: int = None, quiet: bool = False, platform: str = "") -> Body:
        """POST /images/load: send a tar archive, an open binary file or iterable of bytes; the answer's Body."""
        return self.stream("POST", "/images/load", {
            "quiet": "1" if quiet else "0", "platform": platform_json(platform) or None},
            body=source, headers={"Content-Type": TAR_TYPE}, length=length)

    def start(self, container: str, checkpoint: str = "", checkpoint_dir: str = "") -> None:
        """POST /containers/NAME/start."""
        self.call("POST", self._container(container, "/start"), {
            "checkpoint": checkpoint or None, "checkpoint-dir": checkpoint_dir or None})

    def ending(self, container: str, condition: str = "") -> Ending:
        """POST /containers/NAME/wait, answered as soon as the engine waits: to be asked before the container starts.

        `condition` is `not-running` (what the engine takes for none), `next-exit` or `removed`.
        """
        if self.at_least("1.30"):
            return Ending(self.stream("POST", self._container(container, "/wait"), {"condition": condition or None}))
        last = "destroy" if condition == "removed" else "die"       # older engines answer no wait before its end
        return Ending(self.stream("GET", "/events", {"filters": encode_filters(
            {"type": ["container"], "container": [container], "event": sorted({"die", last})})}), last)

    def attach(self, container: str, stdin: bool = False, stdout: bool = True, stderr: bool = True,
               logs: bool = False, detach_keys: str = "") -> Hijacked:
        """POST /containers/NAME/attach: its streams as one connection; `logs`: what was written before, too."""
        flags = {"stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "logs": logs}
        query = {name: "1" for name in flags if flags[name]}
        return self.hijack(self._container(container, "/attach"), dict(query, detachKeys=detach_keys or None))

    def logs(self, container: str, stdout: bool = True, stderr: bool = True, follow: bool = False, since: str = "",
             until: str = "", timestamps: bool = False, tail: str = "all", details: bool = False) -> Body:
        """GET /containers/NAME/logs: raw output of a terminal, or else frames for `copy_frames`."""
        flags = {"stdout": stdout, "stderr": stderr, "follow": follow, "timestamps": timestamps, "details": details}
        query = {name: "1" for name in flags if flags[name]}
        return self.stream("GET", self._container(container, "/logs"), dict(
            query, tail=tail, since=since or None, until=until or None))

    def resize(self, container: str, height: int, width: int) -> None:
        """POST /containers/NAME/resize: tell a container the size of its terminal."""
        self.call("POST", self._container(container, "/resize"), {"h": height, "w": width})

    def exec_create(self, container: str, config: dict) -> str:
        """POST /containers/NAME/exec: prepare a process in a running container; its ID."""
        return self.call("POST", self._container(container, "/exec"), body=config, expect=dict).get("Id") or ""

    def exec_start(self, process: str, tty: bool = False, detach: bool = False, size: tuple = None):
        """POST /exec/ID/start: a Hijacked with the streams of the process, None with `detach`."""
        config = {"Detach": detach, "Tty": tty}
        if size:
            config["ConsoleSize"] = list(size)
        if not detach:
            return self.hijack("/exec/%s/start" % process, body=config)
        return self.call("POST", "/exec/%s/start" % process, body=config)

    def exec_inspect(self, process: str) -> dict:
        """GET /exec/ID/json; `ExitCode` is None while it runs."""
        return self.call("GET", "/exec/%s/json" % process, expect=dict)

    def exec_resize(self, process: str, height: int, width: int) -> None:
        """POST /exec/ID/resize."""
        self.call("POST", "/exec/%s/resize" % process, {"h": height, "w": width})

    def prune(self, kind: str, filters: dict = None) -> dict:
        """POST /containers/prune, or `images`, `networks`, `volumes`: remove the unused; what went and its size."""
        return self.call("POST", "/%s/prune" % kind, {"filters": encode_filters(filters) or None}, expect=dict)

    def prune_builds(self, all: bool = False, keep_storage: int = 0, filters: dict = None) -> dict:
        """POST /build/prune: remove unused build cache, all or what is dangling; `CachesDeleted`, `SpaceReclaimed`."""
        return self.call("POST", "/build/prune", {
            "all": "1" if all else None, "keep-storage": keep_storage or None, "filters": encode_filters(filters)},
            expect=dict)

    def networks(self, filters: dict = None) -> list:
        """GET /networks."""
        return self.call("GET", "/networks", {"filters": encode_filters(filters) or None}, expect=list)

    def create_network(self, config: dict) -> dict:
        """POST /networks/create; `config` holds `Name`, `Driver` and what else the API names; the answer's `Id`."""
        return self.call("POST", "/networks/create", body=config, expect=dict)

    def connect_network(self, network: str, container: str, endpoint_config: dict = None) -> None:
        """POST /networks/NAME/connect."""
        path = _path_of("network", network, "/connect")
        self._container(container)
        self.call("POST", path, body={"Container": container, "EndpointConfig": endpoint_config or {}})

    def disconnect_network(self, network: str, container: str, force: bool = False) -> None:
        """POST /networks/NAME/disconnect."""
        path = _path_of("network", network, "/disconnect")
        self._container(container)
        self.call("POST", path, body={"Container": container, "Force": force})

    def remove_network(self, network: str) -> None:
        """DELETE /networks/NAME."""
        self.call("DELETE", _path_of("network", network))

    def volumes(self, filters: dict = None) -> list:
        """GET /volumes."""
        found = self.call("GET", "/volumes", {"filters": encode_filters(filters) or None}, expect=dict)
        return found.get("Volumes") or []

    def create_volume(self, config: dict) -> dict:
        """POST /volumes/create; `config` may hold `Name`, `Driver`, `DriverOpts`, `Labels`; the new volume."""
        return self.call("POST", "/volumes/create", body=config, expect=dict)

    def update_volume(self, volume: str, version: int, spec: dict) -> None:
        """PUT /volumes/ID: change a cluster volume's specification, of which `version` was the last one seen."""
        self.call("PUT", _path_of("volume", volume), {"version": version}, body={"Spec": spec})

    def remove_volume(self, volume: str, force: bool = False) -> None:
        """DELETE /volumes/NAME."""
        self.call("DELETE", _path_of("volume", volume), {"force": "1" if force else None})

    def df(self) -> dict:
        """GET /system/df: what takes disk space."""
        return self.call("GET", "/system/df", expect=dict)

    def events(self, since: str = "", until: str = "", filters: dict = None) -> JsonStream:
        """GET /events: what happens, up to `until` or for ever; both times as `parse_timestamp` gives them."""
        return JsonStream(self.stream("GET", "/events", {
            "since": since or None, "until": until or None, "filters": encode_filters(filters) or None}))

    def stats(self, container: str, stream: bool = True) -> JsonStream:
        """GET /containers/NAME/stats: samples of what a container uses, one a second, or one alone."""
        return JsonStream(self.stream("GET", self._container(container, "/stats"), {"stream": "1" if stream else "0"}))

    def head_archive(self, container: str, path: str) -> dict:
        """HEAD /containers/NAME/archive: what is at a path: `name`, `size`, `mode` (Go's), `mtime`, `linkTarget`."""
        with self.stream("HEAD", "/containers/%s/archive" % container, {"path": path}) as body:
            return _path_stat(body)

    def get_archive(self, container: str, path: str) -> tuple:
        """GET /containers/NAME/archive: (Body of a tar archive, what `head_archive` says)."""
        body = self.stream("GET", "/containers/%s/archive" % container, {"path": path})
        return body, _path_stat(body)

    def put_archive(self, container: str, path: str, archive, copy_uid_gid: bool = False) -> None:
        """PUT /containers/NAME/archive: unpack a tar archive, an open binary file or an iterable, in a folder there.

        With `copy_uid_gid` what is unpacked belongs to those whom the archive names, else to the container's user.
        """
        self.stream("PUT", "/containers/%s/archive" % container, {
            "path": path, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if copy_uid_gid else None},
            archive, {"Content-Type": "text/plain"}).close()

    def build(self, source, query: dict, credentials: dict = None) -> JsonStream:
        """POST /build: send a tar archive, an iterable of blocks or an open binary file; the messages.

        `query` is the API's, with plain values; `credentials` are {registry: AuthConfig}.
        """
        headers = {"Content-Type": TAR_TYPE}
        if credentials is not None:
            text = compact_json({name: auth.to_json() for name, auth in sorted(credentials.items())})
            data = text.encode("utf-8", "surrogateescape")
            headers["X-Registry-Config"] = base64.urlsafe_b64encode(data).decode("ascii")
        query = {name: compact_json(value) if value and name in ("buildargs", "cachefrom", "labels", "ulimits") else
                 value for name, value in query.items()}
        return JsonStream(self.stream("POST", "/build", query, source, headers))

    # -- failures ------------------------------------------------------------------------------------------------------

    def _refusal(self, answer, method, path, query):
        """The ApiError for an answer with an error status."""
        status = answer.status
        try:
            data = answer.read(ERROR_BODY_LIMIT)
        except ConnectionFailed as error:
            data = b""
            if "longer" in str(error):
                return ApiError(status, "", "request returned %d %s with a message (> %d bytes) for API route and "
                                "version %s, check if the server supports the requested API version" % (
                                    status, answer.response.reason, ERROR_BODY_LIMIT,
                                    self.endpoint.url(_with_query(self._target(path), query))))
        text = data.decode("utf-8", "replace")
        kind = Unauthorized if status == 401 else NotFound if status == 404 else ApiError
        if not data:
            return kind(status, "", "request returned %d %s for API route and version %s, check if the server supports "
                        "the requested API version" % (status, answer.response.reason,
                                                       self.endpoint.url(_with_query(self._target(path), query))))
        if answer.headers.get("Content-Type", "") != JSON_TYPE:
            return kind(status, text.strip())
        try:
            message = json.loads(text)["message"]
        except ValueError as error:
            return kind(status, "", "Error reading JSON: " + go_json_error(error))
        except (KeyError, TypeError):
            message = ""
        if not isinstance(message, str) or not message.strip():
            message = "API returned a %d (%s) but provided no error-message" % (
                status, http.client.responses.get(status, answer.response.reason))
        return kind(status, message.strip())

    def _failure(self, method, url, error, wire):
        """The ConnectionFailed for whatever went wrong between us and an engine."""
        endpoint = self.endpoint
        request = '%s "%s"' % (method.title(), endpoint.url(url))
        if wire is None:
            return _dial_failure(endpoint, request, error)
        complaint = isinstance(error, _HUNG_UP) and wire.complaint()
        if complaint:
            return ConnectionFailed("error during connect: %s: %s" % (request, complaint))
        if isinstance(error, socket.timeout):
            return ConnectionFailed("Cannot connect to the Docker daemon at %s. Is the docker daemon running?" %
                                    endpoint.host)
        if isinstance(error, http.client.RemoteDisconnected):
            reason = "EOF"
        elif isinstance(error, http.client.BadStatusLine):
            reason = _status_line_complaint(error.line.rstrip("\r\n"))
            if "HTTP response" in reason and not endpoint.tls:
                return ConnectionFailed("%s: %s.\n* Are you trying to connect to a TLS-enabled daemon without TLS?" % (
                    request, reason))
        elif isinstance(error, http.client.HTTPException):
            reason = "net/http: HTTP/1.x transport connection broken: %s" % (error or type(error).__name__)
        else:
            reason = _tls_reason(error) or os_error_text(error)
            if "bad certificate" in reason or "certificate required" in reason:
                return ConnectionFailed("the server probably has client authentication (--tlsverify) enabled; check "
                                        "your TLS client certification settings: %s: remote error: tls: %s" % (
                                            request, reason))
        return ConnectionFailed("error during connect: %s: %s" % (request, reason))


def _status_line_complaint(line):
    """What is wrong with the first line of an answer."""
    proto, blank, rest = line.partition(" ")
    code = rest.strip(" ").partition(" ")[0]
    wrong = ("response", line) if not blank else ("version", proto) if code.isdigit() and len(code) == 3 else (
        "status code", code)
    return "net/http: HTTP/1.x transport connection broken: malformed HTTP %s %s" % (wrong[0], go_quote(wrong[1]))


def _path_of(kind, name, tail=""):
    """The API's path of one object; DockerError if it has no name."""
    if not name.strip():
        raise DockerError("invalid %s name or ID: value is empty" % kind)
    return "/%ss/%s%s" % (kind, name, tail)


def _path_stat(body):
    """What an answer about an archive says of the path; ConnectionFailed if that cannot be read."""
    try:
        raw = base64.b64decode(body.headers.get("X-Docker-Container-Path-Stat", "")).decode("utf-8", "replace")
        about = json.loads(raw)
        return dict(about, mode=int(about["mode"]), linkTarget=str(about.get("linkTarget") or ""))
    except (ValueError, TypeError, KeyError) as error:
        body.close()
        raise ConnectionFailed("unable to get resource stat from response: unable to decode container path stat "
                               "header: %s" % go_json_error(error))


def _auth_header(auth):
    return {"X-Registry-Auth": (auth or AuthConfig()).header()}


def _with_query(path, query):
    """A path, with each character that a path may not hold escaped, and its query, sorted as Go sorts it."""
    path = quote(re.sub("//+", "/", path).rstrip("/"), safe="/:@!$&'()*+,;=~", errors="surrogateescape")
    pairs = []
    for name, value in sorted((query or {}).items()):
        if isinstance(value, (list, tuple)):
            pairs += [(name, item) for item in value]
        elif value is not None:
            pairs.append((name, value))
    return path + "?" + urlencode(pairs, errors="surrogateescape") if pairs else path


def _dial_failure(endpoint, request, error):
    """Why no connection came about, in docker's words."""
    if endpoint.proto == "unix" and error.errno in (errno.EACCES, errno.EPERM):
        return ConnectionFailed("permission denied while trying to connect to the Docker daemon socket at %s: %s: dial "
                                "unix %s: connect: permission denied" % (endpoint.host, request, endpoint.address))
    reason = _tls_reason(error)
    if reason:
        return ConnectionFailed("error during connect: %s: %s" % (request, reason))
    if isinstance(error, socket.gaierror):
        return ConnectionFailed("error during connect: %s: dial tcp: lookup %s: no such host" % (
            request, endpoint.address[0]))
    if isinstance(error, socket.timeout) or error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ETIMEDOUT):
        return ConnectionFailed("Cannot connect to the Docker daemon at %s. Is the docker daemon running?" %
                                endpoint.host)
    if error.errno is None:
        return ConnectionFailed("error during connect: %s: %s%s" % (
            request, "" if endpoint.proto == "ssh" else "dial %s: " % endpoint.proto, error))
    where = endpoint.address if endpoint.proto == "unix" else "%s:%s" % endpoint.address
    return ConnectionFailed("error during connect: %s: dial %s %s: connect: %s" % (
        request, endpoint.proto, where, os_error_text(error)))


def _tls_reason(error):
    """What Go says for a failure of TLS; empty if it is none."""
    reason = getattr(error, "reason", None)
    if not isinstance(reason, str) or isinstance(error, socket.gaierror):
        return ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"):
        return "http: server gave HTTP response to HTTPS client"
    if reason == "CERTIFICATE_VERIFY_FAILED":
        words = getattr(error, "verify_message", "") or str(error)
        if "self" in words and "signed" in words or "local issuer" in words or "first certificate" in words:
            words = "x509: certificate signed by unknown authority"
        elif "expired" in words:
            words = "x509: certificate has expired or is not yet valid"
        elif "IP address mismatch" in words:
            words = "x509: cannot validate certificate for %s because it doesn't contain any IP SANs" % (
                re.search(r"'(.*?)'", words) or [words, words])[1]
        elif "mismatch" in words or "doesn't match" in words:
            words = "x509: certificate is not valid for the name it was asked for (%s)" % words
        return "tls: failed to verify certificate: " + words
    for token, words in (("CERTIFICATE_REQUIRED", "certificate required"), ("BAD_CERTIFICATE", "bad certificate"),
                         ("UNKNOWN_CA", "unknown certificate authority")):
        if token in reason:
            return "bad certificate" if token == "BAD_CERTIFICATE" else words
    return "tls: " + reason.lower().replace("_", " ")


# ======================================================================================================================
# 9  Streams
# ======================================================================================================================


def terminal_size(stream) -> tuple:
    """(columns, rows) of the terminal behind a stream; (200, 0) where there is none to ask."""
    try:
        size = os.get_terminal_size(stream.fileno())
        return (size.columns or 200, size.lines)
    except (OSError, ValueError, AttributeError):
        return (200, 0)


def is_terminal(stream) -> bool:
    """Whether a stream is a terminal."""
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


class Demultiplexer:
    """Takes a stream of frames apart: `feed` buffers, cut anywhere, then `flush`.

        frame:  0 or 1: out, 2: err, 3: a complaint of the engine's | three zero bytes | length, 4 bytes | payload

    `out` and `err` are functions that take a list of buffers; without `err` both go to `out`, in their order.
    `dense` says whether frames are small: then bytes are faster to feed than memoryviews.
    """

    def __init__(self, out, err=None):
        self._out, self._err, self._complaint = [], [], []
        self._targets = ((out, self._out), (err, self._err))
        lists = (self._out, self._out, self._err if err else self._out, self._complaint)
        self._adders = [pieces.append for pieces in lists]
        self._heads = {}                # the frame heads seen so far: (length, where to); sizes repeat
        self._cut = b""                 # a head of which more is to come
        self._left, self._add = 0, None     # of a payload of which more is to come
        self.dense = False

    def feed(self, data) -> None:
        """Take in what came next, bytes or a memoryview that holds until `flush`."""
        at, end, heads = 0, len(data), self._heads
        if self._left:
            at = min(self._left, end)
            self._add(data[:at])
            self._left -= at
        elif self._cut:
            data, self._cut = self._cut + bytes(data), b""
            end = len(data)
        if at == end:
            return
        while at < end:
            start = at + 8
            try:
                size, add = heads[data[at:start]]
            except (KeyError, TypeError, ValueError):       # new, cut off, or a memoryview, which cannot be looked up
                if start > end:
                    self._cut = bytes(data[at:])
                    return
                size, add = self._head(bytes(data[at:start]))
            at = start + size
            add(data[start:at])
        self._left, self._add = at - end, add

    def _head(self, head):
        if head not in self._heads:
            if len(self._heads) > 4096:
                self._heads.clear()
            if head[0] > 3:
                raise DockerError("Unrecognized input header: %d" % head[0])
            self._heads[head] = int.from_bytes(head[4:], "big"), self._adders[head[0]]
        return self._heads[head]

    def flush(self) -> None:
        """Write what was fed; DockerError if the engine put a complaint into the stream."""
        self.dense = len(self._out) + len(self._err) > 64
        for write, pieces in self._targets:
            if pieces:
                write([b"".join(pieces)] if self.dense else pieces)
                del pieces[:]
        if self._complaint and not (self._left and self._add == self._adders[3]):
            raise DockerError("error from daemon in stream: " + b"".join(self._complaint).decode("utf-8", "replace"))


def copy_frames(spans, out, err) -> None:
    """Write a stream of frames, as `Body.spans` or `Hijacked.spans` gives it, to two functions that take buffers."""
    frames = Demultiplexer(out, err)
    for pieces in spans:
        try:
            for piece in [b"".join(pieces)] if frames.dense else pieces:
                frames.feed(piece)
        finally:
            frames.flush()


def buffers_to(stream):
    """A function that writes a list of buffers to a stream, past its text layer."""
    stream.flush()
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError, ValueError):
        raw = getattr(stream, "buffer", None)
        return (lambda pieces: raw.write(b"".join(pieces))) if raw else (
            lambda pieces: stream.write(b"".join(pieces).decode("utf-8", "replace")))
    return lambda pieces: write_pieces(descriptor, pieces)


def show_output(spans, tty: bool, out, err) -> None:
    """Write a container's output to streams, of which each may be None: raw from a terminal, or else frames."""
    write, write_error = (buffers_to(stream) if stream else lambda pieces: None for stream in (out, err))
    if not tty:
        try:
            if os.path.samestat(os.fstat(out.fileno()), os.fstat(err.fileno())):
                write_error = None      # they end in one file, where the order between them shows
        except (OSError, AttributeError, ValueError):
            pass
        return copy_frames(spans, write, write_error)
    for pieces in spans:
        write(pieces)


def tty_size(stream) -> tuple:
    """(height, width) of the terminal behind a stream, zeros if it is none."""
    columns, rows = terminal_size(stream)
    return (rows, columns) if is_terminal(stream) and rows else (0, 0)


DETACH_KEYS = b"\x10\x11"               # ctrl-p, ctrl-q


def parse_detach_keys(text: str) -> bytes:
    """The bytes of a key sequence such as `ctrl-p,ctrl-q`; ValueError for a key that is none."""
    keys = b""
    for key in text.split(","):
        if re.match(r"ctrl-[a-z@[\\\]^_]\Z", key):
            keys += bytes([ord(key[5:].upper()) - 64])
        elif key == "DEL" or len(key.encode("utf-8", "surrogateescape")) == 1:
            keys += key.encode("utf-8", "surrogateescape") if len(key) == 1 else b"\x7f"
        else:
            raise ValueError("Unknown character: '%s'" % key)
    return keys


def split_keys(data: bytes, keys: bytes) -> tuple:
    """Look for the detach keys in what was typed: (what stands before, what may be their beginning, whether found)."""
    at = data.find(keys) if keys else -1
    if at >= 0:
        return data[:at], b"", True
    begun = next((count for count in range(len(keys) - 1, 0, -1) if data.endswith(keys[:count])), 0)
    return data[:len(data) - begun], data[len(data) - begun:], False


class Handlers:
    """Handles signals with a function while a `with` lasts, in place of what they do by default.

    Only in the main thread, as Python has it; elsewhere it does nothing.  A program's own handlers stay.
    """

    def __init__(self, numbers, handle):
        self.numbers, self.handle, self.before = numbers, handle, {}

    def __enter__(self):
        import signal
        for number in self.numbers:
            try:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self.before[number] = signal.signal(number, self.handle)
            except (OSError, ValueError):
                pass                    # not the main thread, or a signal that cannot be caught
        return self

    def __exit__(self, *_):
        import signal
        for number, before in self.before.items():
            signal.signal(number, before)


class RawTerminal(Handlers):
    """A terminal in raw mode while a `with` lasts; as it was before on every way out, and while we are stopped."""

    def __init__(self, descriptor):
        import signal
        import termios
        super().__init__((signal.SIGTSTP, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGINT),
                         self._step_aside)
        self.descriptor, self.modes = descriptor, termios.tcgetattr(descriptor)

    def __enter__(self):
        import termios
        import tty
        super().__enter__()
        tty.setraw(self.descriptor, termios.TCSANOW)
        return self

    def __exit__(self, *_):
        import termios
        try:
            termios.tcsetattr(self.descriptor, termios.TCSANOW, self.modes)
        except termios.error:
            pass                        # the terminal has gone
        super().__exit__()

    def _step_aside(self, number, _):
        """A signal that ends or stops us does so with the terminal restored; raw again if we go on."""
        self.__exit__()
        os.kill(os.getpid(), number)
        self.__enter__()


class SignalProxy(Handlers):
    """Takes signals, and the size of the terminal `out`, to a process in the engine while a `with` lasts.

    `connect()` makes a client for one request, since a signal may come in the middle of any other; `name` is the
    container, which gets the signals if `kill`, or with `method` "exec_resize" a process; `tty` whether it has a
    terminal.
    """

    def __init__(self, connect, name: str, kill: bool, tty: bool, out, method: str = "resize"):
        import signal
        kept = ("SIGKILL", "SIGSTOP", "SIGCHLD", "SIGCLD", "SIGPIPE", "SIGURG", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL",
                "SIGRTMIN", "SIGRTMAX", "SIGTSTP" if tty else "")     # RawTerminal takes the last
        self.connect, self.name, self.kill, self.out, self.method = connect, name, kill, out, method
        self._resized = getattr(signal, "SIGWINCH", None)       # which Windows has not
        self.resizes = bool(self._resized) and tty and is_terminal(out)
        super().__init__([number for number in signal.Signals if kill and number.name not in kept] or
                         [self._resized] * self.resizes, self._take)
        self._pending, self._ends = [], 0

    def _take(self, number, _):
        import signal
        self._ends += number in (signal.SIGINT, signal.SIGTERM)
        if self._ends == 3:
            raise StatusError("\ngot 3 SIGTERM/SIGINTs, forcefully exiting")
        self._pending.append(number)
        if len(self._pending) > 1:
            return                      # the call that this one has interrupted goes on with it
        while self._pending:
            number = self._pending[0]
            try:
                if self.kill:
                    with self.connect() as client:
                        client.kill(self.name, signal.Signals(number).name[3:])
                if number == self._resized:
                    self.resize()
            except (ApiError, ConnectionFailed):
                pass                    # the process has ended meanwhile, or will be seen to have
            finally:
                self._pending.pop(0)

    def resize(self, extra: int = 0) -> None:
        """Tell the process the size of its terminal, `extra` cells larger."""
        height, width = tty_size(self.out)
        if self.resizes and (height or width):
            with self.connect() as client:
                getattr(client, self.method)(self.name, height + extra, width + extra)

    def resize_at_start(self, warn, redraw: bool = False) -> None:
        """The same in a thread, for a process that may need a moment to be there; `redraw`: by way of another size."""
        def tell():
            """The thread: try until the process is there, half a second in all."""
            for attempt in range(11):
                try:
                    if redraw:
                        self.resize(1)
                    return self.resize()
                except DockerError:
                    time.sleep(0.01 * (attempt + 1))
            return warn("failed to resize tty, using default size")
        if self.resizes:
            import threading
            threading.Thread(target=tell, daemon=True).start()


class Session:
    """Copies between a hijacked stream and streams of ours: input, output, error output.

    `in_`, `out` and `err` may be None for what is not wanted; with `tty` the stream is a terminal's, raw, else frames.
    `keys` are the bytes that detach from a terminal; `signals` says whether somebody wants to see signals soon.
    """

    def __init__(self, stream: Hijacked, tty: bool, in_, out, err, keys: bytes = DETACH_KEYS, signals: bool = False):
        self.stream, self.tty, self.signals = stream, tty, signals or tty
        self.in_, self.out, self.err = in_, out, err
        self.keys = keys if tty else b""
        self.detached = False
        stream.wire.sock.settimeout(None)
        if in_ is None:
            stream.close_write()

    def copy(self) -> bool:
        """Copy until the output ends; False if the user has detached instead."""
        raw = self.tty and is_terminal(self.in_) and not os.environ.get("NORAW")
        with self.stream, RawTerminal(self.in_.fileno()) if raw else self.stream:
            stop = self._start_input() if self.in_ is not None else None
            try:
                show_output(self.stream.spans(0.2 if self.signals else None), self.tty, self.out, self.err)
            except ConnectionFailed:
                if not self.detached:
                    raise
            finally:
                self.stream.abort()
                if stop:
                    stop()
        return not self.detached

    def _start_input(self):
        """Start a thread that sends the input; a function that ends it."""
        import threading
        waker, wake = os.pipe()
        thread = threading.Thread(target=self._send_input, args=(waker,), daemon=True)
        thread.start()

        def stop():
            os.close(wake)
            thread.join(5)
            os.close(waker)
        return stop

    def _send_input(self, waker):
        """The thread: the input goes into the stream, and so does its end."""
        try:
            try:
                self._send_blocks(self.stream.wire, waker)
            finally:
                self.stream.close_write()
        except (OSError, ValueError):
            pass                        # the output's end will tell

    def _send_blocks(self, wire, waker):
        held = b""
        try:
            descriptor = self.in_.fileno()
        except (OSError, AttributeError, ValueError):
            data = getattr(self.in_, "buffer", self.in_).read()
            return wire.sendall(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
        import select
        poll = select.poll() if hasattr(select, "poll") else None       # without it, nothing but input ends the wait
        for waited in (descriptor, waker) if poll else ():
            poll.register(waited, select.POLLIN)
        while not poll or all(ready != waker for ready, _ in poll.poll()):
            data = os.read(descriptor, MIB >> 2)        # os.splice would hold up who writes into our pipe
            if not data:
                return wire.sendall(held)
            data, held, self.detached = split_keys(held + data, self.keys)
            wire.sendall(data)
            if self.detached:
                return self.stream.abort()


def progress_text(detail: dict, columns: int) -> str:
    """The bar and the figures for a message's `progressDetail`, as wide as the terminal allows; empty for nothing."""
    current, total = _number(detail.get("current")), _number(detail.get("total"))
    if current <= 0 and total <= 0:
        return ""
    units = detail.get("units") or ""
    if total <= 0:
        return "%d %s" % (current, units) if units else "%8s" % format_size(current)
    half = min(int(current * 100.0 / total) // 2, 50)
    text = "[%s>%s] " % ("=" * half, " " * (50 - half)) if columns > 110 else ""
    if not detail.get("hidecounts"):
        if units:
            text += "%d %s" % (current, units) if current > total else "%d/%d %s" % (current, total, units)
        else:
            text += "%8s" % format_size(current)
            text += "" if current > total else "/" + format_size(total)
    start = _number(detail.get("start"))
    if current > 0 and start > 0 and half < 50 and columns > 50:
        text += " %ds" % ((time.time() - start) / current * (total - current))
    return text


def _number(value):
    return value if isinstance(value, (int, float)) and value == value else 0


class ProgressDisplay:
    """Shows the messages of a JsonStream.

    On a terminal each ID keeps one line, redrawn in place; elsewhere progress is left out and the rest comes line by
    line.  `write(text)` takes the output, `size()` gives the terminal's (columns, rows), or None if it is none.
    """

    def __init__(self, write, size=None):
        self.write = write
        self.size = size
        self._lines = {}                # ID -> line, counted from the first of the block at the bottom
        self._drawn = 0                 # how many lines of the block are on the screen
        self._changed = {}              # ID -> its newest message, not drawn yet

    def show(self, stream: JsonStream, on_aux=None) -> None:
        """Show all messages.  `on_aux(message)` gets those that carry data for programs; errors are raised."""
        skip = None if self.size else _is_plain_progress
        with stream:
            for batch in stream.batches(skip):
                out = []
                try:
                    for message in batch:
                        if "aux" in message and message["aux"] is not None:
                            if on_aux:
                                on_aux(message)
                            continue
                        check_message(message)
                        self._add(message, out)
                finally:
                    # all that one receive brought, in one piece: the newest state of each line, drawn once
                    self._draw(out)
                    if out:
                        self.write("".join(out))

    def _add(self, message, out):
        detail = message.get("progressDetail")
        has_progress = isinstance(detail, dict) or bool(message.get("progress"))
        if self.size:
            if has_progress and message.get("id"):
                self._lines.setdefault(message["id"], len(self._lines))
                self._changed[message["id"]] = message
                return
            self._draw(out)
            self._lines.clear()
            self._drawn = 0
            if isinstance(detail, dict) and not message.get("stream"):
                out.append("\x1b[2K\r%s\r" % self._line(message, self.size()[0]))
                return
        elif isinstance(detail, dict) and progress_text(detail, 200):
            return
        text = message.get("stream")
        if has_progress and not isinstance(detail, dict):
            text = "%s %s" % (message.get("status") or "", message["progress"])
        if not text:
            text = message.get("status") or ""
            if not isinstance(text, str):
                raise ConnectionFailed("json: cannot unmarshal %s into Go struct field JSONMessage.status of type "
                                       "string" % json_kind(text))
            text += "\n"
        out.append(_message_head(message) + str(text))

    def _line(self, message, columns):
        detail = message.get("progressDetail")
        text = progress_text(detail, columns) if isinstance(detail, dict) else str(message.get("progress"))
        text = "%s%s %s" % (_message_head(message), message.get("status") or "", text)
        return ellipsis(visible(text), columns)

    def _draw(self, out):
        """Bring the changed lines of the block onto the screen, those that have not scrolled out of it."""
        if not self._changed:
            return
        columns, rows = self.size()
        count = len(self._lines)
        out.append("\n" * (count - self._drawn))
        self._drawn = count
        for name, message in self._changed.items():
            up = count - self._lines[name]
            if not rows or up < rows:
                out.append("\x1b[%dA\x1b[2K\r%s\r\x1b[%dB" % (up, self._line(message, columns), up))
        self._changed.clear()


def _message_head(message):
    """What stands before a message's status: time, ID and origin, where it has them."""
    head = ""
    if message.get("timeNano") or message.get("time"):
        head = format_nanoseconds(message.get("timeNano") or message["time"] * 10 ** 9) + " "
    if message.get("id"):
        head += "%s: " % message["id"]
    if message.get("from"):
        head += "(from %s) " % message["from"]
    return head


def _is_plain_progress(line):
    """Whether a raw message only moves a bar, told without decoding it; the bulk of what a pull sends is such."""
    at = line.find(b'"progressDetail":{"current":')
    return at > 0 and line[at + 28:at + 29].isdigit() and line[at + 28:at + 29] != b"0" and \
        line.rstrip().endswith(b"}") and b'"errorDetail"' not in line and b'"aux"' not in line


class StatsFeed:
    """The newest sample of what each of several containers uses, each read by a thread of its own.

    With `stream` the engine sends one a second, else one in all.  `failure` is what ended `follow`, if anything did.
    """

    PATIENCE = 2                        # seconds after which a sample no longer counts

    def __init__(self, client: Client, stream: bool = True):
        self.client = client
        self.stream = stream
        self.failure = None
        self._rows = {}                 # name -> [newest sample, why there is no newer one, when it came]

    def add(self, name: str) -> None:
        """Begin to read a container's samples, unless that is done already."""
        if name not in self._rows:
            self._rows[name] = row = [{}, "", 0]
            _in_background(self._read, name, row)

    def follow(self, events: JsonStream, all: bool) -> None:
        """Add containers as they start, with `all` as they are created, and without forget them as they end."""
        _in_background(self._follow, events, all)

    def wait(self) -> None:
        """Wait until each container has brought a sample or an error, not longer than PATIENCE."""
        end = time.time() + self.PATIENCE
        while time.time() < end and not all(error or came for _, error, came in list(self._rows.values())):
            time.sleep(0.01)

    def rows(self) -> list:
        """(name, sample, what is wrong or "") of each container, in the order in which they were added."""
        late = time.time() - self.PATIENCE if self.stream else 1
        return [(name, sample, error or "timeout waiting for stats" * (came < late))
                for name, (sample, error, came) in list(self._rows.items())]

    def _read(self, name, row):
        try:
            with self.client.stats(name, self.stream) as samples:
                for sample in samples:
                    row[0], row[2] = sample, time.time()
                    if not self.stream:
                        return
            row[1] = "EOF"
        except DockerError as error:
            row[1] = str(error)

    def _follow(self, events, all):
        try:
            with events:
                for event in events:
                    action, name = event.get("Action"), str((event.get("Actor") or {}).get("ID"))[:12]
                    if action == "start" or all and action == "create":
                        self.add(name)
                    elif action == "die" and not all:
                        self._rows.pop(name, None)
            self.failure = DockerError("EOF")
        except DockerError as error:
            self.failure = StatusError("", 0) if str(error) == "unexpected EOF" else error


def _in_background(target, *args):
    import threading
    threading.Thread(target=target, args=args, daemon=True).start()


def read_password(stream, write, prompt: str) -> str:
    """Ask for a line on a terminal with the echo off; the echo comes back whatever happens.

    EOFError at the end of the input; DockerError where this Python cannot turn the echo off.
    """
    try:
        import termios
    except ImportError:
        raise DockerError("this Python has no termios module: use --password-stdin")
    descriptor = stream.fileno()
    old = termios.tcgetattr(descriptor)
    silent = old[:]
    silent[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
        write(prompt)
        line = stream.readline()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, old)
        write("\n")
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


# BuildKit's StatusResponse, a protobuf message: for each message its fields from 1 on, named as `--progress rawjson`
# names them, with their kinds; a `*` marks those that repeat.
_TRACE_FIELDS = {words[0]: [word.split(":") for word in words[1:]] for words in map(str.split, """\
trace vertexes:*vertex statuses:*status logs:*log warnings:*warning
vertex digest:text inputs:*text name:text cached:bool started:time completed:time error:text
status id:text vertex:text name:text current:int total:int timestamp:time started:time completed:time
log vertex:text timestamp:time stream:int data:bytes
warning vertex:text level:int short:bytes detail:*bytes url:text
time seconds:int nanos:int""".splitlines())}


def decode_trace(data: bytes, kind: str = "trace") -> dict:
    """Decode a `moby.buildkit.trace`: `vertexes`, `statuses`, `logs` and `warnings`, each a list of dicts.

    Times are in nanoseconds since 1970.  Unknown fields are left out; ValueError for what is no such message.
    """
    message, at, fields = {}, 0, _TRACE_FIELDS[kind]
    while at < len(data):
        key, at = _varint(data, at)
        value = 0
        if key & 7 == 0:
            value, at = _varint(data, at)
        elif key & 7 == 2:
            size, at = _varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            at += {1: 8, 5: 4}.get(key & 7, len(data) + 1)
        if at > len(data):
            raise ValueError("malformed protobuf message")
        name, how = fields[(key >> 3) - 1] if 0 < key >> 3 <= len(fields) else ("", "")
        one = how.lstrip("*")
        if not name or isinstance(value, int) != (one in ("int", "bool")):
            continue
        if one == "text":
            value = value.decode("utf-8", "replace")
        elif one in ("int", "bool"):
            value = value - (value >> 63 << 64) if one == "int" else bool(value)
        elif one != "bytes":
            value = decode_trace(value, one)
            if one == "time":
                value = value.get("seconds", 0) * 10 ** 9 + value.get("nanos", 0)
        message[name] = value if one == how else message.get(name, []) + [value]
    return message


def _varint(data, at):
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("malformed protobuf message")


def _trace_json(value, name=""):
    """A decoded trace as JSON has it: bytes in base64, times in RFC 3339."""
    if isinstance(value, dict):
        return {key: _trace_json(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_trace_json(item) for item in value]
    if name in ("started", "completed", "timestamp"):
        return format_utc(value)
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


class Vertex:
    """One step of a BuildKit build, as far as its trace has told it."""

    def __init__(self):
        self.name = self.error = ""
        self.number = self.ended = 0    # what the plain display calls it; when we heard that it had ended
        self.cached = self.done = self.partial = False      # partial: the last line of the log may go on
        self.runs = {}                  # start of each run, in nanoseconds -> its end, None while it runs
        self.statuses = {}              # ID -> its newest state
        self.tail = []                  # the last lines of the log
        # what the plain display has not printed: IDs of statuses, warnings, (line begins, text) of the log; since when
        self.fresh, self.warnings, self.lines, self.news = set(), [], [], 0

    @property
    def mark(self) -> str:
        """What went wrong: CANCELED, ERROR or nothing."""
        return self.error and ("CANCELED" if self.error.endswith("context canceled") else "ERROR")

    def update(self, news: dict) -> None:
        """Take in what a trace says of the step."""
        self.name = news.get("name") or self.name
        if "started" in news:
            self.runs[news["started"]] = news.get("completed")
            self.error, self.cached = news.get("error", ""), news.get("cached", False)
            if "completed" in news and not self.done:
                self.ended = time.time()
            self.done = "completed" in news

    def seconds(self, now: float = 0) -> float:
        """How long it has been running."""
        return sum((now * 1e9 if end is None else end) - start for start, end in self.runs.items()) / 1e9

    def log(self, at: int, data: bytes) -> None:
        """Take in a piece of the log; each line gets in front how long the step has run."""
        seconds = (at - max(self.runs or [at])) / 1e9
        for text in re.findall(r"[^\n]*\n|[^\n]+", data.decode("utf-8", "replace")):
            begins, self.partial = not self.partial, not text.endswith("\n")
            if begins:
                text = "%.*f %s" % (3 if seconds < 10 else 2 if seconds < 100 else 1, seconds, text)
                self.tail = self.tail[-9:] + [""]
            self.lines.append((begins, text))
            self.tail[-1] += text.rstrip("\n")


PROGRESS_MODES = ("auto", "plain", "tty", "rawjson", "quiet", "none")
_REFRESH = 0.1                          # seconds between two looks of a build's display at what is new
_PATIENCE = 5                           # seconds for which the plain display stays with a step while others have news
OWN_STEP = "context"                    # the digest of a step that is ours and not the engine's
_LOG_ROWS = 6                           # how much of a running step's log the terminal shows


def _amount(status):
    """The figures of a status: ` 2.10MB / 5.00MB`."""
    sizes = [status.get("current", 0), status.get("total", 0)]
    texts = ["%dB" % size if size < 1000 else re.sub(r"^[\d.]+", lambda text: "%.2f" % float(text.group()),
                                                     format_size(size, 12)) for size in sizes[:1 + bool(sizes[1])]]
    return " " + " / ".join(texts) if any(sizes) else ""


class BuildDisplay:
    """Shows the trace of a BuildKit build as `docker buildx build --progress` does.

    `mode` is `plain`, `tty` (then `size()` gives the terminal's columns and rows, and `title` stands at the right),
    `rawjson` or `quiet`; `write(text)` takes the output.  A context manager; at its end all is shown.
    """

    def __init__(self, write, mode: str = "plain", size=None, title: str = ""):
        import threading
        self.write = write
        self.mode = mode
        self.size = size
        self.title = title
        self.vertexes = {}              # digest -> Vertex, in the order of their appearance
        self._warnings = []
        self._current = None            # the step that the plain display is at
        self._numbered = 0
        self._open = False              # whether its last line has no end yet
        self._drawn = 0                 # lines that the terminal's block takes
        self._began = time.time()
        self._ahead = None              # by how many seconds our clock is ahead of the engine's
        self._lock, self._over = threading.Lock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self):
        self._ticker.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._ticker.join()
        self._refresh(True)
        out = []
        for vertex in self.vertexes.values():
            if vertex.mark == "ERROR":
                out.append("------\n > %s:\n" % visible(vertex.name))
                out += [line + "\n" for line in vertex.tail] + ["------\n"]
        if self._warnings:
            out.append("\n %d warning%s found:\n" % (len(self._warnings), "s" * (len(self._warnings) > 1)))
            out += [" - %s\n" % text for text in self._warnings]
        if out and self.mode in ("plain", "tty"):
            self.write("".join(out))

    def _tick(self):
        try:
            while not self._over.wait(_REFRESH):
                self._refresh()
        except OSError:
            pass                        # the output is gone, which the main thread will notice

    def _refresh(self, last=False):
        with self._lock:
            text = self._screen(last) if self.mode == "tty" else "".join(self._plain()) if self.mode == "plain" else ""
        if text:
            self.write(text)

    def add(self, trace: dict) -> None:
        """Take in a decoded trace."""
        if self.mode == "rawjson":
            self.write(compact_json(_trace_json(trace)) + "\n")
        with self._lock:
            for news in trace.get("vertexes", ()):
                vertex = self._vertex(news.get("digest"))
                vertex.update(news)
                if self._ahead is None and vertex.runs and news["digest"] != OWN_STEP:
                    self._ahead = time.time() - min(vertex.runs) / 1e9
            for news in trace.get("statuses", ()):
                vertex = self._vertex(news.get("vertex"))
                vertex.fresh.add(news.get("id", ""))
                vertex.statuses.setdefault(news.get("id", ""), {}).update(news)      # what is "printed" in it stays
            for news in trace.get("logs", ()):
                self._vertex(news.get("vertex")).log(news.get("timestamp", 0), news.get("data", b""))
            for news in trace.get("warnings", ()):
                self._warnings.append(news.get("short", b"").decode("utf-8", "replace"))
                self._vertex(news.get("vertex")).warnings.append(self._warnings[-1])

    def _vertex(self, digest):
        vertex = self.vertexes.setdefault(digest, Vertex())
        if not vertex.news:
            vertex.news = time.time()
        return vertex

    # -- plain ---------------------------------------------------------------------------------------------------------

    def _plain(self):
        """The pieces of text for all news that are due: steps that ended, then the one that is looked at."""
        out, now = [], time.time()
        ended = [vertex for vertex in self.vertexes.values() if vertex.done and vertex.news]
        for vertex in sorted(ended, key=lambda vertex: (vertex is not self._current, vertex.ended)):
            self._print(vertex, out)
        running = [vertex for vertex in self.vertexes.values() if vertex.runs and not vertex.done]
        if self._current and self._current.news:
            self._print(self._current, out)
        due = [vertex for vertex in running if vertex.news and (not self._current or now - vertex.news > _PATIENCE)]
        for vertex in (sorted(due, key=lambda vertex: vertex.news) or ([] if self._current else running))[:1]:
            self._print(vertex, out)
        return out

    def _print(self, vertex, out):
        if not vertex.number:
            self._numbered = vertex.number = self._numbered + 1
        mark, goes_on = "#%d " % vertex.number, False
        if vertex is not self._current:
            if self._current:
                out.append("\n" * self._open + "#%d ...\n" % self._current.number)
            out.append("\n" * (self._drawn > 0) + mark + visible(vertex.name) + "\n")
            self._drawn, self._open = 1, False
        for begins, text in vertex.lines:
            out.append(text if self._open and not begins else mark + text)
            self._open = not text.endswith("\n")
        if self._open and (vertex.fresh or vertex.warnings):
            out.append("\n")
            self._open = False
        for name, status in vertex.statuses.items():
            if name in vertex.fresh:
                goes_on = goes_on or "completed" not in status
                self._print_status(mark + name, status, out)
        out += [mark + "WARN: " + text + "\n" for text in vertex.warnings]
        vertex.fresh, vertex.warnings, vertex.lines, vertex.news = set(), [], [], 0
        self._current = vertex
        if vertex.done and not goes_on:
            out.append("\n" * self._open + mark + (
                "ERROR: " + visible(vertex.error) if vertex.mark == "ERROR" else vertex.mark or
                ("CACHED" if vertex.cached else "DONE %.1fs" % vertex.seconds())) + "\n")
            self._current, self._open = None, False

    def _print_status(self, name, status, out):
        """A status is worth a line if it is new or complete, has grown by a 20th, or was not printed for a while."""
        current, at, end = status.get("current", 0), status.get("timestamp", 0), status.get("completed")
        before, then = status.get("printed", (0, None))
        if then is None or end or at - then >= _PATIENCE * 10 ** 9 or \
                status.get("total") and (current - before) / status["total"] >= 0.05:
            status["printed"] = current, at
            seconds = ((end or at) - status.get("started", end or at)) / 1e9
            out.append("%s%s%s%s\n" % (name, _amount(status), " %.1fs" % seconds if seconds > 0.01 else "",
                                       " done" if end else ""))

    # -- terminal ------------------------------------------------------------------------------------------------------

    def _screen(self, last):
        """The text that draws the block anew; the `last` one has every step and no log."""
        columns, rows = self.size()
        done = sum(vertex.done for vertex in self.vertexes.values())
        head = "[+] Building %.1fs (%d/%d)%s" % (time.time() - self._began, done, len(self.vertexes),
                                                 " FINISHED" * (last and done == len(self.vertexes)))
        lines = []                      # (text, is finished)
        for vertex in self.vertexes.values():
            if vertex.runs:
                lines += self._rows(vertex, columns - 1, 0 if last else _LOG_ROWS)
        room = max(rows - 2, 1) if rows and not last else len(lines)
        for line in [line for line in lines if line[1]][:max(len(lines) - room, 0)]:
            lines.remove(line)          # where there is no room for all, what has ended goes first
        text = [head + self.title.rjust(columns - 1 - len(head))] + [line for line, _ in lines[-room:]]
        up = "\x1b[%dA" % self._drawn if self._drawn else ""
        self._drawn = len(text)
        return "\x1b[?25l" + up + "\r" + "".join(line + "\x1b[K\n" for line in text) + "\x1b[J\x1b[?25h"

    def _rows(self, vertex, width, log_rows):
        """The lines of one step: itself, its statuses, the end of its log while it runs."""
        now = time.time() - (self._ahead or 0)
        mark = vertex.mark or "CACHED" * vertex.cached
        color = {"ERROR": 31, "CANCELED": 33}.get(mark, 34)
        lines = [(_row((mark + " ").lstrip() + vertex.name, "", vertex.seconds(now), width, vertex.done and color),
                  vertex.done)]
        for name, status in vertex.statuses.items():
            end = status.get("completed")
            seconds = (end or now * 1e9) / 1e9 - status.get("started", end or now * 1e9) / 1e9
            lines.append((_row("=> " + name, _amount(status), seconds, width, end and 34), bool(end)))
        for text in vertex.tail[-log_rows:] if log_rows and not vertex.done else ():
            text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text.partition(" ")[2]).rstrip("\r").rpartition("\r")[2]
            lines.append(("\x1b[2m" + ellipsis(" => => # " + visible(text.expandtabs()), width) + "\x1b[0m", False))
        return lines


def _row(name, amount, seconds, width, color):
    """A line of the terminal's block, the time at its right end."""
    clock = " %.1fs" % (seconds if seconds >= 0.05 else 0)
    room = max(width - len(" => ") - len(clock) - len(amount), 1)
    name = visible(re.sub(r"[\t\n]", " ", name))
    while display_width(name) > room:
        name = name[:room - display_width(name)]
    text = " => " + name + amount + " " * (room - display_width(name)) + clock
    return "\x1b[%dm%s\x1b[0m" % (color, text) if color and not os.environ.get("NO_COLOR") else text


# ======================================================================================================================
# 10  Archives
# ======================================================================================================================

_TAR_BLOCK = 512
_TAR_END = bytes(2 * _TAR_BLOCK)
_SMALL_FILE = MIB >> 2                  # up to this size a file is read into the block that is being put together
_SPAN = 8 * MIB                         # of a larger file that goes out in one piece
_TAR_MAGIC = b"ustar\00000" + bytes(64)
_TAR_REST = bytes(167)
_NO_DEVICE = b"0000000\0" * 2
_CONSTANT_SUM = sum(_TAR_MAGIC) + 8 * 32        # the checksum's own field counts as blanks
# the kind of entry for each kind of file, S_IFMT
_TAR_KINDS = {0o100000: b"0", 0o120000: b"2", 0o020000: b"3", 0o060000: b"4", 0o040000: b"5", 0o010000: b"6"}
GO_DIRECTORY, GO_SYMLINK, GO_DEVICE, GO_IRREGULAR = 1 << 31, 1 << 27, 1 << 26, 1 << 19      # bits of Go's file modes
PRUNE = 2                               # what an `ignore` says of a directory of which nothing is wanted


def tar_header(name: str, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes = b"0", link: str = "",
               device: bytes = _NO_DEVICE) -> bytes:
    """The header of one entry: ustar, behind a pax header where a name, a number or a time needs one."""
    raw, target, pax = os.fsencode(name), os.fsencode(link), b""
    if len(raw) > 100 or len(raw) != len(name) or len(target) > 100 or len(target) != len(link) or \
            not (0 <= mtime < 1 << 33 and size < 1 << 33 and uid < 1 << 21 and gid < 1 << 21):
        for key, value, fits in (
                (b"path", raw, len(raw) <= 100 and len(raw) == len(name)), (b"uid", uid, uid < 1 << 21),
                (b"linkpath", target, len(target) <= 100 and len(target) == len(link)), (b"gid", gid, gid < 1 << 21),
                (b"size", size, size < 1 << 33), (b"mtime", mtime, 0 <= mtime < 1 << 33)):
            if not fits:
                record = b" %s=%s\n" % (key, value if isinstance(value, bytes) else b"%d" % value)
                digits = len(b"%d" % (len(record) + len(b"%d" % len(record))))
                pax += b"%d%s" % (len(record) + digits, record)
        pax = tar_header("PaxHeaders.0/pax", 0, 0, 0, len(pax), 0, b"x") + pax + bytes(-len(pax) % _TAR_BLOCK)
        raw, target, mtime = raw[:100], target[:100], min(max(mtime, 0), (1 << 33) - 1)
        uid, gid, size = uid & (1 << 21) - 1, gid & (1 << 21) - 1, size & (1 << 33) - 1
    fields = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    tail = kind + target
    checksum = sum(raw) + sum(fields) + sum(tail) + sum(device) + _CONSTANT_SUM
    return b"%s%s%s%06o\0 %s%s%s%s" % (
        pax, raw.ljust(100, b"\0"), fields, checksum, tail.ljust(101, b"\0"), _TAR_MAGIC, device, _TAR_REST)


class TarStream:
    """A directory tree, or one file, as the tar archive that an engine takes: an iterable for `Client.stream`'s body.

    Yields bytes of about 1 MiB and, for large files, (descriptor, offset, length), to be sent from there before the
    next step.  `path` is entered as `name`, what is below it as `name/…`; an empty `name` leaves out the root's own
    entry.  Hard links within the tree stay links; sockets cannot be sent.

    `ignore(relative path, is_dir)` may leave entries out: it says falsy to send one, true to leave out just this one
    (what is below a directory is asked for on its own), PRUNE for a directory with all that it holds.  `owner` is the
    (uid, gid) to enter in place of the real ones.  `extra` holds files from memory, (name, bytes, mode), that come
    last.  `skipped(path, words)` is told of sockets and of folders that cannot be listed; without it that is a
    DockerError, as is a file that cannot be read.
    """

    def __init__(self, path: str, name: str = "", ignore=None, owner: tuple = None, extra=(), skipped=None):
        self.path = path
        self.name = name
        self.ignore = ignore
        self.owner = owner
        self.extra = extra
        self.skipped = skipped
        self._inodes = {}               # (device, inode) of files with several links -> the name of the first

    def __iter__(self):
        parts, held = [], 0
        for path, name, about in self._walk():
            if about.st_mode & 0o170000 not in _TAR_KINDS:
                self._skip(path, "archive/tar: sockets not supported")
                continue
            try:
                head, data, descriptor = self._entry(path, name, about)
            except OSError as error:
                raise DockerError(path_error_text(error))
            parts.append(head)
            held += len(head)
            if data:
                parts += (data, bytes(-len(data) % _TAR_BLOCK))
                held += len(data)
            if held > MIB or descriptor is not None:
                yield b"".join(parts)
                parts, held = [], 0
            if descriptor is not None:
                try:
                    for at in range(0, about.st_size, _SPAN):
                        yield descriptor, at, min(_SPAN, about.st_size - at)
                finally:
                    os.close(descriptor)
                parts.append(bytes(-about.st_size % _TAR_BLOCK))
        for name, data, mode in self.extra:
            head = tar_header(name, mode, 0, 0, len(data), int(time.time()))
            parts += (head, data, bytes(-len(data) % _TAR_BLOCK))
        parts.append(_TAR_END)
        yield b"".join(parts)

    def _walk(self):
        """Yield (path, name in the archive, lstat) of all that is wanted, each directory's entries sorted."""
        cut = len(self.path.rstrip("/")) + 1
        prefix = self.name and self.name + "/"
        pending = [iter([self.path])]
        while pending:
            path = next(pending[-1], None)
            if path is None:
                pending.pop()
                continue
            inner = path[cut:]
            try:
                about = os.lstat(path)
                is_dir = about.st_mode & 0o170000 == 0o040000
                ignored = self.ignore and inner and self.ignore(inner, is_dir)
                if not ignored and (inner or self.name):
                    yield path, prefix + inner if inner else self.name, about
                if is_dir and ignored != PRUNE:
                    base = path.rstrip("/") + "/"
                    pending.append(iter([base + name for name in sorted(os.listdir(path))]))
            except OSError as error:
                self._skip(path, os_error_text(error))

    def _entry(self, path, name, about):
        """Header, data and, for a large file, an open descriptor of one entry."""
        mode, size, link, data, descriptor, device = about.st_mode, 0, "", b"", None, _NO_DEVICE
        uid, gid = self.owner or (about.st_uid, about.st_gid)
        kind = _TAR_KINDS[mode & 0o170000]
        if kind == b"5":
            name += "/"
        elif about.st_nlink > 1:
            first = self._inodes.setdefault((about.st_dev, about.st_ino), name)
            if first != name:
                kind, link = b"1", first
        if kind == b"0":
            size = about.st_size
            if size:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
                if size <= _SMALL_FILE:
                    try:
                        data = os.read(descriptor, size)    # the size entered is that of what was read
                    finally:
                        os.close(descriptor)
                    size, descriptor = len(data), None
        elif kind == b"2":
            link = os.readlink(path)
        elif kind in (b"3", b"4"):
            device = b"%07o\0%07o\0" % (os.major(about.st_rdev), os.minor(about.st_rdev))
        return tar_header(name, mode & 0o7777, uid, gid, size, int(about.st_mtime // 1), kind, link, device), \
            data, descriptor

    def _skip(self, path, words):
        if not self.skipped:
            raise DockerError("%s: %s" % (path, words))
        self.skipped(path, words)


def clean_path(path: str) -> str:
    """A path without needless parts, as Go's filepath.Clean makes it."""
    path = os.path.normpath(path)
    return path[1:] if path.startswith("//") else path


def split_entry(path: str) -> tuple:
    """(folder, entry) of what a path of cp names: `a/b/` is b in a, `a/b/.` what is in a/b."""
    folder, base = os.path.split(clean_path(path))
    return (clean_path(path), ".") if _last_part(path) == "." else (folder or ".", base or "/")


def _last_part(path):
    return os.path.basename(path.rstrip("/")) or path[:1] or "."


def _keep_tail(path, typed):
    """A path with the `/` or `/.` at the end that the typed one has."""
    if _last_part(typed) == "." != _last_part(path):
        path = path.rstrip("/") + "/."
    return path + "/" if typed.endswith("/") and not path.endswith("/") else path


def _absolute(path):
    return _keep_tail(clean_path(os.path.join(os.getcwd(), path)), path)


def copy_place(target: str, exists: bool, is_dir: bool, source_is_dir: bool) -> tuple:
    """Where an archive of a file or folder is to be unpacked: (folder, new name for its root, empty to keep it)."""
    if exists and is_dir:
        return target, ""
    if exists and source_is_dir:
        raise DockerError("cannot copy directory")
    if not source_is_dir and not exists and (target.endswith("/") or _last_part(target) == "."):
        raise DockerError("no such directory")
    return split_entry(target)


def local_place(path: str, source_is_dir: bool) -> tuple:
    """`copy_place` for a path here, which may be a symbolic link to the place."""
    target = path
    for _ in range(12):
        if not os.path.islink(target):
            break
        target = clean_path(os.path.join(split_entry(target)[0], os.readlink(target)))
    else:
        raise DockerError("too many symlinks in " + path)
    exists = os.path.lexists(target)
    try:
        if not exists and os.stat(split_entry(target)[0]).st_mode & 0o170000 != 0o040000:
            raise DockerError("not a directory")
    except OSError as error:
        raise DockerError(path_error_text(error, "stat"))
    return copy_place(target, exists, os.path.isdir(target), source_is_dir)


def local_source(path: str, follow_link: bool) -> tuple:
    """What cp is to take here: (path, name in the archive, whether it is a folder)."""
    if follow_link:
        found = _keep_tail(os.path.realpath(path), path)
    else:
        folder, base = os.path.split(path)
        found = "%s/%s" % (os.path.realpath(folder), base)
    try:
        os.stat(os.path.dirname(found))
        is_dir = os.lstat(found).st_mode & 0o170000 == 0o040000
    except NotADirectoryError:
        raise DockerError("not a directory")
    except OSError as error:
        raise DockerError(path_error_text(error, "lstat"))
    return found, _last_part(path) if follow_link or path.endswith("/") else split_entry(found)[1], is_dir


def _check_output_place(path):
    """DockerError if cp cannot write to a path here."""
    folder = os.path.dirname(clean_path(path))
    if not os.path.exists(folder):
        raise DockerError("invalid output path: directory %s does not exist" % go_quote(folder))
    try:
        kind = os.stat(path).st_mode & 0o170000
    except FileNotFoundError:
        return
    except OSError as error:
        raise DockerError(path_error_text(error, "stat"))
    if kind in (0o020000, 0o060000):
        raise DockerError("invalid output path: %s must be a directory or a regular file: got a device" % (
            go_quote(path)))


class _TarSource:
    """The bytes of an archive that comes in spans."""

    def __init__(self, spans):
        self.spans = spans
        self._data, self._at = b"", 0

    def read(self, size: int, last: bool = False) -> bytes:
        """So many bytes; with `last` none where the archive ends."""
        at = self._at
        while len(self._data) - at < size:
            pieces = next(self.spans, None)
            if pieces is None:
                if last and at == len(self._data):
                    return b""
                raise ConnectionFailed("unexpected EOF")
            self._data = b"".join([self._data[at:]] + pieces)
            at = 0
        self._at = at + size
        return self._data[at:at + size]

    def blocks(self, size: int):
        """Yield so many bytes as they come."""
        while size:
            if self._at == len(self._data):
                pieces = next(self.spans, None)
                if pieces is None:
                    raise ConnectionFailed("unexpected EOF")
                self._data, self._at = b"".join(pieces), 0
            block = self._data[self._at:self._at + size]
            self._at += len(block)
            size -= len(block)
            yield block

    def copy(self, descriptor: int, size: int) -> None:
        """Write so many bytes to a file."""
        data = self.read(min(size, len(self._data) - self._at))
        write_all(descriptor, data)
        size -= len(data)
        while size:
            pieces = next(self.spans, None)
            if pieces is None:
                raise ConnectionFailed("unexpected EOF")
            count = sum(map(len, pieces))
            if count > size:
                self._data, self._at = b"".join(pieces), size
                pieces, count = [self._data[:size]], size
            write_pieces(descriptor, pieces)
            size -= count


class _TarEntry:
    __slots__ = ("name", "kind", "mode", "size", "mtime", "link", "device", "owner", "place")


def _tar_number(field):
    """A number field: octal digits, or base 256 behind a set high bit."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & (1 << 8 * len(field) - 1) - 1
        return value - (1 << 8 * len(field) - 1) if field[0] & 0x40 else value
    return int(field.strip(b" \0") or b"0", 8)


def _pax_records(data):
    """The records of a pax header that matter here: {key: value}."""
    records, at = {}, 0
    while at < len(data):
        end = at + int(data[at:at + 20].partition(b" ")[0])
        key, _, value = data[data.index(b" ", at) + 1:end - 1].partition(b"=")
        if end <= at or data[end - 1:end] != b"\n":
            raise ValueError
        if key.startswith(b"GNU.sparse."):
            raise DockerError("sparse files in an archive are not understood")
        if key in (b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid"):
            records[key] = value
        at = end
    return records


def _tar_entries(source):
    """Yield the entries of an archive: ustar, GNU and pax.  Whoever asks for the next one has read a file's bytes."""
    pax = {}
    while True:
        head = source.read(_TAR_BLOCK, last=True)
        if not head.strip(b"\0"):
            return
        try:
            if sum(head) - sum(head[148:156]) + 8 * 32 != _tar_number(head[148:156]):
                raise ValueError
            kind, size = head[156:157], _tar_number(head[124:136])
            if kind in (b"x", b"g", b"L", b"K"):
                if not 0 <= size <= MIB:
                    raise ValueError
                data = source.read(size + -size % _TAR_BLOCK)[:size]
                if kind == b"x":
                    pax.update(_pax_records(data))
                elif kind != b"g":
                    pax[b"path" if kind == b"L" else b"linkpath"] = data.partition(b"\0")[0]
                continue
            entry = _TarEntry()
            name = head[:100].partition(b"\0")[0]
            if head[345] and head[257:263] == b"ustar\0":
                name = head[345:500].partition(b"\0")[0] + b"/" + name
            entry.name = os.fsdecode(pax.get(b"path") or name)
            entry.link = os.fsdecode(pax.get(b"linkpath") or head[157:257].partition(b"\0")[0])
            entry.kind = kind if kind not in (b"\0", b"7") else b"5" if name.endswith(b"/") else b"0"
            entry.mode = _tar_number(head[100:108]) & 0o7777
            entry.size = int(pax[b"size"]) if b"size" in pax else size
            entry.owner = (int(pax.get(b"uid") or _tar_number(head[108:116])),
                           int(pax.get(b"gid") or _tar_number(head[116:124])))
            whole, _, part = pax[b"mtime"].partition(b".") if b"mtime" in pax else (_tar_number(head[136:148]), "", b"")
            entry.mtime = int(whole) * 10 ** 9 + int(part.ljust(9, b"0")[:9])
            if not 0 <= entry.mtime < 1 << 63:
                entry.mtime = 0
            entry.device = tuple(_tar_number(head[at:at + 8]) if kind in (b"3", b"4") else 0 for at in (329, 337))
            if "\0" in entry.name + entry.link or entry.size < 0:
                raise ValueError
        except ValueError:
            raise DockerError("archive/tar: invalid tar header")
        pax = {}
        yield entry
        if entry.kind == b"0":
            source.read(-entry.size % _TAR_BLOCK)


def _components(path):
    """The parts of a path that is cleaned as text; it leads out of its root where the first is `..`."""
    parts = []
    for part in path.split("/"):
        if part == "..":
            if parts and parts[-1] != "..":
                parts.pop()
            elif not path.startswith("/"):
                parts.append(part)
        elif part not in ("", "."):
            parts.append(part)
    return parts


_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_VERBS = {b"0": "open", b"1": "link", b"2": "symlink", b"3": "mknod", b"4": "mknod", b"5": "mkdir", b"6": "mknod"}
_DEVICE_KINDS = {b"3": 0o020000, b"4": 0o060000, b"6": 0o010000}


class _Destination:
    """The folder where an archive is unpacked.

    Every step on the way to an entry is taken from the descriptor of the folder before, and through no symbolic link,
    so that nothing in the archive, nor anybody who moves folders meanwhile, can lead out of it.
    """

    def __init__(self, path: str):
        self.path = clean_path(path).rstrip("/")
        self._root = os.open(path, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
        self._head, self._at = "", os.dup(self._root)       # the folder of the latest entry
        self._folders = []              # (parts, mode, mtime) of those that get theirs when all is in them

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._at)
        os.close(self._root)

    def _open(self, parts):
        """A descriptor of a folder; what is missing of the way is made."""
        at = os.dup(self._root)
        for part in parts:
            try:
                try:
                    inner = os.open(part, _FOLDER, dir_fd=at)
                except FileNotFoundError:
                    os.mkdir(part, 0o755, dir_fd=at)
                    inner = os.open(part, _FOLDER, dir_fd=at)
            finally:
                os.close(at)
            at = inner
        return at

    def _path(self, *parts):
        return "/".join((self.path,) + tuple(filter(None, parts)))

    def add(self, entry: _TarEntry, source: _TarSource) -> None:
        """Unpack one entry, in place of whatever is there that is no folder."""
        head, _, base = entry.name.rpartition("/")
        if head != self._head or base in ("", ".", ".."):
            head, base = self._enter(entry)
        if not base:
            return
        try:
            try:
                descriptor = self._create(entry, base)
            except FileExistsError:
                if self._displace(entry, self._path(head, base), os.lstat(base, dir_fd=self._at)):
                    descriptor = None
                else:
                    os.unlink(base, dir_fd=self._at)
                    descriptor = self._create(entry, base)
            if entry.kind == b"0":
                try:
                    if entry.size > RECEIVE_SIZE:
                        source.copy(descriptor, entry.size)
                    elif entry.size:
                        write_all(descriptor, source.read(entry.size))
                    os.fchmod(descriptor, entry.mode)
                    os.utime(descriptor, ns=(entry.mtime, entry.mtime))
                finally:
                    os.close(descriptor)
            elif entry.kind == b"5":
                self._folders.append((_components(head) + [base], entry.mode, entry.mtime))
            elif entry.kind != b"1":
                if entry.kind != b"2":
                    os.chmod(base, entry.mode, dir_fd=self._at)
                os.utime(base, ns=(entry.mtime, entry.mtime), dir_fd=self._at, follow_symlinks=False)
        except OSError as error:
            raise DockerError("%s %s: %s" % (_VERBS[entry.kind], self._path(head, base), os_error_text(error)))

    def _enter(self, entry):
        """Go to an entry's folder: (its path below the root, the entry's name within)."""
        parts = _components(entry.name)
        if parts[:1] == [".."]:
            raise DockerError("%s is outside of %s" % (go_quote("/".join(parts)), go_quote(self.path)))
        if not parts:
            self._displace(entry, self.path, os.fstat(self._root))
            return "", ""
        head = "/".join(parts[:-1])
        if head != self._head:
            try:
                at = self._open(parts[:-1])
            except OSError as error:
                raise DockerError("mkdir %s: %s" % (self._path(head), os_error_text(error)))
            os.close(self._at)
            self._head, self._at = head, at
        return head, parts[-1]

    def _displace(self, entry, path, about):
        """Whether a folder is in the place of a folder; DockerError if just one of the two is one."""
        is_dir = about.st_mode & 0o170000 == 0o040000
        if is_dir != (entry.kind == b"5"):
            raise DockerError("cannot overwrite %sdirectory %s with %sdirectory %s" % (
                "" if is_dir else "non-", go_quote(path), "non-" if is_dir else "", go_quote(self.path)))
        return is_dir

    def _create(self, entry, base):
        """Make what an entry stands for; the open descriptor of a plain file."""
        kind = entry.kind
        if kind == b"0":
            return os.open(base, _NEW_FILE, entry.mode & 0o777, dir_fd=self._at)
        if kind == b"5":
            os.mkdir(base, entry.mode & 0o777 | 0o700, dir_fd=self._at)
        elif kind == b"2":
            path = os.path.normpath(self._path(self._head, entry.link))
            if not entry.link.startswith("/") and not (path + "/").startswith(self.path + "/"):
                raise DockerError("invalid symlink %s -> %s" % tuple(map(go_quote, (
                    self._path(self._head, base), entry.link))))
            os.symlink(entry.link, base, dir_fd=self._at)
        elif kind == b"1":
            parts = _components(entry.link)
            if not parts or parts[0] == "..":
                raise DockerError("invalid hardlink %s -> %s" % (
                    go_quote(os.path.normpath(self._path(entry.link))), go_quote(entry.link)))
            source = self._open(parts[:-1])
            try:
                os.link(parts[-1], base, src_dir_fd=source, dst_dir_fd=self._at,
                        follow_symlinks="pypy" in sys.version.lower())      # whose linkat has it the wrong way round
            finally:
                os.close(source)
        elif kind in _DEVICE_KINDS:
            os.mknod(base, entry.mode | _DEVICE_KINDS[kind], os.makedev(*entry.device), dir_fd=self._at)
        else:
            raise DockerError("unhandled tar header type %d" % ord(kind))

    def finish(self) -> None:
        """Give the folders their modes and times, innermost first."""
        for parts, mode, mtime in reversed(self._folders):
            descriptor = self._open(parts)
            os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(mtime, mtime))
            os.close(descriptor)


def _renamed(name, old, new):
    """A name in an archive whose root changes its name; podman's archives of `.` and `/` do without that root."""
    first, slash, rest = name.partition("/")
    return new + "/" + name if old in ("", ".") else new + slash + rest if first == old else name


def extract_tar(spans, folder: str, renames=()) -> None:
    """Unpack a tar archive, from a Body's `spans()`, into an existing folder, and nowhere else, whatever it says.

    Plain files take the place of what is there; a folder only joins one that is there.  Modes, times and links are
    kept, owners are not.  `renames` are pairs (old, new) for the archive's root.
    """
    source = _TarSource(spans)
    with _Destination(folder) as destination:
        for entry in _tar_entries(source):
            for old, new in renames:
                entry.name = _renamed(entry.name, old, new)
                if entry.kind == b"1":
                    entry.link = _renamed(entry.link, old, new)
            destination.add(entry, source)
        destination.finish()
    for _ in spans:
        pass                            # the connection serves on when all is read


# -- build contexts ----------------------------------------------------------------------------------------------------

_GLOB = r"(\*\*/?)|(\*)|(\?)|(\[\^?(?:(?:\\.|[^]\\-])(?:-(?:\\.|[^]\\-]))?)+\])|\\(.)|([^[\\])"


def read_dockerignore(data: bytes) -> list:
    """The patterns in the text of a `.dockerignore`: without comments, blanks, `./` and the like, `!` in front kept."""
    patterns = []
    for line in data.decode("utf-8-sig", "surrogateescape").split("\n"):
        keeps, text = re.match(r"\s*(!?)\s*(.*?)\s*\Z", "" if line.startswith("#") else line, re.DOTALL).groups()
        if text:
            text = os.path.normpath(text).replace(os.sep, "/").lstrip("/") or "/"
        if keeps or text:
            patterns.append(keeps + text)
    return patterns


class DockerIgnore:
    """Says of each path in a build context whether it is left out, as a TarStream's `ignore`.

    `patterns` are those of `read_dockerignore`; the last one that matches a path or a folder above it decides.  A
    folder that is left out is looked into if a pattern with `!` begins with its name, or, with `deep`, as BuildKit has
    it, if one with wildcards might match below.  Raises DockerError for a pattern that is none.
    """

    def __init__(self, patterns, deep: bool = False):
        import itertools
        self._kept = [pattern[1:] + "/" for pattern in patterns if pattern.startswith("!")]
        self._never_prunes = deep and any(re.search(r"[*?[\\]", pattern) for pattern in self._kept)
        self._rules = []                # from the last to the first: (whether it keeps, a matcher for several patterns)
        for keeps, group in itertools.groupby(patterns, lambda pattern: pattern.startswith("!")):
            regex = "(?:%s)(?:/|\\Z)" % "|".join(_glob_regex(pattern[keeps:]) for pattern in group)
            self._rules.insert(0, (keeps, re.compile(regex, re.DOTALL).match))

    def __call__(self, path: str, is_dir: bool = False):
        if next((keeps for keeps, match in self._rules if match(path)), True):
            return False
        prunes = is_dir and not self._never_prunes and not any(kept.startswith(path + "/") for kept in self._kept)
        return PRUNE if prunes else True

    def decide(self, path: str, keeps: bool) -> None:
        """Send this very file, or leave it out, whatever the patterns say."""
        if bool(self(path)) == keeps:
            self._kept += [path + "/"] * keeps
            self._rules.insert(0, (keeps, re.compile(re.escape(path) + r"\Z").match))


def _glob_regex(pattern):
    """A pattern of a `.dockerignore` as a regular expression."""
    if not pattern:
        raise DockerError('illegal exclusion pattern: "!"')
    found = list(re.finditer(_GLOB, pattern, re.DOTALL))
    # `**` in front of plain text means any beginning; elsewhere it stands for whole folders
    is_suffix = not any(any(match.groups()[:5]) for match in found[1:])
    out = []
    for match in found:
        folders, star, mark, choice, escaped, plain = match.groups()
        if folders:
            out.append(".*" if match is found[-1] or is_suffix and folders == "**" else "(?:.*/)?")
        else:
            out.append("[^/]*" if star else "[^/]" if mark else
                       choice and "[" + re.sub(r"[\[&|~]", r"\\\g<0>", choice[1:]) or re.escape(escaped or plain))
    try:
        re.compile("".join(out))
    except re.error:                    # a range that runs backwards
        found = ()
    if sum(len(match.group()) for match in found) != len(pattern):
        raise DockerError("syntax error in pattern")
    return "".join(out)


def is_archive(head: bytes) -> bool:
    """Whether what begins with these 512 bytes is a tar archive, be it compressed with gzip, bzip2, xz or zstd."""
    import tarfile
    try:
        return head.startswith((b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")) or bool(
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


class BuildContext:
    """What an image is built from: an iterable for the body of `Client.build`.

    `dockerfile` is the Dockerfile's name, as the user gave it and then as it is within; `text` what it holds, empty
    where that is not known; `folder` is empty for an archive; `deep` asks for BuildKit's rules.  A context manager,
    which takes temporary files away.  Fill it with one of the `take_` methods, then `load` it; they raise DockerError.
    """

    def __init__(self, dockerfile: str = "", deep: bool = False):
        self.dockerfile = dockerfile
        self.deep = deep
        self.folder = self.text = self._temporary = ""
        self._archive, self._ignore, self._extra = None, None, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._temporary:
            import shutil
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __iter__(self):
        return iter(self._archive or TarStream(self.folder, ignore=self._ignore, owner=(0, 0), extra=self._extra,
                                               skipped=self._skip))

    @staticmethod
    def _skip(path, words):
        if "sockets" not in words:
            raise DockerError("error checking context: " + (
                "no permission to read from '%s'" % path if words == "permission denied" else
                "can't stat '%s'" % path if words == "no such file or directory" else "%s: %s" % (path, words)))

    def take_stream(self, source) -> None:
        """Take an open binary file: a tar archive, or else the Dockerfile, which is then all there is."""
        head = source.read(512)
        if is_archive(head):
            import itertools
            self._archive = itertools.chain([head], iter(lambda: source.read(MIB >> 2), b""))
        elif self.dockerfile:
            raise DockerError("build context is not an archive" if self.dockerfile == "-" else
                              "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
        else:
            data = head + source.read()
            self.dockerfile, self.text = "Dockerfile", data.decode("utf-8", "replace")
            self._archive = [tar_header("Dockerfile", 0o644, 0, 0, len(data), int(time.time())) + data +
                             bytes(-len(data) % 512 + 1024)]

    def take_folder(self, folder: str) -> None:
        """Take a folder with the Dockerfile in it or elsewhere, `-` for one that is still to be read."""
        self.folder = os.path.realpath(folder)
        if not os.path.isdir(self.folder):
            raise DockerError("context must be a directory: " + self.folder)
        if self.dockerfile == "-":
            return
        names = [self.dockerfile] if self.dockerfile else ["Dockerfile", "dockerfile"]
        base = os.getcwd() if self.dockerfile and not self._temporary else self.folder
        paths = [os.path.abspath(os.path.join(base, name)) for name in names]
        path = next(filter(os.path.exists, paths), None)
        if not path:
            raise DockerError("unable to evaluate symlinks in Dockerfile path: lstat %s: no such file or directory" %
                              paths[0])
        name = os.path.relpath(os.path.realpath(path), self.folder).replace(os.sep, "/")
        if name.startswith("../") and self._temporary:
            raise DockerError("the Dockerfile (%s) must be within the build context" % self.dockerfile)
        self.dockerfile = name

    def take_git(self, url: str) -> None:
        """Take a git repository, `URL#REF:FOLDER`: only its newest commit where the server allows that."""
        import tempfile
        url, _, fragment = url.partition("#")
        ref, _, folder = fragment.partition(":")
        if ref.startswith("-"):
            raise DockerError("unable to 'git clone' to temporary context directory: invalid refspec: " + ref)
        ref = ref or ("HEAD" if self.deep else "master")
        if not re.match(r"\w+://|git@", url):
            url = "https://" + url
        self._temporary = root = os.path.realpath(tempfile.mkdtemp(prefix="docker-build-git"))
        _git(root, "initializing", "init")
        _git(root, "adding remote", "remote", "add", "origin", url)
        _git(root, "fetching", "fetch", "--depth", "1", "origin", "--", ref, instead=("fetch", "origin", "--", ref))
        _git(root, "checking out", "checkout", ref, instead=("checkout", "FETCH_HEAD"))
        _git(root, "initializing submodules", "submodule", "update", "--init", "--recursive", "--depth=1")
        inside = os.path.realpath(os.path.join(root, folder))
        if not (inside + os.sep).startswith(root + os.sep) or not os.path.isdir(inside):
            raise DockerError("unable to 'git clone' to temporary context directory: %s" % (
                "stat %s: no such file or directory" % inside if not os.path.exists(inside) else
                "error setting git context, not a directory: " + inside))
        self.take_folder(inside)

    def load(self, stdin) -> None:
        """Read a folder's `.dockerignore` and Dockerfile, or the Dockerfile from `stdin`, before it is sent."""
        if self._archive:
            if self.dockerfile == "-":
                raise DockerError("the Dockerfile cannot come from the input where the context is an archive")
            return
        path = os.path.join(self.folder, self.dockerfile) if self.dockerfile != "-" else ""
        names = [path + ".dockerignore"] * bool(self.deep and path) + [os.path.join(self.folder, ".dockerignore")]
        try:
            data = _read_file(path) if path else stdin.read()
            ignored = _read_file(next(filter(os.path.lexists, names), os.devnull))
            self._ignore = DockerIgnore(read_dockerignore(ignored), self.deep)
        except OSError as error:
            raise DockerError("error reading the build context: " + path_error_text(error))
        except DockerError as error:
            raise DockerError("error checking context: %s" % error)
        self.text = data.decode("utf-8", "replace")
        outside = not path or self.dockerfile.startswith("../")
        if outside:
            import hashlib
            self.dockerfile = ".dockerfile." + hashlib.sha256(data).hexdigest()[:20]
            self._extra = [(self.dockerfile, data, 0o600)]
        else:
            self._ignore.decide(self.dockerfile, True)
        if not self.deep:               # the engine obeys it, too, so that COPY does not see the Dockerfile
            self._ignore.decide(".dockerignore", not outside)
            if outside:
                lines = (ignored or b".dockerignore") + b"\n" + self.dockerfile.encode() + b"\n"
                self._extra.insert(0, (".dockerignore", lines, 0o644 if ignored else 0o600))


def _read_file(path):
    with open(path, "rb") as file:
        return file.read()


def _git(root, doing, *args, instead=None):
    """Run git in a folder; if that fails, with other words `instead`."""
    import subprocess
    try:
        child = subprocess.Popen(("git", "-C", root) + args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, env=dict(os.environ, GIT_PROTOCOL_FROM_USER="0"))
    except FileNotFoundError:
        raise DockerError("unable to find 'git': exec: \"git\": executable file not found in $PATH")
    said = child.communicate()[0].decode("utf-8", "replace")
    if child.returncode and instead:
        _git(root, doing, *instead)
    elif child.returncode:
        raise DockerError("unable to 'git clone' to temporary context directory: error %s: %s: exit status %d" % (
            doing, said, child.returncode))


def compress(blocks):
    """The blocks of a body, gzipped."""
    import zlib
    packer = zlib.compressobj(wbits=31)
    for block in blocks:
        if isinstance(block, bytes):
            yield packer.compress(block)
        else:
            descriptor, start, length = block
            for at in range(start, start + length, MIB):
                os.lseek(descriptor, at, os.SEEK_SET)
                yield packer.compress(os.read(descriptor, min(MIB, start + length - at)))
    yield packer.flush()


# -- Dockerfiles -------------------------------------------------------------------------------------------------------


def read_dockerfile(text: str) -> list:
    """The instructions of a Dockerfile, as (first line, last line, word in capitals, the rest in one line)."""
    lines, found, words, first = text.splitlines(), [], [], 0
    escape = "`" if re.match(r"(?i)(\s*#\s*\w+\s*=.*\n)*?\s*#\s*escape\s*=\s*`", text) else "\\"
    rest = iter(enumerate(lines, 1))
    for number, line in rest:
        line = line.strip()
        if line and not line.startswith("#"):
            first = first or number
            words.append(line[:-1].rstrip() if line.endswith(escape) else line)
        if not words or number < len(lines) and (not line or line.startswith("#") or line.endswith(escape)):
            continue
        word, _, tail = " ".join(words).partition(" ")
        for mark in re.findall(r"<<-?[\"']?(\w+)", tail) if word.upper() in ("RUN", "COPY", "ADD") else ():
            number = next((number for number, line in rest if line.lstrip("\t") == mark), len(lines))
        found.append((first, number, word.upper(), tail.strip()))
        words, first = [], 0
    return found


def base_images(instructions, arguments: dict, target: str = "") -> list:
    """The images that the stages of a Dockerfile begin with or copy from, as far as `target` or the last needs them."""
    stages, values, images = [], {}, []         # a stage: (name, [what it needs])
    for _, _, word, rest in instructions:
        if word == "ARG" and not stages:
            for name, _, value in (pair.partition("=") for pair in rest.split()):
                values[name] = arguments.get(name) or value.strip("\"'")
        elif word == "FROM":
            rest = re.sub(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+))",
                          lambda match: values.get(match.group(1) or match.group(3)) or match.group(2) or "$", rest)
            words = [part for part in rest.split() if not part.startswith("--")]
            stages.append(("".join(words[2:3]).lower(), words[:1]))
        elif stages:
            stages[-1][1].extend(re.findall(r"(?:--from=|--mount=\S*\bfrom=)([^\s,]+)", rest))
    numbers = {name: i for i, (name, _) in enumerate(stages) if name}
    numbers.update((str(i), i) for i in range(len(stages)))
    wanted = [numbers.get(target.lower(), len(stages) - 1)] if stages else []
    for i in wanted:
        for need in stages[i][1]:
            other = numbers.get(need.lower(), i)
            if other < i:
                wanted += [other] * (other not in wanted)
            elif need.lower() != "scratch" and need not in images and "$" not in need:      # some only BuildKit knows
                images.append(need)
    return images


def failed_line(instructions, step: str) -> tuple:
    """The lines of the instruction that BuildKit calls `[stage 2/3] RUN …`; None if there is no such."""
    match = re.match(r"\[(?:(.*) )?(\d+)/\d+\] (\w+)", step)
    stage, number, word = match.groups() if match else ("", 0, "")
    index, name, count = -1, "", 0
    stage = (stage or "").rpartition(" ")[2]
    stage = "" if "/" in stage else stage       # a platform
    for first, last, kind, rest in instructions:
        if kind == "FROM":
            index, count = index + 1, 0
            name = (re.findall(r"(?i)\sAS\s+(\S+)", rest) or ["stage-%d" % index])[0].lower()
        count += kind in ("FROM", "RUN", "COPY", "ADD", "WORKDIR")
        if kind == word and count == int(number) and stage in ("", name):
            return first, last
    return None


def excerpt(name: str, text: str, first: int, last: int) -> str:
    """Some lines of a Dockerfile, marked, with their neighbours."""
    lines, around = text.splitlines(), 2 if first == last else 1
    out = [" %3d | %s %s\n" % (number, ">>>" if first <= number <= last else "   ", lines[number - 1])
           for number in range(max(first - around, 1), min(last + around, len(lines)) + 1)]
    rule = "-" * 20 + "\n"
    return "%s:%d\n%s%s%s" % (name, first, rule, "".join(out), rule)


# ======================================================================================================================
# 11  Flags
# ======================================================================================================================


def parse_bool(text: str) -> bool:
    """A boolean as Go's strconv reads it; ValueError in its words."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("strconv.ParseBool: parsing %s: invalid syntax" % go_quote(text))


def parse_int(text: str) -> int:
    """A 64-bit integer as Go's strconv reads it, with the prefixes 0x, 0o, 0b and 0; ValueError in its words."""
    match = re.match(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))\Z", text, re.ASCII)
    if not match:
        raise ValueError("strconv.ParseInt: parsing %s: invalid syntax" % go_quote(text))
    sign, hexadecimal, binary, octal, decimal = match.groups()
    value = (int(hexadecimal, 16) if hexadecimal else int(binary, 2) if binary else int(octal, 8) if octal else
             int(decimal))
    value = -value if sign == "-" else value
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError("strconv.ParseInt: parsing %s: value out of range" % go_quote(text))
    return value


def parse_filter(text: str) -> tuple:
    """A `--filter` value as (name, value); None for an empty one."""
    if not text:
        return None
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def parse_uint(text: str, bits: int = 64) -> int:
    """An unsigned decimal number of so many bits; ValueError in the words of Go's strconv."""
    number = re.match(r"[0-9]+\Z", text)
    if not number or int(text) >> bits:
        raise ValueError("strconv.ParseUint: parsing %s: %s" % (
            go_quote(text), "value out of range" if number else "invalid syntax"))
    return int(text)


def parse_size(text: str) -> int:
    """A size in bytes, `1.5g` or `64 KiB` with binary units; ValueError in docker's words."""
    number, suffix = re.match(r"(?s)(.*[0-9.])? ?(.*)\Z", text.lower()).groups()
    if number is None or number.startswith("-"):
        raise ValueError("invalid size: '%s'" % text)
    if not re.match(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?\Z", number):
        raise ValueError("strconv.ParseFloat: parsing %s: invalid syntax" % go_quote(number))
    if not re.match(r"(b|[kmgtp](i?b)?)?\Z", suffix):
        raise ValueError("invalid suffix: '%s'" % suffix)
    return int(float(number) * 1024 ** "bkmgtp".index(suffix[:1] or "b"))


def parse_cpus(text: str) -> int:
    """A number of CPUs, `1.5` or `3/2`, in billionths; ValueError in docker's words."""
    from fractions import Fraction
    try:
        count = Fraction(text if re.match(r"[0-9.+-]\S*\Z", text) else "") * 10 ** 9
    except (ValueError, ZeroDivisionError):
        raise ValueError("failed to parse %s as a rational number" % text)
    if count.denominator != 1:
        raise ValueError("value is too precise")
    return int(count)


# The word that stands behind a flag in its table says how its value is read: (converter, whether values accumulate).
# What follows a `|` in it is not shown.
VALUE_TYPES = {
    "": (parse_bool, False), "string": (str, False), "int": (parse_int, False),
    "list": (str, True), "strings": (str, True), "filter": (parse_filter, True),
}


class Flag:
    """One flag of a FlagSet, read from its line in the table."""

    def __init__(self, line: str):
        match = re.match(r"\s*(?:(#?)-(\w), *)?(#?)--([\w-]+)(?: (\S+))?(?:\s{2,}(.*?))?(?: > \S+)?$", line)
        hidden_short, self.short, hidden, self.long, word, text = match.groups()
        self.word, self.text, self.hidden = (word or "").partition("|")[0], text or "", bool(hidden or hidden_short)
        since = re.search(r" \(API ([\d.]+)\)$", self.text)
        self.api = since.group(1) if since else ""
        self.windows = self.text.endswith("(Windows)")
        self.convert, self.repeats = VALUE_TYPES[word or ""]
        default = re.search(r"\(default (?:\"(.*)\"|(\S+))\)", self.text)
        self.default = [] if self.repeats else False if not self.word else None if self.word == "int" else ""
        if default and not self.repeats:
            self.default = self.convert(default.group(1) if default.group(1) is not None else default.group(2))

    @property
    def dest(self) -> str:
        return self.long.replace("-", "_")

    def __str__(self):
        return ("-%s, " % self.short if self.short else "") + "--" + self.long


class FlagSet:
    """The flags of one stage of a command line, on `argparse`, with Docker's grammar.

    `table` holds a line a flag, in the form in which help shows it: `-q, --quiet` (a boolean), `--platform string`,
    then two blanks or more and the description; `(default X)`, `(API 1.42)` and `(Windows)` in it are meant.  A `#`
    before the dashes hides a flag.  ` > Field.Field` at the end says where in a request's body the value belongs, for
    `fill_in`.
    """

    def __init__(self, table: str):
        self.flags = [Flag(line) for line in table.splitlines() if line.strip()]
        self._by_name = {"--" + flag.long: flag for flag in self.flags}
        self._by_name.update(("-" + flag.short, flag) for flag in self.flags if flag.short)

    def parse(self, args, interspersed: bool = True):
        """Parse the words of a command line.

        Returns a namespace with an attribute for each flag, `args` (the positionals), `given` (the names of the
        flags that were used) and `help` (`""`, `--help` or `-h`).  With `interspersed` false the first positional
        ends the flags.  Raises UsageError, in docker's words.
        """
        words, positionals, asked = self._normalize(list(args), interspersed)
        import argparse

        class Store(argparse.Action):
            """Reads a flag's value by its converter and notes that it was given."""

            def __call__(self, parser, namespace, value, option=None):
                flag = self.const
                try:
                    value = flag.convert(value)
                except (ValueError, DockerError) as error:
                    raise UsageError('invalid argument %s for "%s" flag: %s' % (go_quote(value), flag, error), 125)
                namespace.given.add(flag.dest)
                if not flag.repeats:
                    setattr(namespace, flag.dest, value)
                elif flag.word == "strings":
                    import csv
                    getattr(namespace, flag.dest).extend(next(csv.reader([value]), ()))
                elif value is not None:
                    getattr(namespace, flag.dest).append(value)

        # the width keeps argparse from asking shutil, and so bz2 and lzma, for the terminal's
        parser = argparse.ArgumentParser(prog="", usage="", add_help=False, allow_abbrev=False,
                                         formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80))
        namespace = argparse.Namespace(given=set(), args=positionals)
        used = {word.partition("=")[0] for word in words}
        for flag in self.flags:
            if "--" + flag.long in used:
                parser.add_argument("--" + flag.long, dest=flag.dest, action=Store, const=flag)
            setattr(namespace, flag.dest, flag.default if not flag.repeats else list(flag.default))
        namespace.help = asked
        return parser.parse_args(words, namespace)

    def _normalize(self, args, interspersed):
        """Bring Docker's ways of writing flags into one: (`--name=value` words, positionals, the help asked for)."""
        words, positionals, asked = [], [], ""
        while args:
            word = args.pop(0)
            if word == "--":
                return words, positionals + args, asked
            if word == "-" or not word.startswith("-"):
                positionals.append(word)
                if not interspersed:
                    return words, positionals + args, asked
            elif word.startswith("--"):
                name, equals, value = word.partition("=")
                if name == "--":
                    raise UsageError("bad flag syntax: " + word, 125)
                flag = self._by_name.get(name)
                if name == "--help":
                    asked = asked or name
                    continue
                if not flag:
                    raise UsageError("unknown flag: " + name, 125)
                if not equals:
                    value = self._value_of(flag, args, name)
                words.append("--%s=%s" % (flag.long, value))
            else:
                asked = self._cluster(word[1:], args, words) or asked
        return words, positionals, asked

    def _cluster(self, letters, args, words):
        """Short flags in one word: `-it`, `-n5`, `-n=5`, `-itv /a:/b`."""
        asked = ""
        while letters:
            flag = self._by_name.get("-" + letters[0])
            if not flag and letters[0] == "h":
                asked = "-h"
            elif not flag:
                raise UsageError("unknown shorthand flag: '%s' in -%s" % (letters[0], letters), 125)
            if len(letters) > 2 and letters[1] == "=":
                value, letters = letters[2:], ""
            elif not flag or not flag.word:
                value, letters = "true", letters[1:]
            elif len(letters) > 1:
                value, letters = letters[1:], ""
            else:
                value, letters = self._value_of(flag, args, "'%s' in -%s" % (letters, letters)), ""
            if flag:
                words.append("--%s=%s" % (flag.long, value))
        return asked

    @staticmethod
    def _value_of(flag, args, name):
        if not flag.word:
            return "true"
        if not args:
            raise UsageError("flag needs an argument: " + name, 125)
        return args.pop(0)

    def usage(self, columns: int) -> str:
        """The flags as help lists them, in lines of at most `columns` characters."""
        import textwrap
        shown = [flag for flag in self.flags if not flag.hidden]
        heads = ["  %s--%s%s" % ("-%s, " % flag.short if flag.short else "    ", flag.long,
                                 flag.word and " " + flag.word) for flag in shown]
        indent = max(map(len, heads), default=0) + 3
        out = []
        for flag, head in zip(shown, heads):
            lines = textwrap.wrap(flag.text, max(24, columns - 1 - indent)) or [""]
            out.append((head.ljust(indent) + lines[0]).rstrip())
            out += [" " * indent + line for line in lines[1:]]
        return "".join(line + "\n" for line in out)


# -- values of run and create ------------------------------------------------------------------------------------------


def key_value(text: str) -> tuple:
    """`key=value` as a pair; the value is empty where there is no `=`."""
    return text.partition("=")[::2]


def parse_csv(text: str) -> list:
    """The fields of a line of comma-separated values, `a,"b,c"`; ValueError in the words of Go's reader."""
    field = r'(?:"(?:[^"]|"")*"|[^",]*)'
    if not text:
        raise ValueError("EOF")
    if not re.match("%s(?:,%s)*\\Z" % (field, field), text):
        start = re.match("(?:%s,)*" % field, text).end()
        quoted = re.compile(r'"(?:[^"]|"")*("?)').match(text, start)
        raise ValueError("parse error on line 1, column %d: %s" % (
            (quoted.end() + (not quoted.group(1)), 'extraneous or missing " in quoted-field') if quoted else
            (text.index('"', start) + 1, 'bare " in non-quoted-field')))
    return [found[1:-1].replace('""', '"') if found[:1] == '"' else found
            for found in re.findall(",(%s)" % field, "," + text)]


def parse_ip(text: str) -> str:
    """An IP address in its canonical form; ValueError in docker's words."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, text.strip()))
        except OSError:
            pass
    raise ValueError("IP address is not correctly formatted: " + text)


def parse_extra_host(text: str) -> str:
    """A line for /etc/hosts, `NAME:ADDRESS` or `NAME=ADDRESS`, in the form that the engine takes."""
    name, _, address = text.partition("=" if "=" in text else ":")
    if not name or name == text or ":" in name:
        raise ValueError("bad format for add-host: " + go_quote(text))
    address = re.sub(r"\A\[(.+)\]\Z", r"\1", address)
    try:
        return name + ":" + (address if address == "host-gateway" else parse_ip(address))
    except ValueError:
        raise ValueError("invalid IP address in add-host: " + go_quote(address))


def absolute_path(path: str) -> str:
    """A path from the root, by way of the folder that the shell says we are in."""
    folder = os.environ.get("PWD", "")
    if os.path.isdir(folder) and os.path.samefile(folder, os.curdir):
        path = os.path.join(folder, path)
    return os.path.abspath(path)


def _ulimit(text):
    name, value = key_value(text)
    soft, hard = map(parse_int, (value.split(":") * 2)[:2])
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError("ulimit soft limit must be less than or equal to hard limit: " + (
            "soft: -1 (unlimited), hard: %d" % hard if soft == -1 else "%d > %d" % (soft, hard)))
    return {"Name": name, "Hard": hard, "Soft": soft}


def parse_gpus(text: str) -> dict:
    """A `--gpus` value as a device request; ValueError in docker's words."""
    found = {}
    for field in parse_csv(text):
        key, equals, value = field.partition("=")
        if key in found:
            raise ValueError("gpu request key '%s' can be specified only once" % key)
        if equals and key not in ("count", "driver", "device", "capabilities", "options"):
            raise ValueError("unexpected key '%s' in '%s'" % (key, field))
        found.update({key: value} if equals else {key: "", "count": key})
    count = found.get("count", "0" if "device" in found else "1")
    if not re.match(r"(all|[+-]?[0-9]+)\Z", count):
        raise ValueError('invalid count (%s): value must be either "all" or an integer: invalid syntax' % count)
    return {"Driver": found.get("driver", ""), "Count": -1 if count == "all" else int(count),
            "DeviceIDs": found["device"].split(",") if "device" in found else None,
            "Capabilities": [(found["capabilities"].split(",") if "capabilities" in found else []) + ["gpu"]],
            "Options": dict(map(key_value, parse_csv(found["options"]))) if "options" in found else {}}


# The keys of --mount, where their values go, and what these are.
_MOUNT_KEYS = '''
type Type lower
source Source path
src Source path
target Target text
dst Target text
destination Target text
readonly ReadOnly bool
ro ReadOnly bool
consistency Consistency lower
bind-propagation BindOptions.Propagation lower
bind-nonrecursive BindOptions.NonRecursive bool
bind-recursive=disabled BindOptions.NonRecursive bool
bind-recursive=writable BindOptions.ReadOnlyNonRecursive bool
bind-recursive=readonly BindOptions.ReadOnlyForceRecursive bool
volume-nocopy VolumeOptions.NoCopy bool
volume-label VolumeOptions.Labels map
volume-subpath VolumeOptions.Subpath text
volume-driver VolumeOptions.DriverConfig.Name text
volume-opt VolumeOptions.DriverConfig.Options map
image-subpath ImageOptions.Subpath text
tmpfs-size TmpfsOptions.SizeBytes size
tmpfs-mode TmpfsOptions.Mode octal
'''
_MOUNT_VALUES = {
    "text": str, "lower": str.lower, "bool": parse_bool, "size": parse_size, "map": key_value,
    "octal": lambda text: int(text if text.isdigit() else "", 8),
    "path": lambda text: absolute_path(text) if text[:1] == "." else text}


def parse_mount(text: str) -> dict:
    """A `--mount` value as the engine's Mount object; ValueError in docker's words."""
    mount = {"Type": "volume"}
    for field in parse_csv(text.strip()):
        key, equals, value = field.partition("=")
        key, wrong = key.lower(), "unexpected key '%s' in '%s'" % (key.lower(), field)
        if not equals and key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
            raise ValueError("invalid field '%s' must be a key=value pair" % field)
        if field == "bind-recursive=enabled":
            continue
        if key == "bind-recursive":
            wrong = ('invalid value for bind-recursive: %s (must be "enabled", "disabled", "writable", or "readonly")' %
                     value)
            key, value = field, "true"
        row = re.search(r"^%s (\S+) (\w+)$" % re.escape(key), _MOUNT_KEYS, re.MULTILINE)
        if not row:
            raise ValueError(wrong)
        *parents, name = row.group(1).split(".")
        target = mount
        for parent in parents:
            target = target.setdefault(parent, {"DriverConfig": {}} if parent == "VolumeOptions" else {})
        try:
            value = _MOUNT_VALUES[row.group(2)](value if equals else "true")
        except ValueError:
            raise ValueError("invalid value for %s: %s" % (key, value))
        if isinstance(value, tuple):
            value = dict(target.get(name, {}), **{value[0]: value[1]} if value[0] else {})
        target[name] = value
        if not value and name != "Type":
            del target[name]            # as docker leaves out what is empty
    kind, options = mount["Type"], mount.get("BindOptions", {})
    forced = options.get("ReadOnlyForceRecursive")
    if not kind or not mount.get("Target"):
        raise ValueError("target is required" if kind else "type is required")
    for name in ("volume", "image", "bind", "tmpfs"):
        if kind != name and name.title() + "Options" in mount:
            raise ValueError("cannot mix '%s-*' options with mount type '%s'" % (name, kind))
    needed = ("readonly" if (forced or options.get("ReadOnlyNonRecursive")) and not mount.get("ReadOnly") else
              "bind-propagation=rprivate" if forced and options.get("Propagation") != "rprivate" else "")
    if needed:
        raise ValueError("option 'bind-recursive=%s' requires '%s' to be specified in conjunction" % (
            "readonly" if forced else "writable", needed))
    return mount


def parse_network(text: str) -> dict:
    """A `--network` value, a name or `name=…,alias=…`: its keys, with lists for those that may come more than once."""
    found = {"name": text, "alias": [], "link-local-ip": [], "driver-opt": [], "ip": "", "ip6": "", "mac-address": "",
             "gw-priority": 0}
    if not re.search(r"\w=\w", text, re.ASCII):
        return found
    found["name"] = ""
    for field in parse_csv(text):
        key, equals, value = map(str.strip, field.lower().partition("="))
        if not equals or key not in found:
            raise ValueError("invalid field key " + key if key and equals else "invalid field " + field)
        if key == "driver-opt" and "=" not in value[1:]:
            raise ValueError("invalid key value pair format in driver options")
        if key == "gw-priority" and not re.match(r"[+-]?[0-9]+\Z", value):
            raise ValueError("invalid gw-priority (%s): invalid syntax" % value)
        if isinstance(found[key], list):
            found[key].append(value)
        else:
            found[key] = int(value) if key == "gw-priority" else value
    if not found["name"]:
        raise ValueError("network name/id is not specified")
    return found


def checked(convert, *checks):
    """A converter that first holds a text against pairs of a pattern and a complaint.

    In a complaint `{0}` is the text, `{1}` and `{2}` what stands before and behind its `=`.
    """
    def check(text):
        for pattern, complaint in checks:
            if not re.match(pattern, text):
                raise ValueError(complaint.format(text, *key_value(text)))
        return convert(text)
    return check


def device_value(key: str, convert, complaint: str):
    """A converter of `/dev/x:VALUE` to {"Path": …, key: value}."""
    def parse(text):
        path, _, value = text.partition(":")
        try:
            return {"Path": path, key: convert(value)}
        except ValueError:
            raise ValueError(complaint % text)
    return checked(parse, ("[^:]+:", "bad format: {0}"), ("/dev/", "bad format for device path: {0}"))


_RATE = "invalid rate for device: %s. The correct format is <device-path>:<number>"
_SYSCTLS = r"(kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|(net|fs\.mqueue)\.[^=]*)="
_LIMITS = "(core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack)="
VALUE_TYPES.update({
    "uint": (parse_uint, False), "uint16": (lambda text: parse_uint(text, 16), False), "bytes": (parse_size, False),
    "bytes|swap": (lambda text: -1 if text == "-1" else parse_size(text), False), "decimal": (parse_cpus, False),
    "duration": (parse_duration, False), "string|words": (lambda text: [text], False)})
VALUE_TYPES.update((kind, (convert, True)) for kind, convert in {
    "map": key_value, "list|pair": key_value, "list|tmpfs": lambda text: text.partition(":")[::2], "list|ip": parse_ip,
    "list|host": parse_extra_host, "gpu-request": parse_gpus, "mount": parse_mount, "network": parse_network,
    "list|env": checked(lambda text: key_value(text) if "=" in text else (text, os.environ.get(text)),
                        ("[^=]", "invalid environment variable: {0}")),
    "list|label": checked(key_value, (r"\s*[^=\s]", "invalid label '{0}': empty name"),
                          (r"\s*[^=\s]+(=|\Z)", "label '{1}' contains whitespaces")),
    "list|stream": checked(str.lower, (r"(?i)std(in|out|err)\Z", "valid streams are STDIN, STDOUT and STDERR")),
    "list|domain": checked(lambda text: text.strip(" .") or ".", (
        r" *(\.|(?=.*[a-zA-Z])%s(\.%s)*\.?) *\Z" % (_LABEL, _LABEL), "{0} is not a valid domain")),
    "list|link": checked(str, (".", "empty string specified for links"),
                         (r"[^:]*(:[^:]*)?\Z", "bad format for links: {0}")),
    "list|rule": checked(str, (r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}\Z", "invalid device cgroup format '{0}'")),
    "map|sysctl": checked(key_value, (_SYSCTLS, "sysctl '{0}' is not allowed")),
    "ulimit": checked(_ulimit, ("[^=]*=", "invalid ulimit argument: {0}"), (_LIMITS, "invalid ulimit type: {1}"), (
        r"[^:]*(:[^:]*)?\Z", "too many limit value arguments - {2}, can only have up to two, `soft[:hard]`")),
    "list|weight": device_value("Weight", checked(int, (r"0*([1-9][0-9]{1,2}|1000|0)\Z", "")),
                                "invalid weight for device: %s"),
    "list|bps": device_value("Rate", parse_size, _RATE + "[<unit>]. Number must be a positive integer. Unit is "
                             "optional and can be kb, mb, or gb"),
    "list|iops": device_value("Rate", parse_uint, _RATE + ". Number must be a positive integer")}.items())


# ======================================================================================================================
# 12  DockerCli
# ======================================================================================================================

GLOBAL_FLAGS = '''
      --config string      folder of the client's configuration, ~/.docker if not given
  -c, --context string     name of the context that says which engine to use
  -D, --debug              show each request on stderr
  -d, --daemon             be the engine instead of its client
  -G, --group string       group of the daemon's unix socket (default "docker")
  -H, --host list          address of the engine
  -l, --log-level string   least severity of log lines: "debug", "info", "warn", "error" or "fatal" (default "info")
      #--pidfile string    file for the daemon's process number
      --tls                speak TLS
      --tlscacert string   certificate authority to trust, ca.pem of that folder if not given
      --tlscert string     certificate to present, cert.pem if not given
      --tlskey string      key of that certificate, key.pem if not given
      --tlsverify          speak TLS and verify the engine
  -v, --version            print the version
'''
COMMON_COMMANDS = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version",
                   "info")
GROUPS = {"builder": "Builds and their cache", "container": "Containers", "context": "Contexts", "image": "Images",
          "network": "Networks", "system": "The engine itself", "volume": "Volumes"}
_HYPHENATED = {"dial-stdio": "dialstdio"}
_HIDDEN = ("dialstdio",)                # commands that help does not list
_UNLISTED = ("cmd_remove", "cmd_image_rmi")     # other names of commands, which work and are not shown
_FORMAT_FLAG = '''
      --format string      how to print: "table", "table TEMPLATE", "json" or a Go template'''
_CONTAINERS = "CONTAINER [CONTAINER...]"
_PRUNE_FLAGS = '''
      --filter filter      only those that match, as name=value
  -f, --force              do not ask
'''
_SURE = "\nAre you sure you want to continue?"
_TRUST_FLAG = '''
      --disable-content-trust   accepted for compatibility; content trust is not offered (default true)'''


def short_id(identifier: str) -> str:
    """The first 12 characters of an ID, without its algorithm."""
    return identifier.partition(":")[2][:12] if ":" in identifier else identifier[:12]


def format_age(timestamp: float) -> str:
    """Unix seconds as the CREATED columns have them: `3 weeks ago`."""
    return format_duration(time.time() - timestamp) + " ago"


# The field that a template calls with a label's name, in lists of things that have labels.
LABEL = (None, lambda row, name: (row.get("Labels") or {}).get(name, ""))


def format_labels(labels) -> str:
    return ",".join("%s=%s" % item for item in sorted((labels or {}).items()))


class Cli:
    """What every command needs: streams, engine, configuration, dispatch, flags, help, tables.

    `in_`, `out` and `err` are text streams (what is binary goes to their `buffer`); `endpoint` says where the engine
    is; `config` is a ConfigFile; `name` is what the program calls itself.  Nothing global is touched.
    """

    def __init__(self, in_, out, err, endpoint: Endpoint = None, config: ConfigFile = None, name: str = "pydock",
                 debug: bool = False):
        self.in_ = in_
        self.out = out
        self.err = err
        self.endpoint = endpoint
        self.name = name
        self.debug = debug
        self.is_terminal = is_terminal(out)
        self._config = config
        self._client = None
        self._words = ()

    # -- the world -----------------------------------------------------------------------------------------------------

    @property
    def config(self) -> ConfigFile:
        """The configuration; what was wrong with it is told once."""
        if self._config is None:
            self._config = ConfigFile.load()
        if self._config.warning:
            self.warn("WARNING: " + self._config.warning)
            self._config.warning = ""
        return self._config

    @property
    def client(self) -> Client:
        """The client of the engine, which is looked for when the first command wants it."""
        if self._client is None:
            if self.endpoint is not None:
                self.endpoint = self.find_engine()
            trace = (lambda line: self.warn("[debug] " + line)) if self.debug else None
            self._client = Client(self.endpoint, self.config.http_headers(), trace=trace)
        return self._client

    def find_engine(self) -> Endpoint:
        """The endpoint, or what stands in for it where nobody chose it; the user is told."""
        found = find_engine(self.endpoint)
        if found is not self.endpoint:
            self.warn("No engine answers at %s: using %s" % (self.endpoint.host, "the one at " + found.host if
                      found.proto == "unix" else "pydock's own, which keeps its images in " + found.address))
        return found

    def close(self) -> None:
        if self._client:
            self._client.close()

    def write(self, text: str) -> None:
        """Text to the output; UTF-8 whatever the locale says."""
        _write(self.out, text)

    def print(self, text: str) -> None:
        _write(self.out, text + "\n")

    def warn(self, text: str) -> None:
        """A line to the error output; control characters in it are shown, not obeyed, where that is a terminal."""
        self.out.flush()
        _write(self.err, (visible(text) if is_terminal(self.err) else text) + "\n")
        self.err.flush()

    def copy_out(self, body: Body) -> None:
        """A body to the output, byte for byte."""
        self.out.flush()
        try:
            descriptor = self.out.fileno()
        except (OSError, AttributeError, ValueError):
            for block in body.blocks():
                getattr(self.out, "buffer", self.out).write(block)
        else:
            body.copy_to(descriptor)

    def ask(self, prompt: str) -> str:
        """A line from the user, without its end; EOFError where there is none."""
        self.write(prompt)
        self.out.flush()
        line = self.in_.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n").strip()

    def confirm(self, question: str) -> bool:
        """Whether the user agrees; the end of the input and an interrupt are a no."""
        try:
            return self.ask(question + " [y/N] ").lower() == "y"
        except (EOFError, KeyboardInterrupt) as error:
            self.write("\n" * isinstance(error, KeyboardInterrupt))
            return False

    # -- dispatch ------------------------------------------------------------------------------------------------------

    def get_method(self, *words):
        """The method of a command, `("container", "ls")` → `cmd_container_ls`; None if there is none."""
        words = [_HYPHENATED.get(word, word).lower() for word in words]
        if not all(re.match(r"[a-z0-9]+\Z", word) for word in words):
            return None
        return getattr(self, "cmd_" + "_".join(words), None)

    def cmd(self, *args) -> None:
        """Run a command line, without the program's name and its global flags.

        Raises StatusError for an exit status, another DockerError for what ends with status 1.
        """
        for count in (3, 2, 1):
            method = len(args) >= count and self.get_method(*args[:count])
            if method:
                self._words = self._canonical(tuple(word.lower() for word in args[:count]), method)
                return method(*args[count:])
        if not args:
            return self.show_help((), self.err)
        group = args[0].lower()
        if "--help" in args[1:]:
            return self.show_help((group,) if self.subcommands(group) else (), self.out)
        if not self.subcommands(group):
            self.warn("Error: Command not found: " + args[0])
            self.show_help((), self.err)
            raise StatusError("", 1)
        self._words = (group,)
        return self._run_group(group, args[1:])

    def _canonical(self, words, method):
        """The words under which help lists a command: those of its first name within the group."""
        function = method.__func__
        return next((other for other, known in self.commands().items()
                     if known is function and other[:-1] == words[:-1]), words)

    def _run_group(self, group, args):
        opts = self.parse(args, "COMMAND", (0, None), interspersed=False)
        if not opts.args:
            return self.show_help((group,), self.err)
        name = "%s %s" % (self.name, group)
        raise StatusError("%s: unknown command: %s %s\n\nUsage:  %s\n\nRun '%s --help' for more information" % (
            self.name, name, opts.args[0], name, name), 1)

    @classmethod
    def commands(cls) -> dict:
        """All commands: {words: function}, in the order of their definition, without the names that are not shown."""
        found = {}
        for base in reversed(cls.__mro__):
            for name, method in vars(base).items():
                if name.startswith("cmd_") and name not in _UNLISTED:
                    found[tuple(name.split("_")[1:])] = method
        return found

    @classmethod
    def subcommands(cls, group: str) -> list:
        """The words that may follow a group's, sorted; one for each function, the others are its aliases."""
        shown = {}
        for words, method in cls.commands().items():
            if len(words) == 2 and words[0] == group and words[1] not in _HIDDEN:
                shown.setdefault(method, words[1])
        return sorted(shown.values())

    # -- help ----------------------------------------------------------------------------------------------------------

    def cmd_help(self, *words):
        # no docstring: help does not list itself
        if not words:
            return self.show_help((), self.out)
        if words in (("help",), ("--help",)):
            return self.print("Usage:  %s help [command]\n\nExplain the program, or one of its commands" % self.name)
        group = self.subcommands(words[0].lower()) and len(words) == 1
        if not group and not self.get_method(*words):
            raise StatusError("unknown help topic: " + words[-1], 1)
        return self.cmd(*(words + ("--help",)))

    def show_help(self, words, stream) -> None:
        """Print the help of the program (no words) or of a group."""
        commands = {path: _synopsis(method) for path, method in self.commands().items() if method.__doc__}
        if words:
            parts = [("", "Usage:  %s %s COMMAND\n\n%s" % (self.name, words[0], GROUPS.get(words[0], ""))),
                     ("Commands", [(name, commands[words[0], name]) for name in self.subcommands(words[0])])]
        else:
            single = {path[0]: text for path, text in commands.items() if len(path) == 1}
            groups = sorted({path[0] for path in commands if len(path) > 1 and path[0] not in single})
            parts = [("", "Usage:  %s [OPTIONS] COMMAND\n\nA client for container engines" % self.name),
                     ("Common Commands", [(name, single[name]) for name in COMMON_COMMANDS if name in single]),
                     ("Management Commands", [(name, GROUPS.get(name, "")) for name in groups]),
                     ("Commands", sorted(item for item in single.items() if item[0] not in COMMON_COMMANDS)),
                     ("Global Options", FlagSet(GLOBAL_FLAGS).usage(self._help_width()).rstrip("\n"))]
        text = []
        for title, body in parts:
            if isinstance(body, list) and body:
                width = max(11, max(len(name) for name, _ in body) + 1)
                body = "\n".join("  %s %s" % (name.ljust(width), line) for name, line in body)
            if body:
                text.append((title and title + ":\n") + body)
        text.append("Run '%s COMMAND --help' for more information on a command." % (
            " ".join((self.name,) + tuple(words))))
        _write(stream, "\n\n".join(text) + "\n")

    def _show_command_help(self, usage, flags, asked):
        if asked == "-h":
            self.print("Flag shorthand -h has been deprecated, use --help")
        method = self.get_method(*self._words)
        text = ["Usage:  " + usage, _synopsis(method) if method else GROUPS.get(self._words[0], "")]
        names = [words for words, other in self.commands().items() if other == getattr(method, "__func__", 0)]
        if len(names) > 1:
            names.sort(key=lambda words: -len(words))
            text.append("Aliases:\n  " + ", ".join(" ".join((self.name,) + words) for words in names))
        options = flags.usage(self._help_width())
        if options:
            text.append("Options:\n" + options.rstrip("\n"))
        self.print("\n\n".join(text))

    def _help_width(self):
        return terminal_size(self.out)[0] if self.is_terminal else 80

    # -- flags ---------------------------------------------------------------------------------------------------------

    def parse(self, args, synopsis: str, arity, table: str = "", interspersed: bool = True, api: str = ""):
        """Parse a command's words: the namespace of `FlagSet.parse`.

        `synopsis` is the usage line's tail, `arity` the number of positionals or (least, most), most None for any.
        Prints help where it is asked for, and raises StatusError with status 0 then; UsageError for wrong words;
        DockerError where the engine is too old for a flag, or for the whole command, which needs the version `api`.
        """
        flags = FlagSet(table)
        command = " ".join((self.name,) + self._words)
        options = "" if all(flag.hidden for flag in flags.flags) else " [OPTIONS]"
        usage = (command + options + " " + synopsis).rstrip()
        try:
            opts = flags.parse(args, interspersed)
        except UsageError as error:
            raise UsageError("%s\n\nUsage:  %s\n\nRun '%s --help' for more information" % (error, usage, command), 125)
        if opts.help:
            if self._words and self.subcommands(self._words[0]) and len(self._words) == 1:
                self.show_help(self._words, self.out)
            else:
                self._show_command_help(usage, flags, opts.help)
            raise StatusError("", 0)
        complaint = _arity_complaint(len(opts.args), arity)
        if complaint:
            words, footer = complaint
            raise UsageError("%s: '%s' %s\n\nUsage:  %s\n\n%s '%s --help' for more information" % (
                self.name, command, words, usage, footer, command), 1)
        if api:
            self.client.require(command, api)
        for flag in flags.flags:
            if flag.api and flag.dest in opts.given:
                self.client.require('"--%s"' % flag.long, flag.api)
            if flag.windows and flag.dest in opts.given and self.client.os_type not in ("", "windows"):
                raise DockerError('"--%s" is only supported on a Docker daemon running on windows, but the Docker '
                                  'daemon is running on %s' % (flag.long, self.client.os_type))
        return opts

    # -- what commands share -------------------------------------------------------------------------------------------

    def show_progress(self, stream: JsonStream, quiet: bool = False, on_aux=None, out=None) -> None:
        """Show a stream of progress messages on the output, or on `out`; with `quiet` just heed its errors."""
        out = out or self.out
        live = is_terminal(out) and os.environ.get("TERM") != "dumb" and not quiet

        def write(text):
            if not quiet:
                _write(out, text)
                out.flush()
        ProgressDisplay(write, (lambda: terminal_size(out)) if live else None).show(stream, on_aux)

    def each(self, names, action) -> None:
        """Do something for each name; go on after a failure, and raise what went wrong, a line each, at the end."""
        failures = []
        for name in names:
            try:
                action(name)
            except DockerError as error:
                failures.append(str(error))
        if failures:
            raise DockerError("\n".join(failures))

    def each_at_once(self, names, action, forgiven=()) -> None:
        """Do something for all names, 50 at a time, and print each for which it went well; else as `each`.

        An error of one of the `forgiven` kinds is told, but no failure.
        """
        import threading
        errors, threads = {}, []

        def work(at):
            try:
                action(names[at])
            except Exception as error:      # raised again where somebody hears of it
                errors[at] = error

        def report(at):
            """Wait for one name's outcome; the first of each batch starts the batch."""
            if at == len(threads):
                threads.extend(threading.Thread(target=work, args=(i,), daemon=True)
                               for i in range(at, min(at + 50, len(names))))
                for thread in threads[at:]:
                    thread.start()
            threads[at].join()
            if isinstance(errors.get(at), forgiven):
                self.warn(str(errors[at]))
            elif at in errors:
                raise errors[at]
            else:
                self.print(names[at])
        self.client.api_version             # settled before the threads ask
        self.each(range(len(names)), report)

    def save(self, what: str, path: str, get) -> None:
        """Write the archive that `get()` gives to the file `path`, or to the output where none is named."""
        if not path:
            if self.is_terminal:
                raise DockerError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
            with get() as body:
                return self.copy_out(body)
        try:
            check_output_path(path)
        except DockerError as error:
            raise DockerError("failed to %s: %s" % (what, error))
        with get() as body:
            save_body(body, path)

    def with_source(self, path: str, action) -> None:
        """Call `action` with the open file of that name, or with the input for None; DockerError if there is none."""
        if path is None:
            return action(getattr(self.in_, "buffer", self.in_))
        try:
            source = open(path, "rb")
        except OSError as error:
            is_folder = isinstance(error, IsADirectoryError)
            raise DockerError("read %s: is a directory" % path if is_folder else path_error_text(error))
        with source:
            action(source)

    def prune(self, kind: str, filters: dict, all: bool = False, keep_storage: int = 0) -> int:
        """Remove the unused `containers`, `images`, `networks`, `volumes` or build `caches` (`all` of those, or down to
        `keep_storage` bytes); list them, return the bytes that are free.

        The `pruneFilters` of the configuration count, too, but for labels that a filter in `filters` contradicts.
        """
        merged = {name: list(values) for name, values in filters.items()}
        for name, equals, value in [str(text).partition("=") for text in self.config.get("pruneFilters", [])]:
            opposite = {"label": "label!", "label!": "label"}.get(name)
            if equals and value not in filters.get(opposite, ()):
                merged.setdefault(name, []).append(value)
        if kind == "caches":
            report = self.client.prune_builds(all, keep_storage, merged)
        else:
            report = self.client.prune(kind, merged)
        removed = report.get(kind.title() + "Deleted")
        if removed:
            self.print("Deleted %s:" % ("build cache objects" if kind == "caches" else kind.title()))
            for item in removed:
                if isinstance(item, dict):
                    item = ("untagged: " + item["Untagged"] if item.get("Untagged") else
                            "deleted: " + item.get("Deleted", ""))
                self.print(item)
            self.print("")
        return report.get("SpaceReclaimed") or 0

    def show_reclaimed(self, size: int) -> None:
        """The line that ends what a prune prints."""
        self.print("Total reclaimed space: " + format_size(size))

    def template(self, text: str, name: str = "", example: Value = None,
                 complaint: str = "template parsing error") -> Template:
        """A parsed template; one that makes no sense, or fails on the example, ends the command with status 64."""
        try:
            template = Template(text, name)
            if example:
                template.execute(example)
            return template
        except TemplateError as error:
            raise StatusError("%s: %s" % (complaint, error), 64)

    def inspect(self, names, format_text: str, get, kind: str = "", raw: bool = True) -> None:
        """Print the objects that `get(name)` gives as JSON text; go on after a failure.

        `kind` says what they are, for templates, as `_INSPECTED` has it; or `get` does, with (kind, text).
        `raw`: a template may reach what the kind's type lacks, but the JSON has.
        """
        out, failures = [], []
        template = self.template(format_text) if format_text and format_text != "json" else None
        for name in names:
            try:
                text = get(name)
                kind, text = text if isinstance(text, tuple) else (kind, text)
                value = _decode_object(text)
                out.append(template.execute_typed(_INSPECTED.get(kind), value, raw and text) + "\n" if template else
                           text)
            except TemplateError as error:
                failures.append("template parsing error: %s" % error)
            except DockerError as error:
                failures.append(str(error))
        if template:
            self.write("".join(out) or "\n")
        elif format_text == "json":
            self.print("[%s]" % ",".join(map(_compact_raw, out)))
        else:
            self.print(indent_json("[%s]" % ",".join(out)))
        if failures:
            raise DockerError("\n".join(failures))

    def show_rows(self, *args, **options) -> None:
        """Print a list: what `rendered` makes of the same arguments."""
        self.write(self.rendered(*args, **options))

    def rendered(self, rows, columns_of, shown, format_text: str = "", quiet: bool = False, raw=(),
                 row_type: str = "*formatter.rowContext") -> str:
        """A list as a table, as JSON lines, as `raw` lines or by a template.

        `columns_of` is {field: (heading, function of a row)}, as Row has it; `shown` names the fields of the default
        table, `raw` those of the raw form, as (label, field).  Templates' complaints name the `row_type`.
        """
        if quiet:
            value = columns_of["ID"][1]
            return "".join([value(row) + "\n" for row in rows])
        if format_text in ("", "table"):
            getters = [columns_of[field][1] for field in shown]
            cells = [[columns_of[field][0] for field in shown]]
            cells += [[get(row) for get in getters] for row in rows]
            return columns(cells)
        if format_text == "raw" and raw:
            return "".join("".join(("%s: %s" % (label, columns_of[field][1](row))).rstrip() + "\n"
                                   for label, field in raw) + "\n" for row in rows)
        if format_text == "json":
            format_text = "{{json .}}"
        is_table = format_text.startswith("table")
        text = format_text[len("table"):] if is_table else format_text
        try:
            template = Template(text.strip(" ").replace("\\t", "\t").replace("\\n", "\n"))
            lines = [template.execute(Value(row_type, Row(columns_of, row))) for row in rows]
        except TemplateError as error:
            raise DockerError("template parsing error: %s" % error)
        if is_table:
            lines.insert(0, template.headings({field: column[0] for field, column in columns_of.items() if column[0]}))
            return columns(line.split("\t") for line in lines)
        return "".join([line + "\n" for line in lines])


_INSPECTED = {"container": "container.InspectResponse", "image": "image.InspectResponse", "network": "network.Inspect",
              "volume": "volume.Volume"}


def _compact_raw(text):
    return re.sub(r'("(?:[^"\\]|\\.)*")|\s+', lambda match: match.group(1) or "", text)


def _decode_object(text):
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConnectionFailed(go_json_error(error))


def _write(stream, text):
    """Write text as UTF-8, past a text layer whose encoding may not hold it."""
    raw = getattr(stream, "buffer", None)
    if raw is None:
        stream.write(text)
    else:
        raw.write(text.encode("utf-8", "surrogateescape"))


def _synopsis(method):
    return (method.__doc__ or "").partition("\n")[0].rstrip(".")


def _arity_complaint(count, arity):
    """What is wrong with a number of positionals, as (words, how docker begins the footer); None if it is right."""
    least, most = arity if isinstance(arity, tuple) else (arity, arity)

    def arguments(number):
        return "%d argument%s" % (number, "" if number == 1 else "s")
    if count >= least and (most is None or count <= most):
        return None
    if most == 0:
        return "accepts no arguments", "Run"
    if least == most:
        return "requires " + arguments(least), "Run"
    if most is None:
        return "requires at least " + arguments(least), "See"
    if least == 0:
        return "requires at most " + arguments(most), "SRun"
    return "requires at least %d and at most %s" % (least, arguments(most)), "Run"


def format_ports(ports) -> str:
    """The PORTS column: runs of neighbouring ports joined, `0.0.0.0:80->80/tcp`, sorted by private port."""
    if not ports:
        return ""
    groups, done, mapped = {}, [], []

    def close(key, first, last):
        address, kind = key
        text = str(first) if first == last else "%d-%d" % (first, last)
        done.append("%s%s/%s" % ("%s->" % _host_port(address, text) if address else "", text, kind))
    for port in sorted(ports, key=lambda p: (p.get("PrivatePort") or 0, p.get("IP") or "", p.get("PublicPort") or 0,
                                                   p.get("Type") or "")):
        private, address, kind = port.get("PrivatePort") or 0, port.get("IP") or "", port.get("Type") or ""
        if address and port.get("PublicPort") != private:
            mapped.append("%s->%d/%s" % (_host_port(address, port.get("PublicPort") or 0), private, kind))
            continue
        first, last = groups.get((address, kind), (private, private - 1))
        if private != last + 1:
            close((address, kind), first, last)
            first = private
        groups[address, kind] = (first, private)
    for key, (first, last) in groups.items():
        close(key, first, last)
    return ", ".join(done + mapped)


def _host_port(address, port):
    return "[%s]:%s" % (address, port) if ":" in address else "%s:%s" % (address, port)


class ContainerCommands(Cli):
    """Commands on containers."""

    def cmd_ps(self, *args):
        """List containers."""
        opts = self.parse(args, "", 0, '''
            -a, --all             also the containers that do not run
            -f, --filter filter   only those that match, as name=value''' + _FORMAT_FLAG + '''
            -n, --last int        the newest n, running or not (default -1)
            -l, --latest          the newest one, running or not
                --no-trunc        whole IDs and texts
            -q, --quiet           IDs only
            -s, --size            disk usage, too''')
        limit = opts.last if opts.last > 0 else 1 if opts.latest and opts.last == -1 else 0
        format_text = opts.format
        if opts.format and opts.quiet:
            self.warn("WARNING: Ignoring custom format, because both --format and --quiet are set.")
        if not format_text and not opts.quiet:
            format_text = self.config.get("psFormat", "")
        fields = container_columns(opts.no_trunc)
        used = _fields_of_containers(format_text, fields)
        size = opts.size or "size" not in opts.given and not opts.quiet and "Size" in used
        found = self.client.containers(opts.all, limit, size, _filter_map(opts.filter))
        shown = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"] + ["Size"] * opts.size
        raw = [(label, field) for label, field in _RAW_CONTAINER if field != "Size" or opts.size]
        self.show_rows(found, fields, shown, format_text, opts.quiet, raw, _CONTAINER_ROW)

    cmd_container_ls = cmd_container_list = cmd_container_ps = cmd_ps

    def cmd_container_inspect(self, *args):
        """Show containers in detail."""
        opts = self.parse(args, "CONTAINER [CONTAINER...]", (1, None), '''
            -f, --format string   how to print: "json" or a Go template
            -s, --size            disk usage, too''')
        query = {"size": "1" if opts.size else None}
        self.inspect(opts.args, opts.format, lambda name: self.client.inspect("container", name, query), "container")

    def cmd_stats(self, *args):
        """Show what containers use, as it changes."""
        opts = self.parse(args, "[CONTAINER...]", (0, None), '''
            -a, --all             also containers that do not run''' + _FORMAT_FLAG + '''
                --no-stream       once, and no more
                --no-trunc        whole IDs''')
        feed = StatsFeed(self.client, not opts.no_stream)
        self.client.api_version         # settled before threads ask
        if not opts.args:
            feed.follow(self.client.events(filters={"type": ["container"]}), opts.all)
        for name in opts.args or [short_id(c["Id"]) for c in self.client.containers(opts.all)]:
            feed.add(name)
        feed.wait()
        if feed.stream:
            time.sleep(0.5)
        failures = [error for _, _, error in feed.rows() if error]
        if opts.args and failures:
            raise DockerError("\n".join(failures))
        while True:
            text = self.rendered(feed.rows(), stats_columns(opts.no_trunc), _STATS_FIELDS.split(),
                                 opts.format or self.config.get("statsFormat", ""), row_type="*container.statsContext")
            if opts.no_stream:
                return self.write(text)
            text = "\x1b[H" + text      # docker writes it twice, the second time with what blots out longer lines
            self.write(text + "".join(line + " \x1b[K\n" for line in text.split("\n")) + "\x1b[J")
            self.out.flush()
            if feed.failure:
                raise feed.failure
            time.sleep(0.5)

    cmd_container_stats = cmd_stats

    def cmd_stop(self, *args):
        """Stop containers: ask them to end, then make them."""
        opts = self.parse_stop(args)
        self.each_at_once(opts.args, lambda name: self.client.stop(name, opts.timeout, opts.signal))

    def cmd_restart(self, *args):
        """Stop containers and start them again."""
        opts = self.parse_stop(args)

        def restart(name):
            self.client.restart(name, opts.timeout, opts.signal)
            self.print(name)
        self.each(opts.args, restart)

    def parse_stop(self, args):
        """The words of `stop` and `restart`; `--timeout` was once called `--time`."""
        opts = self.parse(args, _CONTAINERS, (1, None), '''
            -s, --signal string   the signal to send first (with an engine of API 1.42 or later)
                #--time int
            -t, --timeout int     seconds to wait before SIGKILL; -1 for ever''')
        if "time" in opts.given:
            self.print("Flag --time has been deprecated, use --timeout instead")
            if "timeout" in opts.given:
                raise DockerError("conflicting options: cannot specify both --timeout and --time")
            opts.timeout = opts.time
        return opts

    def cmd_kill(self, *args):
        """Send a signal to containers, SIGKILL if none is named."""
        opts = self.parse(args, _CONTAINERS, (1, None), '''
            -s, --signal string   the signal, by name or number''')
        self.each_at_once(opts.args, lambda name: self.client.kill(name, opts.signal))

    def cmd_pause(self, *args):
        """Freeze all processes of containers."""
        self.each_at_once(self.parse(args, _CONTAINERS, (1, None)).args, lambda name: self.client.pause(name))

    def cmd_unpause(self, *args):
        """Let frozen containers go on."""
        self.each_at_once(self.parse(args, _CONTAINERS, (1, None)).args, lambda name: self.client.unpause(name))

    def cmd_wait(self, *args):
        """Wait for containers to end and print their exit statuses."""
        opts = self.parse(args, _CONTAINERS, (1, None))
        self.each(opts.args, lambda name: self.print(str(self.client.wait(name))))

    def cmd_rm(self, *args):
        """Remove containers."""
        opts = self.parse(args, _CONTAINERS, (1, None), '''
            -f, --force     kill them first if they run; one that is not there is no failure
            -l, --link      remove the link of that name, not the container
            -v, --volumes   remove their anonymous volumes, too''')
        self.each_at_once(opts.args, lambda name: self.client.remove_container(
            name, opts.force, opts.volumes, opts.link), NotFound if opts.force else ())

    def cmd_rename(self, *args):
        """Give a container another name."""
        old, new = [name.strip() for name in self.parse(args, "CONTAINER NEW_NAME", 2).args]
        if not old or not new:
            raise DockerError("Error: Neither old nor new names may be empty")
        try:
            self.client.rename(old, new)
        except DockerError as error:
            raise DockerError("%s\nError: failed to rename container named %s" % (error, old))

    def cmd_top(self, *args):
        """Show the processes of a container, as ps does with the options given."""
        name, *options = self.parse(args, "CONTAINER [ps OPTIONS]", (1, None), interspersed=False).args
        found = self.client.top(name, " ".join(options) if options else None)
        self.write(columns([found.get("Titles") or ()] + (found.get("Processes") or []), 20))

    def cmd_port(self, *args):
        """Show where the ports of a container are published."""
        name, wanted = (self.parse(args, "CONTAINER [PRIVATE_PORT[/PROTO]]", (1, 2)).args + [""])[:2]
        port, _, protocol = wanted.partition("/")
        ports = (self.client.inspect_container(name).get("NetworkSettings") or {}).get("Ports") or {}
        is_number = re.match(r"[0-9]+\Z", port)
        if wanted and not (is_number and int(port) < 1 << 16):
            raise DockerError("Error: invalid port (%s): strconv.ParseUint: parsing %s: %s" % (
                port, go_quote(port), "value out of range" if is_number else "invalid syntax"))
        chosen = [port + "/" + (protocol or "tcp")] if wanted else ports
        lines = ["%s -> " % key * (not wanted) + _host_port(binding.get("HostIp") or "", binding.get("HostPort") or "")
                 for key in chosen for binding in ports.get(key) or ()]
        if wanted and not lines:
            raise DockerError("Error: No public port '%s' published for %s" % (wanted, name))
        self.write("".join([line + "\n" for line in sorted(lines, key=natural_key)]))

    def cmd_diff(self, *args):
        """Show what has changed in the files of a container: C changed, A added, D deleted."""
        name, = self.parse(args, "CONTAINER", 1).args
        if not name:
            raise DockerError("Container name cannot be empty")
        for change in self.client.diff(name):
            kind = {0: "C", 1: "A", 2: "D"}.get(change.get("Kind") or 0, "")
            self.print("%s %s" % (kind, change.get("Path") or ""))

    def cmd_commit(self, *args):
        """Make an image of a container as it is now."""
        opts = self.parse(args, "CONTAINER [REPOSITORY[:TAG]]", (1, 2), '''
            -a, --author string    who made it
            -c, --change list      a line of a Dockerfile that is to apply to the image
            -m, --message string   what the change was about
            -p, --pause            freeze the container meanwhile (default true)''', interspersed=False)
        name, target = (opts.args + [""])[:2]
        reference = parse_reference(target).with_default_tag() if target else None
        if reference and reference.digest:
            raise DockerError("refusing to create a tag with a digest reference")
        self.print(self.client.commit(name, reference.name if reference else "", reference.tag if reference else "",
                                      opts.message, opts.author, opts.change, opts.pause))

    def cmd_export(self, *args):
        """Write the files of a container to a tar archive, on the output or in a file."""
        opts = self.parse(args, "CONTAINER", 1, '''
            -o, --output string   file to write''')
        self.save("export container", opts.output, lambda: self.client.export(opts.args[0]))

    def cmd_container_prune(self, *args):
        """Remove all stopped containers."""
        opts = self.parse(args, "", 0, _PRUNE_FLAGS, api="1.25")
        if opts.force or self.confirm("WARNING! This will remove all stopped containers." + _SURE):
            self.show_reclaimed(self.prune("containers", _filter_map(opts.filter)))

    cmd_container_commit, cmd_container_diff, cmd_container_export = cmd_commit, cmd_diff, cmd_export
    cmd_container_kill, cmd_container_pause, cmd_container_unpause = cmd_kill, cmd_pause, cmd_unpause
    cmd_container_port, cmd_container_rename, cmd_container_top = cmd_port, cmd_rename, cmd_top
    cmd_container_stop, cmd_container_restart, cmd_container_wait = cmd_stop, cmd_restart, cmd_wait
    cmd_container_rm = cmd_container_remove = cmd_remove = cmd_rm


_CONTAINER_ROW = "*formatter.ContainerContext"
_RAW_CONTAINER = (("container_id", "ID"), ("image", "Image"), ("command", "Command"), ("created_at", "CreatedAt"),
                  ("state", "State"), ("status", "Status"), ("names", "Names"), ("labels", "Labels"),
                  ("ports", "Ports"), ("size", "Size"))
_RAW_IMAGE = (("repository", "Repository"), ("tag", "Tag"), ("digest", "Digest"), ("image_id", "ID"),
              ("created_at", "CreatedAt"), ("virtual_size", "Size"))
_IMAGE_WORDS = "build history import inspect list load ls prune pull push rm save tag".split()


def _filter_map(pairs):
    """The values of `--filter` flags as {name: [values]}."""
    filters = {}
    for name, value in pairs:
        filters.setdefault(name, []).append(value)
    return filters


def _fields_of_containers(format_text, columns_of):
    """The fields of containers that a template uses, which it shows on an empty one; so its faults show before all."""
    what, used = "parse", set()
    try:
        template = Template(format_text)
        what = "execute"
        template.execute(Value(_CONTAINER_ROW, Row(columns_of, {"Id": ""}, used)))
    except TemplateError as error:
        raise DockerError("failed to %s template: %s" % (what, error))
    return used


def container_columns(whole: bool) -> dict:
    """The fields of a container in a list: {field: (heading, function)}; `whole`: nothing is shortened."""
    images = {}

    def image(c):
        name = c.get("Image") or ""
        if name not in images:
            images[name] = _image_in_list(name, c.get("ImageID") or "", whole)
        return images[name]

    def names(c):
        found = [name[1:] if name.startswith("/") else name for name in c.get("Names") or ()]
        return ",".join(found if whole else [name for name in found if "/" not in name][:1])

    def size(c):
        virtual = c.get("SizeRootFs") or 0
        return format_size(c.get("SizeRw") or 0, 3) + (" (virtual %s)" % format_size(virtual, 3) if virtual > 0 else "")

    def mounts(c):
        found = [mount.get("Name") or mount.get("Source") or "" for mount in c.get("Mounts") or ()]
        return ",".join(found if whole else [ellipsis(name, 15) for name in found])
    return {
        "ID": ("CONTAINER ID", lambda c: c["Id"] if whole else short_id(c["Id"])),
        "Image": ("IMAGE", image),
        "Command": ("COMMAND", lambda c: go_quote((c.get("Command") or "") if whole else
                                                  ellipsis(c.get("Command") or "", 20))),
        "CreatedAt": ("CREATED AT", lambda c: format_time(c.get("Created") or 0)),
        "RunningFor": ("CREATED", lambda c: format_age(c.get("Created") or 0)),
        "Ports": ("PORTS", lambda c: format_ports(c.get("Ports"))),
        "State": ("STATE", lambda c: c.get("State") or ""),
        "Status": ("STATUS", lambda c: c.get("Status") or ""),
        "Size": ("SIZE", size),
        "Names": ("NAMES", names),
        "Labels": ("LABELS", lambda c: format_labels(c.get("Labels"))),
        "Label": LABEL,
        "Mounts": ("MOUNTS", mounts),
        "LocalVolumes": ("LOCAL VOLUMES", lambda c: str(sum(
            m.get("Driver") == "local" for m in c.get("Mounts") or ()))),
        "Platform": ("PLATFORM", lambda c: (c.get("ImageManifestDescriptor") or {}).get("platform")),
        "Networks": ("NETWORKS", lambda c: ",".join(sorted((c.get("NetworkSettings") or {}).get("Networks") or ()))),
    }


_STATS_FIELDS = "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs"


def stats_columns(whole: bool) -> dict:
    """The fields of what StatsFeed.rows gives: {field: (heading, function)}."""
    def number(sample, *path):
        for key in path:
            sample = sample.get(key) if isinstance(sample, dict) else None
        return _number(sample)

    def cpu(s):
        def grown(*path):
            return number(s["cpu_stats"], *path) - number(s.get("precpu_stats"), *path)
        total, possible = grown("cpu_usage", "total_usage"), grown("system_cpu_usage")
        count = number(s, "cpu_stats", "online_cpus") or len(s["cpu_stats"]["cpu_usage"].get("percpu_usage") or ())
        return 100.0 * total / possible * count if possible > 0 and total > 0 else 0.0

    def memory(s):
        """What is used, without the cache that could be dropped (cgroup v1 and v2 name it differently)."""
        used, stats = number(s, "memory_stats", "usage"), (s.get("memory_stats") or {}).get("stats") or {}
        return next((used - stats[key] for key in ("total_inactive_file", "inactive_file")
                     if key in stats and _number(stats[key]) < used), used)

    def limit(s):
        return number(s, "memory_stats", "limit")

    def network(s, field):
        return format_size(sum(number(part, field) for part in (s.get("networks") or {}).values()), 3)

    def block(s, letter):
        parts = (s.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
        return format_size(sum(number(part, "value") for part in parts if part.get("op", "")[:1].lower() == letter), 3)

    def valid(show, otherwise="--"):
        return lambda row: otherwise if row[2] else show(row[1])
    return {
        "Container": ("CONTAINER", lambda row: row[0]),
        "Name": ("NAME", lambda row: re.sub("^/", "", row[1].get("name") or "") or "--"),
        "ID": ("CONTAINER ID", lambda row: (row[1].get("id") or "")[:None if whole else 12]),
        "CPUPerc": ("CPU %", valid(lambda s: "%.2f%%" % cpu(s))),
        "MemUsage": ("MEM USAGE / LIMIT", valid(lambda s: "%s / %s" % (
            format_binary_size(memory(s)), format_binary_size(limit(s))), "-- / --")),
        "MemPerc": ("MEM %", valid(lambda s: "%.2f%%" % (memory(s) * 100.0 / limit(s) if limit(s) else 0))),
        "NetIO": ("NET I/O", valid(lambda s: network(s, "rx_bytes") + " / " + network(s, "tx_bytes"))),
        "BlockIO": ("BLOCK I/O", valid(lambda s: block(s, "r") + " / " + block(s, "w"))),
        "PIDs": ("PIDS", valid(lambda s: "%d" % number(s, "pids_stats", "current"))),
    }


def _image_in_list(name, identifier, whole):
    if not name:
        return "<no image>"
    if whole:
        return name
    if identifier and short_id(identifier) == short_id(name):
        return short_id(name)
    try:
        reference = parse_reference(name)
    except DockerError:
        return name
    return "%s:%s" % (reference.familiar_name, reference.tag) if reference.tag else name


class RegistryCommands(Cli):
    """Commands on registries."""

    def cmd_login(self, *args):
        """Log in to a registry; Docker Hub if none is named."""
        opts = self.parse(args, "[SERVER]", (0, 1), '''
            -p, --password string   password or access token
                --password-stdin    read the password or token from the input
            -u, --username string   user name''')
        user, password = self._given_credentials(opts)
        server = _registry_key(opts.args[0] if opts.args else "")
        stored = AuthConfig() if user and password else self.config.resolve_auth_config(server)
        if not user and not password and (stored.password or stored.identitytoken):
            status = self._login_again(server, stored)
            if status is not None:
                return self.print(status)
        auth = AuthConfig(username=user, password=password, serveraddress=server)
        if not (user and password):
            self._ask_credentials(auth, stored)
        answer = self.client.login(auth)
        if answer.get("IdentityToken"):
            auth.identitytoken, auth.password = answer["IdentityToken"], ""
        self._store_credentials(server, auth)
        if answer.get("Status"):
            self.print(str(answer["Status"]))

    def _given_credentials(self, opts):
        """User name and password from the flags, and from the input where it is asked to hold the password."""
        if "password" in opts.given and opts.password_stdin:
            raise DockerError("conflicting options: cannot specify both --password and --password-stdin")
        for name, value in (("username", opts.username), ("password", opts.password)):
            if name in opts.given and not value:
                raise DockerError(name + " is empty")
        password = opts.password
        if password:
            self.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
        if opts.password_stdin:
            if not opts.username:
                raise DockerError("the --password-stdin option requires --username to be set")
            password = self.in_.read().rstrip("\r\n")
        return opts.username.strip(), password

    def _login_again(self, server, stored):
        """Try the stored credentials: the engine's status text, or None if they are not good any more."""
        self.warn("Authenticating with existing credentials..." + (
            " [Username: %s]" % stored.username if stored.username else ""))
        self.warn("\n%sTo login with a different account, run '%s logout' followed by '%s login'\n\n" % (
            "i Info \u2192 " if is_terminal(self.err) else " Info -> ", self.name, self.name))
        stored.serveraddress = server
        try:
            answer = self.client.login(stored)
        except Unauthorized:
            self.warn("Stored credentials invalid or expired")
        except ApiError as error:
            self.warn("Login did not succeed, error: %s" % error)
        else:
            token = answer.get("IdentityToken")
            if token and token != stored.identitytoken:
                stored.identitytoken, stored.password = token, ""
                self._store_credentials(server, stored)
            return str(answer.get("Status") or "")
        return None

    def _ask_credentials(self, auth, stored):
        """Ask the user for what is missing in `auth`."""
        if not is_terminal(self.in_):
            raise DockerError("Error: Cannot perform an interactive login from a non TTY device")
        try:
            if not auth.username:
                auth.username = self.ask("Username (%s): " % stored.username if stored.username else "Username: ")
                auth.username = auth.username or stored.username
                if not auth.username:
                    raise DockerError("Error: Non-null Username Required")
            if not auth.password:
                def write(text):
                    self.write(text)
                    self.out.flush()
                auth.password = read_password(self.in_, write, "Password: ")
        except EOFError:
            raise DockerError("Error: the input ended before the login was complete")
        if not auth.password:
            raise DockerError("Error: Password Required")

    def _store_credentials(self, server, auth):
        try:
            in_the_clear = self.config.store_auth(server, auth)
        except DockerError as error:
            raise DockerError("Error saving credentials: %s" % error)
        except OSError as error:
            raise DockerError("Error saving credentials: " + path_error_text(error))
        if in_the_clear:
            self.warn("\nWARNING! Your credentials are stored unencrypted in '%s'.\n"
                      "Configure a credential helper to remove this warning. See\n"
                      "https://docs.docker.com/go/credential-store/\n" % self.config.path)

    def cmd_logout(self, *args):
        """Forget the credentials of a registry; Docker Hub if none is named."""
        opts = self.parse(args, "[SERVER]", (0, 1))
        server = _registry_key(opts.args[0] if opts.args else "")
        keys = [server]
        if server != INDEX_SERVER:
            given = opts.args[0]
            keys = [given] + [key for key in (server, "http://" + server, "https://" + server) if key != given]
        self.print("Removing login credentials for " + server)
        failures = []
        for key in keys:
            try:
                self.config.erase_auth(key)
            except DockerError as error:
                failures.append("%s: %s" % (key, error))
            except OSError as error:
                failures.append("%s: %s" % (key, path_error_text(error)))
        if len(failures) == len(keys):
            self.warn("WARNING: could not erase credentials:\n" + "\n".join(failures))

    def cmd_search(self, *args):
        """Search a registry, Docker Hub if none is named, for images."""
        opts = self.parse(args, "TERM", 1, '''
            -f, --filter filter   only those that match, as name=value''' + _FORMAT_FLAG + '''
                --limit int       at most so many (default 0)
                --no-trunc        whole descriptions''')
        try:
            index = parse_reference(opts.args[0]).index
        except DockerError:
            index = INDEX_SERVER
        for name, value in opts.filter:
            if name == "is-automated":
                self.warn('WARNING: the "is-automated" filter is deprecated, and searching for "is-automated=%s" will '
                          "not yield any results in future." % value)
        auth = self.registry_auth(index, "pull")
        found = self.client.search(opts.args[0], max(opts.limit, 0), _filter_map(opts.filter), auth)

        def description(row):
            text = (row.get("description") or "").replace("\n", " ").replace("\r", " ")
            return text if opts.no_trunc else ellipsis(text, 45)

        self.show_rows(found, {
            "Name": ("NAME", lambda row: row.get("name") or ""),
            "Description": ("DESCRIPTION", description),
            "StarCount": ("STARS", lambda row: str(row.get("star_count") or 0)),
            "IsOfficial": ("OFFICIAL", lambda row: "[OK]" if row.get("is_official") else "",
                           lambda row: "true" if row.get("is_official") else "false"),
        }, ("Name", "Description", "StarCount", "IsOfficial"), opts.format, row_type="*registry.searchContext")

    def with_login(self, what: str, index: str, action) -> None:
        """Do `action(auth)`; if the registry wants a login and a user is there, log in and do it once more."""
        try:
            action(self.registry_auth(index, what))
        except DockerError as error:
            if not _wants_login(error) or not (self.is_terminal and is_terminal(self.in_)):
                raise
            self.print("\nPlease login prior to %s:" % what)
            self.cmd_login(*([] if index == INDEX_SERVER else [index]))
            action(self.registry_auth(index, what))

    def refuse_content_trust(self, opts) -> None:
        """Content trust needs a Notary client; better to say so than to pull what was not verified."""
        try:
            wanted = parse_bool(os.environ.get("DOCKER_CONTENT_TRUST") or "false")
        except ValueError:
            wanted = True
        if not opts.disable_content_trust or wanted and "disable_content_trust" not in opts.given:
            raise DockerError("content trust is not offered: unset DOCKER_CONTENT_TRUST, or give "
                              "--disable-content-trust")

    def registry_auth(self, index: str, what: str) -> AuthConfig:
        """The credentials for a registry.

        A pull does without those that a broken helper does not give; anything does where nobody configured that helper.
        """
        try:
            return self.config.resolve_auth_config(index)
        except DockerError as error:
            helper = self.config.helper(index)
            detected = helper and helper.detected
            if what != "pull" and not detected:
                raise
            if helper and not detected:
                self.warn("WARNING: %s; going on without credentials" % error)
            return AuthConfig()


def _wants_login(error):
    """Whether a failed pull or push would work after a login."""
    return isinstance(error, Unauthorized) or any(
        words in str(error) for words in ("unauthorized", "no basic auth credentials", "authentication required"))


def _registry_key(server):
    """The key under which a registry's credentials are kept, from what a user types for it."""
    name = server.strip()
    if not name or name == INDEX_SERVER or registry_hostname(name) in INDEX_ALIASES:
        return INDEX_SERVER
    return registry_hostname(name)


# Flags of create and run, and where in the request's body they go.  What depends on several flags goes nowhere here:
# container_config puts it in.
CREATE_TABLE = '''
      --add-host list|host               one more line of /etc/hosts, NAME:ADDRESS > HostConfig.ExtraHosts
      --annotation map                   annotation for the runtime (default map[]) (API 1.43) > HostConfig.Annotations
  -a, --attach list|stream               attach to STDIN, STDOUT or STDERR
      --blkio-weight uint16              share of block input and output, 10 to 1000 > HostConfig.BlkioWeight
      --blkio-weight-device list|weight  that share for one device, as DEVICE:WEIGHT > HostConfig.BlkioWeightDevice
      --cap-add list                     add a Linux capability > HostConfig.CapAdd
      --cap-drop list                    take a Linux capability away > HostConfig.CapDrop
      --cgroup-parent string             cgroup above the container's > HostConfig.CgroupParent
      --cgroupns string                  cgroup namespace: "host" or "private" (API 1.41) > HostConfig.CgroupnsMode
      --cidfile string                   write the container's ID into this file > HostConfig.ContainerIDFile
      --cpu-count int                    number of CPUs (Windows) > HostConfig.CpuCount
      --cpu-percent int                  percentage of the CPUs (Windows) > HostConfig.CpuPercent
      --cpu-period int                   period of the completely fair scheduler > HostConfig.CpuPeriod
      --cpu-quota int                    quota of the completely fair scheduler > HostConfig.CpuQuota
      --cpu-rt-period int                real-time period in microseconds (API 1.25) > HostConfig.CpuRealtimePeriod
      --cpu-rt-runtime int               real-time runtime in microseconds (API 1.25) > HostConfig.CpuRealtimeRuntime
  -c, --cpu-shares int                   share of processor time, relative to others > HostConfig.CpuShares
      --cpus decimal                     number of CPUs (API 1.25) > HostConfig.NanoCpus
      --cpuset-cpus string               CPUs to run on, as 0-3 or 0,1 > HostConfig.CpusetCpus
      --cpuset-mems string               memory nodes to use, as 0-3 or 0,1 > HostConfig.CpusetMems
      --device list                      make a device of the host available
      --device-cgroup-rule list|rule     rule for the devices that the cgroup allows > HostConfig.DeviceCgroupRules
      --device-read-bps list|bps         bytes a second to read from a device at most > HostConfig.BlkioDeviceReadBps
      --device-read-iops list|iops       reads a second from a device at most > HostConfig.BlkioDeviceReadIOps
      --device-write-bps list|bps        bytes a second to write to a device at most > HostConfig.BlkioDeviceWriteBps
      --device-write-iops list|iops      writes a second to a device at most > HostConfig.BlkioDeviceWriteIOps
      --disable-content-trust            accepted for compatibility; content trust is not offered (default true)
      --dns list|ip                      DNS server > HostConfig.Dns
      #--dns-opt list                    DNS option > HostConfig.DnsOptions
      --dns-option list                  DNS option > HostConfig.DnsOptions
      --dns-search list|domain           DNS search domain > HostConfig.DnsSearch
      --domainname string                NIS domain name > Domainname
      --entrypoint string|words          program to run in place of the image's entrypoint > Entrypoint
  -e, --env list|env                     environment variable, NAME=VALUE or NAME for our own value
      --env-file list                    read environment variables from a file
      --expose list                      expose a port or a range of ports
      --gpus gpu-request                 GPUs to add, "all" for every one (API 1.40) > HostConfig.DeviceRequests
      --group-add list                   one more group for the user > HostConfig.GroupAdd
      --health-cmd string                command that tells whether the container is well > Healthcheck.Test
      --health-interval duration         time between checks (default 0s) > Healthcheck.Interval
      --health-retries int               failures in a row after which it is not well > Healthcheck.Retries
      --health-start-interval duration   time between checks then (default 0s) (API 1.44) > Healthcheck.StartInterval
      --health-start-period duration     time to start up in (default 0s) (API 1.29) > Healthcheck.StartPeriod
      --health-timeout duration          time that one check may take (default 0s) > Healthcheck.Timeout
      --help                             print this help
  -h, --hostname string                  host name in the container > Hostname
      --init                             run an init in front of the command (API 1.25) > HostConfig.Init
  -i, --interactive                      keep the input open > OpenStdin
      --io-maxbandwidth bytes            bytes a second for the system drive (Windows) > HostConfig.IOMaximumBandwidth
      --io-maxiops uint                  operations a second for the system drive (Windows) > HostConfig.IOMaximumIOps
      --ip string                        IPv4 address on the network
      --ip6 string                       IPv6 address on the network
      --ipc string                       IPC mode > HostConfig.IpcMode
      --isolation string                 way of isolating the container > HostConfig.Isolation
      --kernel-memory bytes              kernel memory at most (default 0) > HostConfig.KernelMemory
  -l, --label list|label                 label, as key=value
      --label-file list                  read labels from a file
      --link list|link                   link to another container > HostConfig.Links
      --link-local-ip list               link-local address on the network
      --log-driver string                where the container's output goes > HostConfig.LogConfig.Type
      --log-opt list|pair                option for the log driver, as key=value > HostConfig.LogConfig.Config
      --mac-address string               hardware address on the network
  -m, --memory bytes                     memory at most (default 0) > HostConfig.Memory
      --memory-reservation bytes         memory at most when it is scarce (default 0) > HostConfig.MemoryReservation
      --memory-swap bytes|swap           memory and swap at most, -1 for any (default 0) > HostConfig.MemorySwap
      --memory-swappiness int            how readily to swap, 0 to 100 (default -1) > HostConfig.MemorySwappiness
      --mount mount                      mount a file system, as type=…,source=…,target=… > HostConfig.Mounts
      --name string                      name for the container
      #--net network                     network to connect to
      #--net-alias list                  name of the container on its network
      --network network                  network to connect to, as NAME or name=…,alias=…
      --network-alias list               name of the container on its network
      --no-healthcheck                   no check whether the container is well
      --oom-kill-disable                 do not kill it when memory runs out > HostConfig.OomKillDisable
      --oom-score-adj int                how likely to kill it then, -1000 to 1000 > HostConfig.OomScoreAdj
      --pid string                       PID namespace: "host" or "container:NAME" > HostConfig.PidMode
      --pids-limit int                   number of processes at most, -1 for any > HostConfig.PidsLimit
      --platform string                  platform of a multi-platform image (API 1.32)
      --privileged                       all privileges on the host > HostConfig.Privileged
  -p, --publish list                     publish a port to the host, as [[ADDRESS:]PORT:]PORT[/PROTOCOL]
  -P, --publish-all                      publish every exposed port to a random one > HostConfig.PublishAllPorts
      --pull string                      when to pull the image: "always", "missing" or "never" (default "missing")
  -q, --quiet                            no progress of a pull
      --read-only                        root file system that cannot be written to > HostConfig.ReadonlyRootfs
      --restart string                   when to start it again after it ended (default "no")
      --rm                               remove it and its anonymous volumes when it ends > HostConfig.AutoRemove
      --runtime string                   runtime for this container > HostConfig.Runtime
      --security-opt list                security option
      --shm-size bytes                   size of /dev/shm (default 0) > HostConfig.ShmSize
      --stop-signal string               signal that stops the container > StopSignal
      --stop-timeout int                 seconds to stop before it is killed (API 1.25) > StopTimeout
      --storage-opt list                 option for the storage driver, as key=value
      --sysctl map|sysctl                kernel setting, as name=value (default map[]) > HostConfig.Sysctls
      --tmpfs list|tmpfs                 mount a tmpfs, as FOLDER[:OPTIONS] > HostConfig.Tmpfs
  -t, --tty                              give it a terminal > Tty
      --ulimit ulimit                    resource limit, as name=soft[:hard] (default [])
      --use-api-socket                   the engine's socket and our credentials in the container
  -u, --user string                      user and group, as NAME|UID[:GROUP|GID] > User
      --userns string                    user namespace: "host" > HostConfig.UsernsMode
      --uts string                       UTS namespace: "host" > HostConfig.UTSMode
  -v, --volume list                      mount a volume or a folder, as [SOURCE:]TARGET[:OPTIONS]
      --volume-driver string             driver for the volumes > HostConfig.VolumeDriver
      --volumes-from list                mount what another container has mounted > HostConfig.VolumesFrom
  -w, --workdir string                   folder to start in > WorkingDir'''
RUN_TABLE = "\n".join(sorted((CREATE_TABLE + '''
  -d, --detach                           leave it running and print its ID
      --detach-keys string               keys that detach from it
      --sig-proxy                        forward signals to it (default true)''').splitlines(),
                             key=lambda line: line.partition("--")[2]))
UPDATE_TABLE = '''
      --blkio-weight uint16        share of block input and output, 10 to 1000, 0 for none > BlkioWeight
      --cpu-period int             period of the completely fair scheduler > CpuPeriod
      --cpu-quota int              quota of the completely fair scheduler > CpuQuota
      --cpu-rt-period int          real-time period in microseconds (API 1.25) > CpuRealtimePeriod
      --cpu-rt-runtime int         real-time runtime in microseconds (API 1.25) > CpuRealtimeRuntime
  -c, --cpu-shares int             share of processor time, relative to others > CpuShares
      --cpus decimal               number of CPUs (API 1.29) > NanoCpus
      --cpuset-cpus string         CPUs to run on, as 0-3 or 0,1 > CpusetCpus
      --cpuset-mems string         memory nodes to use, as 0-3 or 0,1 > CpusetMems
      #--kernel-memory bytes       kernel memory at most (default 0) > KernelMemory
  -m, --memory bytes               memory at most (default 0) > Memory
      --memory-reservation bytes   memory at most when it is scarce (default 0) > MemoryReservation
      --memory-swap bytes|swap     memory and swap together at most, -1 for any (default 0) > MemorySwap
      --pids-limit int             number of processes at most, -1 for any (API 1.40) > PidsLimit
      --restart string             when to start it again after it ended'''

# What docker sends where no flag says otherwise: JSON texts, in which absence and null differ.
_NO_CONTAINER = '''{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,
"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":{},
"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"",
"LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},"RestartPolicy":null,"AutoRemove":false,
"VolumeDriver":"","VolumesFrom":null,"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],
"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,
"PidMode":"","Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"",
"UsernsMode":"","ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,
"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],
"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"",
"CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,
"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,
"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{}}}'''
_NO_UPDATE = '''{"CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":null,
"BlkioDeviceReadBps":null,"BlkioDeviceWriteBps":null,"BlkioDeviceReadIOps":null,"BlkioDeviceWriteIOps":null,
"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":null,
"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":null,
"OomKillDisable":null,"PidsLimit":null,"Ulimits":null,"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,
"IOMaximumBandwidth":0}'''
_NO_ENDPOINT = '''{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"","DriverOpts":null,"GwPriority":0,
"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"",
"GlobalIPv6PrefixLen":0,"DNSNames":null}'''


def fill_in(body: dict, table: str, opts) -> dict:
    """Put the values of the flags that were given into a body, where their table says; pairs become a map."""
    for name, path in re.findall(r"--([\w-]+) .* > ([\w.]+)$", table, re.MULTILINE):
        dest = name.replace("-", "_")
        if dest in opts.given:
            value, target = getattr(opts, dest), body
            *parents, key = path.split(".")
            for parent in parents:
                target = target.setdefault(parent, {})
            if isinstance(value, list):
                value = dict(value) if isinstance(value[0], tuple) else (target.get(key) or []) + value
            if value != "" or key in target:        # some texts are left out where they are empty
                target[key] = value
    return body


def container_config(opts, os_type: str = "linux", proxies: dict = None) -> dict:
    """The body of a create request, with its HostConfig and NetworkingConfig, from the flags of `CREATE_TABLE`.

    `opts.args` are the image, the command and its arguments; `proxies` is what `ConfigFile.proxy_variables` says.
    Raises DockerError, in docker's words, for flags that make no sense.
    """
    config = fill_in(json.loads(_NO_CONTAINER), CREATE_TABLE, opts)
    host = config["HostConfig"]
    config["Image"], config["Cmd"] = opts.args[0], opts.args[1:] or None
    _check_mac_address(opts.mac_address)
    attach = opts.attach or ([] if "detach" in opts.given and opts.detach else ["stdout", "stderr"])
    for stream in ("Stdin", "Stdout", "Stderr"):
        config["Attach" + stream] = stream.lower() in attach
    config["AttachStdin"] |= opts.interactive
    config["StdinOnce"] = config["OpenStdin"] and config["AttachStdin"]
    if not -1 <= host["MemorySwappiness"] <= 100:
        raise DockerError("invalid value: %d. Valid memory swappiness range is 0-100" % host["MemorySwappiness"])
    _add_volumes(config, host, opts.volume)
    _add_ports(config, host, opts)
    _add_devices(host, opts.device, os_type)
    given = dict(opts.env)
    for name, value in (proxies or {}).items():
        given.setdefault(name, value)
    variables = [pair for path in opts.env_file for pair in read_variables(path, os.environ)] + list(given.items())
    config["Env"] = [name if value is None else name + "=" + value for name, value in variables] or None
    config["Labels"] = dict([pair for path in opts.label_file for pair in read_variables(path, {})] + opts.label)
    for flag, kind, pattern in (("pid", "PID", "host|container:.+"), ("uts", "UTS", "host"), ("userns", "USER", "host"),
                                ("cgroupns", "CGROUP", "host|private")):
        if getattr(opts, flag) and not re.match("(%s)\\Z" % pattern, getattr(opts, flag), re.DOTALL):
            raise DockerError("--%s: invalid %s mode" % (flag, kind))
    host["RestartPolicy"] = restart_policy(opts.restart)
    if opts.log_driver == "none" and opts.log_opt:
        raise DockerError("invalid logging opts for driver none")
    _add_security_options(host, opts.security_opt)
    if not all("=" in option for option in opts.storage_opt):
        raise DockerError("invalid storage option")
    if opts.storage_opt:
        host["StorageOpt"] = dict(map(key_value, opts.storage_opt))
    _add_health_check(config, opts.no_healthcheck)
    host["Ulimits"] = [limit for _, limit in sorted({limit["Name"]: limit for limit in opts.ulimit}.items())]
    for key in ("CapAdd", "CapDrop"):
        names = {re.sub(r"\A(?!CAP_|ALL\Z)", "CAP_", name.upper()) for name in host[key] or ()}
        host[key] = sorted(names) or None
    if opts.rm and host["RestartPolicy"]["Name"] not in ("", "no"):
        raise DockerError("conflicting options: cannot specify both --restart and --rm")
    _add_networks(config, host, opts)
    return config


def _check_mac_address(text):
    forms = r"{0}([:-])(({0}\1){{4}}|({0}\1){{6}}|({0}\1){{18}}){0}|{0}{0}(\.{0}{0}){{2,3}}".format("[0-9a-fA-F]{2}")
    if text and not re.match(r"\s*(?:%s)\s*\Z" % forms, text):
        raise DockerError("%s is not a valid mac address" % text)


def read_variables(path: str, environ) -> list:
    """The pairs in a file of `KEY=VALUE` lines; a bare `KEY` takes its value from `environ`, or counts for nothing."""
    pairs = []
    with open(path, "rb") as file:
        lines = re.sub(rb"\A\xef\xbb\xbf|\r(?=\n|\Z)", b"", file.read()).split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8").lstrip()
        except UnicodeDecodeError:
            raise DockerError("invalid env file (%s): invalid utf8 bytes at line %d: [%s]" % (
                path, number, " ".join(map(str, line))))
        key, equals, value = text.partition("=")
        if text.startswith("#") or not text:
            continue
        if not re.match(r"\S+\Z", key):
            raise DockerError("invalid env file (%s): %s" % (
                path, "variable '%s' contains whitespaces" % key if key else "no variable name on line '%s'" % text))
        if equals or key in environ:
            pairs.append((key, value if equals else environ[key]))
    return pairs


def _add_volumes(config, host, volumes):
    """A --volume with a source is a bind, be it of a folder or of a volume; one without makes an anonymous volume."""
    for text in dict.fromkeys(volumes):
        if not text:
            raise DockerError("invalid empty volume spec")
        # a letter and a colon at the start of a field are a drive of Windows
        fields = re.sub(r"(\A|:)([^\W\d_]):", r"\1\2;", text).split(":") if len(text) > 2 else [text]
        for i, field in enumerate(fields):
            if not field or 2 <= i < len(fields) - 1:
                raise DockerError("invalid spec: %s: %s" % (
                    text, "too many colons" if field else "empty section between colons"))
        if len(fields) == 1:
            config["Volumes"][text] = {}
            continue
        source, _, rest = text.partition(":")
        host["Binds"] = (host["Binds"] or []) + [(absolute_path(source) if source[0] == "." else source) + ":" + rest]


def _port_range(text, complaint):
    """First and last of `80` or `80-90`; DockerError with the complaint, and the reason in place of a REASON in it."""
    reason = "empty string specified for ports"
    try:
        first, last = [parse_uint(number, 16) for number in (text + ("" if "-" in text else "-" + text)).split("-")[:2]]
        if first <= last:
            return first, last
        reason = "invalid range specified for port: " + text
    except ValueError as error:
        reason = str(error) if text else reason
    raise DockerError(complaint.replace("REASON", reason))


def parse_publish(text: str) -> list:
    """A --publish value as [(container's port/protocol, host's address, host's port)]; DockerError if it is none."""
    if "=" in text:
        fields = {"protocol": "tcp", "published": "", "target": ""}
        for field in text.split(","):
            if "=" not in field[1:]:
                raise DockerError("invalid publish opts format (should be name=value but got '%s')" % field)
            fields.update([key_value(field)])
        text = "{published}:{target}/{protocol}".format(**fields)
    address, host_port, port = ([""] * 2 + text.rsplit(":", 2))[-3:]
    port, protocol = (port.split("/") + [""])[:2]
    try:
        parse_ip(re.sub(r"\A\[(.*)\]\Z", r"\1", address) or "::")
    except ValueError:
        raise DockerError("invalid IP address: " + address)
    if not port:
        raise DockerError("no port specified: %s<empty>" % text)
    first, last = _port_range(port, "invalid containerPort: " + port)
    low, high = _port_range(host_port, "invalid hostPort: " + host_port) if host_port else (0, 0)
    if host_port and first != last and last - first != high - low:
        raise DockerError("invalid ranges specified for container and host Ports: %s and %s" % (port, host_port))
    if protocol.lower() not in ("", "tcp", "udp", "sctp"):
        raise DockerError("invalid proto: " + protocol)
    host_ports = ["%d-%d" % (low, high)] if first == last and low != high else list(range(low, high + 1))
    return [("%d/%s" % (first + i, protocol.lower() or "tcp"), address.strip("[]"), host_port and str(host_ports[i]))
            for i in range(last - first + 1)]


def _add_ports(config, host, opts):
    """Published ports and exposed ones; the latter count the former in."""
    exposed = {}
    for text in opts.publish:
        for port, address, host_port in parse_publish(text):
            exposed[port] = {}
            host["PortBindings"].setdefault(port, []).append({"HostIp": address, "HostPort": host_port})
    for text in opts.expose:
        if ":" in text:
            raise DockerError("invalid port format for --expose: " + text)
        port, protocol = (text.split("/") + [""])[:2]
        first, last = _port_range(port, "invalid range format for --expose: %s, error: REASON" % text)
        exposed.update(("%d/%s" % (number, protocol or "tcp"), {}) for number in range(first, last + 1))
    if exposed:
        config["ExposedPorts"] = exposed


_CDI_NAME = r"[a-zA-Z]([\w.-]*[a-zA-Z0-9])?/[a-zA-Z]([\w-]*[a-zA-Z0-9])?=[a-zA-Z0-9]([\w.:-]*[a-zA-Z0-9])?\Z"


def _add_devices(host, devices, os_type):
    """Devices, SOURCE[:TARGET][:MODE]; those named as the Container Device Interface does go to its driver."""
    names = [device for device in devices if re.match(_CDI_NAME, device, re.ASCII)]
    for device in devices:
        match = re.match(r"([^:]+?)(?::([^:]*))??(?::((?!.*(.).*\4)[rwm]+))?\Z", device)
        if device in names:
            continue
        if os_type == "windows":
            source, target, mode = device, "", ""
        elif match:
            source, target, mode = match.group(1), match.group(2), match.group(3) or "rwm"
            if target is None:
                source = target = os.path.normpath(source)
        else:
            has_mode = re.match("[^:]+:[^:]*:([^:]*)$", device)
            raise DockerError("bad mode specified: " + has_mode.group(1) if has_mode else
                              "bad format for path: " + device)
        if mode and not target.startswith("/"):
            raise DockerError("%s is not an absolute path" % target)
        host["Devices"].append({"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode})
    if names:
        host["DeviceRequests"] = (host["DeviceRequests"] or []) + [
            {"Driver": "cdi", "Count": 0, "DeviceIDs": names, "Capabilities": None, "Options": None}]


def restart_policy(text: str) -> dict:
    """`on-failure:3` as the engine's restart policy; DockerError if it is none."""
    name, colon, count = text.partition(":")
    if colon and not name or not re.match(r"([+-]?[0-9]+)?\Z", count):
        raise DockerError("invalid restart policy format: " + (
            "maximum retry count must be an integer" if name else "no policy provided before colon"))
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _add_security_options(host, options):
    """Security options; a seccomp profile is read from its file."""
    found = []
    for option in options:
        key, separator, value = option.partition("=" if "=" in option else ":")
        if not value and key != "no-new-privileges":
            raise DockerError("Invalid --security-opt: " + go_quote(option))
        if key == "seccomp" and value not in ("builtin", "unconfined"):
            option = "seccomp=" + _seccomp_profile(value)
        if option == "systempaths=unconfined":
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
        else:
            found.append(option)
    host["SecurityOpt"] = found if options else None


def _seccomp_profile(path):
    """The JSON text in a file, without blanks."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8", "surrogateescape")
        json.loads(text)
        return _compact_raw(text)
    except OSError as error:
        raise DockerError("opening seccomp profile (%s) failed: %s" % (
            path, path_error_text(error, "read" if error.errno == errno.EISDIR else "open")))
    except ValueError as error:
        raise DockerError("compacting json for seccomp profile (%s) failed: %s" % (path, go_json_error(error)))


def _add_health_check(config, none):
    """A health check with nothing in it is none at all; its command becomes a shell's."""
    check = {key: value for key, value in config.pop("Healthcheck", {}).items() if value}
    if none and check:
        raise DockerError("--no-healthcheck conflicts with --health-* options")
    for key, flag in (("Interval", "interval"), ("Timeout", "timeout"), ("Retries", "retries"),
                      ("StartPeriod", "start-period"), ("StartInterval", "start-interval")):
        if check.get(key, 0) < 0:
            raise DockerError("--health-%s cannot be negative" % flag)
    if "Test" in check:
        check["Test"] = ["CMD-SHELL", check["Test"]]
    if check or none:
        config["Healthcheck"] = check or {"Test": ["NONE"]}


# Flags that say something of the first network, the same in the long form of --network, and how docker calls that.
_NETWORK_FLAGS = (
    ("network_alias", "alias", "alias"), ("ip", "ip", "IPv4 address"), ("ip6", "ip6", "IPv6 address"),
    ("mac_address", "mac-address", "MAC address"), ("link_local_ip", "link-local-ip", "link-local IP addresses"))


def _add_networks(config, host, opts):
    """The networks, each with its endpoint's settings but for a single one that has none."""
    endpoints, kinds = config["NetworkingConfig"]["EndpointsConfig"], set()
    networks = opts.network + opts.net
    opts.network_alias += opts.net_alias
    for i, network in enumerate(networks or [parse_network("default")]):
        name = network["name"]
        own = name not in ("default", "bridge", "host", "none") and not name.startswith("container:")
        kinds.add(own)
        for flag, key, words in _NETWORK_FLAGS if i == 0 else ():
            if getattr(opts, flag) and network[key]:
                raise DockerError("conflicting options: cannot specify both --%s and per-network %s" % (
                    flag.replace("_", "-"), words))
            network[key] = network[key] or getattr(opts, flag)
        if not name.strip():
            raise DockerError("no name set for network")
        if network["alias"] and not own:
            raise DockerError("network-scoped aliases are only supported for user-defined networks")
        _check_mac_address(network["mac-address"])
        if name in endpoints:
            raise DockerError("network %s is specified multiple times" % go_quote(name))
        empty = json.loads(_NO_ENDPOINT)
        addresses = (("IPv4Address", "ip"), ("IPv6Address", "ip6"), ("LinkLocalIPs", "link-local-ip"))
        endpoint = dict(
            empty, Links=opts.link if own and i == 0 and opts.link else None, Aliases=network["alias"] or None,
            IPAMConfig={field: network[key] for field, key in addresses if network[key]} or None,
            DriverOpts=dict(map(key_value, network["driver-opt"])) or None, MacAddress=network["mac-address"],
            GwPriority=network["gw-priority"])
        if len(networks) != 1 or endpoint != empty:
            endpoints[name] = endpoint
    if len(kinds) > 1:
        raise DockerError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    host["NetworkMode"] = networks[0]["name"] if networks else "default"


class CreateCommands(RegistryCommands):
    """What comes before a container runs: create, update, and what run shares with them."""

    def cmd_create(self, *args):
        """Make a container, but do not start it."""
        opts = self.parse(args, "IMAGE [COMMAND] [ARG...]", (1, None), CREATE_TABLE, interspersed=False)
        self.print(self.create_container(opts, self.container_config(opts, "create")))

    cmd_container_create = cmd_create

    def container_config(self, opts, verb: str) -> dict:
        """The create request's body for the flags of `CREATE_TABLE` or `RUN_TABLE`; `verb` is the command's name.

        Raises StatusError 125, with a word on help, for flags that make no sense.
        """
        self.refuse_content_trust(opts)
        client = self.client
        try:
            if opts.pull not in ("always", "missing", "never"):
                raise DockerError("invalid pull option: '%s': must be one of \"always\", \"missing\" or \"never\"" %
                                  opts.pull)
            if opts.use_api_socket:
                raise DockerError("--use-api-socket is an experiment of docker's and not offered here")
            return container_config(opts, client.os_type, self.config.proxy_variables(client.endpoint.host))
        except (DockerError, OSError) as error:
            raise self.with_help(path_error_text(error) if isinstance(error, OSError) else str(error), verb)

    def with_help(self, text: str, verb: str, status: int = 125) -> StatusError:
        """The StatusError for what create or run complains of, with a word on where to read more."""
        return StatusError("%s: %s\n\nRun '%s %s --help' for more information" % (self.name, text, self.name, verb),
                           status)

    def run_failure(self, error: DockerError) -> StatusError:
        """How run ends when a container cannot be made or started: 127 for what is missing, 126 for what cannot run."""
        missing = "executable file not found|no such file or directory|system cannot find the file specified"
        status = 127 if re.search(missing, str(error)) else (
            126 if re.search("permission denied|is a directory", str(error)) else 125)
        return self.with_help(str(error), "run", status)

    def create_container(self, opts, body: dict) -> str:
        """Make the container of a body of `container_config`, pull its image if need be, and return the ID.

        Tells warnings and the progress of a pull on the error output.  What goes wrong is the plain DockerError:
        create ends with status 1, run passes it through `run_failure`.
        """
        if not opts.cidfile:
            return self._create_container(opts, body)
        try:
            file = open(opts.cidfile, "x")
        except FileExistsError:
            raise DockerError("container ID file found, make sure the other container isn't running or delete " +
                              opts.cidfile)
        except OSError as error:
            raise DockerError("failed to create the container ID file: " + path_error_text(error))
        try:
            with file:
                made = self._create_container(opts, body)
                file.write(made)
            return made
        except BaseException:
            os.unlink(opts.cidfile)
            raise

    def _create_container(self, opts, body):
        image, host, client = opts.args[0], body["HostConfig"], self.client
        wanted = opts.platform or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
        is_id = re.match(r"([a-f0-9]{64}|sha256:[a-f0-9]{64})\Z", image) and opts.pull != "always"
        reference = None if is_id else parse_reference(image).with_default_tag()
        try:
            platform = normal_platform(wanted) if wanted and client.at_least("1.41") else ""
        except DockerError as error:
            raise DockerError("error parsing specified platform: %s" % error)

        def pull():
            auth = self.registry_auth(reference.index, "pull")
            self.show_progress(client.pull(reference.name, reference.digest or reference.tag, auth, wanted.lower()),
                               opts.quiet, out=self.err)
        if opts.pull == "always":
            pull()
        if self.is_terminal and (not platform.startswith("linux/") or client.at_least("1.42")):
            host["ConsoleSize"] = list(terminal_size(self.out))[::-1]
        self._suit_version(body)
        try:
            made = client.create_container(body, opts.name, platform)
        except NotFound:
            if opts.pull != "missing" or is_id:
                raise
            if not opts.quiet:
                self.warn("Unable to find image '%s' locally" % (reference.familiar_name + reference.suffix))
            pull()
            made = client.create_container(body, opts.name, platform)
        local = [server for server in host["Dns"] if re.match(r"127\.\d+\.\d+\.\d+|::1\Z", server)][:1]
        for text in (made.get("Warnings") or []) + ["Localhost DNS (%s) may fail in containers." % ip for ip in local]:
            self.warn("WARNING: " + text)
        return made.get("Id") or ""

    def _suit_version(self, body):
        """Take out of a create request what the engine's version knows nothing of, or refuse it."""
        client, host = self.client, body["HostConfig"]
        if client.at_least("1.42") or not client.at_least("1.40"):
            host.pop("KernelMemory", None)
        host["AutoRemove"] &= client.at_least("1.25")
        if any(mount.get("BindOptions", {}).get("ReadOnlyForceRecursive") for mount in host.get("Mounts", ())
               ) and not client.at_least("1.44"):
            raise DockerError("bind-recursive=readonly requires API v1.44 or later")
        if any(endpoint["MacAddress"] for endpoint in body["NetworkingConfig"]["EndpointsConfig"].values()):
            client.require('"specify mac-address per network"', "1.44")

    def cmd_update(self, *args):
        """Change the limits and the restart policy of containers."""
        opts = self.parse(args, "CONTAINER [CONTAINER...]", (1, None), UPDATE_TABLE)
        if not opts.given:
            raise DockerError("you must provide one or more flags when using this command")
        body = fill_in(json.loads(_NO_UPDATE), UPDATE_TABLE, opts)
        body["RestartPolicy"] = restart_policy(opts.restart)
        warnings = []

        def update(name):
            warnings.extend(self.client.update_container(name, body).get("Warnings") or ())
            self.print(name)
        try:
            self.each(opts.args, update)
        finally:
            self.write("".join(text + "\n" for text in warnings))

    cmd_container_update = cmd_update


class ImageCommands(RegistryCommands):
    """Commands on images."""

    def cmd_images(self, *args):
        """List images."""
        opts = self.parse(args, "[REPOSITORY[:TAG]]", (0, 1), '''
            -a, --all             also the layers in between
                --digests         digests, too
            -f, --filter filter   only those that match, as name=value''' + _FORMAT_FLAG + '''
                --no-trunc        whole IDs
            -q, --quiet           IDs only
                --tree            images and their platforms as a tree (API 1.47)''')
        if self.client.api_version and self.client.ping_failure:
            raise self.client.ping_failure
        if opts.tree:
            raise DockerError("--tree is experimental in docker and not offered here: use images without it")
        filters = _filter_map(opts.filter)
        if opts.args:
            filters.setdefault("reference", []).append(opts.args[0])
        format_text = opts.format or "" if opts.quiet else opts.format or self.config.get("imagesFormat", "")
        found = self.client.images(opts.all, filters)
        digests = opts.digests
        rows = [row for image in found for row in image_rows(image, digests, digests or "{{.Digest}}" in format_text)]
        shown = ["Repository", "Tag"] + ["Digest"] * digests + ["ID", "CreatedSince", "Size"]
        if format_text.startswith("table ") and opts.digests and ".Digest" not in format_text:
            format_text += "\t{{.Digest}}"
        raw = [(label, field) for label, field in _RAW_IMAGE if field != "Digest" or digests]
        self.show_rows(rows, image_columns(opts.no_trunc), shown, format_text,
                       opts.quiet and format_text in ("", "table"), raw, "*formatter.imageContext")
        if not rows and opts.args and opts.args[0] in _IMAGE_WORDS:
            self.warn('\nNo images found matching "%s": did you mean "%s image %s"?' % (
                opts.args[0], self.name, opts.args[0]))

    cmd_image_ls = cmd_image_list = cmd_images

    def cmd_pull(self, *args):
        """Download an image from a registry."""
        opts = self.parse(args, "NAME[:TAG|@DIGEST]", 1, '''
            -a, --all-tags                every tag of the repository''' + _TRUST_FLAG + '''
                --platform string         platform of a multi-platform image (API 1.32)
            -q, --quiet                   print only the name when done
            #-t, #--tag string            the tag, as in Docker 1.2.0''')
        self.refuse_content_trust(opts)
        name, tag = parse_repository_tag(opts.args[0])
        if opts.tag and tag:
            raise DockerError("conflicting options: the name %s has a tag, and --tag gives another" % opts.args[0])
        reference = parse_reference(opts.args[0] + (":" + opts.tag if opts.tag else ""))
        if opts.all_tags and (reference.tag or reference.digest):
            raise DockerError("tag can't be used with --all-tags/-a")
        if not opts.all_tags:
            if not (reference.tag or reference.digest or opts.quiet):
                self.print("Using default tag: " + DEFAULT_TAG)
            reference = reference.with_default_tag()
        platform = (opts.platform or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")).lower()
        index, _ = resolve_repository_name(reference.name)

        def pull(auth):
            self.show_progress(self.client.pull(reference.name, reference.digest or reference.tag, auth, platform),
                               opts.quiet)
        self.with_login("pull", index, pull)
        self.print(str(reference))

    cmd_image_pull = cmd_pull

    def cmd_push(self, *args):
        """Upload an image to a registry."""
        opts = self.parse(args, "NAME[:TAG]", 1, '''
            -a, --all-tags                every tag of the repository''' + _TRUST_FLAG + '''
                --platform string         only this platform of a multi-platform image (API 1.46)
            -q, --quiet                   print only the name when done''')
        self.refuse_content_trust(opts)
        reference = parse_reference(opts.args[0])
        if reference.digest:
            raise DockerError("cannot push a digest reference")
        if opts.all_tags and reference.tag:
            raise DockerError("tag can't be used with --all-tags/-a")
        if not opts.all_tags:
            if not reference.tag and not opts.quiet:
                self.print("Using default tag: " + DEFAULT_TAG)
            reference = reference.with_default_tag()
        index, _ = resolve_repository_name(reference.name)
        notes = []

        def note(message):
            aux = message["aux"]
            if isinstance(aux, dict) and (aux.get("manifestPushedInsteadOfIndex") or aux.get("contentMissing")):
                notes.append("Not all platforms of the image are here: what is here was pushed.")

        def push(auth):
            self.show_progress(self.client.push(reference.name, reference.tag, auth, opts.platform), opts.quiet, note)
        self.with_login("push", index, push)
        for text in notes:
            self.print(text)
        if opts.quiet:
            self.print(str(reference))

    cmd_image_push = cmd_push

    def cmd_tag(self, *args):
        """Give an image one more name."""
        opts = self.parse(args, "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", 2, interspersed=False)
        target = self.tag_reference(opts.args[1])
        source = opts.args[0]
        if not re.match(r"(sha256:)?[0-9a-f]{4,64}\Z", source):
            self.tag_reference(source, True)
        self.client.tag(source, target.name, target.tag)

    cmd_image_tag = cmd_tag

    def tag_reference(self, text: str, digest_too: bool = False) -> Reference:
        """Parse a name that an image is to get, with the default tag."""
        try:
            reference = parse_reference(text)
        except DockerError as error:
            raise DockerError("Error parsing reference: %s is not a valid repository/tag: %s" % (go_quote(text), error))
        if reference.digest and not digest_too:
            raise DockerError("refusing to create a tag with a digest reference")
        return reference.with_default_tag()

    def cmd_rmi(self, *args):
        """Remove images, or some of their names."""
        opts = self.parse(args, "IMAGE [IMAGE...]", (1, None), '''
            -f, --force              remove even if it is in use
                --no-prune           keep untagged parents
                --platform strings   only this platform of a multi-platform image (API 1.50)''')
        missing = []

        def remove(name):
            """Remove one image and tell what went."""
            try:
                for item in self.client.remove_image(name, opts.force, opts.no_prune, opts.platform):
                    self.print("Deleted: " + item["Deleted"] if item.get("Deleted") else
                               "Untagged: %s" % item.get("Untagged"))
            except NotFound as error:
                if not opts.force:
                    raise
                missing.append(str(error))
        try:
            self.each(opts.args, remove)
        except DockerError as error:
            raise DockerError("\n".join(missing + [str(error)]))
        for text in missing:
            self.warn(text)

    cmd_image_rm = cmd_image_remove = cmd_image_rmi = cmd_rmi

    def cmd_save(self, *args):
        """Write images to a tar archive, on the output or in a file."""
        opts = self.parse(args, "IMAGE [IMAGE...]", (1, None), '''
            -o, --output string     file to write
                --platform string   only this platform of a multi-platform image (API 1.48)''')
        self.save("save image", opts.output, lambda: self.client.get_images(opts.args, opts.platform))

    cmd_image_save = cmd_save

    def cmd_load(self, *args):
        """Read images from a tar archive, from the input or a file."""
        opts = self.parse(args, "", 0, '''
            -i, --input string      file to read instead of the input
                --platform string   only this platform of a multi-platform image (API 1.48)
            -q, --quiet             no progress''')
        if not opts.input and is_terminal(self.in_):
            raise DockerError("requested load from stdin, but stdin is empty")

        def load(source):
            """Send the archive and show the answer."""
            with self.client.load_image(source, file_size(source), opts.quiet or not self.is_terminal,
                                        opts.platform) as body:
                if body.headers.get("Content-Type", "").partition(";")[0].strip() == JSON_TYPE:
                    self.show_progress(JsonStream(body))
                else:
                    self.copy_out(body)
        self.with_source(opts.input or None, load)

    cmd_image_load = cmd_load

    def cmd_image_inspect(self, *args):
        """Show images in detail."""
        opts = self.parse(args, "IMAGE [IMAGE...]", (1, None), '''
            -f, --format string     how to print: "json" or a Go template
                --platform string   this platform of a multi-platform image (API 1.49)''')
        query = {"platform": platform_json(opts.platform) or None}
        self.inspect(opts.args, opts.format, lambda name: self.client.inspect("image", name, query), "image")

    def cmd_history(self, *args):
        """Show the layers of an image."""
        opts = self.parse(args, "IMAGE", 1, _FORMAT_FLAG + '''
            -H, --human             sizes and times for people (default true)
                --no-trunc          whole IDs and texts
                --platform string   of this platform of a multi-platform image (API 1.48)
            -q, --quiet             IDs only''')
        shown = ["ID", "CreatedSince" if opts.human else "CreatedAt", "CreatedBy", "Size", "Comment"]
        found = self.client.history(opts.args[0], opts.platform)
        self.show_rows(found, history_columns(opts.no_trunc, opts.human), shown, opts.format,
                       opts.quiet and opts.format in ("", "table"), row_type="*image.historyContext")

    cmd_image_history = cmd_history

    def cmd_import(self, *args):
        """Make an image of a tar archive's files, from a file, an address or the input."""
        opts = self.parse(args, "file|URL|- [REPOSITORY[:TAG]]", (1, None), '''
            -c, --change list       a line of a Dockerfile that is to apply to the image
            -m, --message string    what the import was about
                --platform string   the platform that the files are for (API 1.32)''')
        source, target = (opts.args + [""])[:2]
        if target:
            parse_reference(target)
        platform = opts.platform or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")

        def make(source):
            self.show_progress(self.client.import_image(source, target, opts.message, opts.change, platform))
        if source.startswith(("http://", "https://")):
            return make(source)
        self.with_source(None if source == "-" else source, make)

    cmd_image_import = cmd_import

    def cmd_image_prune(self, *args):
        """Remove unused images."""
        opts = self.parse(args, "", 0, '''
            -a, --all             all that no container uses, not only those without a name''' + _PRUNE_FLAGS,
                          api="1.25")
        what = "images without at least one container associated to them." if opts.all else "dangling images."
        if opts.force or self.confirm("WARNING! This will remove all " + what + _SURE):
            filters = _filter_map(opts.filter + [("dangling", "false" if opts.all else "true")])
            self.show_reclaimed(self.prune("images", filters))


# flags of buildx for which the engine would have to ask back, which takes a session
def file_size(source):
    """How many bytes are left to read of an open plain file; None for anything else."""
    import stat
    try:
        about = os.fstat(source.fileno())
        return about.st_size - source.tell() if stat.S_ISREG(about.st_mode) else None
    except (OSError, AttributeError, io.UnsupportedOperation):
        return None


def check_output_path(path: str) -> None:
    """DockerError if no file can be written at `path`."""
    import stat
    folder = os.path.dirname(path) or "."
    try:
        os.stat(folder)
    except OSError as error:
        raise DockerError("invalid output path: " + path_error_text(error, "stat"))
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    for is_kind, words in ((stat.S_ISDIR, "a directory"), (stat.S_ISCHR, "a character device file"),
                           (stat.S_ISBLK, "a block device file"), (stat.S_ISFIFO, "a named pipe file"),
                           (stat.S_ISSOCK, "a socket")):
        if is_kind(mode):
            raise DockerError("cannot write to " + words)


def save_body(body: Body, path: str) -> None:
    """Write a body to a file that appears, with mode 0600, when it is whole; DockerError if that fails."""
    import tempfile
    path = os.path.realpath(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", dir=os.path.dirname(path))
        try:
            try:
                body.copy_to(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise DockerError("failed to write %s: %s" % (path, os_error_text(error)))


def image_rows(image: dict, digests: bool, tag_digests: bool = False) -> list:
    """The lines that one image takes in a list: (image, repository, tag, digest), a line a name.

    `digests`: a line for each digest; `tag_digests`: only for those that belong to a tag.
    """
    tags, tail = {}, {}
    if not (image.get("RepoTags") or image.get("RepoDigests")) or image.get("RepoTags") == ["<none>:<none>"]:
        repository = ((image.get("RepoDigests") or ["<none>@<none>"])[0]).partition("@")[0]
        if repository == "<none>":
            return [(image, "<none>", "<none>", "<none>")]
    for text in image.get("RepoTags") or ():
        name, _, tag = text.rpartition(":")
        if name != "<none>":
            tags.setdefault(_familiar_repository(name), []).append(tag)
    for text in image.get("RepoDigests") or ():
        name, _, digest = text.partition("@")
        if name != "<none>":
            tail.setdefault(_familiar_repository(name), []).append(digest)
    rows = []
    for repository in sorted(tags):
        found = tail.pop(repository, ())
        for tag in tags[repository]:
            rows += [(image, repository, tag, digest) for digest in (tag_digests and found) or ("<none>",)]
    for repository in sorted(tail):
        rows += [(image, repository, "<none>", digest) for digest in (tail[repository] if digests else ("",))]
    return rows


def _familiar_repository(name):
    if not name.startswith(INDEX_ALIASES + ("library/",)):
        return name                     # only names on Docker Hub have a shorter form
    try:
        return parse_reference(name).familiar_name
    except DockerError:
        return name


def history_columns(whole: bool, human: bool) -> dict:
    """The fields of an image's layer: {field: (heading, function)}; `human`: sizes and times for people."""
    def since(layer):
        created = layer.get("Created") or 0
        return format_rfc3339(created) if not human else "N/A" if created <= _YEAR_2000 else format_age(created)

    return {
        "ID": ("IMAGE", lambda layer: layer.get("Id") or "" if whole else short_id(layer.get("Id") or "")),
        "CreatedSince": ("CREATED", since),
        "CreatedAt": ("CREATED AT", lambda layer: format_rfc3339(layer.get("Created") or 0)),
        "CreatedBy": ("CREATED BY", lambda layer: ellipsis(
            (layer.get("CreatedBy") or "").replace("\t", " "), sys.maxsize if whole else 45)),
        "Size": ("SIZE", lambda layer: format_size(layer.get("Size") or 0, 3) if human else
                 str(layer.get("Size") or 0)),
        "Comment": ("COMMENT", lambda layer: layer.get("Comment") or ""),
    }


def image_columns(whole: bool) -> dict:
    """The fields of a line in a list of images: {field: (heading, function of what `image_rows` gives)}."""
    def unknown(field, digits):
        return lambda row: "N/A" if row[0].get(field, -1) == -1 else (
            str(row[0][field]) if digits is None else format_size(row[0][field], digits))
    return {
        "ID": ("IMAGE ID", lambda row: row[0]["Id"] if whole else short_id(row[0]["Id"])),
        "Repository": ("REPOSITORY", lambda row: row[1]),
        "Tag": ("TAG", lambda row: row[2]),
        "Digest": ("DIGEST", lambda row: row[3]),
        "CreatedSince": ("CREATED", lambda row: format_age(row[0].get("Created") or 0)),
        "CreatedAt": ("CREATED AT", lambda row: format_time(row[0].get("Created") or 0)),
        "Size": ("SIZE", lambda row: format_size(row[0].get("Size") or 0, 3)),
        "VirtualSize": ("SIZE", lambda row: format_size(row[0].get("Size") or 0, 4)),
        "Containers": ("CONTAINERS", unknown("Containers", None)),
        "SharedSize": ("SHARED SIZE", unknown("SharedSize", 4)),
        "UniqueSize": ("UNIQUE SIZE", lambda row: "N/A" if row[0].get("SharedSize", -1) == -1 else format_size(
            (row[0].get("Size") or 0) - row[0]["SharedSize"], 4)),
    }


_NEED_SESSION = ("allow", "annotation", "attest", "build-context", "builder", "cache-to", "call", "metadata-file",
                 "no-cache-filter", "output", "push", "secret", "ssh")
_BUILD_FLAGS = '''
      --add-host list|host      one more line for /etc/hosts, NAME:ADDRESS
      --build-arg list|env      value of an ARG, NAME=VALUE, or NAME for the environment's
      --cache-from strings      images that may serve as cache
      --cgroup-parent string    parent cgroup of the containers
      --compress                gzip the context
      --cpu-period int          length of a period of CPU time, in microseconds
      --cpu-quota int           CPU time in a period, in microseconds
  -c, --cpu-shares int          weight in the sharing of CPU time
      --cpuset-cpus string      CPUs to use, as in 0-3 or 0,1
      --cpuset-mems string      memory nodes to use, as in 0-3 or 0,1''' + _TRUST_FLAG + '''
  -f, --file string             the Dockerfile, PATH/Dockerfile if not given
      --force-rm                remove the containers after a failure, too
      --iidfile string          file to write the image's ID to
      --isolation string        isolation technology of the containers
      --label list|pair         label of the image, NAME=VALUE
  -m, --memory bytes            memory limit
      --memory-swap bytes|swap  limit of memory and swap, -1 for none
      --network string          network of RUN (default "default") (API 1.25)
      --no-cache                build everything anew
      --platform string         platform to build for (API 1.38)
      --progress string         how to show BuildKit's work: auto, plain, tty, rawjson or quiet
      --pull                    look for newer base images
  -q, --quiet                   print only the image's ID
      --rm                      remove the containers after a success (default true)
      --security-opt strings    security options
      --shm-size bytes          size of /dev/shm
      --squash                  one layer for all that is new (API 1.25)
  -t, --tag list|tag            name of the image, NAME[:TAG]
      --target string           stage to build
      --ulimit ulimit           ulimit of the containers
      #--load                   what an engine does anyway
      #--push                   refused, as are:
''' + "".join("#--%s string\n" % name for name in _NEED_SESSION + ("provenance", "sbom") if name != "push")
# what goes into the query as it is: its name there = the flag's
_BUILD_QUERY = [pair.split("=") for pair in """
    cgroupparent=cgroup_parent cpuperiod=cpu_period cpuquota=cpu_quota cpusetcpus=cpuset_cpus cpusetmems=cpuset_mems
    cpushares=cpu_shares extrahosts=add_host forcerm=force_rm memory=memory memswap=memory_swap nocache=no_cache
    shmsize=shm_size squash=squash t=tag target=target""".split()]
_METADATA_STEP = "[internal] load metadata for "
_LEGACY_NOTICE = """DEPRECATED: The legacy builder is deprecated and will be removed in a future release.
            BuildKit is currently disabled; enable it by removing the DOCKER_BUILDKIT=0
            environment-variable.
"""


VALUE_TYPES["list|tag"] = (lambda text: parse_reference(text) and text, True)


class BuildCommands(RegistryCommands):
    """Commands that build images."""

    def cmd_build(self, *args):
        """Build an image from a Dockerfile."""
        buildkit = self._chosen_builder()
        opts = self.parse(args, "PATH | URL | -", 1, _BUILD_FLAGS)
        self.refuse_content_trust(opts)
        mode = self._progress_mode(opts)
        if "squash" in opts.given and self.client.api_version and not self.client.engine.get("experimental"):
            raise DockerError('"--squash" is only supported on a Docker daemon with experimental features enabled')
        if buildkit is None:
            buildkit = bool(self.client.api_version) and self.client.engine.get("builder_version") == "2"
        if opts.file == "-" and opts.args[0] == "-":
            raise DockerError("invalid argument: can't use stdin for both build context and dockerfile")
        if opts.iidfile and os.path.lexists(opts.iidfile):
            os.unlink(opts.iidfile)
        with BuildContext(opts.file, buildkit) as context:
            try:
                self._take_context(context, opts.args[0], buildkit or opts.quiet)
            except DockerError as error:
                raise DockerError("unable to prepare context: %s" % error)
            context.load(getattr(self.in_, "buffer", self.in_))
            query = self._build_query(opts, context.dockerfile)
            identifier = self._build_with_buildkit(context, query, opts, mode) if buildkit else self._build_classically(
                context, query, opts)
        if opts.iidfile:
            if not identifier:
                raise DockerError("Server did not provide an image ID. Cannot write " + opts.iidfile)
            with open(opts.iidfile, "w") as file:
                file.write(identifier)

    cmd_image_build = cmd_builder_build = cmd_build

    def _chosen_builder(self):
        """Whether the environment wants BuildKit; None where it says nothing."""
        text = os.environ.get("DOCKER_BUILDKIT")
        try:
            buildkit = parse_bool(text) if text else None
        except ValueError as error:
            raise DockerError("DOCKER_BUILDKIT environment variable expects boolean value: %s" % error)
        if buildkit is False:
            self.warn(_LEGACY_NOTICE)
        return buildkit

    def _progress_mode(self, opts):
        """The way to show BuildKit's work; DockerError for flags that cannot be served."""
        for name in _NEED_SESSION:
            if name.replace("-", "_") in opts.given:
                raise DockerError('"--%s" needs a session with BuildKit, which is not offered: use buildx for it' % (
                    name))
        mode = opts.progress or os.environ.get("BUILDKIT_PROGRESS") or "auto"
        if mode not in PROGRESS_MODES:
            raise DockerError("ERROR: invalid progress mode " + mode)
        if mode == "tty" and not is_terminal(self.err):
            raise DockerError("ERROR: failed to get console: provided file is not a console")
        return "quiet" if opts.quiet else mode if mode != "auto" else "tty" if is_terminal(self.err) else "plain"

    def _take_context(self, context, where, quiet):
        """Fill a BuildContext from what the user named: the input, a folder, a git repository or another URL."""
        if where == "-":
            context.take_stream(getattr(self.in_, "buffer", self.in_))
        elif os.path.exists(where):
            context.take_folder(where)
        elif re.match(r"https?://.*\.git(#.+)?$|git://|github\.com/|git@", where):
            context.take_git(where)
        elif re.match("https?://", where):
            context.take_stream(self._download(where, quiet))
        else:
            raise DockerError('path "%s" not found' % where)

    def _download(self, url, quiet):
        import urllib.request
        try:
            answer = urllib.request.urlopen(url)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            words = 'Get "%s": %s' % (url, os_error_text(reason) if isinstance(reason, OSError) else reason)
            if hasattr(error, "code"):
                words = "failed to GET %s with status %d %s: %s" % (
                    url, error.code, reason, error.read(ERROR_BODY_LIMIT).decode("utf-8", "replace").strip())
            raise DockerError("unable to download remote context %s: %s" % (url, words))
        if not quiet:
            self.print("Downloading build context from remote url: " + url)
        return answer

    def _build_query(self, opts, dockerfile):
        arguments = self.config.proxy_variables(self.endpoint.host)
        arguments.update(opts.build_arg)
        query = {name: "1" if value is True else value or None
                 for name, value in ((name, getattr(opts, flag)) for name, flag in _BUILD_QUERY)}
        query.update(
            dockerfile=dockerfile or None, rm=None if opts.rm else "0",
            buildargs=dict(sorted(arguments.items())) or None, labels=dict(sorted(opts.label)) or None,
            networkmode=None if opts.network == "default" else opts.network,
            isolation=opts.isolation if opts.isolation.lower() not in ("", "default") else None,
            platform=(opts.platform or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")).lower() or None,
            cachefrom=",".join(opts.cache_from).split(",") if opts.cache_from else None,
            securityopt=",".join(opts.security_opt).split(",") if opts.security_opt else None,
            ulimits=[limit for _, limit in sorted({limit["Name"]: limit for limit in opts.ulimit}.items())] or None)
        return query

    def _send_context(self, context, query, opts, credentials, report):
        """Start a build: its messages.  report(bytes sent, whether that was all) is called every half MiB."""
        def blocks():
            """The archive, with a report of its size on its way."""
            total, told = 0, 0
            for block in compress(context) if opts.compress else context:
                yield block
                total += len(block) if isinstance(block, bytes) else block[2]
                if total - told >= MIB >> 1:
                    told = total
                    report(total, False)
            report(total, True)
        return self.client.build(blocks(), query, credentials)

    def _build_classically(self, context, query, opts):
        """The classic builder: the image's ID."""
        out, found = [], [""]
        live = self.is_terminal and not opts.quiet

        def write(text):
            if opts.quiet:
                return out.append(text)
            self.write(text)
            self.out.flush()

        def report(total, done):
            """Say how much of the context has gone out."""
            if done or live:
                write("Sending build context to Docker daemon %8s\r%s" % (format_size(total), "\r\n" * done))

        def note(message):
            if isinstance(message["aux"], dict) and message["aux"].get("ID"):
                found.append(str(message["aux"]["ID"]))
        query = dict(query, version="1", q="1" if opts.quiet else None, pull="1" if opts.pull else None)
        try:
            stream = self._send_context(context, query, opts, self.config.all_credentials(), report)
            sent = len(out)
            ProgressDisplay(write, (lambda: terminal_size(self.out)) if live else None).show(stream, note)
        except DockerError as error:
            _write(self.err, "".join(out))
            raise StatusError(str(error), getattr(error, "code", 0) or 1)
        self.write("".join(out[sent:]))
        return "".join(out[sent:]) if opts.quiet else found[-1]

    def _build_with_buildkit(self, context, query, opts, mode):
        """BuildKit, which shows its work on the error output: the image's ID."""
        instructions, pulled = read_dockerfile(context.text), set()
        images = base_images(instructions, dict(opts.build_arg), opts.target)
        query = dict(query, version="2", pull="1" if opts.pull and not context.text else None)
        while True:
            # an engine without a session knows no credentials: what it would have to fetch, it is told to pull
            for name in images:
                if name not in pulled and (opts.pull or not self._has_image(name, query["platform"])):
                    self._pull_base(name, mode, query["platform"])
                pulled.add(name)
            identifier, failure, failed = self._run_buildkit(context, query, opts, mode)
            if not failure:
                break
            images = [name[len(_METADATA_STEP):] for name in failed
                      if context.folder and name.startswith(_METADATA_STEP)]
            if pulled.issuperset(images):
                raise self._build_failure(str(failure), failed, context, instructions)
        if opts.quiet:
            self.print(identifier)
        return identifier

    def _write_err(self, text):
        _write(self.err, text)
        self.err.flush()

    def _run_buildkit(self, context, query, opts, mode):
        """One try: (the image's ID, the StreamFailed if there was one, the names of the steps that failed)."""
        identifier, began = "", int(time.time() * 1e9)

        def report(total, done):
            """Show the transfer of the context as a step of its own."""
            now = int(time.time() * 1e9)
            about = dict({"completed": now} if done else {}, started=began)
            display.add({"vertexes": [dict(about, digest=OWN_STEP, name="[internal] load build context")], "statuses": [
                dict(about, id="transferring context:", vertex=OWN_STEP, current=total, timestamp=now)]})
        with BuildDisplay(self._write_err, mode, lambda: terminal_size(self.err),
                          "docker:" + self.endpoint.context) as display:
            try:
                with self._send_context(context, query, opts, None, report) as stream:
                    for message in stream:
                        aux = message.get("aux")
                        if message.get("id") == "moby.buildkit.trace":
                            try:
                                display.add(decode_trace(base64.b64decode(aux)))
                            except (TypeError, ValueError):
                                pass    # only the display suffers
                        elif isinstance(aux, dict) and aux.get("ID"):
                            identifier = str(aux["ID"])
                        elif mode != "quiet" and message.get("stream"):
                            self._write_err(str(message["stream"]))      # of an engine that has no BuildKit
            except StreamFailed as error:
                return identifier, error, [step.name for step in display.vertexes.values() if step.error]
        return identifier, None, ()

    def _has_image(self, name, platform):
        try:
            about = self.client.inspect_image(name)
        except NotFound:
            return False
        return not platform or platform.split("/")[1:2] in ([], [about.get("Architecture")])

    def _pull_base(self, name, mode, platform):
        """Pull a base image, and show that on the error output."""
        reference = parse_reference(name).with_default_tag()
        write = self._write_err if mode in ("plain", "tty") else lambda text: None
        display = ProgressDisplay(write, (lambda: terminal_size(self.err)) if mode == "tty" else None)
        write("Pulling %s, which the build is based on\n" % reference)
        self.with_login("pull", resolve_repository_name(reference.name)[0], lambda auth: display.show(
            self.client.pull(reference.name, reference.digest or reference.tag, auth, platform or "")))

    def _build_failure(self, words, failed, context, instructions):
        """The error that a failed build ends with; the lines of the Dockerfile at fault have been shown then."""
        found = re.search(r"dockerfile parse error (?:on )?line (\d+)", words)
        place = (int(found.group(1)),) * 2 if found else next(
            filter(None, (failed_line(instructions, name) for name in failed)), None)
        if place and context.text:
            self.warn(excerpt(os.path.basename(context.dockerfile), context.text, *place).rstrip("\n"))
        return DockerError("ERROR: %s%s" % ("" if words.startswith("failed to solve") else "failed to solve: ", words))


def _text(field):
    return lambda item: item.get(field) or ""


def _flag(field):
    return lambda item: "true" if item.get(field) else "false"


def _moment(field):
    return lambda item: _go_time(item[field]) if item.get(field) else ""


def network_columns(whole: bool) -> dict:
    """The fields of a network in a list: {field: (heading, function)}; `whole`: the ID is not shortened."""
    return {
        "ID": ("NETWORK ID", lambda n: n["Id"] if whole else short_id(n["Id"])),
        "Name": ("NAME", _text("Name")), "Driver": ("DRIVER", _text("Driver")), "Scope": ("SCOPE", _text("Scope")),
        "IPv4": ("IPV4", _flag("EnableIPv4")), "IPv6": ("IPV6", _flag("EnableIPv6")),
        "Internal": ("INTERNAL", _flag("Internal")), "CreatedAt": ("CREATED AT", lambda n: _go_time(n.get("Created"))),
        "Labels": ("LABELS", lambda n: format_labels(n.get("Labels"))), "Label": LABEL,
    }


def volume_columns() -> dict:
    """The fields of a volume in a list: {field: (heading, function)}."""
    def usage(field, show):
        return lambda v: show(v["UsageData"].get(field) or 0) if v.get("UsageData") else "N/A"

    def cluster(show):
        return lambda v: show(v["ClusterVolume"]) if v.get("ClusterVolume") else "N/A"

    def status(c):
        nodes = len(c.get("PublishStatus") or ())
        return "pending creation" if not (c.get("Info") or {}).get("VolumeID") else (
            "in use (%d node%s)" % (nodes, "s" * (nodes != 1)) if nodes else "created")
    return {
        "Name": ("VOLUME NAME", _text("Name")), "Driver": ("DRIVER", _text("Driver")),
        "Scope": ("SCOPE", _text("Scope")), "Mountpoint": ("MOUNTPOINT", _text("Mountpoint")),
        "Labels": ("LABELS", lambda v: format_labels(v.get("Labels"))), "Label": LABEL,
        "Links": ("LINKS", usage("RefCount", str)), "Size": ("SIZE", usage("Size", format_size)),
        "Group": ("GROUP", cluster(lambda c: (c.get("Spec") or {}).get("Group") or "")),
        "Availability": ("AVAILABILITY", cluster(lambda c: (c.get("Spec") or {}).get("Availability") or "")),
        "Status": ("STATUS", cluster(status)),
    }


def network_ipam(subnets, ranges, gateways, auxiliary) -> list:
    """The `IPAM.Config` of a new network: each range, gateway and auxiliary address joined to the subnet it lies in."""
    if len(subnets) < max(len(ranges), len(gateways)):
        raise DockerError("every ip-range or gateway must have a corresponding subnet")
    import ipaddress

    def interface(text, complaint="invalid CIDR address: %s"):
        try:
            return ipaddress.ip_interface(text if re.search(r"/[0-9]{1,3}\Z", text) else "")
        except ValueError:
            raise DockerError(complaint % text)

    def holds(subnet, text, is_range=False):
        """Whether a range or an address lies in a subnet."""
        network = interface(subnet, "invalid subnet: invalid CIDR address: %s").network
        if is_range or "/" in text:
            return interface(text).ip in network
        try:
            return ipaddress.ip_address(text) in network
        except ValueError:
            return False
    for i, subnet in enumerate(subnets):
        if any(holds(subnet, other, True) or holds(other, subnet, True) for other in subnets[:i]):
            raise DockerError("multiple overlapping subnet configuration is not supported")
    found = [{"Subnet": subnet} for subnet in subnets]
    wanted = [("IPRange", text, "range", "ranges (%s, %s) on") for text in ranges]
    wanted += [("Gateway", text, "gateway", "gateways (%s, %s) for") for text in gateways]
    wanted += [(name, text, "aux-address", "") for name, text in auxiliary]
    for key, text, word, several in wanted:
        homes = [config for config in found if holds(config["Subnet"], text, word == "range")]
        if not homes:
            raise DockerError("no matching subnet for %s %s" % (word, text))
        for config in homes:
            if several and config.get(key):
                raise DockerError("cannot configure multiple %s the same subnet (%s)" % (
                    several % (text, config[key]), config["Subnet"]))
            (config if several else config.setdefault("AuxiliaryAddresses", {}))[key] = text
    return found


_NO_NETWORK = ('{"Driver":"bridge","Scope":"","IPAM":{"Driver":"default","Options":{}},"Internal":false,'
               '"Attachable":false,"Ingress":false,"ConfigOnly":false,"Options":{},"Labels":{}}')


class NetworkCommands(Cli):
    """Commands on networks."""

    def cmd_network_ls(self, *args):
        """List networks."""
        opts = self.parse(args, "", 0, '''
            -f, --filter filter   only those that match, as name=value''' + _FORMAT_FLAG + '''
                --no-trunc        whole IDs
            -q, --quiet           IDs only''')
        found = sorted(self.client.networks(_filter_map(opts.filter)), key=lambda n: natural_key(n.get("Name") or ""))
        self._show_named(found, network_columns(opts.no_trunc), ["ID", "Name", "Driver", "Scope"], opts,
                         "networksFormat", (("network_id", "ID"), ("name", "Name"), ("driver", "Driver"),
                                            ("scope", "Scope")), "*network.networkContext")

    cmd_network_list = cmd_network_ls

    def _show_named(self, rows, columns_of, shown, opts, key, raw, row_type):
        """Show a list in which `-q` gives way to a format of the user's; it leaves the first field of `raw`."""
        format_text = opts.format or "" if opts.quiet else opts.format or self.config.get(key, "")
        if opts.quiet and format_text in ("", "table", "raw"):
            label = raw[0][0] + ": " if format_text == "raw" else ""
            format_text = "%s{{.%s}}" % (label, raw[0][1])
        self.show_rows(rows, columns_of, shown, format_text, raw=raw, row_type=row_type)

    def cmd_network_inspect(self, *args):
        """Show networks in detail."""
        opts = self.parse(args, "NETWORK [NETWORK...]", (1, None), '''
            -f, --format string   how to print: "json" or a Go template
            -v, --verbose         what a swarm knows of them, too''')
        query = {"verbose": "true" if opts.verbose else None}
        self.inspect(opts.args, opts.format, lambda name: self.client.inspect("network", name, query), "network")

    def cmd_network_create(self, *args):
        """Create a network."""
        table = '''
                --attachable           containers may be attached to it by hand (API 1.25) > Attachable
                --aux-address map      address, as name=address, that the driver may not give away
                --config-from string   network whose configuration to use (API 1.30) > ConfigFrom.Network
                --config-only          make a configuration for other networks to use (API 1.30) > ConfigOnly
            -d, --driver string        driver (default "bridge") > Driver
                --gateway strings      address of the gateway of a subnet
                --ingress              make the swarm's routing-mesh network (API 1.29) > Ingress
                --internal             no way from it to the outside > Internal
                --ip-range strings     the part of a subnet to give addresses from
                --ipam-driver string   driver that manages addresses (default "default") > IPAM.Driver
                --ipam-opt map         option of that driver, as key=value > IPAM.Options
                --ipv4                 give out IPv4 addresses (default true) > EnableIPv4
                --ipv6                 give out IPv6 addresses > EnableIPv6
                --label list|label     label, as key=value > Labels
            -o, --opt map              option of the driver, as key=value > Options
                --scope string         scope: local, swarm or global (API 1.30) > Scope
                --subnet strings       subnet in CIDR form'''
        opts = self.parse(args, "NETWORK", 1, table)
        config = fill_in(json.loads(_NO_NETWORK), table, opts)
        config["IPAM"]["Config"] = network_ipam(
            opts.subnet, opts.ip_range, opts.gateway, opts.aux_address)
        config.setdefault("ConfigFrom", None)
        config["Name"] = opts.args[0]
        if not self.client.at_least("1.44"):
            config["CheckDuplicate"] = True
        self.print(self.client.create_network(config).get("Id") or "")

    def cmd_network_connect(self, *args):
        """Connect a container to a network."""
        table = '''
                --alias strings           further name of the container in the network
                --driver-opt strings      option of the driver, as key=value
                --gw-priority int         which network gives the default route: that of the highest number > GwPriority
                --ip string               IPv4 address > IPAMConfig.IPv4Address
                --ip6 string              IPv6 address > IPAMConfig.IPv6Address
                --link list|link          other container to know by name > Links
                --link-local-ip strings   link-local address'''
        opts = self.parse(args, "NETWORK CONTAINER", 2, table)
        config = fill_in(dict(json.loads(_NO_ENDPOINT), IPAMConfig={}, DriverOpts={}), table, opts)
        config["Aliases"] = opts.alias
        config["IPAMConfig"].update({"LinkLocalIPs": opts.link_local_ip} if opts.link_local_ip else ())
        for key, equals, value in (text.partition("=") for text in opts.driver_opt):
            if not equals or not key.strip():
                raise DockerError("invalid key/value pair format in driver options")
            config["DriverOpts"][key.strip()] = value.strip()
        self.client.connect_network(opts.args[0], opts.args[1], config)

    def cmd_network_disconnect(self, *args):
        """Disconnect a container from a network."""
        opts = self.parse(args, "NETWORK CONTAINER", 2, '''
            -f, --force   even if the container does not run''')
        self.client.disconnect_network(opts.args[0], opts.args[1], opts.force)

    def cmd_network_rm(self, *args):
        """Remove networks."""
        opts = self.parse(args, "NETWORK [NETWORK...]", (1, None), '''
            -f, --force   no complaint about networks that do not exist''')
        failed = False
        for name in opts.args:
            try:
                ingress = json.loads(self.client.inspect("network", name)).get("Ingress")
            except (DockerError, ValueError, AttributeError):
                ingress = False
            try:
                if not ingress or self.confirm(
                        "WARNING! Before removing the routing-mesh network, make sure all the nodes in your swarm run "
                        "the same docker engine version. Otherwise, removal may not be effective and functionality of "
                        "newly create ingress networks will be impaired." + _SURE):
                    self.client.remove_network(name)
                    self.print(name)
            except DockerError as error:
                if not (opts.force and isinstance(error, NotFound)):
                    failed = True
                    self.warn(str(error))
        if failed:
            raise DockerError("exit status 1")

    cmd_network_remove = cmd_network_rm

    def cmd_network_prune(self, *args):
        """Remove networks that no container uses."""
        opts = self.parse(args, "", 0, _PRUNE_FLAGS, api="1.25")
        question = "WARNING! This will remove all custom networks not used by at least one container." + _SURE
        if opts.force or self.confirm(question):
            self.prune("networks", _filter_map(opts.filter))


# What an engine's volume holds, as `volume inspect` lists it; the False ones only if the engine names them.
_VOLUME_FIELDS = (("ClusterVolume", False), ("CreatedAt", False), ("Driver", True), ("Labels", True),
                  ("Mountpoint", True), ("Name", True), ("Options", True), ("Scope", True), ("Status", False),
                  ("UsageData", False))


class VolumeCommands(NetworkCommands):
    """Commands on volumes."""

    def cmd_volume_ls(self, *args):
        """List volumes."""
        opts = self.parse(args, "", 0, '''
                --cluster         only cluster volumes (API 1.42)
            -f, --filter filter   only those that match, as name=value''' + _FORMAT_FLAG + '''
            -q, --quiet           names only''')
        found = sorted(self.client.volumes(_filter_map(opts.filter)), key=lambda v: natural_key(v.get("Name") or ""))
        shown = ["Driver", "Name"]
        if opts.cluster:
            found = [volume for volume in found if volume.get("ClusterVolume")]
            shown = ["Name", "Group", "Driver", "Availability", "Status"]
            opts.format = opts.format if opts.quiet else "table"
        self._show_named(found, volume_columns(), shown, opts, "volumesFormat",
                         (("name", "Name"), ("driver", "Driver")), "*formatter.volumeContext")

    cmd_volume_list = cmd_volume_ls

    def cmd_volume_inspect(self, *args):
        """Show volumes in detail."""
        opts = self.parse(args, "VOLUME [VOLUME...]", (1, None), '''
            -f, --format string   how to print: "json" or a Go template''')

        def get(name):
            volume = _decode_object(self.client.inspect("volume", name))
            empty = {"Labels": None, "Options": None}
            return compact_json({field: volume.get(field, empty.get(field, "")) for field, always in _VOLUME_FIELDS
                                 if always or volume.get(field)})
        self.inspect(opts.args, opts.format, get, "volume", raw=False)

    def cmd_volume_create(self, *args):
        """Create a volume."""
        opts = self.parse(args, "[VOLUME]", (0, 1), '''
                --availability string       cluster volume: active, pause or drain (default "active") (API 1.42)
            -d, --driver string             driver (default "local")
                --group string              cluster volume: its group (API 1.42)
                --label list|label          label, as key=value
                --limit-bytes bytes         cluster volume: the most it may take (API 1.42)
                #--name string              name of the volume
            -o, --opt map                   option of the driver, as key=value
                --required-bytes bytes      cluster volume: the least it must take (API 1.42)
                --scope string              cluster volume: single or multi node (default "single") (API 1.42)
                --secret map                cluster volume: secret for the driver, as key=name (API 1.42)
                --sharing string            cluster volume: none, readonly, onewriter or all (default "none") (API 1.42)
                --topology-preferred list   cluster volume: topology to prefer, as key=value,… (API 1.42)
                --topology-required list    cluster volume: topology it must be reached from (API 1.42)
                --type string               cluster volume: mount or block (default "block") (API 1.42)''')
        if opts.name and opts.args:
            raise DockerError("conflicting options: cannot specify a volume-name through both --name and as a "
                              "positional arg")
        config = {"Driver": opts.driver, "DriverOpts": dict(opts.opt), "Name": opts.args[0] if opts.args else opts.name,
                  "Labels": dict(opts.label)}
        if opts.given & {"group", "scope", "sharing", "availability", "type", "limit_bytes", "required_bytes"}:
            mode = {"Scope": opts.scope, "Sharing": opts.sharing}
            mode.update({opts.type.title() + "Volume": {}} if opts.type in ("mount", "block") else {})
            secrets = [{"Key": key, "Secret": secret} for key, secret in sorted(dict(opts.secret).items())]
            topology = {key: [{"Segments": dict(map(key_value, text.split(",")))} for text in texts] for key, texts in (
                ("Requisite", opts.topology_required), ("Preferred", opts.topology_preferred)) if texts}
            spec = {"Group": opts.group, "AccessMode": mode, "Secrets": secrets, "Availability": opts.availability,
                    "CapacityRange": {"RequiredBytes": opts.required_bytes or 0, "LimitBytes": opts.limit_bytes or 0}}
            config["ClusterVolumeSpec"] = {key: value for key, value in spec.items() if value}
            config["ClusterVolumeSpec"]["AccessibilityRequirements"] = topology
        created = self.client.create_volume({key: value for key, value in config.items() if value})
        self.print(created.get("Name") or "")

    def cmd_volume_update(self, *args):
        """Change a cluster volume."""
        opts = self.parse(args, "[VOLUME]", 1, '''
                --availability string   active, pause or drain (default "active")''', api="1.42")
        cluster = _decode_object(self.client.inspect("volume", opts.args[0])).get("ClusterVolume")
        if not cluster:
            raise DockerError("can only update cluster volumes")
        spec = cluster.get("Spec") or {}
        if "availability" in opts.given:
            spec["Availability"] = opts.availability
        self.client.update_volume(cluster.get("ID") or "", (cluster.get("Version") or {}).get("Index") or 0, spec)

    def cmd_volume_rm(self, *args):
        """Remove volumes."""
        opts = self.parse(args, "VOLUME [VOLUME...]", (1, None), '''
            -f, --force   no complaint about volumes that do not exist (API 1.25)''')

        def remove(name):
            """Remove one volume and print its name."""
            self.client.remove_volume(name, opts.force)
            self.print(name)
        self.each(opts.args, remove)

    cmd_volume_remove = cmd_volume_rm

    def cmd_volume_prune(self, *args):
        """Remove volumes that no container uses."""
        opts = self.parse(args, "", 0, '''
            -a, --all             also those with a name (API 1.42)''' + _PRUNE_FLAGS, api="1.25")
        filters = _filter_map(opts.filter)
        if opts.all:
            if "all" in filters:
                raise DockerError("conflicting options: cannot specify both --all and --filter all=" +
                                  filters["all"][0])
            filters["all"] = ["true"]
        what = "anonymous" if not opts.all and self.client.at_least("1.42") else "all"
        question = "WARNING! This will remove %s local volumes not used by at least one container." + _SURE
        if opts.force or self.confirm(question % what):
            self.show_reclaimed(self.prune("volumes", filters))


_YEAR_2000 = 946684800                  # an image that says it is older says so because it must not say when
INSPECT_TYPES = ("container", "image", "network", "volume", "service", "task", "node", "plugin", "secret", "config")


class SystemCommands(Cli):
    """Commands on the engine itself."""

    def cmd_version(self, *args):
        """Show the versions of the client and of the engine."""
        opts = self.parse(args, "", 0, '''
            -f, --format string   how to print: "json" or a Go template''')
        failure = server = None
        template = self._object_template(opts.format, "version") if opts.format else None
        client = self.client            # an endpoint that makes no sense ends it here
        try:
            server = client.version()
        except DockerError as error:
            failure = error
        about = self._client_version()
        if opts.format:
            value = {"Client": about, "Server": server and _with_components(server)}
            try:
                self._show_object(Value("system.versionInfo", value), template)
            except TemplateError:
                if not failure:
                    raise
        else:
            self.write(_version_text(about, server))
        if failure:
            raise failure

    def _client_version(self):
        return {
            "Platform": {"Name": "pydock " + __version__},
            "Version": DOCKER_LEVEL,
            "ApiVersion": self._client.api_version if self._client else API_VERSION,
            "DefaultAPIVersion": API_VERSION,
            "PythonVersion": sys.version.partition(" ")[0],
            "Os": sys.platform,
            "Arch": host_architecture().partition("/")[0],
            "Context": self.endpoint.context if self.endpoint else DEFAULT_CONTEXT,
        }

    def _object_template(self, format_text, name=""):
        return self.template("{{json .}}" if format_text == "json" else format_text, name)

    def _show_object(self, value, template):
        try:
            self.print(template.execute(value))
        except TemplateError as error:
            self.print(error.output)
            raise

    def cmd_info(self, *args):
        """Show how the engine is set up."""
        opts = self.parse(args, "", 0, '''
            -f, --format string   how to print: "json" or a Go template''')
        client = {"Version": DOCKER_LEVEL, "Platform": {"Name": "pydock " + __version__},
                  "Context": self.endpoint.context if self.endpoint else DEFAULT_CONTEXT, "Debug": self.debug,
                  "Plugins": [], "Warnings": None}
        if opts.format:
            return self._show_info({"ClientInfo": client}, opts.format)
        self.write("Client: pydock %s\n Version:    %s\n Context:    %s\n Debug Mode: %s\n\nServer:\n" % (
            __version__, DOCKER_LEVEL, client["Context"], "true" if self.debug else "false"))
        try:
            info = self.client.info()
        except ApiError as error:
            self.warn("ERROR: %s" % error)
            raise DockerError("errors pretty printing info")
        user = self.config.auths.get(info.get("IndexServerAddress"), AuthConfig()).username
        self.write(info_text(info, user))
        for warning in info.get("Warnings") or ():
            self.warn(str(warning))

    cmd_system_info = cmd_info

    def cmd_events(self, *args):
        """Show what happens in the engine, as it happens."""
        opts = self.parse(args, "", 0, '''
            -f, --filter filter   only those that match, as name=value
                --format string   how to print: "json" or a Go template
                --since string    from this time on: a time, or a duration before now such as 10m
                --until string    up to this time''')
        show = event_text
        if opts.format:
            template = self.template("{{json .}}" if opts.format == "json" else opts.format,
                                     example=Value("*events.Message", {}), complaint="Error parsing format")

            def show(event):
                return template.execute(Value("*events.Message", event)) + "\n"
        since, until = (text and parse_timestamp(text) for text in (opts.since, opts.until))
        with self.client.events(since, until, _filter_map(opts.filter)) as events:
            for batch in events.batches():
                self.write("".join(map(show, batch)))
                self.out.flush()

    cmd_system_events = cmd_events

    def cmd_system_df(self, *args):
        """Show what takes disk space."""
        opts = self.parse(args, "", 0, _FORMAT_FLAG + '''
            -v, --verbose         each image, container, volume and piece of cache''', api="1.25")
        usage = self.client.df()
        if not opts.verbose:
            raw = list(zip(("type", "total", "active", "size", "reclaimable"), _USAGE_COLUMNS))
            return self.show_rows(usage_rows(usage), _USAGE_COLUMNS, list(_USAGE_COLUMNS), opts.format, raw=raw,
                                  row_type="*formatter.diskUsageImagesContext")
        whole = opts.format not in ("", "table")
        images = [(image,) + _first_tag(image) + ("",) for image in usage.get("Images") or ()]
        cache = sorted(usage.get("BuildCache") or (), key=lambda c: (
            parse_rfc3339(c["LastUsedAt"]) if c.get("LastUsedAt") else float("-inf"), c.get("ID") or ""))
        parts = [("Images", "Images space usage:", images, image_columns(whole),
                  "Repository Tag ID CreatedSince Size SharedSize UniqueSize Containers"),
                 ("Containers", "Containers space usage:",
                  [dict(c, SizeRootFs=0) for c in usage.get("Containers") or ()], container_columns(whole),
                  "ID Image Command LocalVolumes Size RunningFor Status Names"),
                 ("Volumes", "Local Volumes space usage:", usage.get("Volumes") or (), volume_columns(),
                  "Name Links Size"),
                 ("BuildCache", "Build cache usage: " + usage_rows(usage)[3][3], cache, cache_columns(whole),
                  "ID CacheType Size CreatedSince LastUsedSince UsageCount Shared")]
        if not whole:
            return self.write("\n".join(title + "\n\n" + self.rendered(rows, columns_of, shown.split())
                                        for _, title, rows, columns_of, shown in parts))
        value = {name: [Row(columns_of, row) for row in rows] for name, _, rows, columns_of, _ in parts}
        if opts.format == "json":
            return self.write("{%s}" % ",".join('"%s":[%s]' % (name, ",".join(
                [go_json(Value("*formatter.rowContext", row)) for row in value[name]])) for name in value))
        self.write(self.template(re.sub("^table", "", opts.format).strip()).execute(value))

    def cmd_system_prune(self, *args):
        """Remove all that is not in use."""
        opts = self.parse(args, "", 0, '''
            -a, --all             not only images without a name, but all that no container uses
                --filter filter   only those that match, as name=value (API 1.28)
            -f, --force           do not ask
                --volumes         anonymous volumes, too''', api="1.25")
        filters = _filter_map(opts.filter)
        if opts.volumes and "until" in filters:
            raise DockerError('ERROR: The "until" filter is not supported with "--volumes"')
        builds = self.client.at_least("1.31")
        lines = ["all stopped containers", "all networks not used by at least one container"]
        lines += ["all anonymous volumes not used by at least one container"] * opts.volumes
        lines += ["all images without at least one container associated to them" if opts.all else "all dangling images"]
        lines += ["all build cache" if opts.all else "unused build cache"] * builds
        question = "WARNING! This will remove:\n" + "".join("  - %s\n" % line for line in lines)
        if filters:
            question += "\n  Items to be pruned will be filtered with:\n" + "".join(
                "  - %s=%s\n" % (name, value) for name in sorted(filters) for value in filters[name])
        if not (opts.force or self.confirm(question + _SURE)):
            return
        size = self.prune("containers", filters)
        self.prune("networks", filters)
        size += self.prune("volumes", filters) if opts.volumes else 0
        size += self.prune("images", dict(filters, dangling=["false" if opts.all else "true"]))
        size += self.prune("caches", filters, opts.all) if builds else 0
        self.show_reclaimed(size)

    def cmd_builder_prune(self, *args):
        """Remove build cache."""
        opts = self.parse(args, "", 0, '''
            -a, --all                  all of it, not only what is dangling
                --filter filter        only what matches, as name=value
            -f, --force                do not ask
                --keep-storage bytes   how much of it to keep''', api="1.39")
        what = "all build cache" if opts.all else "all dangling build cache"
        if opts.force or self.confirm("WARNING! This will remove %s. Are you sure you want to continue?" % what):
            self.show_reclaimed(self.prune("caches", _filter_map(opts.filter), opts.all, opts.keep_storage or 0))

    def _show_info(self, info, format_text):
        """Show what a template makes of the client's part and, if it needs it, of the engine's; and faults."""
        failure, asks = None, not re.search(r"\.[a-zA-Z]", format_text)
        try:
            Template(format_text).execute(Value("system.sparseInfo", info))
        except TemplateError:
            asks = True
        try:
            info.update(self.client.info() if asks else {})
        except ApiError as error:
            info["ServerErrors"] = [str(error)]
            self.warn(str(error))
        except DockerError as error:
            failure = error
        self._show_object(Value("system.dockerInfo", info), self._object_template(format_text))
        if failure:
            raise failure

    def cmd_system_dialstdio(self, *args):
        """Connect the input and output with the engine, for a client at the other end of an ssh session."""
        self.parse(args, "", 0)
        if self.endpoint.error:
            raise self.endpoint.error
        self.endpoint = self.find_engine()
        try:
            wire = dial(self.endpoint)
        except OSError as error:
            raise DockerError("failed to open the raw stream connection: dial %s %s: connect: %s" % (
                self.endpoint.proto, self.endpoint.address, os_error_text(error)))
        wire.sock.settimeout(None)

        def send():
            """The thread: the input to the engine, and its end."""
            try:
                while True:
                    data = os.read(self.in_.fileno(), MIB >> 2)
                    if not data:
                        return wire.close_write()
                    wire.sendall(data)
            except OSError:
                pass                    # the engine has closed, which the other direction notices
        import threading
        threading.Thread(target=send, daemon=True).start()
        buffer = memoryview(bytearray(MIB >> 2))
        while True:
            count = wire.recv_into(buffer)
            if not count:
                break
            write_all(self.out.fileno(), buffer[:count])

    def cmd_inspect(self, *args):
        """Show objects of any kind in detail."""
        opts = self.parse(args, "NAME|ID [NAME|ID...]", (1, None), '''
            -f, --format string   how to print: "json" or a Go template
            -s, --size            disk usage of containers, too
                --type string     only objects of this type''')
        kinds = INSPECT_TYPES
        if "type" in opts.given:
            if opts.type not in kinds:
                allowed = "must be one of " + ", ".join('"%s"' % kind for kind in sorted(kinds))
                raise DockerError("unknown type: %s: %s" % (go_quote(opts.type), allowed) if opts.type else
                                  "type is empty: " + allowed)
            kinds = (opts.type,)
        self.inspect(opts.args, opts.format, lambda name: self._inspect_any(name, kinds, opts.size))

    def _inspect_any(self, name, kinds, size):
        """The kind and the JSON of whatever has that name, the kinds tried in turn."""
        is_manager = None
        for kind in kinds:
            if len(kinds) > 1 and kind in ("service", "task", "node", "secret", "config"):
                if is_manager is None:
                    is_manager = bool((self.client.info().get("Swarm") or {}).get("ControlAvailable"))
                if not is_manager:
                    continue
            try:
                text = self.client.inspect(kind, name, {"size": "1"} if size and kind == "container" else None)
            except ApiError as error:
                if len(kinds) == 1 or not (isinstance(error, NotFound) or "not supported" in str(error)
                                           or "invalid reference format" in str(error)):
                    raise
            else:
                if size and kind != "container":
                    self.warn("WARNING: --size ignored for %s" % kind)
                return kind, text
        raise DockerError("Error: No such object: " + name)


def event_text(event: dict) -> str:
    """An event as a line: local time, type, action, ID and attributes."""
    nanoseconds = event.get("timeNano") or (event.get("time") or 0) * 10 ** 9
    actor = event.get("Actor") or {}
    text = "%s %s %s" % (event.get("Type") or "", event.get("Action") or "", actor.get("ID") or "")
    attributes = actor.get("Attributes")
    if attributes:
        text += " (%s)" % ", ".join(["%s=%s" % item for item in sorted(attributes.items())])
    return (format_nanoseconds(nanoseconds) + " " if nanoseconds else "") + text + "\n"


def usage_rows(usage: dict) -> list:
    """The lines of `system df`: (type, total, active, size, reclaimable), all text."""
    images, containers, volumes, cache = (
        usage.get(key) or () for key in ("Images", "Containers", "Volumes", "BuildCache"))

    def row(name, items, active, size, free, percent=True):
        share = " (%d%%)" % (free * 100 // size) if percent and size > 0 else ""
        return name, str(len(items)), str(active), format_size(size), format_size(free) + share

    def total(items, field="Size"):
        return sum(item.get(field) or 0 for item in items)
    layers = usage.get("LayersSize") or 0
    used = sum((image.get("Size") or 0) - image["SharedSize"] for image in images
               if image.get("Containers") and image.get("SharedSize", -1) != -1 and image.get("Size") != -1)
    active = [c for c in containers if c.get("State") in ("running", "paused", "restarting")]
    shares = [v.get("UsageData") or {} for v in volumes]
    known = [share for share in shares if share.get("Size") != -1]
    own = [c for c in cache if not c.get("Shared")]
    return [row("Images", images, sum((image.get("Containers") or 0) > 0 for image in images), layers, layers - used),
            row("Containers", containers, len(active), total(containers, "SizeRw"),
                total(containers, "SizeRw") - total(active, "SizeRw")),
            row("Local Volumes", volumes, sum((share.get("RefCount") or 0) > 0 for share in shares), total(known),
                total(share for share in known if not share.get("RefCount"))),
            row("Build Cache", cache, sum(bool(c.get("InUse")) for c in cache), total(own),
                total(c for c in own if not c.get("InUse")), False)]


_USAGE_COLUMNS = {field: (field.upper().replace("COUNT", ""), lambda row, at=at: row[at])
                  for at, field in enumerate(("Type", "TotalCount", "Active", "Size", "Reclaimable"))}


def cache_columns(whole: bool) -> dict:
    """The fields of a piece of build cache: {field: (heading, function)}; `whole`: the ID is not shortened."""
    def since(field):
        # no longer than Go's durations go
        return lambda c: c.get(field) and format_duration(
            min(time.time() - parse_rfc3339(c[field]), 9223372036)) + " ago" or ""
    return {
        "ID": ("CACHE ID", lambda c: (c["ID"] if whole else short_id(c["ID"])) + "*" * bool(c.get("InUse"))),
        "Parent": ("PARENT", _text("Parent")), "CacheType": ("CACHE TYPE", _text("Type")),
        "Size": ("SIZE", lambda c: format_size(c.get("Size") or 0, 3)), "InUse": ("IN USE", _flag("InUse")),
        "CreatedAt": ("CREATED AT", _moment("CreatedAt")), "CreatedSince": ("CREATED", since("CreatedAt")),
        "LastUsedAt": ("LAST USED AT", _moment("LastUsedAt")), "LastUsedSince": ("LAST USED", since("LastUsedAt")),
        "UsageCount": ("USAGE", lambda c: str(c.get("UsageCount") or 0)), "Shared": ("SHARED", _flag("Shared")),
        "Description": ("DESCRIPTION", _text("Description")),
    }


def _first_tag(image):
    """An image's first name as (repository, tag)."""
    try:
        reference = parse_reference((image.get("RepoTags") or [""])[0])
    except DockerError:
        return "<none>", "<none>"
    return (reference.familiar_name, reference.tag) if reference.tag else ("<none>", "<none>")


def _with_components(server):
    """An engine's version with the component `Engine`, which some engines leave out."""
    components = server.get("Components") or []
    if any(isinstance(part, dict) and part.get("Name") == "Engine" for part in components):
        return server
    details = {key: str(server.get(key, "")).lower() if key == "Experimental" else server.get(key, "") for key in (
        "ApiVersion", "MinAPIVersion", "GitCommit", "GoVersion", "Os", "Arch", "BuildTime", "Experimental",
        "KernelVersion")}
    return dict(server, Components=components + [{"Name": "Engine", "Version": server.get("Version", ""),
                                                  "Details": details}])


def _version_text(client, server):
    """The two blocks of `version`."""
    api = client["ApiVersion"]
    if version_tuple(api) < version_tuple(API_VERSION):
        api += " (downgraded from %s)" % API_VERSION
    lines = [("Client: " + client["Platform"]["Name"],), (" Version:", client["Version"]), (" API version:", api),
             (" Python version:", client["PythonVersion"]), (" OS/Arch:", "%(Os)s/%(Arch)s" % client),
             (" Context:", client["Context"])]
    if server is not None:
        lines += [("",), (("Server: " + ((server.get("Platform") or {}).get("Name") or "")).rstrip(),)]
        for part in _with_components(server)["Components"]:
            lines.append((" %s:" % part.get("Name"),))
            lines += _engine_lines(part) if part.get("Name") == "Engine" else [
                ("  Version:", part.get("Version") or "")] + [
                ("  %s:" % key, str(value)) for key, value in sorted((part.get("Details") or {}).items())]
    return columns(lines, 20, 1)


def _engine_lines(engine):
    details = engine.get("Details") or {}
    built = details.get("BuildTime") or ""
    try:
        # ANSI C form, in the time zone that the engine names
        built = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(parse_rfc3339(built)))
    except ValueError:
        pass
    return [("  Version:", engine.get("Version") or ""),
            ("  API version:", "%s (minimum version %s)" % (details.get("ApiVersion") or "",
                                                            details.get("MinAPIVersion") or "")),
            ("  Go version:", details.get("GoVersion") or ""), ("  Git commit:", details.get("GitCommit") or ""),
            ("  Built:", built), ("  OS/Arch:", "%s/%s" % (details.get("Os") or "", details.get("Arch") or "")),
            ("  Experimental:", str(details.get("Experimental") or "false"))]


def info_text(info: dict, user: str = "") -> str:
    """The engine's half of `info`."""
    def bool_text(key):
        return "true" if info.get(key) else "false"

    def version(key):
        return (info.get(key) or {}).get("ID", "")
    lines = [" Containers: %s" % (info.get("Containers") or 0)]
    lines += ["  %s: %s" % (key, info.get("Containers" + key) or 0) for key in ("Running", "Paused", "Stopped")]
    lines += [" Images: %s" % (info.get("Images") or 0)]
    lines += _optional(info, ("Server Version", "ServerVersion"), ("Storage Driver", "Driver"))
    lines += ["  %s: %s" % tuple(pair) for pair in info.get("DriverStatus") or ()]
    lines += _optional(info, ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"),
                       ("Cgroup Version", "CgroupVersion"))
    plugins = info.get("Plugins") or {}
    lines.append(" Plugins:")
    for key in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(key) or key in ("Volume", "Network", "Log"):
            lines.append("  %s: %s" % (key, " ".join(plugins.get(key) or ())))
    for title, key, item in ((" CDI spec directories:", "CDISpecDirs", "  %s"), ):
        if info.get(key):
            lines += [title] + [item % value for value in info[key]]
    lines += _swarm_lines(info.get("Swarm") or {})
    if info.get("Runtimes"):
        lines.append(" Runtimes: " + " ".join(sorted(info["Runtimes"])))
        lines.append(" Default Runtime: %s" % (info.get("DefaultRuntime") or ""))
    if info.get("OSType") == "linux":
        lines.append(" Init Binary: %s" % (info.get("InitBinary") or ""))
        lines += [" %s version: %s" % (name, version(key)) for name, key in (
            ("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit"))]
        lines += _security_lines(info.get("SecurityOptions") or ())
    elif info.get("OSType") == "windows":
        lines.append(" Default Isolation: %s" % (info.get("Isolation") or ""))
    lines += _optional(info, ("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"),
                       ("OSType", "OSType"), ("Architecture", "Architecture"))
    lines += [" CPUs: %s" % (info.get("NCPU") or 0), " Total Memory: " + format_binary_size(info.get("MemTotal") or 0)]
    lines += _optional(info, ("Name", "Name"), ("ID", "ID"))
    lines += [" Docker Root Dir: %s" % (info.get("DockerRootDir") or ""), " Debug Mode: " + bool_text("Debug")]
    if info.get("Debug"):
        lines += ["  %s: %s" % (name, info.get(key)) for name, key in (
            ("File Descriptors", "NFd"), ("Goroutines", "NGoroutines"), ("System Time", "SystemTime"),
            ("EventsListeners", "NEventsListener"))]
    lines += _optional(info, ("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy"))
    lines += [" Username: " + user] * bool(user)
    lines += _listed(" Labels:", info.get("Labels"))
    lines.append(" Experimental: " + bool_text("ExperimentalBuild"))
    registries = info.get("RegistryConfig") or {}
    insecure = [name for name, index in sorted((registries.get("IndexConfigs") or {}).items())
                if not index.get("Secure")]
    lines += _listed(" Insecure Registries:", insecure + (registries.get("InsecureRegistryCIDRs") or []))
    lines += _listed(" Registry Mirrors:", registries.get("Mirrors"))
    lines.append(" Live Restore Enabled: " + bool_text("LiveRestoreEnabled"))
    lines += _optional(info, ("Product License", "ProductLicense"))
    if info.get("DefaultAddressPools"):
        lines.append(" Default Address Pools:")
        lines += ["   Base: %s, Size: %s" % (pool.get("Base"), pool.get("Size"))
                  for pool in info["DefaultAddressPools"]]
    return "".join(line + "\n" for line in lines + [""])


def _optional(info, *pairs):
    return [" %s: %s" % (title, info[key]) for title, key in pairs if info.get(key)]


def _listed(title, values):
    return [title] + ["  %s" % value for value in values] if values else []


def _security_lines(options):
    lines = [" Security Options:"] if options else []
    for option in options:
        for key, _, value in (part.partition("=") for part in str(option).split(",")):
            lines.append("  " + value if key == "name" else "   %s: %s" % (key.title(), value))
    return lines


def _swarm_lines(swarm):
    lines = [" Swarm: %s" % (swarm.get("LocalNodeState") or "")]
    if swarm.get("LocalNodeState") in ("inactive", "locked"):
        return lines
    lines.append("  NodeID: %s" % (swarm.get("NodeID") or ""))
    lines += ["  Error: %s" % swarm["Error"]] if swarm.get("Error") else []
    lines.append("  Is Manager: %s" % ("true" if swarm.get("ControlAvailable") else "false"))
    cluster = swarm.get("Cluster") or {}
    if cluster and swarm.get("ControlAvailable"):
        lines += _cluster_lines(swarm, cluster, cluster.get("Spec") or {})
    lines.append("  Node Address: %s" % (swarm.get("NodeAddr") or ""))
    managers = sorted(manager.get("Addr", "") for manager in swarm.get("RemoteManagers") or ())
    return lines + (["  Manager Addresses:"] + ["   " + address for address in managers] if managers else [])


def _cluster_lines(swarm, cluster, spec):
    raft, authority = spec.get("Raft") or {}, spec.get("CAConfig") or {}
    seconds = (spec.get("Dispatcher") or {}).get("HeartbeatPeriod", 0) / 1e9
    lines = ["  ClusterID: %s" % cluster.get("ID"), "  Managers: %s" % swarm.get("Managers"),
             "  Nodes: %s" % swarm.get("Nodes")]
    lines += ["  Default Address Pool: %s  " % "  ".join(cluster["DefaultAddrPool"]),
              "  SubnetSize: %s" % cluster.get("SubnetSize")] if cluster.get("DefaultAddrPool") else []
    lines += ["  Data Path Port: %s" % cluster["DataPathPort"]] if cluster.get("DataPathPort") else []
    retention = (spec.get("Orchestration") or {}).get("TaskHistoryRetentionLimit")
    lines += ["  Orchestration:", "   Task History Retention Limit: %s" % (5 if retention is None else retention)]
    lines += ["  Raft:", "   Snapshot Interval: %s" % raft.get("SnapshotInterval"),
              "   Number of Old Snapshots to Retain: %s" % raft["KeepOldSnapshots"] if raft.get("KeepOldSnapshots")
              is not None else "", "   Heartbeat Tick: %s" % raft.get("HeartbeatTick"),
              "   Election Tick: %s" % raft.get("ElectionTick")]
    lines += ["  Dispatcher:", "   Heartbeat Period: " + format_duration(seconds).lower(), "  CA Configuration:",
              "   Expiry Duration: " + format_duration(authority.get("NodeCertExpiry", 0) / 1e9).lower(),
              "   Force Rotate: %s" % authority.get("ForceRotate", 0)]
    lines += ["  Autolock Managers: %s" % ("true" if (spec.get("EncryptionConfig") or {}).get("AutoLockManagers") else
                                           "false"), "  Root Rotation In Progress: %s" % (
                                               "true" if cluster.get("RootRotationInProgress") else "false")]
    return [line for line in lines if line]


class CopyCommands(Cli):
    """cp."""

    def cmd_cp(self, *args):
        """Copy files and folders out of a container, or into one."""
        opts = self.parse(args, "CONTAINER:SRC_PATH DEST_PATH|-\n\t%s cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH" %
                          self.name, 2, '''
            -a, --archive       keep the numbers of user and group of what goes into a container
            -L, --follow-link   copy what a symbolic link SRC_PATH leads to, not the link
            -q, --quiet         no progress, as where the output is no terminal''')
        for path, side in zip(opts.args, ("source", "destination")):
            if not path:
                raise DockerError("%s can not be empty" % side)
        if "quiet" not in opts.given:
            opts.quiet = not self.is_terminal
        (container, source), (other, target) = map(_split_argument, opts.args)
        if container and other:
            raise DockerError("copying between containers is not supported")
        if container:
            return self._copy_from(container, source, target, opts)
        if other:
            return self._copy_to(source, other, target, opts)
        raise DockerError("must specify at least one container source")

    cmd_container_cp = cmd_cp

    def _copy_from(self, container, path, target, opts):
        if target != "-":
            target = _absolute(target)
            _check_output_place(target)
        rename = ""
        if opts.follow_link:
            followed = self._look(container, path)[1]
            if followed != path:
                rename, path = _last_part(path), _keep_tail(followed, path)
        body, about = self.client.get_archive(container, path)
        with body:
            if target == "-":
                return self.copy_out(body)
            with CopyProgress(self, "Copying from container - ", target, opts.quiet) as progress:
                folder, new = local_place(target, bool(about["mode"] & GO_DIRECTORY))
                base = split_entry(path)[1].lstrip("/")
                renames = [pair for pair in ((base, rename), (rename or base, new)) if pair[1]]
                extract_tar(progress.counted(body.spans()), folder, renames)

    def _copy_to(self, source, container, path, opts):
        if source != "-":
            source = _absolute(source)
        about, target = self._look(container, path)
        if target != path:
            about = self._look(container, target)[0]
        mode = about["mode"] if about else 0
        shown = go_quote("%s:%s" % (container, path))
        if mode & (GO_DEVICE | GO_IRREGULAR):
            raise DockerError("destination %s must be a directory or a regular file: got %s" % (
                shown, "a device" if mode & GO_DEVICE else "an irregular file"))
        with CopyProgress(self, "Copying to container - ", "%s:%s" % (container, target), opts.quiet) as progress:
            if source == "-":
                if not mode & GO_DIRECTORY:
                    raise DockerError("destination %s must be a directory" % shown)
                folder, archive = target, getattr(self.in_, "buffer", self.in_)
            else:
                found, name, is_dir = local_source(source, opts.follow_link)
                folder, new = copy_place(target, bool(about), bool(mode & GO_DIRECTORY), is_dir)
                archive = progress.counted(TarStream(clean_path(found), new or name, skipped=self._tell_skipped))
            self.client.put_archive(container, folder, archive, opts.archive)

    def _tell_skipped(self, path, words):
        self.warn("Can't add file %s to tar: %s" % (path, words))

    def _look(self, container, path):
        """What is at a path in a container, None for nothing; and where it leads as a symbolic link, else the path."""
        try:
            about = self.client.head_archive(container, path)
        except DockerError:
            return None, path           # whatever it is, the copy itself will say it
        link = about["linkTarget"] if about["mode"] & GO_SYMLINK else ""
        return about, link if link.startswith("/") else clean_path(split_entry(path)[0] + "/" + link) if link else path


class CopyProgress:
    """Says on stderr how much cp has copied: at the end, and while it does where that is a terminal."""

    def __init__(self, cli: Cli, title: str, place: str, quiet: bool):
        self.cli = cli
        self.title = title
        self.place = place
        self.quiet = quiet
        self.total = 0
        self.drawn = time.time() if not quiet and is_terminal(cli.err) else float("inf")

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        if self.drawn < float("inf"):
            self._draw("")
        if not self.quiet and not failure:
            self.cli.warn("Successfully copied %s to %s" % (format_size(self.total, 3), self.place))

    def _draw(self, text):
        _write(self.cli.err, "\r\x1b[2K" + text)
        self.cli.err.flush()

    def counted(self, blocks):
        """The blocks of an archive that is sent, or the spans of one that comes, counted on their way."""
        for block in blocks:
            yield block
            self.total += (sum(map(len, block)) if isinstance(block, list) else
                           block[2] if isinstance(block, tuple) else len(block))
            if time.time() - self.drawn > 0.075:
                self.drawn = time.time()
                self._draw(self.title + format_size(self.total, 3))


def _split_argument(text):
    """(container, path) of an argument of cp; the container is empty for a path here."""
    container, colon, path = text.partition(":")
    return ("", text) if text.startswith(("/", ".")) or not colon else (container, path)


_DETACH_KEYS_FLAG = '''
        --detach-keys string   keys that detach from the container, in place of ctrl-p,ctrl-q'''


class StreamCommands(CreateCommands):
    """Commands that connect the user with a process in a container."""

    def cmd_attach(self, *args):
        """Connect the terminal to a running container."""
        opts = self.parse(args, "CONTAINER", 1, _DETACH_KEYS_FLAG + '''
        --no-stdin             leave the input alone
        --sig-proxy            hand signals on to the process (default true)''')
        name, wanted = opts.args[0], not opts.no_stdin
        try:
            ending = self.client.ending(name)
        except ApiError:
            self._attachable(name)      # says why
            raise
        with ending:
            config = self._attachable(name)["Config"]
            tty = bool(config.get("Tty"))
            self.check_tty(wanted, tty)
            wanted = wanted and bool(config.get("OpenStdin"))
            with self._proxy(name, opts.sig_proxy and not tty, tty) as proxy:
                stream = self.client.attach(name, wanted, detach_keys=self._keys(opts))
                session = self._session(stream, tty, (wanted, True, True), opts, opts.sig_proxy)
                with stream:
                    self._attachable(name)
                    proxy.resize_at_start(self.warn, redraw=True)
                    if not session.copy():
                        raise DockerError("read escape sequence")
            self._exit(ending.status())

    cmd_container_attach = cmd_attach

    def _attachable(self, name):
        """What is known of a container; DockerError if it cannot be attached to."""
        container = self.client.inspect_container(name)
        state = container["State"]
        for wrong, words in ((not state.get("Running"), "stopped container, start it first"),
                             (state.get("Paused"), "paused container, unpause it first"),
                             (state.get("Restarting"), "restarting container, wait until it is running")):
            if wrong:
                raise DockerError("You cannot attach to a " + words)
        return container

    def check_tty(self, wants_input: bool, tty: bool) -> None:
        """DockerError where a terminal is to be connected with an input that is none, or by a Python that cannot."""
        if not (wants_input and tty):
            return
        if not is_terminal(self.in_):
            raise DockerError("the input device is not a TTY")
        try:
            import termios                  # to see that it is there
        except ImportError:
            raise DockerError("this Python has no termios module, which -i together with -t needs")

    def _keys(self, opts):
        return opts.detach_keys or self.config.get("detachKeys", "")

    def _session(self, stream, tty, wanted, opts, signals=False):
        """A Session with those of our streams that are wanted: input, output, error output."""
        keys = DETACH_KEYS
        try:
            keys = parse_detach_keys(self._keys(opts)) if self._keys(opts) and tty else keys
        except ValueError as error:
            self.warn("invalid detach escape keys, using default: %s" % error)
        ours = (self.in_, self.out, self.err)
        return Session(stream, tty, *[ours if want else None for ours, want in zip(ours, wanted)], keys, signals)

    def _proxy(self, name, kill, tty, method="resize"):
        return SignalProxy(self.client.another, name, kill, tty, self.out, method)

    @staticmethod
    def _exit(status):
        if status:
            raise StatusError("", status)

    def cmd_exec(self, *args):
        """Run a command in a running container."""
        opts = self.parse(args, "CONTAINER COMMAND [ARG...]", (2, None), '''
    -d, --detach               leave it running and return''' + _DETACH_KEYS_FLAG + '''
    -e, --env list|env         environment variable NAME=VALUE, or NAME to hand on one of ours (API 1.25)
        --env-file list        file of such lines (API 1.25)
    -i, --interactive          connect the input
        --privileged           with all privileges
    -t, --tty                  with a terminal of its own
    -u, --user string          user to run it as, NAME or UID, with :GROUP or :GID
    -w, --workdir string       its working directory (API 1.35)''', interspersed=False)
        container, attached, tty = opts.args[0], not opts.detach, opts.tty
        variables = [pair for path in opts.env_file for pair in read_variables(path, os.environ)] + opts.env
        self.client.inspect_container(container)
        self.check_tty(opts.interactive and attached, tty)
        size = {"ConsoleSize": tty_size(self.out)} if tty and self.client.at_least("1.42") else {}
        process = self.client.exec_create(container, dict({
            "User": opts.user, "Privileged": opts.privileged, "Tty": tty, "AttachStdin": opts.interactive and attached,
            "AttachStderr": attached, "AttachStdout": attached, "Detach": opts.detach, "DetachKeys": self._keys(opts),
            "Env": ["%s=%s" % pair if pair[1] is not None else pair[0] for pair in variables] or None,
            "WorkingDir": opts.workdir, "Cmd": opts.args[1:]}, **size))
        if not process:
            raise DockerError("exec ID empty")
        stream = self.client.exec_start(process, tty, opts.detach, size.get("ConsoleSize"))
        if opts.detach:
            return
        with self._proxy(process, False, tty and is_terminal(self.in_), "exec_resize") as proxy:
            session = self._session(stream, tty, (opts.interactive, True, True), opts)
            proxy.resize_at_start(self.warn)
            if not session.copy():
                raise DockerError("read escape sequence")
        try:
            self._exit(self.client.exec_inspect(process).get("ExitCode"))
        except ConnectionFailed:
            raise StatusError("", 255)

    cmd_container_exec = cmd_exec

    def cmd_start(self, *args):
        """Start containers that do not run."""
        opts = self.parse(args, "CONTAINER [CONTAINER...]", (1, None), '''
    -a, --attach                  show the output, and hand signals on
        --checkpoint string       checkpoint to go on from
        --checkpoint-dir string   folder of the checkpoint''' + _DETACH_KEYS_FLAG + '''
    -i, --interactive             connect the input''')
        for flag in ("checkpoint", "checkpoint-dir"):
            if flag.replace("-", "_") in opts.given and not self.client.ping().get("experimental"):
                raise DockerError('"--%s" is only supported on a Docker daemon with experimental features enabled' % (
                    flag))
        attached = opts.attach or opts.interactive
        if len(opts.args) > 1 and (attached or opts.checkpoint):
            raise DockerError("you cannot start and attach multiple containers at once" if attached else
                              "you cannot restore multiple containers at once")
        if attached:
            container = self.client.inspect_container(opts.args[0])
            tty, name = bool(container["Config"].get("Tty")), container["Id"]
            streams = {"stdin"} if opts.interactive and container["Config"].get("OpenStdin") else set()
            removed = (container.get("HostConfig") or {}).get("AutoRemove")
            return self._exit(self.start_attached(name, streams | {"stdout", "stderr"}, tty, not tty, removed, opts))
        if opts.checkpoint:
            return self.client.start(opts.args[0], opts.checkpoint, opts.checkpoint_dir)
        failed = []
        for name in opts.args:
            try:
                self.client.start(name)
                self.print(name)
            except DockerError as error:
                self.warn(str(error))
                failed.append(name)
        if failed:
            raise DockerError("Error: failed to start containers: " + ", ".join(failed))

    cmd_container_start = cmd_start

    def start_attached(self, container: str, streams, tty: bool, signals: bool, removed: bool, opts,
                       failure=None) -> int:
        """Start a container that was connected before; its exit status, or 0 if the user has detached from it.

        `streams` names those to connect, `signals` says whether it gets ours, `removed` whether it goes with its end;
        `failure(error)` makes the exception for a start that fails.
        """
        wanted = [name in streams for name in ("stdin", "stdout", "stderr")]
        with self._proxy(container, signals, tty) as proxy:
            try:
                stream = self.client.attach(container, *wanted, detach_keys=self._keys(opts))
            except ApiError as error:   # podman makes the process now, and may fail to
                if removed:
                    self.client.remove_container(container, force=True)
                raise failure(error) if failure else error
            session = self._session(stream, tty, wanted, opts, signals)
            with stream, self._start(container, removed, opts, failure) as ending:
                proxy.resize_at_start(self.warn)
                if not session.copy():
                    return 0
                try:
                    status = ending.status()
                except DockerError as error:
                    said = "error" if isinstance(error, ConnectionFailed) else "Error"
                    self.warn("%s waiting for container: %s" % (said, error))
                    return 125
            if removed and not self._is_removed_by_engine():
                self.client.remove_container(container, v=True)
            return status

    def _is_removed_by_engine(self):
        """Whether the engine itself removes a container that is to go with its end."""
        return self.client.at_least("1.25")

    def _start(self, container, removed, opts, failure=None):
        """Start a container: its Ending, which was asked for before."""
        by_engine = removed and self._is_removed_by_engine()
        ending = self.client.ending(container, "removed" if by_engine else "next-exit")
        try:
            self.client.start(container, getattr(opts, "checkpoint", ""), getattr(opts, "checkpoint_dir", ""))
        except DockerError as error:
            with ending:
                if by_engine and isinstance(error, ApiError):
                    ending.body.read()              # the engine is at it
            if removed and not by_engine and isinstance(error, ApiError):
                self.client.remove_container(container, v=True)
            raise failure(error) if failure else error
        return ending

    def cmd_run(self, *args):
        """Make a container and run a command in it."""
        opts = self.parse(args, "IMAGE [COMMAND] [ARG...]", (1, None), RUN_TABLE, interspersed=False)
        body = self.container_config(opts, "run")
        if opts.detach:
            if opts.attach:
                raise DockerError("conflicting options: cannot specify both --attach and --detach")
            body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
        else:
            self.check_tty(body["AttachStdin"], body["Tty"])
        if self.client.endpoint.proto == "embedded":        # which would fetch the image first
            raise self.run_failure(ApiError(501, NO_PROCESSES))
        try:
            container = self.create_container(opts, body)
        except DockerError as error:
            raise self.run_failure(error)
        streams = [name for name in ("stdin", "stdout", "stderr") if body["Attach" + name.title()]]
        if streams:
            return self._exit(self.start_attached(container, streams, body["Tty"], opts.sig_proxy, opts.rm, opts,
                                                  self.run_failure))
        self.print(container)
        self.out.flush()
        self._start(container, opts.rm, opts, self.run_failure).body.close()

    cmd_container_run = cmd_run

    def cmd_logs(self, *args):
        """Show what a container has written."""
        opts = self.parse(args, "CONTAINER", 1, '''
        --details         also the attributes that the logging driver kept
    -f, --follow          go on with what comes
        --since string    what came since then: 2024-01-02T15:04:05Z, Unix seconds, or 42m for as long ago
    -n, --tail string     so many of the last lines (default "all")
    -t, --timestamps      each line with its time
        --until string    what came before then (API 1.35)''')
        container = self.client.inspect_container(opts.args[0])
        times = []
        for flag in ("since", "until"):
            try:
                times.append(parse_timestamp(getattr(opts, flag)) if getattr(opts, flag) else "")
            except DockerError as error:
                raise DockerError('invalid value for "%s": %s' % (flag, error))
        with self.client.logs(container["Id"], follow=opts.follow, since=times[0], until=times[1], tail=opts.tail,
                              timestamps=opts.timestamps, details=opts.details) as body:
            show_output(body.spans(), container["Config"].get("Tty"), self.out, self.err)

    cmd_container_logs = cmd_logs


class DockerCli(BuildCommands, StreamCommands, ImageCommands, ContainerCommands, CopyCommands, VolumeCommands,
                SystemCommands):
    """The `docker` command line as an object: `DockerCli(sys.stdin, sys.stdout, sys.stderr).cmd("ps", "-q")`."""


# ======================================================================================================================
# 13  Registry
# ======================================================================================================================
#
#   pull_image, push_image         Registry                                registry     token server     blob storage
#     | manifest, blob, upload ----> _request ---- _exchange ----------------> |              |                |
#     |                               |   ^------- 401 and its challenge ----- |              |                |
#     |                               |----------- _fetch_token ----------------------------> |                |
#     |                               |----------- with the token -----------> |              |                |
#     |                               |   ^------- 307, Location: checked ---- |              |                |
#     |                               |----------- without it --------------------------------------------->   |
#     | <---------------------------- Body

INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
                 "application/octet-stream")    # the last: by Docker's first pushes of schema 2
_HUB_HOSTS = {INDEX_NAME: "registry-1.docker.io"}
_ANSWER_LIMIT = 4 * MIB                 # of what is read into memory; registries take no larger manifests
_REDIRECTS = 10
_TRIES = 5                              # of a request, or of a blob with no progress in between
_PROGRESS = MIB                         # so many new bytes of a blob are progress
_LONGEST_PAUSE = 60                     # seconds; a registry that asks for more is one that refuses
_STALL = 60                             # seconds without a byte after which a connection counts as broken
_CHUNK_SIZE = 16 * MIB                  # of an upload in chunks
_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem",
               "/etc/ssl/ca-bundle.pem")        # for a Python that was built to look elsewhere


class RegistryError(ApiError):
    """A registry refused, or was not reached.

    `code` is the registry's own (`DENIED`), if it gave one; `retry` says after how many seconds the same request may
    have better luck, 0 where nobody knows, None where it will not.
    """

    def __init__(self, message: str, status: int = 500, code: str = "", retry: float = None):
        super().__init__(status, message, message)
        self.code = code
        self.retry = retry


class Manifest:
    """A manifest or an index, as its registry sent it: `data`, and from it `media_type`, `digest` and `json`."""

    def __init__(self, data: bytes, media_type: str = "", algorithm: str = "sha256"):
        import hashlib
        self.data = data
        self.digest = "%s:%s" % (algorithm, hashlib.new(algorithm, data).hexdigest())
        try:
            self.json = json.loads(data.decode("utf-8"))
            kind = self.json.get("mediaType")
        except (ValueError, AttributeError, RecursionError):
            raise RegistryError("the registry's manifest %s is no JSON object" % self.digest)
        known = INDEX_TYPES + MANIFEST_TYPES
        shape = INDEX_TYPES[0] if "manifests" in self.json else MANIFEST_TYPES[0] if "layers" in self.json else ""
        self.media_type = next((t for t in (media_type, kind) if t in known), shape)
        self.is_index = self.media_type in INDEX_TYPES
        if not self.media_type or self.json.get("schemaVersion") == 1:
            raise RegistryError("manifest %s is of schema 1, which is no longer supported: the image has to be pushed "
                                "again, as schema 2 or OCI" % self.digest if self.json.get("schemaVersion") == 1 else
                                "unsupported manifest media type " + go_quote(str(kind or media_type)))

    @property
    def descriptor(self) -> dict:
        """The manifest's descriptor, as an index would have it (OCI image-spec, descriptor)."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}

    def parts(self, key: str) -> list:
        """The descriptors under `layers` or `manifests`, or the one of `config`; RegistryError if they are none."""
        found = self.json.get(key)
        if key == "config" or not isinstance(found, list):
            found = [found]
        for part in found:
            match = isinstance(part, dict) and re.match(r"(\w+):([0-9a-f]+)\Z", str(part.get("digest")))
            if not match or len(match.group(2)) != _DIGEST_LENGTHS.get(match.group(1)) or (
                    type(part.get("size")) is not int or part["size"] < 0 or
                    not all(isinstance(part.get(about) or {}, dict) for about in ("platform", "annotations"))):
                raise RegistryError("the manifest %s has no right descriptor in its %s" % (self.digest, key))
        return found


# -- platforms ---------------------------------------------------------------------------------------------------------


def host_platform() -> str:
    """The platform of images for this host: containers are Linux, whatever the host."""
    return "linux/" + host_architecture()


def _platform_key(system, arch, variant=""):
    """A platform in its normal form, in which the usual variants have no name."""
    arch, _, implied = _ARCHITECTURES.get(str(arch).lower(), str(arch).lower()).partition("/")
    variant = re.sub(r"^(?=\d)", "v", str(variant or implied).lower())
    if arch == "arm" and not variant:
        variant = "v7"
    elif (arch, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    return str(system).lower(), arch, variant


def _acceptable(platform):
    """The platforms whose images run on `platform`, the best first."""
    system, arch, variant = _platform_key(*platform.split("/"))
    found, version = [(arch, variant)], int(variant[1:]) if re.match(r"v\d\Z", variant) else 0
    if arch == "amd64":
        found += [("amd64", "v%d" % n) for n in range(version - 1, 1, -1)] + [("amd64", ""), ("386", "")]
    elif arch == "arm64":
        found += [("arm64", "")]
        version = 9
    if arch in ("arm", "arm64"):
        found += [("arm", "v%d" % n) for n in range(version - 1, 4, -1)]
    return [(system,) + pair for pair in found]


def choose_platform(index_json: dict, platform: str = "") -> dict:
    """The descriptor in an index that fits `platform` best (default: `DOCKER_DEFAULT_PLATFORM`, or the host).

    What describes another image, as attestations do, is never chosen.  RegistryError, with a list of what there is,
    if nothing fits.
    """
    platform = normal_platform(platform or os.environ.get("DOCKER_DEFAULT_PLATFORM") or host_platform())
    there = {}
    for entry in index_json.get("manifests") or []:
        about, notes = entry.get("platform") or {}, entry.get("annotations") or {}
        if (entry.get("mediaType") or MANIFEST_TYPES[0]) in MANIFEST_TYPES + INDEX_TYPES and (
                about.get("os") != "unknown" and notes.get("vnd.docker.reference.type") != "attestation-manifest"):
            there.setdefault(_platform_key(*[about.get(key, "") for key in ("os", "architecture", "variant")]), entry)
    wanted = _acceptable(platform)
    if set(there) == {("", "", "")}:
        wanted.append(("", "", ""))     # an index that says nothing of platforms, with one image
    for key in wanted:
        if key in there:
            return there[key]
    raise RegistryError("no matching manifest for %s in the manifest list entries: there is %s" % (
        platform, ", ".join(sorted("/".join(filter(None, key)) or "one of no platform" for key in there)) or "none"),
        404, "NO_PLATFORM")


# -- hosts -------------------------------------------------------------------------------------------------------------


def registry_settings() -> dict:
    """What the engine's `daemon.json`, the host's and then the user's, says of registries, mirrors and transfers."""
    settings = {}
    for path in ("/etc/docker/daemon.json", os.path.join(_user_folder(), "daemon.json")):
        try:
            with open(path, encoding="utf-8") as file:
                settings.update(json.load(file))
            "".join([] + settings.get("registry-mirrors", []) + settings.get("insecure-registries", []))
            if min(settings.get("max-concurrent-" + way, 0) for way in ("downloads", "uploads")) < 0:
                raise ValueError("invalid max concurrency")
        except OSError:
            pass
        except (ValueError, TypeError) as error:
            raise DockerError("unable to read the settings in %s: %s" % (path, error))
    return settings


def _user_folder():
    return os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "docker")


def _address(host):
    """The IP address that a host's name is, or None."""
    import ipaddress
    try:
        return ipaddress.ip_address((host or "").strip("[]"))
    except ValueError:
        return None


def _is_loopback(host):
    address = _address(host)
    return host == "localhost" or bool(address and address.is_loopback)


def _among(host, port, entries):
    """Whether a host is in a list of names, `.domains`, addresses and networks, each with a port or without."""
    import ipaddress
    address = _address(host)
    for entry in entries:
        name, only = re.match(r"(?s)(?:.*://)?(\[.*\]|[^:]*|.*?)(?::(\d+))?/?\Z", entry.strip().lower()).groups()
        if name and only in (None, str(port)):
            try:
                if address and address in ipaddress.ip_network(name.strip("[]"), strict=False):
                    return True
            except ValueError:
                pass                    # a name
            if name in ("*", host) or host.endswith("." + name.lstrip(".")) and name != host:
                return True
    return False


def _origin(url):
    """Scheme, host and port of a URL; ValueError for one that has none."""
    parts = urlsplit(url)
    port = {"https": 443}.get(parts.scheme, 80) if parts.port is None else parts.port
    return parts.scheme, parts.hostname, port


def proxy_for(scheme: str, host: str, port: int) -> str:
    """The URL of the proxy through which a host is reached: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`; "" for none."""
    proxy, excepted = [os.environ.get(name) or os.environ.get(name.lower()) or "" for name in (
        scheme.upper() + "_PROXY", "NO_PROXY")]
    if not proxy or _is_loopback(host) or _among(host, port, excepted.split(",")):
        return ""
    return proxy if "://" in proxy else "http://" + proxy


def _challenges(values):
    """The challenges in `WWW-Authenticate` headers: {scheme in small letters: its parameters}, the first of each."""
    found, params = {}, {}
    for value in values or ():
        for name, equals, quoted, bare in re.findall(
                r"([!#$%&'*+.^_`|~\w-]+)(?:\s*(=)\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*)))?", value):
            if equals:
                params[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) or bare
            else:
                params = {}
                found.setdefault(name.lower(), params)
    return found


class Registry:
    """A registry, by the name that references have for it: `docker.io`, `quay.io`, `localhost:5000`.

    Threads may share it; `abort` makes their transfers fail at once, `close` ends idle connections.  `insecure` allows
    unverified TLS and plain HTTP, which registries on loopback and those in `insecure-registries` may speak anyway.
    `certs` lists folders in the manner of `/etc/docker/certs.d`.  Every method raises RegistryError.
    """

    backoff = 1.0                       # seconds before the first repetition

    def __init__(self, host: str, auth: AuthConfig = None, insecure: bool = False, certs=None, settings: dict = None):
        import threading
        self.settings = registry_settings() if settings is None else settings
        self.auth = auth or AuthConfig()
        self.certs = ["/etc/docker/certs.d", os.path.join(_user_folder(), "certs.d")] if certs is None else certs
        scheme, _, rest = host.rpartition("://")
        self.host = _HUB_HOSTS.get(rest, rest).rstrip("/")
        try:
            _, name, port = _origin("https://" + self.host)
        except ValueError:
            raise RegistryError('Get "https://%s/v2/": dial tcp: address %s: invalid port' % (
                self.host, self.host.rpartition(":")[2]))
        self.insecure = insecure or self._may_be_plain(name, port)
        self._schemes = [scheme] if scheme else ["https", "http"] if self.insecure else ["https"]
        self.mirrors = [Registry(url, settings={}, certs=self.certs) for url in (
            self.settings.get("registry-mirrors") or () if rest == INDEX_NAME else ())]
        self._lock, self._stopped = threading.RLock(), threading.Event()
        self._idle = {}                 # {origin: connections that wait for a request}
        self._wires = []                # all connections, for abort
        self._contexts = {}             # {host and port: TLS context}
        self._tokens = {}               # {scope: (Authorization, until when)}
        self._bearer = None             # the parameters of the last Bearer challenge
        self._wants_identity, self._identity = False, ""
        self._met = set()               # the origins that have answered

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Hang up all connections."""
        for wire in self._wires:
            wire.hang_up()
        self._idle.clear()
        for mirror in self.mirrors:
            mirror.close()

    def abort(self) -> None:
        """Make all that other threads do here fail, now."""
        self._stopped.set()
        for wire in list(self._wires):
            try:
                wire.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass                    # it was closed already
        for mirror in self.mirrors:
            mirror.abort()

    # -- what a registry has -------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """GET /v2/: whether this is a registry, and takes the credentials."""
        self._request("GET", "/v2/").close()

    def login(self) -> str:
        """`ping`; the identity token that the token server gives in exchange for a password, "" for none."""
        self._wants_identity = bool(self.auth.username)
        self.ping()
        return self._identity

    def tags(self, repository: str) -> list:
        """GET /v2/NAME/tags/list, and the pages that follow."""
        found, path = [], "/v2/%s/tags/list" % repository
        while path:
            with self._request("GET", path, self._scope(repository)) as answer:
                page = self._json(answer).get("tags") or ()
                new = [tag for tag in page if isinstance(tag, str) and tag not in found]
                link = re.match(r'\s*<([^>]*)>\s*;.*\brel="?next"?', answer.headers.get("Link", ""))
                path = link and new and self._checked(link.group(1), answer.url)
                found += new
        return found

    def search(self, term: str, limit: int = 25) -> list:
        """GET /v1/search, which Docker Hub has under another host, and few others have at all."""
        base = urlsplit(INDEX_SERVER) if self.host == _HUB_HOSTS[INDEX_NAME] else None
        path = "/v1/search?" + urlencode([("q", term), ("n", limit)])
        with self._request("GET", "%s://%s%s" % (base.scheme, base.netloc, path) if base else path) as answer:
            return self._json(answer).get("results") or []

    def manifest(self, repository: str, reference: str) -> Manifest:
        """GET /v2/NAME/manifests/REFERENCE, a tag or a digest, verified."""
        found = self._mirrored("manifest", repository, reference)
        if found:
            return found
        path = "/v2/%s/manifests/%s" % (repository, reference)
        for attempt in range(1, _TRIES + 1):
            try:
                with self._request("GET", path, self._scope(repository), _ACCEPT) as answer:
                    data, headers = self._read(answer), answer.headers
                break
            except ConnectionFailed as error:
                self.pause(error, attempt)
        wanted = reference if ":" in reference else headers.get("Docker-Content-Digest") or ""
        algorithm = wanted.partition(":")[0]
        kind = headers.get("Content-Type", "").partition(";")[0].strip()
        found = Manifest(data, kind, algorithm if algorithm in _DIGEST_LENGTHS else "sha256")
        if algorithm in _DIGEST_LENGTHS and found.digest != wanted:
            raise RegistryError("manifest verification failed for digest " + wanted)
        return found

    def manifest_digest(self, repository: str, reference: str) -> str:
        """HEAD /v2/NAME/manifests/REFERENCE: the digest, or "" from a registry that does not say."""
        found = self._mirrored("manifest_digest", repository, reference)
        if found:
            return found
        path = "/v2/%s/manifests/%s" % (repository, reference)
        with self._request("HEAD", path, self._scope(repository), _ACCEPT) as answer:
            return answer.headers.get("Docker-Content-Digest") or ""

    def blob(self, repository: str, digest: str, offset: int = 0) -> Body:
        """GET /v2/NAME/blobs/DIGEST, from `offset` on if the registry can (then the Body's `status` is 206)."""
        return self._mirrored("blob", repository, digest, offset) or self._request(
            "GET", "/v2/%s/blobs/%s" % (repository, digest), self._scope(repository),
            {"Range": "bytes=%d-" % offset} if offset else {}, good=(200, 206), tries=1)

    def _mirrored(self, method, *args):
        """What a mirror answers; None if there is none, or none any more: one that fails is asked no more."""
        for mirror in list(self.mirrors):
            try:
                return getattr(mirror, method)(*args)
            except DockerError:
                self.mirrors.remove(mirror)
        return None

    def has_blob(self, repository: str, digest: str) -> bool:
        """HEAD /v2/NAME/blobs/DIGEST."""
        with self._request("HEAD", "/v2/%s/blobs/%s" % (repository, digest), self._scope(repository, "pull,push"),
                           good=(200, 404)) as answer:
            return answer.status == 200

    # -- what one gives to it ------------------------------------------------------------------------------------------

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """PUT /v2/NAME/manifests/REFERENCE; the digest, as the registry has it."""
        headers = {"Content-Type": media_type}
        with self._request("PUT", "/v2/%s/manifests/%s" % (repository, reference), self._scope(repository, "pull,push"),
                           headers, data, good=(200, 201, 202)) as answer:
            return answer.headers.get("Docker-Content-Digest") or ""

    def upload_blob(self, repository: str, digest: str, size: int, open_source, mount=(), progress=None) -> str:
        """Put a blob into a repository; returns the repository it was mounted from, "" if it was sent.

        `open_source()` gives the blob as a binary file; `mount` names repositories here that may have it;
        `progress(bytes sent)` is told how it goes.
        """
        scope, path = self._scope(repository, "pull,push"), "/v2/%s/blobs/uploads/" % repository
        place, least = None, ""
        for other in mount:
            try:
                with self._request("POST", path + "?" + urlencode([("mount", digest), ("from", other)]),
                                   scope + " " + self._scope(other), good=(201, 202), tries=1) as answer:
                    if answer.status == 201:
                        return other
                    place = self._location(answer)
                    break
            except RegistryError:
                pass                    # a registry that cannot mount, or not from there: the blob is sent
        offset, chunk, attempt, reached = 0, size, 0, 0
        while True:
            try:
                if not place:
                    with self._request("POST", path, scope, good=(202,)) as answer:
                        place, offset = self._location(answer), 0
                        least = answer.headers.get("OCI-Chunk-Min-Length", "")
                if offset or chunk < size:
                    place, offset = self._send_chunk(place, scope, open_source, offset, min(chunk, size - offset),
                                                     progress)
                    if offset < size:
                        continue
                rest = size - offset
                final = "%s%s%s" % (place, "&" if "?" in place else "?", urlencode([("digest", digest)]))
                self._request("PUT", final, scope, {"Content-Type": "application/octet-stream"},
                              self._part(open_source, offset, rest, progress), rest, (201, 204), 1).close()
                return ""
            except (RegistryError, ConnectionFailed) as error:
                status = getattr(error, "status", 0)
                if place and (status in (404, 413, 416) or status == 400 and offset):
                    error.retry = 0     # a lost upload, one too large for one request, or one resumed wrongly
                attempt = 1 if offset >= reached + _PROGRESS else attempt + 1
                reached = max(reached, offset)
                self.pause(error, attempt)
                chunk = max(_CHUNK_SIZE, int(least) if least.isdigit() else 0)
                place, offset = self._uploaded(place, scope, size) if place else (None, 0)

    def _send_chunk(self, place, scope, open_source, offset, length, progress):
        """PATCH one chunk; where the next one goes, and from which byte on."""
        headers = {"Content-Type": "application/octet-stream", "Content-Range": "%d-%d" % (offset, offset + length - 1)}
        with self._request("PATCH", place, scope, headers, self._part(open_source, offset, length, progress), length,
                           (202, 204), 1) as answer:
            count = self._count(answer) or offset + length
            if count > offset + length:
                raise RegistryError("the registry counts more bytes than it was sent", 416, retry=0)
            return self._location(answer), count

    def _uploaded(self, place, scope, size):
        """Ask how far an upload got: (where it goes on, from which byte); (None, 0) if it has to begin again."""
        try:
            with self._request("GET", place, scope, good=(204, 202, 200), tries=1) as answer:
                count = self._count(answer)
                return (self._location(answer), count) if 1 < count <= size else (None, 0)
        except (RegistryError, ConnectionFailed):
            return None, 0

    @staticmethod
    def _count(answer):
        """The bytes of an upload that the registry has; 1 may mean none, for "0-0" is how both look."""
        end = re.match(r"(?:bytes=)?0-(\d+)\Z", answer.headers.get("Range", ""))
        return int(end.group(1)) + 1 if end else 0

    @staticmethod
    def _part(open_source, offset, length, progress):
        """A function that opens the blob once more, as an iterable of the blocks of a stretch."""
        def blocks():
            """Yield the bytes of the stretch, a MiB at a time."""
            with open_source() as file:
                file.seek(offset)
                left = length
                while left:
                    block = file.read(min(left, MIB))
                    if not block:
                        raise DockerError("the blob became shorter while it was sent")
                    left -= len(block)
                    yield block
                    if progress:
                        progress(offset + length - left)
        return blocks

    def _location(self, answer):
        return self._checked(answer.headers.get("Location") or "", answer.url)

    # -- requests ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _scope(repository, actions="pull"):
        return "repository:%s:%s" % (repository, actions)

    def pause(self, error: DockerError, attempt: int, tell=None) -> None:
        """Wait before what has failed `attempt` times is done again; raises the error if there is no use in it."""
        retry = getattr(error, "retry", 0)
        if retry is None or attempt >= _TRIES or self._stopped.is_set():
            raise error
        import random
        seconds = retry or self.backoff * min(2 ** (attempt - 1), 30) * random.uniform(0.5, 1)
        if tell:
            tell(seconds)
        if self._stopped.wait(seconds):
            raise error

    def _request(self, method, path, scope="", headers=None, body=None, length=None, good=(200,), tries=_TRIES):
        """One request, with what it takes to be let in; its answer's Body, which knows its `url`.

        `path` may be a whole URL.  `body` is bytes, or a function that gives an iterable of `length` bytes.
        """
        attempt = 0
        while True:
            try:
                self._settle()
                base = self.base
                url = path if "://" in path else base + path
                own = _origin(url) == _origin(base)
                for last in (False, True):
                    secret = self._authorization(scope) if own else ""
                    answer = self._follow(method, url, headers, secret, body, length)
                    if answer.status in good:
                        return answer
                    with answer:
                        if answer.status != 401 or last or not own or _origin(answer.url) != _origin(base):
                            raise self._refusal(answer, method)
                        refusal = self._refusal(answer, method)
                        try:
                            self._authorize(_challenges(answer.headers.get_all("WWW-Authenticate")), scope, secret,
                                            refusal)
                        except RegistryError as error:
                            if error is refusal:
                                raise
                            raise RegistryError('%s "%s": %s' % (method.title(), url, error), error.status, error.code,
                                                error.retry) from error
            except (RegistryError, ConnectionFailed) as error:
                attempt += 1
                if attempt >= tries:
                    raise
                self.pause(error, attempt)

    @property
    def base(self) -> str:
        """The URL that paths are put behind."""
        return "%s://%s" % (self._schemes[0], self.host)

    def _settle(self):
        """Find out whether a registry that may be insecure speaks TLS."""
        if len(self._schemes) > 1:
            with self._lock:
                if len(self._schemes) == 1:
                    return
                origin = _origin(self.base)
                try:
                    self._idle.setdefault(origin, []).append(self._dial(*origin))
                    del self._schemes[1:]
                except OSError as error:
                    if getattr(error, "reason", "") == "CERTIFICATE_VERIFY_FAILED":
                        raise self._failure("GET", self.base + "/v2/", error)
                    del self._schemes[0]

    def _follow(self, method, url, headers, secret, body=None, length=None):
        """A request, and where redirects lead it: `secret` goes to the first host only, and so do bodies of bytes."""
        home = _origin(url)
        for _ in range(_REDIRECTS):
            head = dict(headers or ())
            if secret and _origin(url) == home:
                head["Authorization"] = secret
            answer = self._exchange(method, url, head, body, length)
            answer.url = url
            if answer.status not in (301, 302, 303, 307, 308) or not answer.headers.get("Location") or (
                    method not in ("GET", "HEAD") and (answer.status < 307 or isinstance(body, bytes))):
                return answer
            with answer:
                self._rest(answer)
                url = self._location(answer)
        raise RegistryError('%s "%s": stopped after %d redirects' % (method.title(), url, _REDIRECTS))

    def _checked(self, location, base, secret=False):
        """A URL that an answer names, made whole; RegistryError if it must not be followed.

        TLS is never left.  The address of a private network is one for registries that are in such a network.  Where
        a secret is to go, plain HTTP needs a host that may speak it.
        """
        from urllib.parse import urljoin
        was, home, _ = _origin(base)
        try:
            url = urljoin(base, location)
            scheme, host, port = _origin(url)
            url.encode("ascii")
        except ValueError:
            url = scheme = host = port = ""
        near, far = _address(home), _address(host)
        if scheme not in ("http", "https") or not host or "@" in urlsplit(url).netloc or re.search(r"[\0- \x7f]", url):
            wrong = "which is no web address"
        elif scheme == "http" and was == "https":
            wrong = "which leaves TLS"
        elif scheme == "http" and secret and host != home and not self._may_be_plain(host, port):
            wrong = "to which credentials would go unencrypted"
        elif host != home and (host == "localhost" or far and not far.is_global) and not (
                home == "localhost" or near and not near.is_global):
            wrong = "an address in a private network"
        else:
            return url
        raise RegistryError("the registry %s sends us to %s, %s" % (self.host, go_quote(location), wrong))

    def _may_be_plain(self, host, port):
        return _is_loopback(host) or _among(host, port, self.settings.get("insecure-registries") or ())

    # -- authorization -------------------------------------------------------------------------------------------------

    def _authorization(self, scope):
        """The `Authorization` for a scope; "" while nothing was asked for."""
        if self.auth.registrytoken:
            return "Bearer " + self.auth.registrytoken
        with self._lock:
            secret, until = self._tokens.get(scope) or self._tokens.get("*") or ("", 0)
            if self._bearer and scope and time.monotonic() >= until:
                self._authorize({"bearer": self._bearer}, scope, secret, None)
                secret = self._tokens[scope][0]
            return secret

    def _authorize(self, challenges, scope, refused, refusal):
        """Answer a challenge, unless another thread did so since `refused` was sent; `refusal` if that is no use."""
        with self._lock:
            secret, until = self._tokens.get(scope) or self._tokens.get("*") or ("", 0)
            if secret != refused and time.monotonic() < until:
                return
            bearer = challenges.get("bearer")
            if self.auth.registrytoken or not challenges:
                raise refusal
            if bearer and bearer.get("realm"):
                try:
                    self._tokens[scope] = self._fetch_token(bearer, scope or bearer.get("scope", ""))
                    self._bearer = bearer
                    return
                except RegistryError:
                    if "basic" not in challenges or not self.auth.username:
                        raise
            if "basic" not in challenges:
                raise RegistryError("unsupported authentication: " + ", ".join(sorted(challenges)), 401)
            if not self.auth.username:
                raise RegistryError("no basic auth credentials", 401, "UNAUTHORIZED")
            self._tokens["*"] = self._basic(), float("inf")

    def _basic(self):
        pair = "%s:%s" % (self.auth.username, self.auth.password)
        return "Basic " + base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode("ascii")

    def _fetch_token(self, bearer, scope):
        """Ask the token server: (Authorization, until when it is good)."""
        realm = self._checked(bearer["realm"], self.base + "/v2/", bool(self.auth))
        pairs = [("service", bearer["service"])] if bearer.get("service") else []
        if self.auth.identitytoken:
            pairs += [("grant_type", "refresh_token"), ("refresh_token", self.auth.identitytoken),
                      ("client_id", "pydock")] + ([("scope", scope)] if scope else [])
            answer = self._follow("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, "",
                                  urlencode(pairs).encode())
        else:
            pairs += [("scope", one) for one in scope.split()]
            secret = self._basic() if self.auth.username else ""
            pairs += [("account", self.auth.username)] if secret else []
            pairs += [("client_id", "pydock"), ("offline_token", "true")] if self._wants_identity else []
            answer = self._follow("GET", "%s%s%s" % (realm, "&" if "?" in realm else "?", urlencode(pairs)), {}, secret)
        with answer:
            if answer.status != 200:
                raise self._refusal(answer, "GET")
            found = self._json(answer)
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not re.match(r"[!-~]+\Z", token):
            raise RegistryError("the token server %s gives no token" % realm)
        self._identity = str(found.get("refresh_token") or "")
        seconds = found.get("expires_in")
        seconds = max(seconds, 60) if isinstance(seconds, (int, float)) else 60
        return "Bearer " + token, time.monotonic() + seconds * 0.9

    # -- answers -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _rest(answer):
        """What a refusal says, as far as it comes, so that the connection can serve again."""
        try:
            return answer.read(ERROR_BODY_LIMIT)
        except ConnectionFailed:
            return b""

    @staticmethod
    def _read(answer):
        parts, size = [], 0
        for block in answer:
            parts.append(block)
            size += len(block)
            if size > _ANSWER_LIMIT:
                raise RegistryError("the answer to %s is longer than %d bytes" % (answer.url, _ANSWER_LIMIT))
        return b"".join(parts)

    def _json(self, answer):
        try:
            found = json.loads(self._read(answer).decode("utf-8"))
            return found if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            raise RegistryError("the answer to %s is no JSON" % answer.url)

    def _refusal(self, answer, method, data=None):
        """The error that an answer stands for, in the words that the engine has for it."""
        status = answer.status
        data = self._rest(answer) if data is None else data
        bearer = _challenges(answer.headers.get_all("WWW-Authenticate")).get("bearer", {}) if status == 401 else {}
        texts, code = [], ""
        try:
            said = json.loads(data.decode("utf-8"))
            for item in said.get("errors") or ():
                name = str(item.get("code") or "unknown")
                code = code or name
                texts.append("%s: %s" % (name.lower().replace("_", " "), item.get("message") or name.lower()))
            details = said.get("details") or said.get("error_description")
            if details and not texts:
                code = {401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}.get(status, "")
                texts = ["%s: %s" % (code.lower() or "unknown", details)]
        except (ValueError, AttributeError, TypeError, RecursionError):
            pass
        if bearer.get("error") == "insufficient_scope":
            code = "DENIED"
            texts.insert(0, "denied: requested access to the resource is denied")
        elif status == 401 and not texts:
            code, texts = "UNAUTHORIZED", ["unauthorized: authentication required"]
        elif status == 429 and not texts:
            code, texts = "TOOMANYREQUESTS", ["toomanyrequests: " + (
                data[:1000].decode("utf-8", "replace").strip() or "too many requests")]
        elif status == 404 and "/manifests/" in answer.url and not texts:
            code, texts = "MANIFEST_UNKNOWN", ["manifest unknown: manifest unknown"]
        text = texts[0] if texts and method in ("GET", "HEAD") or len(texts) == 1 else (
            "errors:\n%s\n" % "\n".join(texts)) if texts else (
            "received unexpected HTTP status: %d %s" % (status, http.client.responses.get(status, "")))
        retry = None
        if status in (408, 425, 429) or status >= 500 and status != 501:
            retry = _retry_after(answer.headers.get("Retry-After"))
            spent = re.match(r"0\b", answer.headers.get("ratelimit-remaining", "")) or "pull rate limit" in text
            if retry > _LONGEST_PAUSE or spent and not retry:
                retry = None
        return RegistryError(text, status, code, retry)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _exchange(self, method, url, headers, body=None, length=None):
        """Send a request and read the head of its answer, on an idle connection if there is one."""
        origin = _origin(url)
        idle = self._idle.setdefault(origin, [])
        while True:
            if self._stopped.is_set():
                raise RegistryError("the transfer was stopped")
            reused = True
            try:
                wire = idle.pop()
                if wire.answered():
                    wire.hang_up()      # the registry closed it
                    continue
            except IndexError:
                wire, reused = None, False
            try:
                wire = wire or self._dial(*origin)
                response = self._talk(wire, method, url, headers, body, length)
                self._met.add(origin)
                return Body(wire, response, idle.append)
            except (OSError, http.client.HTTPException) as error:
                if wire:
                    wire.hang_up()
                if not reused or callable(body) or not isinstance(error, _HUNG_UP):
                    raise self._failure(method, url, error, wire)
            except BaseException:
                if wire:
                    wire.hang_up()
                raise

    def _talk(self, wire, method, url, headers, body, length):
        parts = urlsplit(url)
        target = (parts.path or "/") + (parts.query and "?" + parts.query)
        exchange = _Exchange(wire)
        head = {"Host": parts.netloc, "User-Agent": "pydock/%s (%s)" % (__version__, sys.platform)}
        if wire.proxy and parts.scheme == "http":
            target = "http://%s%s" % (parts.netloc, target)
            head.update(_proxy_headers(wire.proxy))
        exchange.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if isinstance(body, bytes) or body is None and method not in ("GET", "HEAD"):
            length = len(body or b"")
        if length is not None:
            head["Content-Length"] = str(length)
        head.update(headers)
        for name, value in head.items():
            exchange.putheader(name, value)
        broken = None
        try:
            exchange.endheaders(body if isinstance(body, bytes) else None)
            if callable(body):
                send_body(wire, body(), length)
        except (BrokenPipeError, ConnectionResetError) as error:
            broken = error              # the registry may have said why before it closed
        try:
            response = exchange.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise broken or error
        if wire.tap.at_end or response.headers.defects:
            raise http.client.HTTPException("unexpected EOF")
        return response

    def _dial(self, scheme, host, port):
        """Connect, through a proxy where one is named; OSError if that fails."""
        proxy = proxy_for(scheme, host, port)
        context = self._tls(host, port) if scheme == "https" else None
        try:
            where = _origin(proxy) if proxy else (scheme, host, port)
        except ValueError:
            where = ("", "", 0)
        if proxy and (where[0] != "http" or not where[1]):
            raise DockerError("a proxy like this is not supported: " + _without_password(proxy))
        try:
            sock = socket.create_connection(where[1:], CONNECT_TIMEOUT)
        except OSError as error:
            raise OSError(("proxyconnect tcp: " if proxy else "") + _dial_complaint(where[1:], error))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if proxy and context:
                _connect_through(sock, host, port, proxy)
            wire = TlsWire(sock, context, host) if context else Wire(sock)
            sock.settimeout(_STALL)
        except BaseException:
            sock.close()
            raise
        wire.proxy = proxy
        self._wires.append(wire)
        if self._stopped.is_set():
            self.abort()                # which came while this one was on its way
        return wire

    def _tls(self, host, port):
        """The TLS context for a host: the system's authorities and what certs.d has for it."""
        with self._lock:
            if (host, port) not in self._contexts:
                names = ["%s:%d" % (host, port)] + ([host] if port == 443 else [])
                folders = [os.path.join(base, name) for base in self.certs for name in names]
                files = [os.path.join(folder, name) for folder in folders if os.path.isdir(folder)
                         for name in sorted(os.listdir(folder))]
                authorities = [path for path in files if path.endswith(".crt")]
                own = _origin("https://" + self.host)[1:] == (host, port)
                plain = self.insecure if own else self._may_be_plain(host, port)
                context = tls_context(TlsSettings(verify=bool(authorities) or not plain))
                if not context.cert_store_stats()["x509_ca"] and not os.environ.get("SSL_CERT_FILE"):
                    authorities += [path for path in _CA_BUNDLES if os.path.exists(path)][:1]
                for path in authorities + [path for path in files if path.endswith(".cert")]:
                    try:
                        if path.endswith(".cert"):
                            context.load_cert_chain(path, path[:-len("cert")] + "key", lambda: "")
                        else:
                            context.load_verify_locations(path)
                    except (OSError, ValueError) as error:
                        raise DockerError("the certificate %s cannot be used: %s" % (
                            path, getattr(error, "reason", None) or error))
                self._contexts[host, port] = context
            return self._contexts[host, port]

    def _failure(self, method, url, error, wire=None):
        """Why there is no answer, as Go says it; worth another try if the host has answered before."""
        reason, retry = _tls_reason(error), 0 if _origin(url) in self._met else None
        if reason:
            text, retry = reason, None if "certificate" in reason else retry
        elif isinstance(error, http.client.RemoteDisconnected):
            text, retry = "EOF", 0
        elif isinstance(error, http.client.HTTPException):
            text, retry = "net/http: HTTP/1.x transport connection broken: %s" % error, 0
        else:
            text, retry = os_error_text(error), 0 if wire else retry
        place = "%s://%s/v2/" % urlsplit(url)[:2] if not wire else url
        return RegistryError('%s "%s": %s' % ("Get" if not wire else method.title(), place, text), retry=retry)


_ACCEPT = {"Accept": ", ".join(INDEX_TYPES + MANIFEST_TYPES)}


def _retry_after(text):
    """The seconds that a `Retry-After` header asks for, as a number or a date; 0 for none."""
    if not text or text.strip().isdigit():
        return int(text or 0)
    from email.utils import parsedate_to_datetime
    try:
        return max(0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError):
        return 0


def _dial_complaint(address, error):
    """Why no connection came about, as Go says it: with the first address that a host has."""
    if isinstance(error, socket.gaierror):
        return "dial tcp: lookup %s: no such host" % address[0]
    host, port = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][4][:2]
    return "dial tcp %s:%d: %s" % ("[%s]" % host if ":" in host else host, port, "i/o timeout" if isinstance(
        error, socket.timeout) else "connect: " + os_error_text(error))


def _without_password(url):
    return re.sub(r"//[^/@]*@", "//", url)


def _proxy_headers(proxy):
    from urllib.parse import unquote
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    pair = "%s:%s" % (unquote(parts.username), unquote(parts.password or ""))
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")}


def _connect_through(sock, host, port, proxy):
    """CONNECT to a host through an HTTP proxy; OSError if the proxy refuses."""
    place = "%s:%d" % ("[%s]" % host if ":" in host else host, port)
    lines = ["CONNECT %s HTTP/1.1" % place, "Host: " + place]
    lines += ["%s: %s" % pair for pair in _proxy_headers(proxy).items()]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:      # the host says nothing before we do, so no byte of it can be in here
        data = sock.recv(4096)
        head += data
        if not data or len(head) > 65536:
            raise OSError("proxyconnect tcp: EOF")
    line = head.partition(b"\r\n")[0].decode("latin-1")
    if not re.match(r"HTTP/1\.\d 2\d\d\b", line):
        raise OSError("proxyconnect tcp: " + line.partition(" ")[2])


# ======================================================================================================================
# 14  Image store
# ======================================================================================================================

OCI_INDEX, OCI_MANIFEST = INDEX_TYPES[0], MANIFEST_TYPES[0]
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_REFERENCE_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"
_DOCUMENT_LIMIT = 16 * MIB              # of a manifest, an index, a configuration: what is read into memory
_HELD = {}                              # the files locked by this process, where the system has no locks


class _FileLock:
    """An exclusive lock on a file, made if it is not there; it ends with its process at the latest."""

    def __init__(self, path: str):
        self.path = path
        self.descriptor = None

    def take(self, wait: bool = True) -> bool:
        """Take it; false if somebody else has it and `wait` is false."""
        try:
            import fcntl
        except ImportError:
            return self._take_alone(wait)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    self.descriptor = descriptor
                    return True
            except FileNotFoundError:
                pass                    # renamed or removed while we waited: there may be a new one
            except BlockingIOError:
                return False
            except OSError as error:
                raise DockerError("lock %s: %s" % (self.path, os_error_text(error)))
            finally:
                if self.descriptor is None:
                    os.close(descriptor)

    def _take_alone(self, wait):
        """`take` where the system has no such locks, and one process has the store for itself."""
        while _HELD.setdefault(self.path, self) is not self:
            if not wait:
                return False
            time.sleep(0.01)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        return True

    def release(self) -> None:
        """Let go of the lock, if we have it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
            _HELD.pop(self.path, None)

    def __enter__(self):
        if self.descriptor is None:
            self.take()
        return self

    def __exit__(self, *_):
        self.release()


def _claim(path):
    """Make sure that no other process uses a store, where the system has no locks to share it."""
    if path not in _HELD:
        import atexit
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise DockerError("the image store is in use by another process, and this system cannot share it (if there "
                              "is none, remove %s)" % path)
        _HELD[path] = atexit.register(lambda: os.path.exists(path) and os.unlink(path))


class BlobWriter:
    """One blob on its way into the store, a context manager from `ImageStore.ingest`.

    `offset` bytes are in already, be it from an earlier attempt or because the whole blob is; who enters continues
    there, or calls `restart`.  What is not committed stays for the next attempt.  Of several writers of one blob, in
    any process, the others wait for the first.
    """

    def __init__(self, store, digest: str, size: int = None):
        self.store = store
        self.digest = digest
        self.size = size
        self.offset = 0
        self.done = False               # whether the blob is in, so that there is nothing to write
        self._path = store.blob_path(digest)
        self._lock = _FileLock(os.path.join(store.path, "ingest", digest.partition(":")[2]))
        self._hash = None

    def __enter__(self):
        self.store.prepare()
        while not self._lock.take(wait=False):
            time.sleep(0.05)
        try:
            if self._is_in():
                self._discard()
                self.offset, self.done = os.path.getsize(self._path), True
                return self
            self._begin()
            block = os.read(self._lock.descriptor, MIB)
            while block:
                self._hash.update(block)
                self.offset += len(block)
                block = os.read(self._lock.descriptor, MIB)
            if self.size is not None and self.offset > self.size:
                self.restart()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_):
        if not self.done and not self.offset:
            self._discard()
        self._lock.release()

    def _is_in(self):
        """Whether the blob is in already; what has another size, or is small and damaged, is written anew."""
        try:
            if self.store.has_blob(self.digest, self.size) and os.path.getsize(self._path) <= MIB:
                self.store.read_blob(self.digest)
            return self.store.has_blob(self.digest, self.size)
        except DockerError:
            return False

    def _begin(self):
        import hashlib
        self._hash, self.offset = hashlib.new(self.digest.partition(":")[0]), 0

    def _discard(self):
        os.unlink(self._lock.path)
        self._lock.release()

    def restart(self) -> None:
        """Forget what has been written."""
        os.ftruncate(self._lock.descriptor, 0)
        os.lseek(self._lock.descriptor, 0, os.SEEK_SET)
        self._begin()

    def write(self, data) -> None:
        """Append; DockerError for more than the blob's size, or where the disk is full."""
        if self.size is not None and self.offset + len(data) > self.size:
            self.restart()
            raise DockerError("blob %s is longer than the %d bytes announced" % (self.digest, self.size))
        try:
            _append(self._lock.descriptor, self._lock.path, data)
        except DockerError:
            self.restart()              # on a full disk, what has come is in the way of everything
            raise
        self._hash.update(data)
        self.offset += len(data)

    def commit(self) -> None:
        """Verify what has been written and make it the blob; DockerError, and a new beginning, if it is not."""
        if self.done:
            return
        if self.size not in (None, self.offset) or self._hash.hexdigest() != self.digest.partition(":")[2]:
            self.restart()
            raise DockerError("filesystem layer verification failed for digest " + self.digest)
        _move_in(self._lock.descriptor, self._lock.path, self._path)
        self.done = True


def _write_failure(path, error):
    return DockerError("write %s: %s" % (path, os_error_text(error)))


def _append(descriptor, path, data):
    """Write to a file of the store; DockerError where the disk is full."""
    try:
        write_all(descriptor, data)
    except OSError as error:
        raise _write_failure(path, error)


def _move_in(descriptor, path, place):
    """Give a file its place among the blobs when all of it is on the disk."""
    folder = os.path.dirname(place)
    try:
        os.fsync(descriptor)
        os.makedirs(folder, exist_ok=True)
        os.replace(path, place)
        _sync_folder(folder)
    except OSError as error:
        raise _write_failure(path, error)


def _sync_folder(path):
    """Wait until the names of what was moved into a folder are on the disk."""
    if os.name == "posix":
        names = os.open(path, os.O_RDONLY)
        try:
            os.fsync(names)
        finally:
            os.close(names)


class Lease:
    """Keeps blobs from being collected while it is entered; in any process, and not beyond this one's end."""

    def __init__(self, store, digests=()):
        self.store = store
        self._digests = digests
        self._lock = self._folder = None

    def __enter__(self):
        import tempfile
        with self.store.lock():         # nobody collects while the file is there and not locked
            handle, path = tempfile.mkstemp(dir=os.path.join(self.store.path, "leases"))
            os.close(handle)
            self._folder = os.path.join(self.store.path, "ingest", os.path.basename(path))
            self._lock = _FileLock(path)
            self._lock.take()
            try:
                self._write(self._digests)
            except DockerError:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_):
        import shutil
        shutil.rmtree(self._folder, ignore_errors=True)
        os.unlink(self._lock.path)
        self._lock.release()

    def folder(self) -> str:
        """A folder for files whose digests are not known yet, which goes with the lease."""
        os.makedirs(self._folder, exist_ok=True)
        return self._folder

    def add(self, *digests) -> None:
        """Keep these, too; it must be done before one looks whether they are there."""
        with self.store.lock():
            self._write(digests)

    def _write(self, digests):
        data = "".join(digest + "\n" for digest in digests).encode("ascii")
        _append(self._lock.descriptor, self._lock.path, data)


class ImageRecord:
    """One image in a store, by the digest of its configuration.

    `id`, `manifest` (its descriptor), `names` and `digests` (full references, sorted), `size` (of what is stored),
    `created` (RFC 3339), `platform` (`linux/arm64/v8`) and `labels` come with the list; `manifest_json` and `config`
    are read when asked for.
    """

    def __init__(self, store, about: dict):
        self.store = store
        self.id = about["id"]
        self.manifest = about["manifest"]
        self.size = about["size"]
        self.created = about["created"]
        self.platform = about["platform"]
        self.labels = about["labels"]
        self.names = []
        self.digests = []

    @property
    def manifest_json(self) -> dict:
        """The manifest."""
        return self.store.document(self.manifest["digest"])

    @property
    def config(self) -> dict:
        """The image's configuration."""
        return self.store.document(self.id)

    @property
    def is_whole(self) -> bool:
        """Whether all that the image consists of is there: its documents verified, its layers of the right size."""
        try:
            layers = self.manifest_json["layers"]
            return bool(self.config) and all(self.store.has_blob(layer["digest"], layer["size"]) for layer in layers)
        except DockerError:
            return False

    @property
    def blobs(self) -> list:
        """The digests of all that the image consists of: manifest, configuration, layers."""
        return [self.manifest["digest"], self.id] + [layer["digest"] for layer in self.manifest_json["layers"]]


def full_name(name) -> str:
    """A reference as the store keeps it: with registry, and with tag or digest."""
    reference = parse_reference(str(name)).with_default_tag()
    return str(Reference(reference.domain, reference.path, "" if reference.digest else reference.tag, reference.digest))


def familiar(name: str) -> str:
    """A full reference as people write it."""
    reference = parse_reference(name)
    return reference.familiar_name + reference.suffix


# What others rely on in an index, a configuration, and docker's `manifest.json`: see `_has_shape`.
_INDEX_SHAPE = {"manifests": [{"digest": str, "mediaType": str, "annotations": {"": str}}]}
_SETTINGS_SHAPE = {"Env": [str], "Cmd": [str], "Entrypoint": [str], "OnBuild": [str], "Labels": {"": str},
                   "Volumes": {"": {}}, "ExposedPorts": {"": {}}, "User": str, "WorkingDir": str, "StopSignal": str}
_CONFIG_SHAPE = dict(
    dict.fromkeys("created os architecture variant os.version author comment docker_version".split(), str),
    config=_SETTINGS_SHAPE, rootfs={"diff_ids": [str]}, history=[{"created": str, "created_by": str, "comment": str}])
_ARCHIVE_SHAPE = [{"Config": str, "Layers": [str], "RepoTags": [str]}]


def _has_shape(value, shape):
    """Whether a JSON value is of the types in `shape`, where "" is for any key; null is, but not in a list."""
    if value is None or isinstance(shape, type):
        return value is None or isinstance(value, shape)
    if isinstance(shape, list):
        return isinstance(value, list) and None not in value and all(_has_shape(item, shape[0]) for item in value)
    return isinstance(value, dict) and all(
        _has_shape(value.get(key), shape.get(key) or shape[""]) for key in (value if "" in shape else shape))


def _entry_name(entry):
    """The full reference of an entry in an index, whoever wrote it; empty for one without."""
    notes = entry.get("annotations") or {}
    name = notes.get(_FULL_NAME) or notes.get(_REFERENCE_NAME) or ""
    try:
        return "" if name in ("", DEFAULT_TAG) else full_name(name)
    except DockerError:
        return ""


class ImageStore:
    """Images in an OCI image layout at `path`, shared by threads and processes, whenever any of them is killed.

    `index.json` has one entry for each reference, with its full name (`docker.io/library/busybox:latest`, or
    `…@sha256:…` for the digest under which an image came), and one without a name for an image that has no reference.
    A blob is written under `ingest`, verified, and renamed into `blobs`; the index is replaced as a whole, under a
    lock.  Files in `leases`, locked by processes that live, list blobs that are not collected though nothing refers to
    them yet.  `roots()` gives further manifests that are in use.
    """

    def __init__(self, path: str, roots=tuple):
        self.path = os.path.abspath(path)
        self.roots = roots

    def prepare(self) -> None:
        """Make the layout if there is none."""
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)
            for folder in ("blobs/sha256", "ingest", "leases"):
                os.makedirs(os.path.join(self.path, folder), exist_ok=True)
            layout = os.path.join(self.path, "oci-layout")
            if not os.path.exists(layout):
                write_atomically(layout, b'{"imageLayoutVersion":"1.0.0"}', 0o644)
            with open(layout, "rb") as file:
                if not re.search(rb'"imageLayoutVersion"\s*:\s*"1\.', file.read(1024)):
                    raise DockerError("cannot use the image store: %s names no version 1 of the OCI image layout" % (
                        layout))
        except OSError as error:
            raise DockerError("cannot use the image store: " + path_error_text(error, "mkdir"))
        try:
            import fcntl                # noqa: F401
        except ImportError:
            _claim(os.path.join(self.path, "claim"))

    def lock(self) -> _FileLock:
        """The lock on the index and on what is collected: to be entered, for a moment."""
        self.prepare()
        return _FileLock(os.path.join(self.path, "lock"))

    # -- blobs ---------------------------------------------------------------------------------------------------------

    def blob_path(self, digest: str) -> str:
        """Where a blob is, or would be."""
        algorithm, _, hexadecimal = digest.partition(":")
        if not re.match(r"[0-9a-f]{%d}\Z" % _DIGEST_LENGTHS.get(algorithm, 0), hexadecimal) or not hexadecimal:
            raise DockerError("invalid checksum digest format: " + visible(digest))
        return os.path.join(self.path, "blobs", algorithm, hexadecimal)

    def has_blob(self, digest: str, size: int = None) -> bool:
        """Whether a blob is in the store, and of the size that is expected."""
        path = self.blob_path(digest)
        try:
            return os.path.isfile(path) and size in (None, os.path.getsize(path))
        except FileNotFoundError:
            return False                # collected at this instant

    def open_blob(self, digest: str):
        """A blob as a binary file."""
        try:
            return open(self.blob_path(digest), "rb")
        except OSError as error:
            raise DockerError("the image store misses a blob: " + path_error_text(error))

    def read_blob(self, digest: str) -> bytes:
        """A manifest or a configuration, verified."""
        import hashlib
        with self.open_blob(digest) as file:
            data = file.read() if os.fstat(file.fileno()).st_size <= _DOCUMENT_LIMIT else b""
        if hashlib.new(digest.partition(":")[0], data).hexdigest() != digest.partition(":")[2]:
            raise DockerError("blob %s in the image store is damaged" % digest)
        return data

    def document(self, digest: str) -> dict:
        """A JSON object that was stored as a blob."""
        try:
            value = json.loads(self.read_blob(digest).decode("utf-8"))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise DockerError("blob %s is no JSON object" % digest)
        return value

    def diff_ids(self, identifier: str) -> list:
        """The digests of an image's layers, unpacked, as its configuration lists them."""
        try:
            config = json.loads(self.read_blob(identifier).decode("utf-8"))
            return [str(diff) for diff in config["rootfs"]["diff_ids"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise DockerError("invalid rootfs in image configuration")

    def ingest(self, digest: str, size: int = None) -> BlobWriter:
        """A writer for a blob, to be entered; `keep` the blob first."""
        return BlobWriter(self, digest, size)

    def add_blob(self, data: bytes, algorithm: str = "sha256") -> str:
        """Put in a small blob; its digest."""
        import hashlib
        digest = algorithm + ":" + hashlib.new(algorithm, data).hexdigest()
        with self.ingest(digest, len(data)) as writer:
            if not writer.done:
                writer.restart()
                writer.write(data)
                writer.commit()
        return digest

    def keep(self, digests=()) -> Lease:
        """A lease on blobs that a transfer is about to look for, or to put in."""
        return Lease(self, digests)

    # -- references ----------------------------------------------------------------------------------------------------

    def _read_index(self):
        for _ in range(20):
            try:
                with open(os.path.join(self.path, "index.json"), "rb") as file:
                    index = json.loads(file.read().decode("utf-8"))
                for entry in index["manifests"]:
                    self.blob_path(entry["digest"])
                if _has_shape(index, _INDEX_SHAPE):
                    return index
            except FileNotFoundError:
                return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError, DockerError):
                pass
            time.sleep(0.05)            # other tools write it in place
        raise DockerError("the image store is damaged: %s is no index" % os.path.join(self.path, "index.json"))

    def _write(self, name, value):
        path = os.path.join(self.path, name)
        try:
            write_atomically(path, compact_json(value).encode("utf-8"), 0o644)
            _sync_folder(self.path)     # before blobs go that only the index of before refers to
        except OSError as error:
            raise _write_failure(path, error)

    def _manifest(self, entry):
        """The manifest that an index' entry, or another descriptor, names."""
        digest = entry["digest"]
        return Manifest(self.read_blob(digest), entry.get("mediaType") or "", digest.partition(":")[0])

    def _about(self, entry):
        """What the list says of an entry's image, from its manifest and configuration; None if there is none."""
        try:
            manifest = self._manifest(entry)
            if manifest.is_index:
                present = [child for child in manifest.parts("manifests") if self.has_blob(child["digest"])]
                try:
                    return self._about(choose_platform({"manifests": present}))
                except DockerError:
                    return self._about(present[0])
            about, layers = manifest.parts("config")[0], manifest.parts("layers")
            config = self.document(about["digest"])
            if not _has_shape(config, _CONFIG_SHAPE) or len(config["rootfs"]["diff_ids"] or ()) != len(layers):
                return None
            return {"id": about["digest"], "manifest": manifest.descriptor,
                    "size": about["size"] + sum(layer["size"] for layer in layers),
                    "created": config.get("created") or "", "labels": (config.get("config") or {}).get("Labels") or {},
                    "platform": "/".join(filter(None, map(config.get, ("os", "architecture", "variant"))))}
        except (DockerError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def _catalog(self):
        """All images by their id, each reference's (image, descriptor), and what the entries' manifests are about."""
        try:
            with open(os.path.join(self.path, "cache.json"), "rb") as file:
                cache = dict(json.loads(file.read().decode("utf-8")))
        except (OSError, ValueError, TypeError):
            cache = {}                  # a first time, or it was lost
        images, names, known = {}, {}, {}
        for entry in self._read_index()["manifests"]:
            about = known.get(entry["digest"]) or cache.get(entry["digest"]) or self._about(entry)
            if about:
                known[entry["digest"]] = about
                record = images.setdefault(about["id"], None) or ImageRecord(self, about)
                images[about["id"]] = record
                names[_entry_name(entry)] = record, about["manifest"]
        for name in sorted(names):
            if name:
                (names[name][0].digests if "@" in name else names[name][0].names).append(name)
        fixed = {digest: about for digest, about in known.items() if about["manifest"]["digest"] == digest}
        if any(digest not in cache for digest in fixed):        # not those chosen by what else is in the store
            self._save_cache(fixed)
        return images, names, known

    def _save_cache(self, cache):
        """Keep what the list needs, so that the next one opens no manifest; where that fails, it does."""
        try:
            lock = self.lock()
            if lock.take(wait=False):
                with lock:
                    self._write("cache.json", cache)
        except (DockerError, OSError):
            pass

    def images(self) -> list:
        """An ImageRecord for each image, the newest first."""
        return sorted(self._catalog()[0].values(), key=lambda image: image.created, reverse=True)

    def resolve(self, name: str) -> ImageRecord:
        """The image that a reference, an id, or the beginning of one names; NotFound if there is none."""
        images, names, _ = self._catalog()
        identifier = name[len("sha256:"):] if name.startswith("sha256:") else name
        if "sha256:" + identifier in images:
            return images["sha256:" + identifier]
        shown = "sha256:" + identifier
        if not re.match("[0-9a-f]{64}\\Z", identifier):
            try:
                wanted = full_name(name)
            except DockerError as error:
                raise ApiError(400, str(error))
            shown = familiar(wanted)
            if wanted in names:
                record, record.manifest = names[wanted]
                return record
        found = [image for image in images if image.startswith("sha256:" + identifier)]
        if len(found) != 1 or not identifier:
            raise NotFound(404, "No such image: " + shown)
        return images[found[0]]

    def put_image(self, name, manifest: dict, digest_reference=None) -> None:
        """Refer to an image, by its manifest's descriptor, under a name, None for none, and the digest it came by.

        All its blobs must be in, and kept by a lease until now.
        """
        with self.lock():
            if not self.has_blob(manifest["digest"]):
                raise NotFound(404, "No such image: " + manifest["digest"])
            needed = self._manifest(manifest)
            if needed.is_index or not self._about(manifest):
                raise DockerError("manifest %s describes no image" % manifest["digest"])
            for blob in needed.parts("config") + needed.parts("layers"):
                if not self.has_blob(blob["digest"], blob["size"]) and not blob.get("urls"):
                    raise DockerError("blob %s of the image is missing, or not of its size" % blob["digest"])
            index = self._read_index()
            before = compact_json(index)
            for reference in list(filter(None, [name, digest_reference])) or [""]:
                _refer(index["manifests"], needed.descriptor, reference and full_name(reference))
            if compact_json(index) != before:
                self._write("index.json", index)

    def tag(self, image: ImageRecord, name) -> None:
        """Give an image one more name, taking it from the one that has it."""
        if parse_reference(str(name)).familiar_name == "sha256":
            raise ApiError(400, "refusing to create an ambiguous tag using digest algorithm as name")
        self.put_image(name, image.manifest)

    def remove(self, name: str, force: bool = False, users: dict = None, names: list = None) -> list:
        """Take away a reference, and the image with its last one: what went, as the Engine API lists it.

        `users` has, by the image's id, the id of a container made from it: such an image goes only with `force`.  With
        `names`, it goes only if it has no others.
        """
        with self.lock():
            image = self.resolve(name)
            if names is not None and image.names != names:
                raise _conflict(image, "referenced in multiple repositories")
            references, user = sorted(image.names + image.digests), (users or {}).get(image.id)
            repositories = {parse_reference(reference).name for reference in references}
            is_single = len(repositories) == 1 and len(image.names) <= 1
            if image.id.startswith(name) or image.id[7:].startswith(name):
                if not force and references and not is_single:
                    raise _conflict(image, "referenced in multiple repositories")
                gone = references
            else:
                if user and is_single and not force:
                    raise ApiError(409, "conflict: unable to remove repository reference %s (must force) - container "
                                   "%s is using its referenced image %s" % (go_quote(name), user[:12], image.id[7:19]))
                gone = [full_name(name)]
                repository = parse_reference(gone[0]).name
                if "@" not in gone[0] and not any(other.startswith(repository + ":") for other in image.names
                                                  if other != gone[0]):
                    gone += [digest for digest in image.digests if digest.startswith(repository + "@")]
            if len(gone) == len(references) and user and not force:
                raise _conflict(image, "being used by stopped container " + user[:12])
            return self._remove(image, gone, len(gone) == len(references))

    def _remove(self, image, gone, is_last):
        """Take references out of the index, and their image if they were the last; what went."""
        index, candidates, kept = self._read_index(), set(), []
        about = self._catalog()[2]
        for entry in index["manifests"]:
            identifier = about.get(entry["digest"], {}).get("id")
            if identifier == image.id and (is_last or _entry_name(entry) in gone):
                self._reach(entry["digest"], candidates)
            else:
                kept.append(entry)
        chains = self._chain_ids(image.id)
        index["manifests"] = kept
        try:
            self._write("index.json", index)
        except DockerError:
            cache = os.path.join(self.path, "cache.json")
            if not os.path.exists(cache):
                raise
            os.unlink(cache)            # on a full disk, the room in which an image can still go
            self._write("index.json", index)
        out = [{"Untagged": familiar(reference)} for reference in gone]
        if is_last:
            used = set()
            for digest in {entry["digest"] for entry in kept} | set(self.roots()):
                other = about.get(digest) or self._about({"digest": digest})
                used.update(self._chain_ids(other["id"]) if other else ())
            out += [{"Deleted": digest}
                    for digest in [image.id] + [chain for chain in chains[::-1] if chain not in used]]
        self._sweep(kept, candidates)
        return out

    def _chain_ids(self, identifier):
        """The chain IDs of an image's layers: each is a layer with all those below it."""
        chain = []
        try:
            for diff_id in self.diff_ids(identifier):
                chain.append("sha256:" + _digest_of(("%s %s" % (chain[-1], diff_id)).encode("utf-8")) if chain else
                             diff_id)
        except DockerError:
            pass                        # it is damaged: what matters is that it can go
        return chain

    def collect(self) -> int:
        """Remove the blobs that nothing refers to, and what killed transfers have left: the bytes freed."""
        with self.lock():
            blobs = os.path.join(self.path, "blobs")
            freed = self._sweep(self._read_index()["manifests"], [
                algorithm + ":" + name for algorithm in os.listdir(blobs) if algorithm in _DIGEST_LENGTHS
                for name in os.listdir(os.path.join(blobs, algorithm)) if re.match("[0-9a-f]+\\Z", name)])
            for name in os.listdir(os.path.join(self.path, "ingest")):
                path = os.path.join(self.path, "ingest", name)
                lock = _FileLock(path)
                if not os.path.isdir(path) and lock.take(wait=False):       # a folder is that of a lease
                    with lock:
                        freed += os.stat(path).st_size
                        os.unlink(path)
            for name in os.listdir(self.path):
                if re.match(r"(index\.json|cache\.json|events\.jsonl).", name):
                    os.unlink(os.path.join(self.path, name))    # a killed process was about to replace that file
            return freed

    def _sweep(self, entries, candidates):
        """Remove those blobs of `candidates` that neither the entries nor anybody else needs: the bytes freed."""
        used, freed = self._leased(), 0
        for digest in [entry["digest"] for entry in entries] + list(self.roots()):
            self._reach(digest, used)
        for digest in candidates:
            if digest not in used and self.has_blob(digest):
                path = self.blob_path(digest)
                freed += os.stat(path).st_size
                os.unlink(path)
        return freed

    def _reach(self, digest, found):
        """Add a manifest and all that it refers to, to a set of digests."""
        if digest in found or not self.has_blob(digest):
            found.add(digest)
            return
        found.add(digest)
        with self.open_blob(digest) as file:        # a file that cannot be read is an error here: it may refer to much
            data = file.read(_DOCUMENT_LIMIT)
        try:
            document = json.loads(data.decode("utf-8"))
            for child in document.get("manifests", ()):
                self._reach(child["digest"], found)
            found.update(blob["digest"] for blob in [document.get("config")] + document.get("layers", []) if blob)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass                        # no manifest

    def _leased(self):
        """The digests that are kept by processes that live; what the dead have left goes."""
        import shutil
        found = set()
        for name in os.listdir(os.path.join(self.path, "leases")):
            lock = _FileLock(os.path.join(self.path, "leases", name))
            if lock.take(wait=False):
                with lock:
                    shutil.rmtree(os.path.join(self.path, "ingest", name), ignore_errors=True)
                    os.unlink(lock.path)
                continue
            try:
                with open(lock.path, encoding="ascii") as file:
                    found.update(file.read().split())
            except FileNotFoundError:
                pass                    # it has just ended
        return found

    # -- archives ------------------------------------------------------------------------------------------------------

    def save(self, names) -> iter:
        """The images of these names as an archive that `load`, every `docker load` and skopeo read: yields bytes.

        A repository's name stands for all its tags.  What can be known to be wrong is, before the first byte.
        """
        chosen = {}                     # the image by its manifest's digest, and its names
        for name in names:
            for tag, image in self.matches(name):
                tags = chosen.setdefault(image.manifest["digest"], (image, []))[1]
                tags += [tag] * (tag not in [""] + tags)
                if not image.is_whole:
                    raise DockerError("the image store lacks parts of %s, or they are damaged: pull it again" % name)
        blocks = self._archive(list(chosen.values()))
        next(blocks)                    # now it has its lease
        return blocks

    def matches(self, name):
        """The (tag's full name or nothing, image) that a name of `save` stands for."""
        image = None
        try:
            repository = parse_reference(name)
            if not repository.suffix:
                images, names, _ = self._catalog()
                found = [full for full in sorted(names)
                         if full.startswith((repository.name + ":", repository.name + "@"))]
                if found:
                    return [(full if "@" not in full else "", self.resolve(full)) for full in found]
        except DockerError:
            repository = None           # an id, or an error for `resolve`
        try:
            image = self.resolve(name)
        except NotFound:
            if repository and repository.suffix:
                raise NotFound(404, "reference does not exist")
            raise
        full = full_name(name) if repository and repository.suffix else ""
        return [(full if full in image.names else "", image)]

    def _archive(self, chosen):
        """The bytes of an archive of (image, names)."""
        import hashlib
        with self.keep([digest for image, _ in chosen for digest in image.blobs]):
            entries, manifests, repositories, written = [], [], {}, set()
            yield b""
            for folder in ("blobs/", "blobs/sha256/"):
                yield tar_header(folder, 0o755, 0, 0, 0, 0, b"5")
            for image, tags in chosen:
                for digest in image.blobs:
                    if digest in written:
                        continue
                    written.add(digest)
                    with self.open_blob(digest) as file:
                        size, found = os.fstat(file.fileno()).st_size, hashlib.new(digest.partition(":")[0])
                        yield tar_header(_member(digest), 0o644, 0, 0, size, 0)
                        for block in iter(lambda: file.read(MIB), b""):
                            found.update(block)
                            yield block
                    if found.hexdigest() != digest.partition(":")[2]:
                        raise DockerError("blob %s in the image store is damaged" % digest)
                    yield bytes(-size % _TAR_BLOCK)
                layers = [_member(digest) for digest in image.blobs[2:]]
                entries += [dict(image.manifest, annotations={_FULL_NAME: tag, _REFERENCE_NAME: tag.rpartition(":")[2]})
                            for tag in tags] or [image.manifest]
                manifests.append({"Config": _member(image.id), "RepoTags": list(map(familiar, tags)) or None,
                                  "Layers": layers})
                for repository, _, tag in (familiar(tag).rpartition(":") for tag in tags if layers):
                    repositories.setdefault(repository, {})[tag] = layers[-1].rpartition("/")[2]
            for name, value in (("index.json", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}),
                                ("manifest.json", manifests), ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
                                ("repositories", repositories)):
                data = compact_json(value).encode("utf-8")
                yield tar_header(name, 0o644, 0, 0, len(data), 0) + data + bytes(-len(data) % _TAR_BLOCK)
            yield _TAR_END

    def load(self, source, report) -> list:
        """Put in the images of an archive: an OCI layout or what docker saves, plain or compressed; their ids.

        `source` yields bytes; `report` takes the engine's messages.
        """
        moved, ids = set(), []
        try:
            with self.keep() as lease:
                members = _Members(lease, source)
                for names, manifest, identifier in self._layout(lease, members, report, moved) or \
                        self._docker_archive(lease, members, report, moved):
                    ids.append(identifier)
                    known = self._catalog()[1]
                    for name in names:
                        old = known.get(name, (None, None))[0]
                        if old and old.id != identifier:
                            report({"stream": "The image %s already exists, renaming the old one with ID %s to empty "
                                              "string\n" % (familiar(name), old.id)})
                        self.put_image(name, manifest)
                        report({"stream": "Loaded image: %s\n" % familiar(name)})
                    if not names:
                        self.put_image(None, manifest)
                        report({"stream": "Loaded image ID: %s\n" % identifier})
        finally:
            with self.lock():
                self._sweep(self._read_index()["manifests"], moved)
        return ids

    def _layout(self, lease, members, report, moved):
        """The images of an OCI layout: [(names, manifest's descriptor, id)]; none if it is no such layout."""
        if "index.json" not in members.files or "oci-layout" not in members.files:
            return []
        found = {}
        index = members.document("index.json")
        if not index or not _has_shape(index, _INDEX_SHAPE):
            raise DockerError("invalid archive: index.json is no index")
        for digest in members.blobs:
            self._move(lease, digest, members.blobs[digest], report, moved)
        for entry in index.get("manifests") or ():
            about = self._about(entry)
            if about:
                names = found.setdefault(about["id"], ([], about["manifest"], about["id"]))[0]
                names += [name for name in [_entry_name(entry)] if name and "@" not in name]
        if not found and "manifest.json" not in members.files:
            raise DockerError("invalid archive: index.json names no image")
        return list(found.values())

    def _docker_archive(self, lease, members, report, moved):
        """The images of an archive of docker's own form, as `_layout` has them; each layer is checked."""
        manifests = members.document("manifest.json")
        if not manifests or not _has_shape(manifests, _ARCHIVE_SHAPE):
            raise DockerError("invalid archive: manifest.json is no list of images")
        for item in manifests:
            try:
                digest, config = members.find(item["Config"])[0], members.document(item["Config"])
                diff_ids, paths = config["rootfs"]["diff_ids"] or [], item.get("Layers") or []
                names = [full_name(name) for name in item.get("RepoTags") or ()]
            except (LookupError, TypeError, AttributeError):
                raise DockerError("invalid archive: manifest.json does not describe an image")
            if not _has_shape(config, _CONFIG_SHAPE):
                raise DockerError("invalid archive: %s is no configuration of an image" % visible(item["Config"]))
            for name in names:
                if "@" in name:
                    raise DockerError("invalid tag " + go_quote(name))
            if len(diff_ids) != len(paths):
                raise DockerError("invalid manifest, layers length mismatch: expected %d, got %d" % (
                    len(diff_ids), len(paths)))
            try:
                known = self._catalog()[0].get(digest)
                if known:
                    lease.add(*known.blobs)
                    if known.is_whole:
                        yield names, known.manifest, digest
                        continue
            except DockerError:
                pass                    # it is damaged, or somebody has just removed it
            layers = []
            for i, path in enumerate(paths):
                layer, place = members.find(path)
                packing, actual = _diff_id(place, layer)
                if actual != diff_ids[i]:
                    raise DockerError('invalid diffID for layer %d: expected "%s", got "%s"' % (i, diff_ids[i], actual))
                self._move(lease, layer, place, report, moved)
                layers.append({"mediaType": OCI_LAYER + (packing and "+" + packing), "digest": layer,
                               "size": os.stat(self.blob_path(layer)).st_size})
            self._move(lease, digest, members.find(item["Config"])[1], report, moved)
            yield names, self._add_manifest(lease, digest, layers, moved), digest

    def _add_manifest(self, lease, config, layers, moved=None):
        """Put in the manifest of a configuration and layers that are in; its descriptor."""
        data = compact_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {
            "mediaType": OCI_CONFIG, "digest": config, "size": os.stat(self.blob_path(config)).st_size},
            "layers": layers}).encode("utf-8")
        digest = "sha256:" + _digest_of(data)
        lease.add(digest)
        (set() if moved is None else moved).add(digest)
        self.add_blob(data)
        return {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(data)}

    def _move(self, lease, digest, path, report, moved):
        """Make a verified file of a lease's folder a blob, unless it is one."""
        lease.add(digest)
        if not self.has_blob(digest):
            moved.add(digest)
            with open(path, "rb+") as file:
                if file.read(1) != b"{":
                    size = os.fstat(file.fileno()).st_size
                    report({"status": "Loading layer", "id": digest[7:19],
                            "progressDetail": {"current": size, "total": size}})
                _move_in(file.fileno(), path, self.blob_path(digest))

    def import_rootfs(self, source, changes=(), message: str = "", name=None, platform: str = "") -> ImageRecord:
        """Make an image of one layer from a root file system's tar archive, whose bytes `source` yields.

        `changes` are Dockerfile instructions for its configuration.  A gzipped archive stays as it is.
        """
        import hashlib
        settings = apply_changes({}, changes)
        system, architecture, variant = (normal_platform(platform or "linux").split("/") + [""])[:3]
        with self.keep() as lease:
            path = os.path.join(lease.folder(), "layer")
            stored, plain = hashlib.sha256(), hashlib.sha256()
            packing, blocks = _packing(source)
            with open(path, "wb", 0) as file:
                if packing == "gzip":
                    blocks = _spooled(_unpacked(packing, _spooled(blocks, stored, path, file)), plain)
                else:
                    blocks = _spooled(_unpacked(packing, blocks), plain, path, file)
                    stored = plain
                archive = _TarSource([block] for block in blocks)
                for entry in _tar_entries(archive):
                    left = entry.size if entry.kind == b"0" else 0
                    while left:
                        left -= len(archive.read(min(left, MIB)))
                for _ in blocks:
                    pass
            created = format_utc(int(time.time() * 1e9))
            config = {"architecture": architecture, "variant": variant, "os": system, "created": created,
                      "config": settings, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + plain.hexdigest()]},
                      "history": [{"created": created, "comment": message or "Imported from -"}]}
            data = compact_json({key: value for key, value in config.items() if value != ""}).encode("utf-8")
            layer, digest = "sha256:" + stored.hexdigest(), "sha256:" + _digest_of(data)
            size = os.stat(path).st_size
            self._move(lease, layer, path, lambda message: None, set())
            lease.add(digest)
            self.add_blob(data)
            self.put_image(name, self._add_manifest(lease, digest, [{
                "mediaType": OCI_LAYER + ("+gzip" if packing == "gzip" else ""), "digest": layer, "size": size}]))
        return self.resolve(digest)

    # -- what the Engine API tells of an image -------------------------------------------------------------------------

    def inspect(self, image: ImageRecord) -> dict:
        """An image as `GET /images/{name}/json` shows it."""
        config, history = image.config, image.config.get("history") or [{}]
        settings = config.get("config") or {}
        shown = {key: settings.get(key, value) for key, value in _CONFIG_FIELDS.items()
                 if value is not _ABSENT or settings.get(key)}
        out = {"Id": image.id, "RepoTags": list(map(familiar, image.names)),
               "RepoDigests": list(map(familiar, image.digests)), "Parent": "",
               "Comment": config.get("comment") or history[-1].get("comment") or "", "Created": image.created,
               "Container": "", "ContainerConfig": {key: value for key, value in _CONFIG_FIELDS.items()
                                                    if value is not _ABSENT},
               "DockerVersion": config.get("docker_version") or "", "Author": config.get("author") or "",
               "Config": shown, "Architecture": config.get("architecture") or "",
               "Variant": config.get("variant") or "",
               "Os": config.get("os") or "", "OsVersion": config.get("os.version") or "", "Size": image.size,
               "VirtualSize": image.size, "GraphDriver": {"Data": None, "Name": "oci"},
               "RootFS": {"Type": "layers", "Layers": (config.get("rootfs") or {}).get("diff_ids") or []},
               "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"}}
        return {key: value for key, value in out.items() if value or key not in ("Variant", "OsVersion")}

    def history(self, image: ImageRecord) -> list:
        """An image's history as `GET /images/{name}/history` shows it, the newest step first."""
        sizes, out = [layer["size"] for layer in image.manifest_json["layers"]], []
        for step in image.config.get("history") or ():
            try:
                created = int(parse_rfc3339(step.get("created") or "") // 1)
            except (ValueError, TypeError):
                created = -62135596800              # Go's zero time
            out.insert(0, {"Id": "<missing>", "Created": created, "CreatedBy": step.get("created_by") or "",
                           "Tags": None, "Size": sizes.pop(0) if sizes and not step.get("empty_layer") else 0,
                           "Comment": step.get("comment") or ""})
        for step in out[:1]:
            step.update(Id=image.id, Tags=list(map(familiar, image.names)) or None)
        return out


def _conflict(image, words):
    return ApiError(409, "conflict: unable to delete %s (must be forced) - image is %s" % (image.id[7:19], words))


def _refer(entries, descriptor, name):
    """Enter a reference to a manifest in an index; an image that loses its last one stays, without a name."""
    digest = descriptor["digest"]
    if not any(entry["digest"] == digest and _entry_name(entry) == name for entry in entries):
        lost = [entry for entry in entries if name and _entry_name(entry) == name]
        entries[:] = [entry for entry in entries if entry not in lost and (
            _entry_name(entry) or entry["digest"] != digest)]
        if name or not any(entry["digest"] == digest for entry in entries):
            entries.append(dict(descriptor, annotations={_REFERENCE_NAME: name}) if name else dict(descriptor))
        for entry in lost:
            _refer(entries, {key: entry[key] for key in descriptor if key in entry}, "")


_ABSENT = object()                      # of a field that is left out where it is empty
_CONFIG_FIELDS = dict.fromkeys(
    "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd "
    "Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress OnBuild Labels StopSignal "
    "StopTimeout Shell".split(), _ABSENT)
_CONFIG_FIELDS.update(dict.fromkeys("Hostname Domainname User Image WorkingDir".split(), ""))
_CONFIG_FIELDS.update(dict.fromkeys("AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce".split(), False))
_CONFIG_FIELDS.update(dict.fromkeys("Env Cmd Volumes Entrypoint OnBuild Labels".split()))


def _digest_of(data):
    import hashlib
    return hashlib.sha256(data).hexdigest()


def _member(digest):
    """The name of a blob in an archive."""
    return "blobs/" + digest.replace(":", "/")


class _Members:
    """The files of an archive that is loaded, spooled into a lease's folder under numbers; links lead to them."""

    def __init__(self, lease, source):
        import hashlib
        self.store = lease.store
        self.files = {}                 # the clean name -> (digest, path)
        self.blobs = {}                 # the digest of what is named as a blob -> path
        self._links = {}                # the clean name -> what it links to
        paths = {}                      # the digest -> path
        archive = _TarSource([block] for block in decompressed(source))
        for entry in _tar_entries(archive):
            name = "/".join(_components("/" + entry.name))
            if entry.kind in (b"1", b"2"):
                base = split_entry(name)[0] if entry.kind == b"2" and not entry.link.startswith("/") else ""
                self._links[name] = "/".join(_components("/%s/%s" % (base, entry.link)))
            if entry.kind != b"0":
                continue
            match = re.match(r"blobs/(sha256|sha512)/([0-9a-f]+)\Z", name)
            path = os.path.join(lease.folder(), str(len(paths)))
            found = hashlib.new(match.group(1) if match else "sha256")
            with open(path, "wb", 0) as file:
                left = entry.size
                while left:
                    block = archive.read(min(left, MIB))
                    _append(file.fileno(), path, block)
                    found.update(block)
                    left -= len(block)
            digest = "%s:%s" % (found.name, found.hexdigest())
            if match and match.group(2) != found.hexdigest():
                raise DockerError("invalid archive: %s is damaged: its digest is %s" % (name, digest))
            if digest in paths:
                os.unlink(path)
            self.files[name] = digest, paths.setdefault(digest, path)
            if match:
                self.blobs[digest] = paths[digest]

    def find(self, name):
        """(digest, path) of a file, through links, also when it has become a blob."""
        place = "/".join(_components("/" + name))
        for _ in range(10):
            if place in self.files:
                digest, path = self.files[place]
                return digest, path if os.path.exists(path) else self.store.blob_path(digest)
            place = self._links.get(place, place)
        raise DockerError("invalid archive: does not contain " + go_quote(name))

    def document(self, name):
        """The JSON value in a file."""
        with open(self.find(name)[1], "rb") as file:
            try:
                return json.loads(file.read(_DOCUMENT_LIMIT).decode("utf-8"))
            except (ValueError, RecursionError):
                raise DockerError("invalid archive: %s is no JSON" % visible(name))


# How archives are packed: the first bytes, the name, the module and the class that unpacks, and its error.
_PACKINGS = ((b"\x1f\x8b\x08", "gzip", "zlib", "decompressobj", "error"),
             (b"BZh", "bzip2", "bz2", "BZ2Decompressor", ""),
             (b"\xfd7zXZ\0", "xz", "lzma", "LZMADecompressor", "LZMAError"),
             (b"\x28\xb5\x2f\xfd", "zstd", "compression.zstd", "ZstdDecompressor", "ZstdError"))
_BOMB_SIZE, _BOMB_RATIO = 4096 * MIB, 500           # an archive that grows beyond both is refused


def _packing(blocks):
    """How an archive is packed, "" for a plain one, and its bytes."""
    import itertools
    blocks, head = iter(blocks), b""
    while len(head) < 6:
        block = next(blocks, None)
        if block is None:
            break
        head += block
    return next((row[1] for row in _PACKINGS if head.startswith(row[0])), ""), itertools.chain([head], blocks)


def decompressed(blocks):
    """The bytes of an archive, unpacked if it is packed with gzip, bzip2, xz or, where Python can, zstd."""
    return _unpacked(*_packing(blocks))


def _unpacked(packing, blocks):
    """The bytes that these blocks hold, in pieces of bounded size; DockerError if they are damaged, or a bomb."""
    if not packing:
        yield from blocks
        return
    import importlib
    _, _, module, kind, error = next(row for row in _PACKINGS if row[1] == packing)
    try:
        module = importlib.import_module(module)
    except ImportError:
        raise DockerError("this Python cannot unpack " + packing)
    unpacker, taken, given, options = None, 0, 0, {"wbits": 31} if packing == "gzip" else {}
    for data in blocks:
        taken += len(data)
        more = True
        while data or more:
            if unpacker is None:
                if not data.strip(b"\0"):
                    break               # padding
                unpacker = getattr(module, kind)(**options)
            try:
                piece = unpacker.decompress(data, MIB)
            except (OSError, EOFError, ValueError, getattr(module, error, OSError)) as problem:
                raise DockerError("cannot unpack %s data: %s" % (packing, problem))
            given += len(piece)
            if given > _BOMB_SIZE and given > _BOMB_RATIO * taken:
                raise DockerError("the archive is refused: it unpacks to more than %d times its size" % _BOMB_RATIO)
            if piece:
                yield piece
            if unpacker.eof:
                data, unpacker = unpacker.unused_data, None
                more = False
            else:
                data = getattr(unpacker, "unconsumed_tail", b"")
                more = len(piece) == MIB or not getattr(unpacker, "needs_input", True)
    if unpacker:
        raise DockerError("cannot unpack %s data: unexpected EOF" % packing)


def _spooled(blocks, found, path="", file=None):
    """The blocks, on their way hashed and, with a file, written."""
    for block in blocks:
        found.update(block)
        if file:
            _append(file.fileno(), path, block)
        yield block


def _diff_id(path, digest):
    """How a layer is packed, and the digest of what it holds."""
    import hashlib
    with open(path, "rb") as file:
        packing, blocks = _packing(iter(lambda: file.read(MIB), b""))
        if not packing and digest.startswith("sha256:"):
            return "", digest
        found = hashlib.sha256()
        for _ in _spooled(_unpacked(packing, blocks), found):
            pass
    if packing not in ("", "gzip", "zstd"):
        raise DockerError("invalid archive: layers packed with %s are not understood" % packing)
    return packing, "sha256:" + found.hexdigest()


# -- changes to a configuration ----------------------------------------------------------------------------------------

# One word of an instruction: quoted parts, escapes, and all else up to a blank.
_WORD = r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s'\"\\])+"
_EXPANDED = re.compile(r"'(?P<literal>[^']*)'|\"(?P<quoted>(?:\\.|[^\"\\])*)\"|\\(?P<escaped>.)|"
                       r"\$(?:(?P<name>\w+)|\{(?P<braced>\w+)(?::(?P<sign>[-+])(?P<word>[^}]*))?\})", re.DOTALL)


def _expand(text, variables, quoted=False):
    """A word of an instruction without its quotes, with the values of variables."""
    def value(match):
        """What one quoted part, escape or variable stands for."""
        literal, inner, escaped, name, braced, sign, word = match.groups()
        if inner is not None:
            return match.group() if quoted else _expand(inner, variables, True)
        if literal is not None:
            return match.group() if quoted else literal
        if escaped is not None:
            return escaped if not quoted or escaped in "\"$\\" else match.group()
        found = variables.get(name or braced, "")
        return found if not sign else (word if found else "") if sign == "+" else found or word

    return _EXPANDED.sub(value, text)


def _pairs(word, rest, variables):
    """The pairs of ENV and LABEL: `NAME=VALUE…`, or `NAME VALUE`."""
    words = re.findall(_WORD, rest)
    if not words:
        raise ApiError(400, word + " requires at least one argument")
    if "=" not in words[0]:
        words = rest.split(None, 1)
        if len(words) < 2:
            raise ApiError(400, word + " must have two arguments")
        words = ["=".join(words)]
    for text in words:
        if "=" not in text:
            raise ApiError(400, "Syntax error - can't find = in %s. Must be of the form: name=value" % go_quote(text))
        name, _, value = text.partition("=")
        if not name:
            raise ApiError(400, word + " names can not be blank")
        yield _expand(name, variables), _expand(value, variables)


def _command(rest, shell=True):
    """The words of an instruction in JSON form, or else what a shell is to run."""
    try:
        words = json.loads(rest)
    except ValueError:
        words = None
    if isinstance(words, list):
        if not all(isinstance(word, str) for word in words):
            raise ApiError(400, "when using JSON array syntax, arrays must be comprised of strings only")
        return words
    return ["/bin/sh", "-c"] + [rest] * bool(rest) if shell else rest.split()


def _health_check(rest):
    """A HEALTHCHECK instruction as a configuration has it."""
    flags, word, command = re.match(r"((?:--\S+\s*)*)(\S*)\s*(.*)\Z", rest, re.DOTALL).groups()
    word, check = word.upper(), {}
    if not word:
        raise ApiError(400, "HEALTHCHECK requires at least one argument")
    if word == "NONE":
        if command:
            raise ApiError(400, "HEALTHCHECK NONE takes no arguments")
        return {"Test": ["NONE"]}
    if word != "CMD":
        raise ApiError(400, "Unknown type %s in HEALTHCHECK (try CMD)" % go_quote(word))
    if not command:
        raise ApiError(400, "Missing command after HEALTHCHECK CMD")
    words = _command(command)
    check["Test"] = ["CMD-SHELL", command] if words[-1:] == [command] else ["CMD"] + words
    for name, _, value in (flag[2:].partition("=") for flag in flags.split()):
        key = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod",
               "start-interval": "StartInterval", "retries": "Retries"}.get(name)
        try:
            check[key] = int(value) if name == "retries" else parse_duration(value) if key else None
        except ValueError as error:
            raise ApiError(400, str(error))
        if not key:
            raise ApiError(400, "Unknown flag: " + name)
        if name == "retries" and check[key] < 1:
            raise ApiError(400, "--retries must be at least 1 (not %d)" % check[key])
        if name != "retries" and check[key] < 10 ** 6:
            raise ApiError(400, 'Interval "%s" cannot be less than 1ms' % name)
    return check


def _exposed(word):
    port, protocol = (word.rpartition(":")[2].split("/") + ["tcp"])[:2]
    try:
        first, last = _port_range(port, "Invalid containerPort: " + port)
    except DockerError as error:
        raise ApiError(400, str(error))
    if protocol.lower() not in ("tcp", "udp", "sctp"):
        raise ApiError(400, "Invalid proto: " + protocol)
    return ["%d/%s" % (number, protocol.lower()) for number in range(first, last + 1)]


def apply_changes(config: dict, changes) -> dict:
    """A configuration with the instructions of `--change` carried out; ApiError for a wrong one."""
    config, instructions = dict(config), read_dockerfile("\n".join(changes))
    if not instructions and changes:
        raise ApiError(400, "file with no instructions")
    for _, _, word, _ in instructions:
        if word not in "CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR".split():
            raise ApiError(400, word.lower() + " is not a valid change command")
    for _, _, word, rest in instructions:
        variables = dict(pair.partition("=")[::2] for pair in config.get("Env", ()))
        if word in ("USER", "WORKDIR", "STOPSIGNAL"):
            if not rest:
                raise ApiError(400, word + " requires exactly one argument")
            rest = _expand(rest, variables)
        if word in ("EXPOSE", "VOLUME", "ONBUILD") and not rest:
            raise ApiError(400, word + " requires at least one argument")
        if word in ("CMD", "ENTRYPOINT"):
            config[word.title()] = _command(rest)
            if word == "ENTRYPOINT" and "CMD" not in [other for _, _, other, _ in instructions]:
                config.pop("Cmd", None)
        elif word == "ENV":
            for name, value in _pairs(word, rest, variables):
                variables[name] = value
            config["Env"] = ["%s=%s" % pair for pair in variables.items()]
        elif word == "LABEL":
            config["Labels"] = dict(config.get("Labels") or {}, **dict(_pairs(word, rest, variables)))
        elif word == "EXPOSE":
            ports = [port for text in rest.split() for part in _expand(text, variables).split()
                     for port in _exposed(part)]
            config["ExposedPorts"] = dict(config.get("ExposedPorts") or {}, **{port: {} for port in ports})
        elif word == "VOLUME":
            volumes = [_expand(path, variables).strip() for path in _command(rest, shell=False)]
            if "" in volumes:
                raise ApiError(400, "VOLUME specified can not be an empty string")
            config["Volumes"] = dict(config.get("Volumes") or {}, **{path: {} for path in volumes})
        elif word == "WORKDIR":
            config["WorkingDir"] = rest if rest.startswith("/") else clean_path(
                "/".join([config.get("WorkingDir") or "/", rest]))
        elif word == "ONBUILD":
            trigger = rest.split()[0].upper()
            if trigger in ("ONBUILD", "FROM", "MAINTAINER"):
                raise ApiError(400, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed" if trigger == "ONBUILD" else
                               trigger + " isn't allowed as an ONBUILD trigger")
            config["OnBuild"] = (config.get("OnBuild") or []) + [rest]
        elif word == "HEALTHCHECK":
            config["Healthcheck"] = _health_check(rest)
        else:
            config[{"USER": "User"}.get(word, "StopSignal")] = rest
    return config


# ======================================================================================================================
# 15  Embedded engine
# ======================================================================================================================
#
#   client            Connection                Engine                    ImageStore, Registry
#     | request ------> Request ----------------> handle ------------------> |
#     |                                            | JSON, blocks <--------- |   an answer at once
#     | answer <------- head, body <-------------- |                         |
#     | message <------ report <---------------------- work(report) <------> |   or messages while it works
#
# An error becomes an HTTP status as long as nothing of the answer has gone out, later a message of the stream.

# -- pull and push -----------------------------------------------------------------------------------------------------

# A blob's way into the store: what an earlier pull left is hashed again, the rest asked for with Range, written and
# hashed as it comes; a cut leads back to the Range; a sum that is wrong after that, or an answer that does not continue
# where it should, back to the first byte; the right sum into the store.


def _in_parallel(registry, count, job, items):
    """Do `job` with each item, `count` at a time; the first failure stops the others and is raised."""
    import threading
    waiting, failures = list(reversed(items)), []

    def work():
        """Do one item after the other until none is left or one has failed."""
        while not failures:
            try:
                job(waiting.pop())
            except IndexError:
                return
            except BaseException as error:
                failures.append(error)
                registry.abort()

    threads = [threading.Thread(target=work, daemon=True) for _ in items[:count]]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:      # Ctrl-C
        failures.append(error)
        registry.abort()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


class _Meter:
    """Tells how far a blob is, in the engine's words, ten times a second at most."""

    def __init__(self, report, part, status, digest=None):
        self.report, self.status, self.total = report, status, part["size"]
        self.id = (digest or part["digest"]).partition(":")[2][:12]
        self.next = 0

    def __call__(self, current):
        now = time.monotonic()
        if now >= self.next:
            self.next = now + 0.1
            self.tell(self.status, {"current": current, "total": self.total})

    def tell(self, status, detail=None):
        """Report a status of the blob."""
        if self.report:
            self.report({"status": status, "progressDetail": detail or {}, "id": self.id})

    def retrying(self, seconds):
        """Report a pause before the next attempt."""
        self.tell("Retrying in %d second%s" % (-(-seconds // 1), "" if seconds <= 1 else "s"))


def pull_image(registry: Registry, reference: Reference, platform: str, store: ImageStore, report,
               all_tags: bool = False) -> list:
    """Bring an image into a store: layers in parallel, resumed and verified.

    `platform` chooses from an index ("" is for this host); `report` is called with the messages of the engine's API,
    from several threads.  Returns the references that were pulled, those of `all_tags` or the one.  Raises
    RegistryError in the engine's words.
    """
    pulled, newer = [reference.with_default_tag()], False
    try:
        if all_tags:
            pulled = [Reference(reference.domain, reference.path, tag) for tag in registry.tags(reference.path)]
        for reference in pulled:
            newer = _pull(registry, reference, platform, store, report) or newer
    except RegistryError as error:
        raise _in_words_of_pull(error, reference)
    suffix = "" if all_tags else "@" + reference.digest if reference.digest else reference.suffix
    report({"status": "Status: %s for %s" % (
        "Downloaded newer image" if newer else "Image is up to date", reference.familiar_name + suffix)})
    return pulled


def _in_words_of_pull(error, reference):
    name = reference.familiar_name
    text = {"DENIED": "pull access denied for %s, repository does not exist or may require 'docker login'" % name,
            "MANIFEST_UNKNOWN": "manifest for %s%s not found" % (
                name, "@" + reference.digest if reference.digest else ":" + reference.tag),
            "NAME_UNKNOWN": "repository %s not found" % name}.get(error.code)
    return RegistryError("%s: %s" % (text, error), 404, error.code) if text else error


def _pull(registry, reference, platform, store, report):
    """Bring one image into the store; whether it is another one than before."""
    repository, wanted = reference.path, reference.digest or reference.tag
    name = reference.name + ("@" if reference.digest else ":") + wanted
    record = _kept(store, name)
    digest = ""
    if record:
        try:
            digest = registry.manifest_digest(repository, wanted)
        except RegistryError:
            pass                        # the answer to a GET says why
    current = bool(digest) and _is_of(record, digest, reference, platform)
    if not current:
        top = registry.manifest(repository, wanted)
        digest = top.digest
        manifest = _image_manifest(registry, repository, top, platform)
    report({"status": "Pulling from " + repository, "id": name if reference.digest else reference.tag})
    if not current:
        with store.keep([manifest.digest] + [part["digest"] for part in manifest.parts("config") +
                                             manifest.parts("layers")]):
            _fetch_image(registry, repository, manifest, store, report)
            store.put_image(None if reference.digest else name, manifest.descriptor,
                            "%s@%s" % (reference.name, digest))
        current = bool(record) and record.id == manifest.json["config"]["digest"]
    report({"status": "Digest: " + digest})
    return not current


def _kept(store, name):
    """The image of a name, with all of its blobs, or None."""
    try:
        record = store.resolve(name)
        return record if record.is_whole else None
    except DockerError:
        return None


def _is_of(record, digest, reference, platform):
    """Whether an image in the store is what the registry's `digest`, a manifest's or an index's, means here."""
    wanted = platform or os.environ.get("DOCKER_DEFAULT_PLATFORM") or host_platform()
    return record.manifest["digest"] == digest or "%s@%s" % (reference.name, digest) in record.digests and (
        _platform_key(*record.platform.split("/")) == _acceptable(normal_platform(wanted))[0])


def _image_manifest(registry, repository, manifest, platform):
    """Go from an index to the image for a platform."""
    for _ in range(4):
        if not manifest.is_index:
            config = manifest.parts("config")[0]
            if config.get("mediaType") not in _CONFIG_TYPES:
                raise RegistryError("this is no container image: its configuration is of the type " + go_quote(
                    str(config.get("mediaType"))))
            if config["size"] > _ANSWER_LIMIT:
                raise RegistryError("the image's configuration is longer than %d bytes" % _ANSWER_LIMIT)
            manifest.parts("layers")
            return manifest
        manifest.parts("manifests")
        manifest = registry.manifest(repository, choose_platform(manifest.json, platform)["digest"])
    raise RegistryError("an index of indexes that does not end")


def _fetch_image(registry, repository, manifest, store, report):
    """Bring all blobs of an image into the store, the manifest last."""
    config, slots = manifest.parts("config")[0], int(registry.settings.get("max-concurrent-downloads") or 3)
    missing, meters = [], {}
    for layer in manifest.parts("layers"):
        if layer["digest"] in meters:
            continue                    # one layer twice
        meter = meters[layer["digest"]] = _Meter(report, layer, "Downloading")
        if store.has_blob(layer["digest"], layer["size"]):
            meter.tell("Already exists")
        else:
            meter.tell("Pulling fs layer")
            missing.append(layer)
    for layer in missing[slots:]:
        meters[layer["digest"]].tell("Waiting")

    def fetch(layer):
        """Bring one layer into the store."""
        meter = meters[layer["digest"]]
        _fetch_blob(registry, repository, layer, store, meter)
        meter.tell("Pull complete")

    _fetch_blob(registry, repository, config, store, _Meter(None, config, ""))
    if len(store.diff_ids(config["digest"])) != len(manifest.json["layers"]):
        raise RegistryError("layers from manifest don't match image configuration")
    _in_parallel(registry, slots, fetch, missing)
    store.add_blob(manifest.data, manifest.digest.partition(":")[0])


def _fetch_blob(registry, repository, part, store, meter):
    """Bring one blob into the store: go on where an earlier attempt ended, verify, try again where that may help."""
    digest, size, attempt, reached = part["digest"], part["size"], 0, 0
    with store.ingest(digest, size) as blob:
        while not blob.done:
            start = blob.offset
            try:
                if start < size:
                    with registry.blob(repository, digest, start) as body:
                        _find_place(body, blob, size)
                        for pieces in body.spans():
                            for piece in pieces:
                                blob.write(piece)
                            meter(blob.offset)
            except (RegistryError, ConnectionFailed) as error:
                if getattr(error, "status", 0) == 416:
                    blob.restart()
                    error.retry = 0
                attempt = 1 if blob.offset >= reached + _PROGRESS else attempt + 1
                reached = max(reached, blob.offset)
                if attempt > 1:
                    del registry.mirrors[:]
                registry.pause(error, attempt, meter.retrying)
                continue
            meter.tell("Verifying Checksum")
            try:
                blob.commit()
            except DockerError:
                if not start:
                    raise               # else what was there before may be to blame: once more, from the first byte
    meter.tell("Download complete")


def _find_place(body, blob, size):
    """Check that an answer goes on where a blob's writer is; a whole one makes it begin again."""
    if body.status == 206:
        part = re.match(r"bytes (\d+)-(\d+)/(\d+|\*)\Z", body.headers.get("Content-Range") or "")
        if not part or int(part.group(1)) != blob.offset or int(part.group(2)) != size - 1 or (
                part.group(3) not in (str(size), "*")):
            blob.restart()
            raise RegistryError("the registry sends another part of blob %s than it was asked for" % blob.digest,
                                retry=0)
    elif blob.offset:
        blob.restart()


def push_image(registry: Registry, reference: Reference, store: ImageStore, report) -> None:
    """Send an image of a store to a registry: what is not there yet, in parallel, and the manifest last.

    `report` is called with the messages of the engine's API, from several threads.
    """
    try:
        _push(registry, reference.with_default_tag(), store, report)
    except RegistryError as error:
        raise error.__cause__ or error


def _push(registry, reference, store, report):
    if reference.digest:
        raise RegistryError("cannot push a digest reference", 400)
    report({"status": "The push refers to repository [%s]" % reference.name})
    record = _kept(store, str(reference))
    if not record:
        known = any(name.startswith(reference.name + ":") for image in store.images() for name in image.names)
        raise RegistryError("tag does not exist: %s%s" % (reference.familiar_name, reference.suffix) if known else
                            "An image does not exist locally with the tag: " + reference.familiar_name, 404)
    with store.keep(record.blobs):
        manifest = Manifest(store.read_blob(record.manifest["digest"]), record.manifest.get("mediaType", ""))
        _send_image(registry, reference, manifest, store, report)
        digest = registry.put_manifest(reference.path, reference.tag, manifest.data, manifest.media_type)
        if digest not in ("", manifest.digest):
            raise RegistryError("the registry stored another manifest, %s, than the one sent, %s" % (
                digest, manifest.digest))
        store.put_image(None, record.manifest, "%s@%s" % (reference.name, manifest.digest))
    report({"status": "%s: digest: %s size: %d" % (reference.tag, manifest.digest, len(manifest.data))})
    report({"progressDetail": {}, "aux": {"Tag": reference.tag, "Digest": manifest.digest, "Size": len(manifest.data)}})


def _send_image(registry, reference, manifest, store, report):
    """Push all blobs of an image, the layers first."""
    config, slots = manifest.parts("config")[0], int(registry.settings.get("max-concurrent-uploads") or 5)
    layers, siblings = {}, _siblings(reference, store)
    pairs = zip(manifest.parts("layers"), store.diff_ids(config["digest"]))
    for layer, diff in reversed(list(pairs)):
        layers[layer["digest"]] = layer, _Meter(report, layer, "Pushing", diff)
    for _, meter in layers.values():
        meter.tell("Preparing")
    for _, meter in list(layers.values())[slots:]:
        meter.tell("Waiting")

    def send(job):
        """Send the blob of a (descriptor, meter), unless the registry has it."""
        part, meter = job
        digest = part["digest"]
        if registry.has_blob(reference.path, digest):
            return meter.tell("Layer already exists")
        source = registry.upload_blob(reference.path, digest, part["size"], lambda: store.open_blob(digest),
                                      siblings.get(digest, ())[:3], meter)
        meter.tell("Mounted from " + source if source else "Pushed")

    _in_parallel(registry, slots, send, list(layers.values()))
    send((config, _Meter(None, config, "")))


def _siblings(reference, store):
    """{blob: the other repositories of this registry in which it should be, as images in the store came from there}."""
    found = {}
    for image in store.images():
        names = map(parse_reference, image.names + image.digests)
        paths = {name.path for name in names if name.domain == reference.domain and name.path != reference.path}
        for digest in image.blobs[1:] if paths else ():
            found.setdefault(digest, []).extend(paths.difference(found.get(digest, ())))
    return found


# -- requests and answers ----------------------------------------------------------------------------------------------

MINIMUM_API_VERSION = "1.24"
_CONTAINER_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z"
_NO_SWARM = ('This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node '
             "to swarm and try again.")
_ROUTES = [line.split() for line in """
    GET    /_ping                    ping
    GET    /version                  version
    GET    /info                     info
    GET    /events                   events
    GET    /system/df                disk_usage
    POST   /auth                     login
    GET    /distribution/*/json      distribution
    GET    /images/json              images
    POST   /images/create            create_image
    GET    /images/search            search
    GET    /images/get               save
    POST   /images/load              load
    POST   /images/prune             prune_images
    GET    /images/*/get             save
    GET    /images/*/json            inspect_image
    GET    /images/*/history         history
    POST   /images/*/push            push
    POST   /images/*/tag             tag
    DELETE /images/*                 remove_image
    GET    /containers/json          containers
    POST   /containers/create        create_container
    POST   /containers/prune         prune_containers
    GET    /containers/*/json        inspect_container
    GET    /containers/*/archive     archive
    GET    /containers/*/export      export
    GET    /containers/*/changes     changes
    POST   /containers/*/rename      rename
    POST   /containers/*/stop        stop
    POST   /containers/*/attach      attach
    POST   /containers/*/start       start
    POST   /containers/*/wait        wait
    DELETE /containers/*             remove_container
    GET    /networks                 nothing
    GET    /networks/*               no_network
    POST   /networks/prune           no_networks_deleted
    GET    /volumes                  volumes
    GET    /volumes/*                no_volume
    POST   /volumes/prune            no_volumes_deleted
    POST   /build/prune              no_caches_deleted
    GET    /plugins                  nothing
    GET    /plugins/*                no_plugin
    GET    /swarm                    no_swarm
    GET    /services*                no_swarm
    GET    /tasks*                   no_swarm
    GET    /nodes*                   no_swarm
    GET    /secrets*                 no_swarm
    GET    /configs*                 no_swarm
    *      /containers/*             no_processes
    *      /exec/*                   no_processes
    *      /build*                   no_processes
    *      /commit                   no_processes
    *      /session                  no_processes
    *      /grpc                     no_processes
    *      /networks*                no_processes
    *      /volumes*                 no_processes
    *      /plugins*                 no_processes
    *      /swarm*                   no_processes
    *      /services*                no_processes
    *      /secrets*                 no_processes
    *      /configs*                 no_processes
    """.strip().splitlines()]
# the fields of a container's Config and HostConfig that its inspection shows, whether they were given or not
_NEW_CONFIG = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
    "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None, "Image": "", "Volumes": None,
    "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": {}}
_NEW_HOST_CONFIG = {"NetworkMode": "default", "Binds": None, "PortBindings": None, "AutoRemove": False,
                    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "Privileged": False}
_NEW_STATE = {"Status": "created", "Running": False, "Paused": False, "Restarting": False, "OOMKilled": False,
              "Dead": False, "Pid": 0, "ExitCode": 0, "Error": "", "StartedAt": "0001-01-01T00:00:00Z",
              "FinishedAt": "0001-01-01T00:00:00Z"}
_FILTER_VALUES = {"status": "created|running|paused|restarting|removing|exited|dead", "exited": "-?[0-9]{1,9}",
                  "health": "none|starting|healthy|unhealthy"}
_ADJECTIVES = ("amber bold brave bright calm clever crisp dapper eager fair fond gentle glad grand happy keen kind "
               "lively lucid merry mild neat noble plain proud quick quiet rapid sharp shy sober solid sunny tidy "
               "vivid warm wise")
_NOUNS = ("acorn anchor badger beacon birch brook canyon cedar cliff comet coral crane dune ember falcon fern fjord "
          "gale glade harbor heron island jetty kestrel lagoon lantern maple meadow otter pebble quarry raven reef "
          "sparrow summit thicket willow")


class Request:
    """What a client asks of the engine: `method`, `path` without its version, `query` {name: [values]}, `headers`.

    `body` is a Body; `version` the API version, as a tuple; `gone(seconds)` waits and says whether the client has
    hung up.  What Body wants of an answer of http.client's is here, too.
    """

    status, will_close = 0, True

    def __init__(self, line, reader, wire):
        from urllib.parse import parse_qs, unquote
        lines = [line]
        while lines[-1] not in (b"\r\n", b"\n"):
            lines.append(reader.readline(65537))
            if not lines[-2].endswith(b"\n") or not lines[-1] or len(lines) > 200:
                raise ValueError        # cut off, or without end: what is missing could have said more
        self.method, target, protocol = line.decode("latin-1").split()
        self.fp = reader
        self.headers = http.client.parse_headers(io.BytesIO(b"".join(lines[1:])))
        coding = self.headers.get("Transfer-Encoding", "").lower()
        lengths = set(self.headers.get_all("Content-Length", ["0"]))
        if self.headers.defects or coding not in ("", "chunked") or len(lengths) > 1 or not (
                protocol.startswith("HTTP/1.") and re.match(r"[0-9]{1,18}\Z", min(lengths))):
            raise ValueError
        self.chunked = bool(coding)
        self.length = 0 if coding else int(min(lengths))
        self.is_old = protocol == "HTTP/1.0"
        words = self.headers.get("Connection", "").lower()
        self.keeps = "close" not in words and not self.is_old
        path, _, query = re.sub(r"\Ahttps?://[^/?]*", "", target).partition("?")
        match = re.match(r"/v(\d+\.\d+)(/.*)", path)
        self.version_text, path = match.groups() if match else (API_VERSION, path)
        self.version = version_tuple(self.version_text)
        self.path = unquote(path)
        self.query = parse_qs(query, keep_blank_values=True)
        self.gone = wire.answered
        self.reading = False            # whether the body is an archive that is still coming in
        if self.headers.get("Expect", "").lower() == "100-continue":
            wire.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.body = Body(wire, self, None)

    def close(self):
        """For Body: nothing is to be let go of."""

    def get(self, name: str, default: str = "") -> str:
        """The first value of a query's field."""
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        """Whether a field of the query says yes."""
        return self.get(name).strip().lower() not in ("", "0", "no", "false", "none")

    def json(self) -> dict:
        """The body, a JSON object."""
        kind = self.headers.get("Content-Type", "")
        try:
            data = self.body.read(_BODY_LIMIT)
        except ConnectionFailed as error:
            raise ApiError(400, "the request's body is cut off, or longer than %d bytes" % _BODY_LIMIT) from error
        if data and kind.partition(";")[0].strip() != JSON_TYPE:
            raise ApiError(400, "unsupported Content-Type header (%s): must be 'application/json'" % kind)
        try:
            value = json.loads(data.decode("utf-8", "replace"))
        except ValueError as error:
            raise ApiError(400, "invalid JSON: " + go_json_error(error))
        if not isinstance(value, dict):
            raise ApiError(400, "invalid JSON: an object was expected")
        return value

    def filters(self, *names) -> dict:
        """The query's filters, {name: [values]}; ApiError for those that are not among `names`, where there are any."""
        try:
            found = json.loads(self.get("filters") or "{}")
            found = {name: [key for key in values if isinstance(values, list) or values[key]]
                     for name, values in found.items()}
        except json.JSONDecodeError as error:
            raise ApiError(400, "invalid filter: " + go_json_error(error))
        except (AttributeError, TypeError):
            raise ApiError(400, "invalid filter")
        for name in found:
            if names and name not in names:
                raise ApiError(400, "invalid filter '%s'" % name)
        return found

    def auth(self) -> AuthConfig:
        """The credentials that came along for the registry; none where they cannot be read."""
        try:
            fields = json.loads(base64.urlsafe_b64decode(self.headers.get("X-Registry-Auth", "")).decode("utf-8"))
            return AuthConfig(**{field: fields.get(field) for field in AuthConfig.FIELDS})
        except (ValueError, AttributeError):
            return AuthConfig()


class Response:
    """An answer: its status and headers, and one of: `value` for JSON, bytes, a generator of blocks of bytes.

    Or `work`, a function that is called with `report(message)` and answers with a stream of messages.
    """

    def __init__(self, value=None, status: int = 200, kind: str = JSON_TYPE, headers: dict = None, work=None):
        self.value = value
        self.status = status
        self.kind = kind
        self.headers = headers or {}
        self.work = work


_BODY_LIMIT = 8 * MIB                   # of a request that is not an archive


class Connection:
    """One client's connection: reads requests, has the engine answer them, until the client hangs up."""

    def __init__(self, wire: Wire, engine: "Engine", log=None):
        self.wire = wire
        self.engine = engine
        self.log = log
        self.busy = False
        self.last = False               # whether the request under way is to be the last one

    def serve(self) -> None:
        """Serve the client until it, or whoever sets `last`, has had enough."""
        try:
            self.wire.sock.settimeout(None)
            while self._serve_one():
                self.busy = False
        except Exception as error:      # the client is gone, speaks something else, or must not take this for whole
            if self.log and not isinstance(error, (OSError, http.client.HTTPException, ConnectionFailed)):
                self.log("an answer was cut off: %s" % _failure(error)[1])
        finally:
            self.wire.hang_up()

    def _serve_one(self):
        """Serve one request; whether there may be another."""
        reader = self.wire.makefile("rb")
        line = reader.readline(65537)
        if not line.strip():
            return bool(line)
        self.busy = True
        try:
            request = Request(line, reader, self.wire)
        except (ValueError, http.client.HTTPException):
            self._send(None, Response({"message": "malformed HTTP request"}, 400))
            return self._linger()
        response = self.engine.handle(request)
        if response.work:
            report = _Report(self, request)
            try:
                response.work(report)
                report.end()
            except Exception as error:
                if report.broken:
                    raise
                status, words = _failure(error)
                if report.begun:
                    code = {"code": status} if status == 401 else {}
                    report({"errorDetail": dict(code, message=words), "error": words})
                    report.end()
                else:
                    self._send(request, Response({"message": words}, status))
        else:
            self._send(request, response)
        return request.keeps or self._linger()

    def _send(self, request, response):
        """Send an answer that is there, or comes in blocks."""
        value, headers = response.value, dict(response.headers)
        if response.kind == JSON_TYPE and not isinstance(value, bytes) and (value is None or isinstance(
                value, (dict, list))):
            value = b"" if response.status in (204, 304) else compact_json(value).encode("utf-8", "replace") + b"\n"
        if isinstance(value, bytes) and response.status != 101:
            headers["Content-Length"] = str(len(value))
        wants_body = not request or request.method != "HEAD"
        self.begin(request, response.status, response.kind if value else "", headers,
                   value if wants_body and isinstance(value, bytes) else b"")
        if wants_body and not isinstance(value, bytes):
            try:
                for block in value:     # whatever the client sends meanwhile: it may be the next request
                    self.wire.sendall(block if request.is_old or not block else b"%x\r\n%s\r\n" % (len(block), block))
            finally:
                value.close()
            self.wire.sendall(b"" if request.is_old else b"0\r\n\r\n")

    def begin(self, request, status: int, kind: str = JSON_TYPE, headers: dict = None, data: bytes = b"") -> None:
        """Send the head of an answer, and what of its body is there."""
        body = request and request.body
        if body and not body.done and request.length <= MIB and not request.chunked:
            body.read()                 # nobody cared for it, and the next request stands behind it
        if body and (not body.done or body._held or self.last):
            request.keeps = False
        lines = ["HTTP/1.1 %d %s" % (status, http.client.responses.get(status, "")), "Api-Version: " + API_VERSION,
                 "Docker-Experimental: false", "Ostype: linux", "Server: pydock/%s (linux)" % __version__,
                 "Date: " + time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())]
        headers = dict(headers or ())
        if kind:
            headers["Content-Type"] = kind
        if "Content-Length" not in headers and status != 101 and request and not request.is_old:
            headers["Transfer-Encoding"] = "chunked"
        if not request or not request.keeps:
            headers["Connection"] = "Upgrade" if status == 101 else "close"
        lines += ["%s: %s" % item for item in headers.items()]
        self.wire.sendall("\r\n".join(lines + ["", ""]).encode("latin-1", "replace") + data)

    def _linger(self):
        """Let the client read what was sent, though it may still be sending, before the connection goes."""
        self.wire.close_write()
        limit, buffer = time.time() + 2, bytearray(RECEIVE_SIZE)
        while time.time() < limit and self.wire.answered(limit - time.time()) and self.wire.recv_into(buffer):
            pass
        return False


class _Report:
    """Sends the messages of a stream to a client, from any thread; they wait while the client's own body comes in."""

    def __init__(self, connection, request):
        import threading
        self.connection, self.request = connection, request
        self.begun = self.broken = False
        self._lock = threading.Lock()
        self._waiting = []

    def __call__(self, message: dict) -> None:
        with self._lock:
            if self.broken:
                raise ConnectionFailed("the client is gone")
            self._waiting.append(compact_json(message).encode("utf-8", "replace") + b"\r\n")
            if not self.request.reading:
                self._flush()

    def _flush(self):
        data, self._waiting = b"".join(self._waiting), []
        try:
            if not self.request.is_old:
                data = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
            if self.begun:
                self.connection.wire.sendall(data)
            else:
                self.begun = True
                self.connection.begin(self.request, 200, data=data)
        except OSError:
            self.broken = True
            raise

    def end(self) -> None:
        """The last message was sent."""
        with self._lock:
            self._flush()
            if not self.request.is_old:
                self.connection.wire.sendall(b"0\r\n\r\n")


def _failure(error):
    """HTTP status and words of a failed request."""
    if isinstance(error, ApiError):
        return error.status, error.message
    if isinstance(error, (DockerError, OSError)):
        return 500, path_error_text(error) if isinstance(error, OSError) else str(error)
    return 500, "the request, or what is stored, makes no sense to pydock: %s: %s" % (type(error).__name__, error)


_ENGINES = {}


def embedded_engine(root: str) -> "Engine":
    """The engine of a folder; there is one of each in a process."""
    return _ENGINES.get(root) or _ENGINES.setdefault(root, Engine(root))


class Engine:
    """The image half of the Engine API, and containers that never run, on an ImageStore and registries.

    `handle` answers a Request.  Beside the images, the folder `root` holds `containers/ID.json` and `events.jsonl`, the
    latest events, one a line; all of it may be shared by several processes.  Set `stopping` to end streams of events.
    """

    def __init__(self, root: str):
        self.root = root
        self.store = ImageStore(root, self._manifests_in_use)
        self.stopping = False
        self._view = (None, None)       # the image whose files were looked at last, and its FileTree

    def handle(self, request: Request) -> Response:
        """Answer a request: errors are answers, too."""
        try:
            answer = self._dispatch(request)
            return answer if isinstance(answer, Response) else Response(answer, 204 if answer is None else 200)
        except Exception as error:
            status, words = _failure(error)
            return Response({"message": words}, status)

    def _dispatch(self, request):
        for limit, wrong, compare in ((API_VERSION, "new. Maximum", 1), (MINIMUM_API_VERSION, "old. Minimum", -1)):
            if (request.version > version_tuple(limit)) - (request.version < version_tuple(limit)) == compare:
                raise ApiError(400, "client version %s is too %s supported API version is %s%s" % (
                    request.version_text, wrong, limit, ", please upgrade your client to a newer version"
                    if compare < 0 else ""))
        method = "GET" if request.method == "HEAD" else request.method
        for verb, pattern, name in _ROUTES:
            head, star, tail = pattern.partition("*")
            path = request.path
            if verb in (method, "*") and (path.startswith(head) and path.endswith(tail) and (
                    len(path) > len(head) + len(tail) or head[-1] != "/") if star else path == head):
                handler = getattr(self, "_" + name)
                return handler(request, path[len(head):len(path) - len(tail)]) if star else handler(request)
        raise ApiError(404, "page not found")

    # -- the engine ----------------------------------------------------------------------------------------------------

    def _ping(self, request):
        return Response(b"OK", kind="text/plain; charset=utf-8", headers={
            "Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"})

    def _version(self, request):
        about = {"Version": __version__, "ApiVersion": API_VERSION, "MinAPIVersion": MINIMUM_API_VERSION,
                 "GitCommit": "", "GoVersion": "none, Python " + sys.version.partition(" ")[0], "Os": "linux",
                 "Arch": host_platform().split("/")[1], "KernelVersion": _kernel(), "BuildTime": ""}
        details = {key: value for key, value in about.items() if key != "Version"}
        return dict({"Platform": {"Name": "pydock's embedded engine"}, "Components": [
            {"Name": "Engine", "Version": __version__, "Details": dict(details, Experimental="false")}]}, **about)

    def _info(self, request):
        import platform
        count, settings = len(self._all_containers()), registry_settings()
        try:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            memory = 0
        return {
            "ID": self._digest_of_root(), "Containers": count, "ContainersRunning": 0, "ContainersPaused": 0,
            "ContainersStopped": count, "Images": len(self.store.images()), "Driver": "oci",
            "DriverStatus": [["Layout", "OCI image layout"], ["Runs containers", "no"]], "SystemTime": _now(),
            "Plugins": {"Volume": [], "Network": [], "Authorization": None, "Log": []}, "LoggingDriver": "",
            "KernelVersion": _kernel(), "OperatingSystem": platform.system(), "OSType": "linux",
            "Architecture": platform.machine(), "NCPU": os.cpu_count(), "MemTotal": memory,
            "IndexServerAddress": INDEX_SERVER, "RegistryConfig": {
                "InsecureRegistryCIDRs": ["127.0.0.0/8"], "Mirrors": settings.get("registry-mirrors") or [],
                "IndexConfigs": {INDEX_NAME: {"Name": INDEX_NAME, "Mirrors": [], "Secure": True, "Official": True}}},
            "DockerRootDir": self.root, "Name": platform.node(), "Labels": [], "ExperimentalBuild": False,
            "Debug": False, "ServerVersion": "pydock %s, embedded engine" % __version__, "SecurityOptions": [],
            "Swarm": {"LocalNodeState": "inactive"}, "LiveRestoreEnabled": False,
            "Warnings": ["WARNING: " + NO_PROCESSES]}

    def _digest_of_root(self):
        return _digest_of(os.path.abspath(self.root).encode("utf-8", "surrogateescape"))[:32]

    def _disk_usage(self, request):
        wanted = request.query.get("type") or ("image", "container", "volume", "build-cache")
        images, counts, sizes = self.store.images(), {}, {}
        for image in images:
            manifest = image.manifest_json
            for blob in [manifest["config"]] + manifest["layers"]:
                counts[blob["digest"]] = counts.get(blob["digest"], 0) + 1
                sizes[blob["digest"]] = blob["size"]
        rows = []
        for image in images if "image" in wanted else ():
            users = sum(container["Image"] == image.id for container in self._all_containers())
            rows.append(dict(self._image_row(image, request), Containers=users,
                             SharedSize=sum(sizes[digest] for digest in set(image.blobs[1:]) if counts[digest] > 1)))
        return {"LayersSize": sum(sizes.values()), "Images": rows, "Volumes": [], "BuildCache": [], "BuilderSize": 0,
                "Containers": [self._container_row(container) for container in self._all_containers()]
                if "container" in wanted else []}

    # -- events --------------------------------------------------------------------------------------------------------

    def emit(self, kind: str, action: str, identifier: str, attributes: dict) -> None:
        """Enter an event for whoever listens, in this process or another one."""
        now, short = time.time(), {"status": action, "id": identifier}
        if kind == "container":
            short["from"] = attributes.get("image", "")
        event = dict(short, Type=kind, Action=action, Actor={"ID": identifier, "Attributes": attributes}, scope="local",
                     time=int(now), timeNano=int(now * 1e9))
        path = os.path.join(self.root, "events.jsonl")
        try:
            with self.store.lock():
                if os.path.exists(path) and os.path.getsize(path) > _EVENTS_LIMIT:
                    with open(path, "rb") as file:
                        data = file.read()
                    write_atomically(path, data[data.index(b"\n", len(data) // 2) + 1:], 0o600)
                with open(path, "ab") as file:
                    file.write(compact_json(event).encode("utf-8", "replace") + b"\n")
        except OSError:
            pass                        # what happened has happened

    def _events(self, request):
        times = []
        for name in ("since", "until"):
            try:
                times.append(float(request.get(name) or "nan"))
            except ValueError:
                raise ApiError(400, "failed to parse value as time: " + go_quote(request.get(name)))
        return Response(self._follow(request, times[0], times[1], request.filters()))

    def _follow(self, request, since, until, filters):
        """Yield the lines of events, those of the past first, as long as the client listens."""
        path, file = os.path.join(self.root, "events.jsonl"), None
        latest = int(time.time() * 1e9) if since != since and until != until else 0     # NaN, no time, is not itself
        yield b""                       # the head of the answer goes out at once
        try:
            while True:
                try:
                    if file is None or not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                        fresh = open(path, "rb")
                        if file:
                            file.close()
                        file = fresh
                except FileNotFoundError:
                    pass                # nothing has happened yet
                lines = []
                while file:
                    line = file.readline()
                    if not line.endswith(b"\n"):
                        file.seek(-len(line), os.SEEK_CUR)
                        break
                    try:
                        event = json.loads(line.decode("utf-8"))
                        moment = event["timeNano"]
                    except (ValueError, LookupError, TypeError):
                        continue        # what a killed process has left of one
                    if moment > latest and not moment < since * 1e9 and not moment > until * 1e9:
                        lines += [line] * _is_wanted(event, filters)
                    latest = max(latest, moment)
                if lines:
                    yield b"".join(lines)
                rest = until - time.time()
                if rest <= 0 or self.stopping or request.gone(min(0.2, rest) if rest == rest else 0.2):
                    return
        finally:
            if file:
                file.close()

    # -- images --------------------------------------------------------------------------------------------------------

    def _image_row(self, image, request):
        names, digests = list(map(familiar, image.names)), list(map(familiar, image.digests))
        if request.version < (1, 43) and not names:
            names, digests = ["<none>:<none>"], digests or ["<none>@<none>"]
        row = {"Id": image.id, "ParentId": "", "RepoTags": names, "RepoDigests": digests,
               "Created": _seconds(image.created), "Size": image.size, "SharedSize": -1, "Labels": image.labels or None,
               "Containers": -1}
        return dict(row, VirtualSize=image.size) if request.version < (1, 44) else row

    def _images(self, request):
        filters = request.filters("dangling", "label", "before", "since", "reference", "until")
        images = self.store.images()
        for name in ("before", "since"):
            for value in filters.get(name, ()):
                limit, sign = _seconds(self.store.resolve(value).created, exact=True), 1 if name == "since" else -1
                images = [image for image in images if sign * (_seconds(image.created, exact=True) - limit) > 0]
        patterns = [re.compile(_glob_regex(pattern) + r"\Z") for pattern in filters.get("reference", ())]
        rows = []
        for image in images:
            if not self._passes(image, filters):
                continue
            if patterns:
                for field in ("names", "digests"):
                    setattr(image, field, [name for name in getattr(image, field) if any(
                        pattern.match(text) for pattern in patterns for text in (
                            familiar(name), parse_reference(name).familiar_name))])
                if not image.names and not image.digests:
                    continue
            rows.append(self._image_row(image, request))
        return rows

    @staticmethod
    def _passes(image, filters):
        """Whether an image passes the filters that list and prune share."""
        dangling = _bool_filter(filters, "dangling")
        if dangling is not None and dangling == bool(image.names):
            return False
        created = _seconds(image.created, exact=True)
        return _has_labels(image.labels, filters) and all(
            created <= float(parse_timestamp(value)) for value in filters.get("until", ()))

    def _inspect_image(self, request, name):
        return self.store.inspect(self._image(name, request.get("platform")))

    def _image(self, name, platform=""):
        image = self.store.resolve(name)
        if platform:
            if platform.startswith("{"):
                about = json.loads(platform)
                platform = "/".join(filter(None, map(about.get, ("os", "architecture", "variant"))))
            key = _platform_key(*(normal_platform(platform).split("/") + [""])[:3])
            if key != _platform_key(*(image.platform.split("/") + ["", ""])[:3]):
                raise NotFound(404, "image with reference %s was found but does not provide the specified platform "
                               "(%s)" % (name, platform))
        return image

    def _history(self, request, name):
        return self.store.history(self._image(name, request.get("platform")))

    def _tag(self, request, name):
        image = self.store.resolve(name)
        try:
            reference = parse_reference(request.get("repo") + (request.get("tag") and ":" + request.get("tag")))
        except DockerError as error:
            raise ApiError(400, str(error))
        if reference.digest:
            raise ApiError(400, "refusing to create a tag with a digest reference")
        self.store.tag(image, reference)
        self._image_event("tag", image, familiar(full_name(reference)))
        return Response(b"", 201, "")

    def _image_event(self, action, image, name, identifier=""):
        self.emit("image", action, identifier or image.id, dict(image.labels, name=name))

    def _event_of(self, action, wanted, name, identifier=""):
        """`_image_event` for what has come or gone, though somebody else may have removed the image since."""
        try:
            self._image_event(action, self.store.resolve(wanted), name, identifier)
        except NotFound:
            pass

    def _remove_image(self, request, name):
        users = {container["Image"]: container["Id"] for container in self._all_containers()}
        return self._removed(self.store.resolve(name), self.store.remove(name, request.flag("force"), users))

    def _removed(self, image, gone):
        """Enter the events of what went with an image."""
        for item in gone:
            if "Untagged" in item:
                self._image_event("untag", image, image.id)
        if {"Deleted": image.id} in gone:
            self._image_event("delete", image, image.id)
        return gone

    def _prune_images(self, request):
        filters = request.filters("dangling", "label", "label!", "until")
        dangling = _bool_filter(filters, "dangling")
        filters.pop("dangling", None)
        users = {container["Image"] for container in self._all_containers()}
        gone, sizes = [], {}
        for image in self.store.images():
            if image.id not in users and not (image.names and dangling is not False) and self._passes(image, filters):
                try:
                    sizes.update((digest, os.path.getsize(self.store.blob_path(digest))) for digest in image.blobs
                                 if self.store.has_blob(digest))
                except (DockerError, FileNotFoundError):
                    pass                # it is damaged, or somebody else was faster
                try:
                    gone += self._removed(image, self.store.remove(image.id, True, names=image.names))
                except ApiError:
                    pass                # it went, or got a name, meanwhile
        freed = sum(size for digest, size in sizes.items() if not self.store.has_blob(digest)) + self.store.collect()
        self.emit("image", "prune", "", {"reclaimed": str(freed)})
        return {"ImagesDeleted": gone or None, "SpaceReclaimed": freed}

    def _create_image(self, request):
        if request.get("fromImage"):
            return Response(work=lambda report: self._pull(request, report))
        if request.get("fromSrc"):
            return Response(work=lambda report: self._import(request, report))
        raise ApiError(400, "neither fromImage nor fromSrc is given")

    def _pull(self, request, report):
        name, tag = request.get("fromImage"), request.get("tag")
        reference = _request_reference(name + (tag and ("@" if ":" in tag else ":") + tag))
        platform = request.get("platform").lower()
        if platform:
            normal_platform(platform)       # before the registry is asked
        with Registry(reference.domain, request.auth()) as registry:
            pulled = pull_image(registry, reference, platform, self.store, report, not reference.suffix)
        for one in pulled[-1:]:
            self._event_of("pull", full_name(one), reference.familiar_name, familiar(str(reference)))

    def _import(self, request, report):
        source, name = request.get("fromSrc"), request.get("repo")
        reference = _request_reference(name + (request.get("tag") and ":" + request.get("tag"))) if name else None
        changes = [line for text in request.query.get("changes", ()) for line in text.split("\n")]
        message, platform, archive = request.get("message"), request.get("platform"), _archive_of(request)
        if source == "-":
            image = self.store.import_rootfs(archive, changes, message, reference, platform)
        else:
            import urllib.request
            url = source if "://" in source else "http://" + source
            try:
                if not url.startswith(("http://", "https://")):
                    raise ValueError("unsupported protocol scheme")
                with urllib.request.urlopen(url, timeout=60) as answer:
                    report({"status": "Downloading from " + url})
                    image = self.store.import_rootfs(iter(lambda: answer.read(MIB), b""), changes,
                                                     message or "Imported from " + url, reference, platform)
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                if hasattr(error, "code"):
                    raise ApiError(400, "failed to GET %s with status %d %s" % (url, error.code, reason))
                raise ApiError(400, "Get %s: %s" % (go_quote(url), os_error_text(reason) if isinstance(
                    reason, OSError) else reason))
        _read_on(archive)
        if reference:
            self._image_event("tag", image, familiar(full_name(reference)))
        self._image_event("import", image, image.id)
        report({"status": image.id})

    def _push(self, request, name):
        return Response(work=lambda report: self._push_all(request, name, report))

    def _push_all(self, request, name, report):
        reference = _request_reference(name + (request.get("tag") and ":" + request.get("tag")))
        chosen = [reference]
        if not reference.tag:
            chosen = [parse_reference(full) for image in self.store.images() for full in image.names
                      if full.startswith(reference.name + ":")]
            if not chosen:
                raise NotFound(404, "An image does not exist locally with the tag: " + reference.familiar_name)
        with Registry(reference.domain, request.auth()) as registry:
            for one in chosen:
                push_image(registry, one, self.store, report)
        self._event_of("push", str(one), reference.familiar_name, familiar(str(reference)))

    def _save(self, request, name=""):
        names = [name] if name else [part for text in request.query.get("names", ()) for part in text.split(",")]
        for one in names if request.get("platform") else ():
            self._image(one, request.get("platform"))
        archive = self.store.save(names)
        for image in {image.id: image for one in names for _, image in self.store.matches(one)}.values():
            self._image_event("save", image, image.id)
        return Response(archive, kind=TAR_TYPE)

    def _load(self, request):
        def work(report):
            """Load while the archive comes in, and tell of it."""
            quiet, archive = request.flag("quiet"), _archive_of(request)
            ids = self.store.load(archive, lambda message: None if quiet and "id" in message else
                                  report(message))
            _read_on(archive)
            for identifier in ids:
                self._event_of("load", identifier, identifier)
        return Response(work=work)

    # -- registries ----------------------------------------------------------------------------------------------------

    def _login(self, request):
        auth = AuthConfig(**{key: value for key, value in request.json().items() if key in AuthConfig.FIELDS})
        host = registry_hostname(auth.serveraddress or INDEX_SERVER)
        with Registry(INDEX_NAME if host in INDEX_ALIASES else host, auth) as registry:
            try:
                token = registry.login()
            except ApiError as error:
                if error.status != 401 or error.__cause__:      # which is what the token server says
                    raise
                raise Unauthorized(401, "login attempt to %s/v2/ failed with status: 401 Unauthorized" % registry.base)
        return {"IdentityToken": token, "Status": "Login Succeeded"}

    def _search(self, request):
        term, limit = request.get("term"), request.get("limit") or "25"
        filters = request.filters("is-automated", "is-official", "stars")
        if not limit.isdigit() or not 1 <= int(limit) <= 100:
            raise ApiError(400, "limit %s is outside the range of [1, 100]" % limit)
        official, stars = _bool_filter(filters, "is-official"), filters.get("stars", ["0"])
        for value in stars:
            if not re.match(r"[0-9]{1,9}\Z", value):
                raise ApiError(400, "invalid filter 'stars=%s'" % value)
        server, remote = resolve_repository_name(parse_repository_tag(term)[0])
        with Registry(INDEX_NAME if server == INDEX_SERVER else server, request.auth()) as registry:
            found = registry.search(remote[len("library/"):] if remote.startswith("library/") else remote, int(limit))
        return [row for row in found if official in (None, bool(row.get("is_official"))) and
                (row.get("star_count") or 0) >= max(map(int, stars)) and not _bool_filter(filters, "is-automated")]

    def _distribution(self, request, name):
        reference = _request_reference(name).with_default_tag()
        with Registry(reference.domain, request.auth()) as registry:
            manifest = registry.manifest(reference.path, reference.digest or reference.tag)
            if manifest.is_index:
                platforms = [part.get("platform") or {} for part in manifest.parts("manifests")]
            else:
                config = json.loads(_blob_text(registry, reference.path, manifest.parts("config")[0]))
                platforms = [{key: config[field] for key, field in (("architecture", "architecture"), ("os", "os"),
                                                                    ("variant", "variant")) if config.get(field)}]
        return {"Descriptor": manifest.descriptor, "Platforms": platforms}

    # -- containers ----------------------------------------------------------------------------------------------------

    def _container_path(self, identifier):
        return os.path.join(self.root, "containers", identifier + ".json")

    def _all_containers(self):
        """What was kept of each container, the newest first."""
        found, folder = [], os.path.join(self.root, "containers")
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if re.match(r"[0-9a-f]{64}\.json\Z", name):
                try:
                    with open(os.path.join(folder, name), encoding="utf-8") as file:
                        found.append(json.load(file))
                except FileNotFoundError:
                    pass                # removed meanwhile
        return sorted(found, key=lambda container: container["Created"], reverse=True)

    def _manifests_in_use(self):
        return [container["Manifest"] for container in self._all_containers()]

    def _container(self, name):
        """The container of an id, a name, or the beginning of an id."""
        everyone, name = self._all_containers(), name.lstrip("/")
        for found in ([c for c in everyone if name in (c["Id"], c["Name"][1:])],
                      [c for c in everyone if name and c["Id"].startswith(name)]):
            if len(found) > 1:
                raise ApiError(400, "multiple IDs found with provided prefix: " + name)
            if found:
                return found[0]
        raise NotFound(404, "No such container: " + name)

    def _keep_container(self, container):
        os.makedirs(os.path.join(self.root, "containers"), 0o700, exist_ok=True)
        write_atomically(self._container_path(container["Id"]), compact_json(container).encode("utf-8"), 0o600)

    def _check_name(self, name, prefix=""):
        """Refuse a name that is none or is taken; the store's lock is held."""
        if not re.match(_CONTAINER_NAME, name):
            raise ApiError(400, "%sInvalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" % (
                prefix, "/" * bool(prefix) + name))
        for other in self._all_containers():
            if other["Name"] == "/" + name:
                raise ApiError(409, '%sConflict. The container name "/%s" is already in use by container "%s". You '
                               "have to remove (or rename) that container to be able to reuse that name." % (
                                   prefix, name, other["Id"]))

    def _create_container(self, request):
        body = request.json()
        if not body.get("Image"):
            raise ApiError(400, "config cannot be empty in order to create a container")
        host = dict(_NEW_HOST_CONFIG, **(body.pop("HostConfig", None) or {}))
        body.pop("NetworkingConfig", None)
        body.update((key, [body[key]]) for key in ("Cmd", "Entrypoint") if isinstance(body.get(key), str))
        _check_types(dict(body, NetworkMode=host.get("NetworkMode")))
        identifier = os.urandom(32).hex()
        with self.store.lock():         # so that nobody removes the image
            image = self._image(body["Image"], request.get("platform"))
            config = _container_config(body, image.config.get("config") or {}, identifier)
            name = request.get("name").lstrip("/") or self._new_name()
            self._check_name(name)
            container = {"Id": identifier, "Created": _now(), "Name": "/" + name, "Image": image.id, "Config": config,
                         "Manifest": image.manifest["digest"], "HostConfig": host, "Size": image.size}
            self._keep_container(container)
        self._container_event("create", container)
        return Response({"Id": identifier, "Warnings": []}, 201)

    def _new_name(self):
        import random
        taken = {container["Name"] for container in self._all_containers()}
        while True:
            name = "%s_%s" % (random.choice(_ADJECTIVES.split()), random.choice(_NOUNS.split()))
            if "/" + name not in taken:
                return name

    def _container_event(self, action, container, **attributes):
        labels = container["Config"].get("Labels") or {}
        self.emit("container", action, container["Id"], dict(
            labels, image=container["Config"]["Image"], name=container["Name"][1:], **attributes))

    def _containers(self, request):
        filters = request.filters("id", "name", "label", "status", "ancestor", "before", "since", "exited", "health",
                                  "network", "volume", "publish", "expose", "isolation", "is-task")
        for name, pattern in _FILTER_VALUES.items():
            for value in filters.get(name, ()):
                if not re.match("(%s)\\Z" % pattern, value):
                    raise ApiError(400, "invalid filter '%s=%s'" % (name, value))
        everyone, limit = self._all_containers(), int(request.get("limit") or 0)
        if not (request.flag("all") or limit > 0 or filters.get("status")):
            return []                   # none runs
        for name in ("before", "since"):
            for value in filters.get(name, ()):
                made = self._container(value)["Created"]
                everyone = [c for c in everyone if (c["Created"] < made if name == "before" else c["Created"] > made)]
        ancestors = set()
        for value in filters.get("ancestor", ()):
            try:
                ancestors.add(self.store.resolve(value).id)
            except DockerError:
                pass                    # as dockerd: nothing matches
        found = [c for c in everyone if _has_labels(c["Config"].get("Labels") or {}, filters)
                 and _any(filters, "id", lambda value: c["Id"].startswith(value))
                 and _any(filters, "name", lambda value: _finds(value, c["Name"]) or _finds(value, c["Name"][1:]))
                 and _any(filters, "status", lambda value: value == "created")
                 and ("ancestor" not in filters or c["Image"] in ancestors)
                 and _any(filters, "health", lambda value: value == "none")
                 and not any(filters.get(name) for name in ("exited", "network", "volume", "publish", "expose"))
                 and not _bool_filter(filters, "is-task")]
        return [self._container_row(container, request.flag("size"))
                for container in found[:limit if limit > 0 else None]]

    def _container_row(self, container, size=True):
        config = container["Config"]
        row = {"Id": container["Id"], "Names": [container["Name"]], "Image": config["Image"],
               "ImageID": container["Image"], "Command": " ".join(_command_of(config)),
               "Created": _seconds(container["Created"]), "Ports": [], "Labels": config.get("Labels") or {},
               "State": "created", "Status": "Created",
               "HostConfig": {"NetworkMode": container["HostConfig"]["NetworkMode"]},
               "NetworkSettings": {"Networks": {}}, "Mounts": []}
        return dict(row, SizeRw=0, SizeRootFs=container["Size"]) if size else row

    def _inspect_container(self, request, name):
        container = self._container(name)
        command = _command_of(container["Config"])
        shown = {"Id": container["Id"], "Created": container["Created"], "Path": command[0], "Args": command[1:],
                 "State": _NEW_STATE, "Image": container["Image"], "ResolvConfPath": "", "HostnamePath": "",
                 "HostsPath": "", "LogPath": "", "Name": container["Name"], "RestartCount": 0, "Driver": "oci",
                 "Platform": "linux", "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": None,
                 "HostConfig": container["HostConfig"], "GraphDriver": {"Data": None, "Name": "oci"}, "Mounts": [],
                 "Config": container["Config"], "NetworkSettings": {"Ports": {}, "Networks": {}}}
        return dict(shown, SizeRw=0, SizeRootFs=container["Size"]) if request.flag("size") else shown

    def _rename(self, request, name):
        new = request.get("name").lstrip("/")
        if not name or not new:
            raise ApiError(400, "Neither old nor new names may be empty")
        with self.store.lock():
            container = self._container(name)
            if container["Name"] == "/" + new:
                raise ApiError(400, "Renaming a container with the same name as its current name")
            self._check_name(new, "Error when allocating new name: ")
            old, container["Name"] = container["Name"], "/" + new
            self._keep_container(container)
        self._container_event("rename", container, oldName=old)

    def _stop(self, request, name):
        self._container(name)
        return Response(None, 304)      # it does not run

    def _attach(self, request, name):
        """Streams that end at once: clients attach before they start, and show the reason only of a failed start."""
        self._container(name)
        request.keeps = False
        if not request.headers.get("Upgrade"):
            return Response(b"", kind="application/vnd.docker.raw-stream")
        return Response(b"", 101, "", {"Upgrade": "tcp"})

    def _wait(self, request, name):
        path = self._container_path(self._container(name)["Id"])

        def wait():
            """Yield nothing until the container is removed, then a status."""
            yield b""                   # the client begins only when it is sure that somebody waits
            while os.path.exists(path) and not self.stopping and not request.gone(0.1):
                pass
            yield b'{"StatusCode":0}\n'
        return {"StatusCode": 0} if request.get("condition") in ("", "not-running") else Response(wait())

    def _start(self, request, name):
        container = self._container(name)
        if container["HostConfig"].get("AutoRemove"):
            self._remove_container(request, container["Id"])
        self._no_processes(request)

    def _changes(self, request, name):
        self._container(name)
        return []

    def _remove_container(self, request, name):
        container = self._container(name)
        try:
            os.unlink(self._container_path(container["Id"]))
        except FileNotFoundError:
            raise NotFound(404, "No such container: " + name)
        self._container_event("destroy", container)

    def _prune_containers(self, request):
        filters = request.filters("label", "label!", "until")
        gone = [container for container in self._all_containers()
                if _has_labels(container["Config"].get("Labels") or {}, filters)
                and all(_seconds(container["Created"], exact=True) <= float(parse_timestamp(value))
                        for value in filters.get("until", ()))]
        for container in gone:
            try:
                self._remove_container(request, container["Id"])
            except NotFound:
                pass                    # it went meanwhile
        self.emit("container", "prune", "", {"reclaimed": "0"})
        return {"ContainersDeleted": [container["Id"] for container in gone] or None, "SpaceReclaimed": 0}

    def _files(self, container):
        """The files of a container's image."""
        known, tree = self._view
        if known != container["Manifest"]:
            manifest = self.store.document(container["Manifest"])
            tree = FileTree(self.store, [layer["digest"] for layer in manifest["layers"]])
            self._view = container["Manifest"], tree
        return tree

    def _archive(self, request, name):
        if not request.get("path"):
            raise ApiError(400, "bad parameter: path cannot be empty")
        container = self._container(name)
        path, tree = request.get("path"), self._files(container)
        path = _keep_tail(clean_path("/" + path), path)
        node, target = tree.find(path)
        shown = _last_part(path)
        if node is None:
            raise NotFound(404, "Could not find the file %s in container %s" % (request.get("path"), name))
        stat = {"name": shown, "size": node.size, "mode": node.go_mode(),
                "mtime": format_utc(node.entry.mtime), "linkTarget": target}
        headers = {"X-Docker-Container-Path-Stat": base64.b64encode(compact_json(stat).encode("utf-8")).decode("ascii")}
        if request.method == "HEAD":
            return Response(b"", headers=headers, kind="")
        self._container_event("archive-path", container)
        return Response(tree.archive(node, shown), kind=TAR_TYPE, headers=headers)

    def _export(self, request, name):
        container = self._container(name)
        tree = self._files(container)
        self._container_event("export", container)
        return Response(tree.archive(tree.root, ""), kind="application/octet-stream")

    # -- what there is none of -----------------------------------------------------------------------------------------

    def _nothing(self, request):
        return []

    def _no_processes(self, request, name=""):
        raise ApiError(501, NO_PROCESSES)

    def _no_swarm(self, request, name=""):
        raise ApiError(503, _NO_SWARM)

    def _no_network(self, request, name):
        raise NotFound(404, "network %s not found" % name)

    def _no_volume(self, request, name):
        raise NotFound(404, "get %s: no such volume" % name)

    def _no_plugin(self, request, name):
        raise NotFound(404, 'plugin "%s" not found' % re.sub(r"/json\Z", "", name))

    def _volumes(self, request):
        return {"Volumes": [], "Warnings": None}

    def _no_networks_deleted(self, request):
        return {"NetworksDeleted": None}

    def _no_volumes_deleted(self, request):
        return {"VolumesDeleted": [], "SpaceReclaimed": 0}

    def _no_caches_deleted(self, request):
        return {"CachesDeleted": None, "SpaceReclaimed": 0}


_EVENTS_LIMIT = MIB                     # of the file of events


def _archive_of(request):
    """The blocks of a request's body, all of which must be read before an answer begins."""
    request.reading = True
    yield from request.body.blocks()
    request.reading = False


def _read_on(blocks):
    """Read what is left of an archive, so that it can be answered."""
    for _ in blocks:
        pass


def _request_reference(text):
    try:
        return parse_reference(text)
    except DockerError as error:
        raise ApiError(400, str(error))


def _blob_text(registry, repository, part):
    import hashlib
    with registry.blob(repository, part["digest"]) as body:
        data = body.read(_DOCUMENT_LIMIT)
    if "sha256:" + hashlib.sha256(data).hexdigest() != part["digest"]:
        raise DockerError("the registry's blob %s is damaged" % part["digest"])
    return data.decode("utf-8", "replace")


def _kernel():
    return os.uname().release if hasattr(os, "uname") else ""


def _now():
    """The time with all digits, so that such texts sort."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + ".%09dZ" % (now % 1 * 1e9)


def _seconds(text, exact=False):
    """Unix seconds of an RFC 3339 time; 0 for none."""
    try:
        return parse_rfc3339(text) if exact else int(parse_rfc3339(text) // 1)
    except ValueError:
        return 0


def _bool_filter(filters, name):
    """The value of a filter that is true or false; None where it is not given."""
    for value in filters.get(name, ()):
        if value.lower() not in ("true", "false", "1", "0"):
            raise ApiError(400, "invalid filter '%s=[%s]'" % (name, value))
        return value.lower() in ("true", "1")


def _any(filters, name, matches):
    return not filters.get(name) or any(map(matches, filters[name]))


def _finds(pattern, text):
    """Whether a regular expression finds something; one that is none does not."""
    try:
        return re.search(pattern, text)
    except (re.error, OverflowError, RecursionError):
        return None


def _has_labels(labels, filters):
    """Whether labels pass the filters `label` and `label!`, `name` or `name=value` each."""
    def has(text):
        name, equals, value = text.partition("=")
        return name in labels and (not equals or labels[name] == value)
    return all(map(has, filters.get("label", ()))) and not any(map(has, filters.get("label!", ())))


def _is_wanted(event, filters):
    """Whether an event passes the filters of its stream."""
    attributes, identifier = event["Actor"]["Attributes"], event["Actor"]["ID"]
    name = attributes.get("name", "")

    def image(value):
        known = (identifier, name) if event["Type"] == "image" else (attributes.get("image", ""),)
        return any(value in (text, text.rpartition(":")[0]) for text in known)

    return (_any(filters, "type", lambda value: value == event["Type"])
            and _any(filters, "event", lambda value: value == event["Action"])
            and _any(filters, "image", image) and _any(filters, "scope", lambda value: value == event["scope"])
            and _any(filters, "container", lambda value: event["Type"] == "container" and (
                value == name or value and identifier.startswith(value)))
            and _has_labels(attributes, filters)
            and not any(map(filters.get, ("network", "volume", "plugin", "service", "node", "secret", "config"))))


def _check_types(config):
    """Refuse values of other types than Go has: they would be kept, and spoil each list of containers."""
    for names, kind in (("Image Hostname Domainname User WorkingDir StopSignal NetworkMode", str),
                        ("Cmd Entrypoint Env OnBuild Shell", list), ("Labels Volumes ExposedPorts", dict)):
        for name in names.split():
            value = config.get(name)
            if value is not None and not (isinstance(value, kind) and all(isinstance(text, str) for text in (
                    value if kind is list else value.values() if name == "Labels" else ()))):
                raise ApiError(400, "invalid JSON: %s is of the wrong type" % name)


def _container_config(given, image, identifier):
    """A new container's configuration: what was given, and the image's where nothing was."""
    config = dict(_NEW_CONFIG, **{key: value for key, value in given.items() if value is not None})
    if not config["Cmd"] and not config["Entrypoint"]:
        config["Cmd"] = image.get("Cmd")
    if config["Entrypoint"] is None:
        config["Entrypoint"] = image.get("Entrypoint")
    if config["Entrypoint"] == [""]:
        config["Entrypoint"] = None
    names = {text.partition("=")[0] for text in config["Env"] or ()}
    config["Env"] = (config["Env"] or []) + [
        text for text in image.get("Env") or () if text.partition("=")[0] not in names]
    for key in ("User", "WorkingDir", "StopSignal", "Healthcheck", "Shell"):
        if not config.get(key) and image.get(key):
            config[key] = image[key]
    for key in ("Labels", "ExposedPorts", "Volumes"):
        if image.get(key):
            config[key] = dict(image[key], **(config.get(key) or {}))
    config["Hostname"], config["Volumes"] = config["Hostname"] or identifier[:12], config["Volumes"] or None
    if not _command_of(config):
        raise ApiError(400, "no command specified")
    return config


def _command_of(config):
    return (config["Entrypoint"] or []) + (config["Cmd"] or [])


# -- the files of an image ---------------------------------------------------------------------------------------------


class _File:
    """A name in a FileTree: its `entry`, and for a folder the names within."""

    __slots__ = ("entry", "children")

    def __init__(self, entry, children=None):
        self.entry = entry
        self.children = children

    @property
    def size(self):
        entry = self.entry
        return 4096 if entry.kind == b"5" else len(os.fsencode(entry.link)) if entry.kind == b"2" else entry.size

    def go_mode(self) -> int:
        """The mode with the bits of Go's os.FileMode."""
        mode = self.entry.mode
        for bit, theirs in ((0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)):
            mode = mode & ~bit | (theirs if mode & bit else 0)
        return mode | {b"5": GO_DIRECTORY, b"2": GO_SYMLINK, b"3": GO_DEVICE | 1 << 21, b"4": GO_DEVICE,
                       b"6": 1 << 25}.get(self.entry.kind, 0)


def _folder_entry():
    entry = _TarEntry()
    entry.name, entry.kind, entry.mode, entry.size, entry.mtime = "", b"5", 0o755, 0, 0
    entry.link, entry.device, entry.owner, entry.place = "", (0, 0), (0, 0), None
    return entry


class FileTree:
    """The files of an image: its layers, the lowest first, one over the other, whiteouts heeded.

    What the layers say is kept in memory; the files' bytes are read from the layers when they are wanted.  Names are
    only ever looked up here, so that no link leads anywhere else.
    """

    def __init__(self, store: ImageStore, layers: list):
        self.store = store
        self.layers = layers
        self.root = _File(_folder_entry(), {})
        for number, digest in enumerate(layers):
            entries = []
            for entry, _ in self._entries(number, digest):
                if max(len(entry.name), len(entry.link)) > 4096:        # no system has such paths
                    raise DockerError("a layer of the image has a file name that is too long: %s..." % visible(
                        (entry.link if len(entry.link) > 4096 else entry.name)[:40]))
                if entry.kind in _VERBS:
                    entries.append((_components("/" + entry.name), entry))
            for parts, entry in entries:        # what the layer takes away was in those below
                if entry.kind == b"2":
                    entry.mode = 0o777
                if parts and parts[-1].startswith(".wh."):
                    self._white_out(parts)
            for parts, entry in entries:
                if not parts:
                    self.root.entry = entry
                elif not parts[-1].startswith(".wh."):
                    self._add(parts, entry)

    def _entries(self, number, digest):
        """Yield (entry, source of its bytes) of a layer; each entry knows its place."""
        with self.store.open_blob(digest) as file:
            blocks = decompressed(iter(lambda: file.read(MIB >> 2), b""))
            source = _TarSource([block] for block in blocks)
            for place, entry in enumerate(_tar_entries(source)):
                entry.place = number, place
                data = source.blocks(entry.size if entry.kind == b"0" else 0)
                yield entry, data
                for _ in data:
                    pass                # what nobody wanted of it

    def _white_out(self, parts):
        folder = self.root
        for part in parts[:-1]:
            folder = folder.children.get(part) if folder and folder.children else None
        if folder and folder.children:
            if parts[-1] == ".wh..wh..opq":
                folder.children.clear()
            else:
                folder.children.pop(parts[-1][len(".wh."):], None)

    def _add(self, parts, entry):
        folder = self.root
        for part in parts[:-1]:
            inner = folder.children.get(part)
            if inner is None or inner.children is None:
                inner = folder.children[part] = _File(_folder_entry(), {})
            folder = inner
        if entry.kind == b"1":
            target = self.root
            for part in _components("/" + entry.link):
                target = target.children.get(part) if target and target.children else None
            if target is None or target.children is not None:
                raise DockerError("a layer of the image has a hard link to nothing: %s" % visible(entry.name))
            entry = target.entry
        old = folder.children.get(parts[-1])
        if entry.kind == b"5" and old and old.children is not None:
            old.entry = entry
        else:
            folder.children[parts[-1]] = _File(entry, {} if entry.kind == b"5" else None)

    def find(self, path: str) -> tuple:
        """(node or None, where it leads as a symbolic link) of a path; its last part is not followed, but for `/`."""
        folder, base = path.rsplit("/", 1)
        parts = self._resolve(folder)
        node = self._at(parts if base in ("", ".") else parts + [base])
        if node is None or base in ("", ".") and node.children is None:
            return None, ""
        return node, "/" + "/".join(self._resolve(path)) if node.entry.kind == b"2" else ""

    def _at(self, parts):
        node = self.root
        for part in parts:
            node = node.children.get(part) if node and node.children is not None else None
        return node

    def _resolve(self, path):
        """The parts of a path with all symbolic links followed, within the image."""
        pending, done, links = path.split("/")[::-1], [], 0
        while pending:
            part = pending.pop()
            if part == "..":
                del done[-1:]
            elif part not in ("", "."):
                node = self._at(done + [part])
                if node and node.entry.kind == b"2":
                    links += 1
                    if links > 255:
                        raise DockerError("too many levels of symbolic links: " + visible(path))
                    if node.entry.link.startswith("/"):
                        done = []
                    pending += node.entry.link.split("/")[::-1]
                else:
                    done.append(part)
        return done

    def archive(self, node: _File, name: str):
        """Yield a tar archive of a file or folder, entered as `name`, or only what is in it for an empty one.

        Folders and links come first, then the files in the order in which the layers have them.
        """
        held, size, files, pending = [], 0, {}, [(name, node)]
        while pending:
            name, node = pending.pop()
            entry = node.entry
            if entry.kind == b"0" and entry.size:
                files.setdefault(entry.place, []).append(name)
            elif name:
                held.append(self._header(name + "/" * (entry.kind == b"5" and name != "/"), entry))
            base = name.rstrip("/") + "/" if name else ""
            pending += [(base + inner, node.children[inner]) for inner in sorted(node.children or (), reverse=True)]
            if len(held) > 512:
                yield b"".join(held)
                del held[:]
        for number, digest in enumerate(self.layers):
            wanted = {place: names for place, names in files.items() if place[0] == number}
            if not wanted:
                continue
            entries = self._entries(number, digest)
            try:
                for entry, blocks in entries:
                    names = wanted.pop(entry.place, ())
                    if not names:
                        continue
                    held.append(self._header(names[0], entry))
                    for block in blocks:
                        held.append(block)
                        size += len(block)
                        if size > RECEIVE_SIZE:
                            yield b"".join(held)
                            held, size = [], 0
                    held.append(bytes(-entry.size % _TAR_BLOCK))
                    held += [self._header(other, entry, names[0]) for other in names[1:]]
                    if not wanted:
                        break
            finally:
                entries.close()         # and the layer with it
        held.append(_TAR_END)
        yield b"".join(held)

    @staticmethod
    def _header(name, entry, link=""):
        kind = b"1" if link else entry.kind
        return tar_header(name, entry.mode, entry.owner[0], entry.owner[1], entry.size if kind == b"0" else 0,
                          entry.mtime // 10 ** 9, kind, link or (entry.link if kind == b"2" else ""),
                          b"%07o\0%07o\0" % entry.device)


# -- the daemon --------------------------------------------------------------------------------------------------------

_STOP_PATIENCE = 10                          # seconds that requests under way are given when the daemon is to stop


def serve(hosts, root: str = "", group: str = "", tls: TlsSettings = None, pidfile: str = "", log=None) -> None:
    """Be a daemon: serve the embedded engine at these addresses, until SIGTERM or SIGINT.

    `group` owns the unix sockets; `tls` holds for TCP, and its `verify` demands certificates of clients; `log` is told
    what happens.  Raises DockerError where an address cannot be had.
    """
    import select
    import signal
    log, engine = log or (lambda line: None), embedded_engine(root or default_root())
    engine.store.prepare()
    context = _server_context(tls) if tls else None
    ours, wake = socket.socketpair()
    listeners, connections, signals, written = {}, {}, [], False
    previous = {number: signal.signal(number, lambda number, _: signals.append(number))
                for number in (signal.SIGTERM, signal.SIGINT)}
    for end in (ours, wake):
        end.setblocking(False)
    old_wakeup = signal.set_wakeup_fd(wake.fileno())
    try:
        if pidfile:
            _write_pidfile(pidfile)
            written = True
        for host in hosts:
            listener = _listen(host, group, log)
            listeners[listener] = host, os.stat(listener.getsockname()) if host.startswith("unix://") else None
            log("API listen on %s%s" % (host, " (TLS)" if context and host.startswith("tcp://") else ""))
        while not signals:
            for listener in select.select(list(listeners) + [ours], [], [])[0]:
                if listener is not ours:
                    _accept(listener, context if listeners[listener][0].startswith("tcp://") else None, engine,
                            connections, log)
        log("stopping")
    finally:
        engine.stopping = True
        for listener, (host, about) in listeners.items():
            listener.close()
            if about:
                _unlink_same(host[len("unix://"):], about)
        _finish(connections, signals)
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        for end in (ours, wake):
            end.close()
        if written and os.path.exists(pidfile):
            os.unlink(pidfile)


def _server_context(tls):
    """An `ssl.SSLContext` for a daemon."""
    try:
        import ssl
    except ImportError:
        raise DockerError("this Python has no ssl module, which TLS needs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _refuse_old_tls(context)
    try:
        context.load_cert_chain(tls.cert, tls.key, lambda: "")
        if tls.verify:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, ValueError) as error:
        raise DockerError("the certificates for TLS cannot be used: %s" % (getattr(error, "reason", None) or error))
    except OSError as error:
        raise DockerError("the certificates for TLS cannot be read: %s" % path_error_text(error))
    return context


def _write_pidfile(path):
    try:
        with open(path) as file:
            number = int(file.read())
        os.kill(number, 0)
    except (ValueError, ProcessLookupError, FileNotFoundError):
        pass                            # nobody's, or of one that has ended
    except PermissionError:
        raise DockerError("pid file found, ensure pydock is not running or delete " + path)
    except OSError as error:
        raise DockerError(path_error_text(error))
    else:
        if number != os.getpid():
            raise DockerError("pid file found, ensure pydock is not running or delete " + path)
    try:
        write_atomically(path, b"%d\n" % os.getpid(), 0o644)
    except OSError as error:
        raise DockerError("cannot write the pid file %s: %s" % (path, os_error_text(error)))


def _listen(host, group, log):
    """A listening socket at an address; a unix socket that nobody serves any more makes room."""
    endpoint = Endpoint(host)
    try:
        if endpoint.proto == "tcp":
            found = socket.getaddrinfo(*endpoint.address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            listener = socket.socket(found[0], socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place = found[4]
        elif endpoint.proto == "unix" and hasattr(socket, "AF_UNIX"):
            place = os.path.abspath(endpoint.address)
            _make_room(place)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            raise DockerError("a daemon listens at unix:// and tcp:// addresses, not at " + host)
        mask = os.umask(0o177)          # nobody comes in before the group is set
        try:
            listener.bind(place)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(mask)
        if endpoint.proto == "unix":
            _give_to_group(place, group, log)
        listener.listen(4096)           # the system's limit holds; a full queue of a unix socket refuses
        listener.setblocking(False)
    except OSError as error:
        raise DockerError("cannot listen at %s: %s" % (host, os_error_text(error)))
    return listener


def _make_room(path):
    """Remove the socket of an engine that has ended; DockerError if one lives there, or it is no socket."""
    import stat
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise DockerError("cannot listen at unix://%s: there is something else" % path)
        dial(Endpoint("unix://" + path)).hang_up()
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        return os.unlink(path)
    raise DockerError("cannot listen at unix://%s: another engine does" % path)


def _give_to_group(path, group, log):
    """Let the members of a group use a socket; without one by this name, only its owner."""
    try:
        import grp
        number = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid if group else -1
        os.chown(path, -1, number)
    except (ImportError, KeyError, OSError) as error:
        if group != "docker":
            os.unlink(path)
            raise DockerError("the group %s cannot have the socket %s: %s" % (
                group, path, os_error_text(error) if isinstance(error, OSError) else "there is no such group"))
        log("the group docker cannot have the socket %s: it is its owner's" % path)
    os.chmod(path, 0o660)


def _unlink_same(path, about):
    """Remove a socket of ours, but not what somebody else has put in its place."""
    try:
        if os.path.samestat(os.lstat(path), about):
            os.unlink(path)
    except OSError:
        pass                            # it is gone


def _accept(listener, context, engine, connections, log):
    """Take in a client, whom a thread will serve; `connections` has them all: {Connection: its thread}."""
    import threading
    try:
        sock, _ = listener.accept()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            log("accept: " + os_error_text(error))
            time.sleep(0.1)
        return

    connection = Connection(Wire(sock), engine, log)

    def work():
        """Serve the client to its end."""
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            if sock.family != getattr(socket, "AF_UNIX", None):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if context:
                connection.wire = TlsWire(sock, context, None, True)
            connection.serve()
        except OSError as error:
            log("a client could not be served: %s" % error)     # it speaks no TLS, or has no good certificate
        finally:
            sock.close()
            connections.pop(connection, None)

    connections[connection] = threading.Thread(target=work, daemon=True)
    try:
        connections[connection].start()
    except RuntimeError as error:       # as many as the system allows
        log("a client could not be served: %s" % error)
        sock.close()
        del connections[connection]


def _finish(connections, signals):
    """Let the requests under way end, until a limit or the next signal; then cut them."""
    limit, seen = time.time() + _STOP_PATIENCE, len(signals)
    while connections:
        late = time.time() > limit or len(signals) > seen
        for connection in list(connections):
            connection.last = True
            if late or not connection.busy:
                try:
                    connection.wire.sock.shutdown(socket.SHUT_RDWR if late else socket.SHUT_RD)
                except OSError:
                    pass                # it is closed
        if late:
            for thread in list(connections.values()):
                thread.join(1)
            return
        time.sleep(0.02)


# ======================================================================================================================
# 16  main
# ======================================================================================================================

_LOG_LEVELS = ("panic", "fatal", "error", "warn", "warning", "info", "debug", "trace")


def program_name(argv0: str) -> str:
    """What the program calls itself: `docker` where it was started under that name, else `pydock`."""
    return "docker" if os.path.basename(argv0 or "").partition(".")[0] == "docker" else "pydock"


def main(argv=None) -> int:
    """Run a command line (default: the process's own) and return its exit status."""
    argv = sys.argv if argv is None else argv
    cli = None
    try:
        cli = _prepare(argv)
        if cli:
            cli.cmd(*cli.args)
        _flush(sys.stdout)
        return 0
    except StatusError as error:
        return _end(cli, error.status, error.status_code)
    except DockerError as error:
        return _end(cli, str(error), 1)
    except KeyboardInterrupt:
        return _die_of("SIGINT")
    except BrokenPipeError:
        return _die_of("SIGPIPE")
    except OSError as error:
        return _end(cli, path_error_text(error), 1)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if cli and cli.debug:
            raise
        return _end(cli, "the engine's answer makes no sense to pydock (-D shows where): %s: %s" % (
            type(error).__name__, error), 1)
    finally:
        if cli:
            cli.close()


def _prepare(argv):
    """Stage one: the global flags and the endpoint; a DockerCli with the rest in `args`, or None if all is said."""
    name = program_name(argv[0])
    flags = FlagSet(GLOBAL_FLAGS)
    try:
        opts = flags.parse(argv[1:], interspersed=False)
    except UsageError as error:
        raise UsageError("%s\n\nUsage:  %s [OPTIONS] COMMAND [ARG...]\n\nRun '%s --help' for more information" % (
            error, name, name), 125)
    cli = DockerCli(sys.stdin, sys.stdout, sys.stderr, name=name, debug=opts.debug)
    cli.args = opts.args
    if opts.help:
        if opts.help == "-h":
            cli.warn("Flag shorthand -h has been deprecated, use --help")
        cli.show_help((), sys.stdout)
        cli.args = None
        return _flush(sys.stdout)
    if opts.version:
        cli.print("Docker version %s, build pydock-%s" % (DOCKER_LEVEL, __version__))
        return _flush(sys.stdout)
    if opts.log_level.lower() not in _LOG_LEVELS:
        raise DockerError("Unable to parse logging level: " + opts.log_level)
    if opts.daemon:
        cli.args = None
        return _be_daemon(cli, opts)
    if len(opts.host) > 1:
        raise DockerError("Please specify only one -H")
    cli._config = ConfigFile.load(opts.config)
    for alias in cli.config.get("aliases", {}):
        if alias != "builder":
            raise DockerError('not allowed to alias %s (allowed: map[string]struct {}{"builder":struct {}{}})' %
                              go_quote(alias))
    try:
        given = {flag: getattr(opts, flag) for flag in ("tls", "tlsverify") if flag in opts.given}
        cli.endpoint = resolve_endpoint(cli.config, opts.host, opts.context, tlscacert=opts.tlscacert,
                                        tlscert=opts.tlscert, tlskey=opts.tlskey, **given)
    except DockerError as error:
        if opts.context and opts.host:
            raise
        cli.endpoint = Endpoint(error=error)    # only a command that needs an engine fails
    return cli


def _be_daemon(cli, opts):
    """`pydock -d`: serve until a signal says otherwise."""
    if opts.args:
        raise UsageError("-d takes no command: %s" % opts.args[0])
    tls = None
    if opts.tls or opts.tlsverify:
        folder = os.environ.get("DOCKER_CERT_PATH") or default_config_directory()
        tls = TlsSettings(opts.tlscacert or os.path.join(folder, "ca.pem"),
                          opts.tlscert or os.path.join(folder, "cert.pem"),
                          opts.tlskey or os.path.join(folder, "key.pem"), opts.tlsverify)
    hosts = [parse_host(host, bool(tls)) for host in opts.host or (DEFAULT_HOST,)]
    for host in hosts:
        if host.startswith("tcp://") and not (tls and tls.verify):
            cli.warn("WARNING: whoever reaches %s may use this engine: --tlsverify lets in only whom you know" % host)
    serve(hosts, group=opts.group, tls=tls, pidfile=opts.pidfile, log=cli.warn)


def _flush(stream):
    stream.flush()


def _end(cli, text, status):
    """Say what went wrong, after all that went right."""
    try:
        _flush(sys.stdout)
    except OSError:
        pass
    if text:
        if cli:
            cli.warn(text)
        else:
            _write(sys.stderr, text + "\n")
            sys.stderr.flush()
    return status


def _die_of(name):
    """End as the shell expects of a process that a signal ended."""
    import signal
    number = getattr(signal, name)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # what is still buffered has nowhere to go
    except OSError:
        pass
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


if __name__ == "__main__":
    sys.exit(main())
