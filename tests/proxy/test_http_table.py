"""HTTP as the standard says, case by case over raw sockets: what is answered, and whether the connection goes on.

A case is one line. Sources: sections of RFC 9112 and RFC 9110, and the public collections of shapes that two
programs read in two ways: ``desync`` (PortSwigger's papers on desynchronisation, 2019 to 2025), ``smuggler``
(defparam's mutations), ``garden`` (the differences that HTTP Garden found between servers), ``llhttp``, ``go``
and ``h11`` (the tests of those parsers), ``chunks`` (Weikop's papers on chunk extensions and terminators, 2025).
"""

# ruff: noqa: E501
from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import NamedTuple

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ServeConfig
from tests.support.front import FakeModel, running_front

LIMITS = ServeConfig(
    drain_seconds=1,
    max_body_bytes=1_000_000,
    header_seconds=1.0,
    body_idle_seconds=1.0,
    idle_seconds=5.0,
    hosts=("nas.local",),
)
H = b"Host: localhost\r\n"
LAST = b"GET /health HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n"
BODY = b'{"input":"x"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ON, CLOSED = True, False


class Case(NamedTuple):
    """``statuses``: of all answers. ``goes_on``: another request is answered then. ``half``: the client ends
    its side behind what it sends."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    goes_on: bool
    source: str
    half: bool = False


def get(headers: bytes = H, *, line: bytes = b"GET /health HTTP/1.1") -> bytes:
    return line + b"\r\n" + headers + b"\r\n"


def post(headers: bytes, body: bytes = BODY, *, version: bytes = b"1.1") -> bytes:
    return b"POST /v1/embeddings HTTP/" + version + b"\r\n" + H + headers + b"\r\n" + body


def sized(headers: bytes = b"", body: bytes = BODY) -> bytes:
    return post(b"Content-Length: %d\r\n" % len(body) + headers, body)


def chunks(coded: bytes, headers: bytes = b"") -> bytes:
    return post(CHUNKED + headers, coded)


WHOLE = b"d\r\n" + BODY + b"\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: Bytes that have been taken for a space, for the end of a line or for nothing around a header's name or value.
ODD = [0x00, 0x01, 0x04, 0x08, 0x0B, 0x0C, 0x0D, 0x1F, 0x7F]
HIGH = [0x85, 0xA0, 0xFF]

# fmt: off
REQUEST_LINE = [
    Case("a plain request", get(), (200,), ON, "9112 2.1"),
    Case("an empty line before it", b"\r\n" + get(), (200,), ON, "9112 2.2"),
    Case("three empty lines before it", b"\r\n\r\n\r\n" + get(), (200,), ON, "9112 2.2"),
    Case("spaces before it", b"  " + get(), (400,), CLOSED, "9112 2.2"),
    Case("a byte order mark before it", b"\xef\xbb\xbf" + get(), (400,), CLOSED, "9112 2.2"),
    Case("line ends of bare LF", b"GET /health HTTP/1.1\nHost: localhost\n\n", (400,), CLOSED, "9112 2.2"),
    Case("a bare LF after the request line", b"GET /health HTTP/1.1\n" + H + b"\r\n", (400,), CLOSED, "9112 2.2"),
    Case("a bare CR after the request line", b"GET /health HTTP/1.1\r" + H + b"\r\n", (400,), CLOSED, "9112 2.2"),
    Case("a bare CR inside the request line", get(line=b"GET /hea\rlth HTTP/1.1"), (400,), CLOSED, "9112 2.2"),
    Case("space before the first header", get(b" " + H), (400,), CLOSED, "9112 2.2"),
    Case("a tab before the first header", get(b"\t" + H), (400,), CLOSED, "9112 2.2"),
    Case("two spaces in the line", get(line=b"GET  /health HTTP/1.1"), (200,), ON, "9112 3, may"),
    Case("two spaces before the version", get(line=b"GET /health  HTTP/1.1"), (200,), ON, "9112 3, may"),
    Case("a tab for a space", get(line=b"GET\t/health HTTP/1.1"), (400,), CLOSED, "9112 3"),
    Case("a tab before the version", get(line=b"GET /health\tHTTP/1.1"), (400,), CLOSED, "9112 3"),
    Case("a form feed for a space", get(line=b"GET\x0c/health HTTP/1.1"), (400,), CLOSED, "9112 3"),
    Case("a space at the end", get(line=b"GET /health HTTP/1.1 "), (400,), CLOSED, "9112 3"),
    Case("words behind the version", get(line=b"GET /health HTTP/1.1 x"), (400,), CLOSED, "9112 3"),
    Case("no target", get(line=b"GET HTTP/1.1"), (400,), CLOSED, "9112 3"),
    Case("no method", get(line=b"/health HTTP/1.1"), (400,), CLOSED, "9112 3"),
    Case("no version", get(line=b"GET /health"), (400,), CLOSED, "9112 3"),
    Case("HTTP/0.9 with bare LF, headers and all", b"GET /health\n" + H + b"\n", (400,), CLOSED, "9112 2.3"),
    Case("HTTP/0.9 by name", get(line=b"GET /health HTTP/0.9"), (400,), CLOSED, "9112 2.3"),
    Case("HTTP/2.0 in clear text", get(line=b"GET /health HTTP/2.0"), (505,), CLOSED, "9112 2.3"),
    Case("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,), CLOSED, "9113 3.4"),
    Case("HTTP/1.2", get(line=b"GET /health HTTP/1.2"), (400,), CLOSED, "9112 2.3"),
    Case("HTTP/3.0", get(line=b"GET /health HTTP/3.0"), (400,), CLOSED, "9112 2.3"),
    Case("HTTP/11", get(line=b"GET /health HTTP/11"), (400,), CLOSED, "9112 2.3"),
    Case("HTTP/1", get(line=b"GET /health HTTP/1"), (400,), CLOSED, "9112 2.3"),
    Case("HTTP/01.1", get(line=b"GET /health HTTP/01.1"), (400,), CLOSED, "9112 2.3"),
    Case("HTTP/1.10", get(line=b"GET /health HTTP/1.10"), (400,), CLOSED, "garden"),
    Case("HTTP/1.+1", get(line=b"GET /health HTTP/1.+1"), (400,), CLOSED, "garden"),
    Case("HTTP/1,1", get(line=b"GET /health HTTP/1,1"), (400,), CLOSED, "llhttp"),
    Case("http/1.1", get(line=b"GET /health http/1.1"), (400,), CLOSED, "9112 2.3"),
    Case("HTTPS/1.1", get(line=b"GET /health HTTPS/1.1"), (400,), CLOSED, "9112 2.3"),
    Case("a status line", b"HTTP/1.1 200 OK\r\n" + H + b"\r\n", (400,), CLOSED, "9112 2.1"),
    Case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,), CLOSED, "9112 2.2"),
    Case("NUL in the line", get(line=b"GET /hea\x00lth HTTP/1.1"), (400,), CLOSED, "9112 3"),
    Case("DEL in the target", get(line=b"GET /hea\x7flth HTTP/1.1"), (400,), CLOSED, "9112 3.2"),
    Case("bytes above ASCII in the target", get(line=b"GET /h\xc3\xa4 HTTP/1.1"), (400,), CLOSED, "9112 3.2"),
    Case("a target of 10,000 bytes", get(line=b"GET /" + b"x" * 9999 + b" HTTP/1.1"), (404,), ON, "9112 3"),
    Case("a target of 200,000 bytes", get(line=b"GET /" + b"x" * 200_000 + b" HTTP/1.1"), (431,), CLOSED, "9112 3"),
    Case("a line that does not end", b"GET /health", (408,), CLOSED, "9110 15.5.9"),
    Case("a head that does not end", b"GET /health HTTP/1.1\r\n" + H, (408,), CLOSED, "9110 15.5.9"),
]

METHODS = [
    Case("GET", get(), (200,), ON, "9110 9.3.1"),
    Case("HEAD", get(line=b"HEAD /health HTTP/1.1"), (200,), ON, "9110 9.3.2"),
    Case("HEAD of what is not there", get(line=b"HEAD /nowhere HTTP/1.1"), (404,), ON, "9110 9.3.2"),
    Case("POST", sized(), (200,), ON, "9110 9.3.3"),
    Case("OPTIONS", get(line=b"OPTIONS /v1/embeddings HTTP/1.1"), (204,), ON, "9110 9.3.7"),
    Case("OPTIONS of the server", get(line=b"OPTIONS * HTTP/1.1"), (204,), ON, "9110 9.3.7"),
    Case("POST for what is read", get(H + b"Content-Length: 0\r\n", line=b"POST /health HTTP/1.1"), (405,), ON, "9110 15.5.6"),
    Case("GET for what is posted", get(line=b"GET /v1/embeddings HTTP/1.1"), (405,), ON, "9110 15.5.6"),
    Case("PUT", get(H + b"Content-Length: 0\r\n", line=b"PUT /health HTTP/1.1"), (405,), ON, "9110 9.3.4"),
    Case("DELETE", get(line=b"DELETE /health HTTP/1.1"), (405,), ON, "9110 9.3.5"),
    Case("PATCH", get(H + b"Content-Length: 0\r\n", line=b"PATCH /health HTTP/1.1"), (405,), ON, "5789 2"),
    Case("TRACE", get(line=b"TRACE /health HTTP/1.1"), (405,), ON, "9110 9.3.8"),
    Case("PROPFIND", get(line=b"PROPFIND /health HTTP/1.1"), (405,), ON, "4918 9.1"),
    Case("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\n" + H + b"\r\n", (501,), CLOSED, "9110 9.3.6"),
    Case("CONNECT, and a tunnel's bytes", b"CONNECT a:80 HTTP/1.1\r\n" + H + b"\r\n" + get(), (501,), CLOSED, "9110 9.3.6"),
    Case("a method that nobody knows", get(line=b"BREW /health HTTP/1.1"), (501,), CLOSED, "9110 9.1"),
    Case("a method in lower case", get(line=b"get /health HTTP/1.1"), (501,), CLOSED, "9110 9.1"),
    Case("a longer method", get(line=b"GETS /health HTTP/1.1"), (501,), CLOSED, "9110 9.1"),
    Case("a method with a bracket", get(line=b"G(ET /health HTTP/1.1"), (400,), CLOSED, "9110 9.1"),
    Case("a method with NUL", get(line=b"G\x00T /health HTTP/1.1"), (400,), CLOSED, "9110 9.1"),
    Case("RTSP's method", get(line=b"PLAY /health HTTP/1.1"), (400,), CLOSED, "llhttp"),
    Case("a method of 100 bytes", get(line=b"G" * 100 + b" /health HTTP/1.1"), (501,), CLOSED, "9110 9.1"),
    Case("GET with a body", get(H + b"Content-Length: 5\r\n") + b"hello", (200,), ON, "9110 9.3.1"),
    Case("GET with a chunked body", get(H + CHUNKED) + b"5\r\nhello\r\n0\r\n\r\n", (200,), ON, "9110 9.3.1"),
]

TARGETS = [
    Case("a query", get(line=b"GET /health?a=b HTTP/1.1"), (200,), ON, "9112 3.2.1"),
    Case("an empty query", get(line=b"GET /health? HTTP/1.1"), (200,), ON, "9112 3.2.1"),
    Case("32 fields in a query", get(line=b"GET /health?" + b"&".join([b"a=b"] * 32) + b" HTTP/1.1"), (200,), ON, "9112 3.2.1"),
    Case("33 fields in a query", get(line=b"GET /health?" + b"&".join([b"a=b"] * 33) + b" HTTP/1.1"), (400,), ON, "9112 3.2.1"),
    Case("a percent sign and no digits", get(line=b"GET /health?%zz=%2 HTTP/1.1"), (200,), ON, "3986 2.1"),
    Case("percent-encoded letters", get(line=b"GET /%68ealth HTTP/1.1"), (200,), ON, "3986 6.2.2.2"),
    Case("a slash at the end", get(line=b"GET /health/ HTTP/1.1"), (200,), ON, "9112 3.2.1"),
    Case("a doubled slash inside", get(line=b"GET /v1//models HTTP/1.1"), (200,), ON, "9112 3.2.1"),
    Case("a doubled slash in front", get(line=b"GET //health HTTP/1.1"), (200,), ON, "9112 3.2.1"),
    Case("another host behind a doubled slash", get(line=b"GET //evil.example/health HTTP/1.1"), (404,), ON, "9112 3.2.1"),
    Case("a fragment", get(line=b"GET /health#x HTTP/1.1"), (400,), ON, "9112 3.2"),
    Case("no slash in front", get(line=b"GET health HTTP/1.1"), (400,), CLOSED, "9112 3.2"),
    Case("an absolute target", get(line=b"GET http://localhost/health HTTP/1.1"), (200,), ON, "9112 3.2.2"),
    Case("an absolute target in upper case", get(line=b"GET HTTP://LOCALHOST/health HTTP/1.1"), (200,), ON, "9112 3.2.2"),
    Case("an absolute target with a port", get(line=b"GET http://localhost:9/health HTTP/1.1"), (200,), ON, "9112 3.2.2"),
    Case("an absolute target without a path", get(line=b"GET http://localhost HTTP/1.1"), (200,), ON, "9112 3.2.2"),
    Case("an absolute target with a query alone", get(line=b"GET http://localhost?a=b HTTP/1.1"), (200,), ON, "9112 3.2.2"),
    Case("its host counts: ours", get(b"Host: evil.example\r\n", line=b"GET http://localhost/health HTTP/1.1"), (200,), ON, "9112 3.2.2"),
    Case("its host counts: another's", get(line=b"GET http://evil.example/health HTTP/1.1"), (403,), ON, "9112 3.2.2"),
    Case("absolute, and no Host", get(b"", line=b"GET http://localhost/health HTTP/1.1"), (400,), CLOSED, "9112 3.2"),
    Case("absolute, and a bad Host", get(b"Host: a b\r\n", line=b"GET http://localhost/health HTTP/1.1"), (400,), ON, "9112 3.2"),
    Case("https on a plain connection", get(line=b"GET https://localhost/health HTTP/1.1"), (421,), ON, "9110 7.4"),
    Case("another scheme", get(line=b"GET ftp://localhost/health HTTP/1.1"), (400,), ON, "9112 3.2.2"),
    Case("a user in the target", get(line=b"GET http://me@localhost/health HTTP/1.1"), (400,), ON, "9110 4.2.4"),
    Case("an unclosed bracket", get(line=b"GET http://[/health HTTP/1.1"), (400,), CLOSED, "9112 3.2.2"),
    Case("an unclosed bracket and a path", get(line=b"GET http://[::1/health HTTP/1.1"), (400,), CLOSED, "9112 3.2.2"),
    Case("an address in brackets", get(line=b"GET http://[::1]/health HTTP/1.1"), (200,), ON, "9112 3.2.2"),
    Case("nothing in brackets", get(line=b"GET http://[]/health HTTP/1.1"), (400,), ON, "9112 3.2.2"),
    Case("an absolute target without a host", get(line=b"GET http:///health HTTP/1.1"), (400,), CLOSED, "9110 4.2.1"),
    Case("a star for GET", get(line=b"GET * HTTP/1.1"), (400,), ON, "9112 3.2.4"),
    Case("an authority for GET", get(line=b"GET localhost:80 HTTP/1.1"), (400,), CLOSED, "9112 3.2.3"),
    Case("OPTIONS of an absolute server", get(line=b"OPTIONS http://localhost HTTP/1.1"), (204,), ON, "9112 3.2.4"),
    Case("dots", get(line=b"GET /v1/../health HTTP/1.1"), (404,), ON, "3986 6.2.2.3"),
    Case("a backslash", get(line=b"GET /v1\\models HTTP/1.1"), (404,), ON, "garden"),
    Case("a percent-encoded NUL", get(line=b"GET /health%00 HTTP/1.1"), (404,), ON, "9112 3.2"),
    Case("a percent-encoded CRLF", get(line=b"GET /x%0d%0aSet-Cookie:%20a HTTP/1.1"), (404,), ON, "9112 3.2"),
]

HOSTS = [
    Case("no Host", get(b""), (400,), CLOSED, "9112 3.2"),
    Case("two Hosts", get(H + H), (400,), ON, "9112 3.2"),
    Case("two different Hosts", get(H + b"Host: evil.example\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host of two", get(b"Host: localhost, localhost\r\n"), (400,), ON, "9112 3.2"),
    Case("an empty Host", get(b"Host:\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host with a space", get(b"Host: local host\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host with a path", get(b"Host: localhost/x\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host with a user", get(b"Host: me@localhost\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host with a fragment", get(b"Host: localhost#\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host with a scheme", get(b"Host: http://localhost\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host in quotes", get(b'Host: "localhost"\r\n'), (400,), ON, "9112 3.2"),
    Case("a Host with high bytes", get(b"Host: localhost\xa0\r\n"), (400,), ON, "9112 3.2"),
    Case("a Host with NUL", get(b"Host: localhost\x00.evil.example\r\n"), (400,), CLOSED, "9112 3.2"),
    Case("a port that is no number", get(b"Host: localhost:x\r\n"), (400,), ON, "9112 3.2"),
    Case("a port of high digits", get(b"Host: localhost:\xb2\r\n"), (400,), ON, "9112 3.2"),
    Case("a port above all", get(b"Host: localhost:65536\r\n"), (400,), ON, "9112 3.2"),
    Case("two ports", get(b"Host: localhost:80:80\r\n"), (400,), ON, "9112 3.2"),
    Case("an empty port", get(b"Host: localhost:\r\n"), (200,), ON, "3986 3.2.3"),
    Case("a port", get(b"Host: localhost:8080\r\n"), (200,), ON, "9112 3.2"),
    Case("an unclosed bracket", get(b"Host: [::1\r\n"), (400,), ON, "9112 3.2"),
    Case("a name in brackets", get(b"Host: [localhost]\r\n"), (400,), ON, "9112 3.2"),
    Case("bare IPv6", get(b"Host: ::1\r\n"), (400,), ON, "9112 3.2"),
    Case("IPv6", get(b"Host: [::1]:80\r\n"), (200,), ON, "9112 3.2"),
    Case("IPv4", get(b"Host: 127.0.0.1:80\r\n"), (200,), ON, "9112 3.2"),
    Case("upper case", get(b"HOST: LOCALHOST\r\n"), (200,), ON, "9110 5.1"),
    Case("a configured name", get(b"Host: nas.local\r\n"), (200,), ON, "9110 7.2"),
    Case("another's name", get(b"Host: evil.example\r\n"), (403,), ON, "9110 7.2"),
    Case("another's name behind ours", get(b"Host: localhost.evil.example\r\n"), (403,), ON, "9110 7.2"),
    Case("a number for an address", get(b"Host: 2130706433\r\n"), (403,), ON, "9110 7.2"),
    Case("HTTP/1.0 without Host", get(b"", line=b"GET /health HTTP/1.0"), (200,), CLOSED, "9112 3.2"),
    Case("HTTP/1.0 with a bad Host", get(b"Host: a b\r\n", line=b"GET /health HTTP/1.0"), (400,), CLOSED, "9112 3.2"),
    Case("HTTP/1.0 with another's", get(b"Host: evil.example\r\n", line=b"GET /health HTTP/1.0"), (403,), CLOSED, "9110 7.2"),
]

FIELDS = [
    Case("no space behind the colon", get(H + b"X:y\r\n"), (200,), ON, "9112 5.1"),
    Case("tabs and spaces around a value", get(H + b"X: \t y \t \r\n"), (200,), ON, "9112 5.1"),
    Case("an empty value", get(H + b"X:\r\n"), (200,), ON, "9110 5.5"),
    Case("high bytes in a value", get(H + b"X: \xe4\xff\r\n"), (200,), ON, "9110 5.5"),
    Case("a space before the colon", get(H + b"X : y\r\n"), (400,), CLOSED, "9112 5.1"),
    Case("a tab before the colon", get(H + b"X\t: y\r\n"), (400,), CLOSED, "9112 5.1"),
    Case("a folded line", get(H + b"X: a\r\n b\r\n"), (400,), CLOSED, "9112 5.2"),
    Case("a line folded with a tab", get(H + b"X: a\r\n\tb\r\n"), (400,), CLOSED, "9112 5.2"),
    Case("a folded empty value", get(H + b"X:\r\n b\r\n"), (400,), CLOSED, "9112 5.2"),
    Case("a line without a colon", get(H + b"X\r\n"), (400,), CLOSED, "9112 5"),
    Case("an empty name", get(H + b": y\r\n"), (400,), CLOSED, "9110 5.1"),
    Case("a name with a space", get(H + b"X y: z\r\n"), (400,), CLOSED, "9110 5.1"),
    Case("a name with a bracket", get(H + b"X(y): z\r\n"), (400,), CLOSED, "9110 5.1"),
    Case("a name with high bytes", get(H + b"X\xe4: z\r\n"), (400,), CLOSED, "9110 5.1"),
    Case("a name of other characters", get(H + b"!#$%&'*+-.^_`|~9: z\r\n"), (200,), ON, "9110 5.6.2"),
    Case("a bare CR in a value", get(H + b"X: a\rb\r\n"), (400,), CLOSED, "9110 5.5"),
    Case("a bare LF after a value", get(H + b"X: a\nY: b\r\n"), (400,), CLOSED, "9112 2.2"),
    Case("NUL in a value", get(H + b"X: a\x00b\r\n"), (400,), CLOSED, "9110 5.5"),
    Case("CR CR LF", get(H + b"X: a\r\r\n"), (400,), CLOSED, "garden"),
    Case("LF for the empty line", b"GET /health HTTP/1.1\r\n" + H + b"\n", (400,), CLOSED, "9112 2.2"),
    Case("CR for the empty line", b"GET /health HTTP/1.1\r\n" + H + b"\rX", (400,), CLOSED, "9112 2.2"),
    Case("a repeated header", get(H + b"Accept: a\r\nAccept: b\r\n"), (200,), ON, "9110 5.3"),
    Case("1,000 headers", get(H + b"".join(b"X-%d: y\r\n" % n for n in range(1000))), (200,), ON, "9110 5.4"),
    Case("20,000 headers", get(H + b"".join(b"X-%d: y\r\n" % n for n in range(20_000))), (431,), CLOSED, "6585 5"),
    Case("a value of 60,000 bytes", get(H + b"X: " + b"y" * 60_000 + b"\r\n"), (200,), ON, "9110 5.4"),
    Case("a value of 300,000 bytes", get(H + b"X: " + b"y" * 300_000 + b"\r\n"), (431,), CLOSED, "6585 5"),
    Case("a name of 300,000 bytes", get(H + b"y" * 300_000 + b": x\r\n"), (431,), CLOSED, "6585 5"),
    *(Case(f"byte {n:#04x} before a colon", get(H + b"X%c: y\r\n" % n), (400,), CLOSED, "smuggler") for n in ODD + HIGH),
    *(Case(f"byte {n:#04x} before a name", get(H + b"%cX: y\r\n" % n), (400,), CLOSED, "smuggler") for n in ODD + HIGH),
]

LENGTHS = [
    Case("a length", sized(), (200,), ON, "9112 6.2"),
    Case("a length of 0", get(H + b"Content-Length: 0\r\n"), (200,), ON, "9112 6.2"),
    Case("a length with zeros in front", post(b"Content-Length: 00013\r\n"), (200,), ON, "9110 8.6"),
    Case("a length of 5,000 digits", post(b"Content-Length: " + b"0" * 4998 + b"13\r\n"), (200,), ON, "9110 8.6"),
    Case("a length of 5,000 nines", post(b"Content-Length: " + b"9" * 5000 + b"\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("two to the 64th", post(b"Content-Length: 18446744073709551616\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("two to the 64th and 13", post(b"Content-Length: 18446744073709551629\r\n"), (400,), CLOSED, "garden"),
    Case("more than is taken", post(b"Content-Length: 99999999999\r\n", b""), (413,), CLOSED, "9110 15.5.14"),
    Case("neither length nor chunks", post(b"", b""), (400,), ON, "9112 6.3"),
    Case("the same length twice", post(b"Content-Length: 13\r\nContent-Length: 13\r\n"), (400,), CLOSED, "9112 6.3"),
    Case("two lengths", post(b"Content-Length: 13\r\nContent-Length: 0\r\n"), (400,), CLOSED, "9112 6.3"),
    Case("two lengths, the other way", post(b"Content-Length: 0\r\nContent-Length: 13\r\n"), (400,), CLOSED, "9112 6.3"),
    Case("a list of lengths", post(b"Content-Length: 13, 13\r\n"), (400,), CLOSED, "9112 6.3"),
    Case("a list that ends early", post(b"Content-Length: 13,\r\n"), (400,), CLOSED, "desync"),
    Case("an empty length", post(b"Content-Length:\r\n"), (400,), CLOSED, "9112 6.3"),
    Case("a length with plus", post(b"Content-Length: +13\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("a length with minus", post(b"Content-Length: -13\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("minus zero", post(b"Content-Length: -0\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("a hexadecimal length", post(b"Content-Length: 0xd\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("a decimal point", post(b"Content-Length: 13.0\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("an exponent", post(b"Content-Length: 1e1\r\n"), (400,), CLOSED, "garden"),
    Case("an underscore", post(b"Content-Length: 1_3\r\n"), (400,), CLOSED, "garden"),
    Case("words", post(b"Content-Length: thirteen\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("a space inside", post(b"Content-Length: 1 3\r\n"), (400,), CLOSED, "9110 8.6"),
    Case("a quoted length", post(b'Content-Length: "13"\r\n'), (400,), CLOSED, "9110 8.6"),
    Case("spaces behind", post(b"Content-Length: 13  \r\n"), (200,), ON, "9112 5.1"),
    Case("a space before the colon", post(b"Content-Length : 13\r\n"), (400,), CLOSED, "9112 5.1"),
    Case("a folded length", post(b"Content-Length:\r\n 13\r\n"), (400,), CLOSED, "9112 5.2"),
    Case("hidden behind a bare CR", post(b"X: a\rContent-Length: 13\r\n"), (400,), CLOSED, "desync"),
    Case("hidden behind a bare LF", post(b"X: a\nContent-Length: 13\r\n"), (400,), CLOSED, "desync"),
    Case("an underscore in the name counts for nothing", post(b"Content_Length: 99\r\n", b""), (400,), ON, "desync"),
    Case("a body that does not come", post(b"Content-Length: 50\r\n"), (408,), CLOSED, "9110 15.5.9"),
    Case("a request behind a body of 0", post(b"Content-Length: 0\r\n", b"") + get(), (400, 200), ON, "desync CL.0"),
    Case("a request inside a refused body", b"POST /nowhere HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED), (404,), ON, "desync"),
    *(Case(f"byte {n:#04x} behind a length", post(b"Content-Length: 13%c\r\n" % n), (400,), CLOSED, "smuggler") for n in ODD + HIGH),
    *(Case(f"byte {n:#04x} before a length", post(b"Content-Length:%c13\r\n" % n), (400,), CLOSED, "smuggler") for n in ODD + HIGH),
]

CODINGS = [
    Case("chunked", chunks(WHOLE), (200,), ON, "9112 6.1"),
    Case("chunked in upper case", post(b"TRANSFER-ENCODING: CHUNKED\r\n", WHOLE), (200,), ON, "9112 7"),
    Case("length and chunks", sized(CHUNKED), (400,), CLOSED, "9112 6.3 CL.TE"),
    Case("chunks and length", chunks(WHOLE, b"Content-Length: 3\r\n"), (400,), CLOSED, "9112 6.3 TE.CL"),
    Case("length 0 and chunks", post(b"Content-Length: 0\r\n" + CHUNKED, WHOLE), (400,), CLOSED, "desync"),
    Case("gzip, chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", WHOLE), (501,), CLOSED, "9112 6.1"),
    Case("gzip and chunked", post(b"Transfer-Encoding: gzip\r\n" + CHUNKED, WHOLE), (501,), CLOSED, "9112 6.1"),
    Case("chunked, gzip", post(b"Transfer-Encoding: chunked, gzip\r\n", WHOLE), (400,), CLOSED, "9112 6.3"),
    Case("chunked, chunked", post(b"Transfer-Encoding: chunked, chunked\r\n", WHOLE), (400,), CLOSED, "9112 6.1"),
    Case("chunked twice", post(CHUNKED + CHUNKED, WHOLE), (400,), CLOSED, "9112 6.1 TE.TE"),
    Case("chunked and identity", post(CHUNKED + b"Transfer-Encoding: identity\r\n", WHOLE), (400,), CLOSED, "desync TE.TE"),
    Case("identity and chunked", post(b"Transfer-Encoding: identity\r\n" + CHUNKED, WHOLE), (501,), CLOSED, "desync TE.TE"),
    Case("chunked and x", post(CHUNKED + b"Transfer-encoding: x\r\n", WHOLE), (400,), CLOSED, "desync TE.TE"),
    Case("identity", post(b"Transfer-Encoding: identity\r\n", WHOLE), (400,), CLOSED, "9112 6.3"),
    Case("gzip alone", post(b"Transfer-Encoding: gzip\r\n", WHOLE), (400,), CLOSED, "9112 6.3"),
    Case("xchunked", post(b"Transfer-Encoding: xchunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("chunkedx", post(b"Transfer-Encoding: chunkedx\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("x chunked", post(b"Transfer-Encoding: x chunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("chunked with a parameter", post(b"Transfer-Encoding: chunked;q=1\r\n", WHOLE), (400,), CLOSED, "9112 7"),
    Case("chunked in quotes", post(b'Transfer-Encoding: "chunked"\r\n', WHOLE), (400,), CLOSED, "smuggler"),
    Case("chunked behind a comma", post(b"Transfer-Encoding: , chunked\r\n", WHOLE), (501,), CLOSED, "smuggler"),
    Case("chunked before a comma", post(b"Transfer-Encoding: chunked,\r\n", WHOLE), (400,), CLOSED, "smuggler"),
    Case("nothing", post(b"Transfer-Encoding:\r\n", WHOLE), (400,), CLOSED, "garden"),
    Case("a space before the colon", post(b"Transfer-Encoding : chunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("a space before the name", post(b" Transfer-Encoding: chunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("no space, a tab", post(b"Transfer-Encoding:\tchunked\r\n", WHOLE), (200,), ON, "9112 5.1"),
    Case("no space", post(b"Transfer-Encoding:chunked\r\n", WHOLE), (200,), ON, "9112 5.1"),
    Case("spaces behind", post(b"Transfer-Encoding: chunked  \r\n", WHOLE), (200,), ON, "9112 5.1"),
    Case("folded", post(b"Transfer-Encoding:\r\n chunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("folded with a tab", post(b"Transfer-Encoding:\r\n\tchunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("behind a bare LF", post(b"X: x\nTransfer-Encoding: chunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("behind a bare CR", post(b"X: x\rTransfer-Encoding: chunked\r\n", WHOLE), (400,), CLOSED, "desync"),
    Case("an underscore in the name counts for nothing", post(b"Transfer_Encoding: chunked\r\nContent-Length: 13\r\n"), (200,), ON, "desync"),
    Case("HTTP/1.0 and chunks", post(CHUNKED, WHOLE, version=b"1.0"), (400,), CLOSED, "9112 6.1"),
    Case("HTTP/1.0, a length and chunks", post(b"Content-Length: 13\r\n" + CHUNKED, version=b"1.0"), (400,), CLOSED, "9112 6.1"),
    Case("HTTP/1.0 kept alive and chunks", post(b"Connection: keep-alive\r\n" + CHUNKED, WHOLE, version=b"1.0"), (400,), CLOSED, "9112 6.1"),
    *(Case(f"byte {n:#04x} before chunked", post(b"Transfer-Encoding:%cchunked\r\n" % n, WHOLE), (400,), CLOSED, "smuggler") for n in ODD + HIGH),
    *(Case(f"byte {n:#04x} behind chunked", post(b"Transfer-Encoding: chunked%c\r\n" % n, WHOLE), (400,), CLOSED, "smuggler") for n in ODD + HIGH),
    *(Case(f"byte {n:#04x} before the colon", post(b"Transfer-Encoding%c: chunked\r\n" % n, WHOLE), (400,), CLOSED, "smuggler") for n in ODD + HIGH),
]

CHUNKS = [
    Case("one byte a chunk", chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"), (200,), ON, "9112 7.1"),
    Case("a size in upper case", chunks(b"D\r\n" + BODY + b"\r\n0\r\n\r\n"), (200,), ON, "9112 7.1"),
    Case("a size with zeros in front", chunks(b"000d\r\n" + BODY + b"\r\n000\r\n\r\n"), (200,), ON, "9112 7.1"),
    Case("an extension", chunks(b"d;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"), (200,), ON, "9112 7.1.1"),
    Case("a quoted extension", chunks(b'd;a="b c"\r\n' + BODY + b"\r\n0\r\n\r\n"), (200,), ON, "9112 7.1.1"),
    Case("an extension without a value", chunks(b"d;a\r\n" + BODY + b"\r\n0;b\r\n\r\n"), (200,), ON, "9112 7.1.1"),
    Case("an extension with a bare LF", chunks(b"d;a\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "chunks EXT.TERM"),
    Case("an extension with a bare CR", chunks(b"d;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "chunks EXT.TERM"),
    Case("an extension with NUL", chunks(b"d;a\x00\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "chunks"),
    Case("a size that ends with a bare LF", chunks(b"d\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "chunks"),
    Case("a size that ends with a bare CR", chunks(b"d\r" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "chunks"),
    Case("data that ends with a bare LF", chunks(b"d\r\n" + BODY + b"\n0\r\n\r\n"), (400,), CLOSED, "chunks TERM.EXT"),
    Case("data that ends with a bare CR", chunks(b"d\r\n" + BODY + b"\r0\r\n\r\n"), (400,), CLOSED, "chunks TERM.EXT"),
    Case("data that ends with other bytes", chunks(b"d\r\n" + BODY + b"xx0\r\n\r\n"), (400,), CLOSED, "desync"),
    Case("data that is longer than its size", chunks(b"c\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "desync"),
    Case("data without an end", chunks(b"d\r\n" + BODY + b"0\r\n\r\n"), (400,), CLOSED, "desync"),
    Case("an empty size", chunks(b"\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "9112 7.1"),
    Case("no digit", chunks(b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "9112 7.1"),
    Case("a size with minus", chunks(b"-d\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "garden"),
    Case("a size with plus", chunks(b"+d\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "garden"),
    Case("a size with 0x", chunks(b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "garden"),
    Case("a size with an underscore", chunks(b"0_d\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "garden"),
    Case("a space before a size", chunks(b" d\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "9112 7.1"),
    Case("a space behind a size", chunks(b"d \r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "9112 7.1"),
    Case("a size of 64 bits and more", chunks(b"1000000000000000d\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,), CLOSED, "garden"),
    Case("a size of all ones", chunks(b"ffffffffffffffff\r\n" + BODY), (408,), CLOSED, "9112 7.1"),
    Case("more than is taken", chunks(b"f4241\r\n" + b" " * 1_000_001 + b"\r\n0\r\n\r\n"), (413,), CLOSED, "9110 15.5.14"),
    Case("a trailer", chunks(WHOLE[:-2] + b"X: y\r\n\r\n"), (200,), ON, "9112 7.1.2"),
    Case("a length among trailers counts for nothing", chunks(WHOLE[:-2] + b"X-Length: 5\r\n\r\n"), (200,), ON, "9110 6.5.1"),
    Case("a Host among trailers counts for nothing", chunks(WHOLE[:-2] + b"Host: evil.example\r\n\r\n"), (200,), ON, "9110 6.5.1"),
    Case("a folded trailer", chunks(WHOLE[:-2] + b"X: y\r\n z\r\n\r\n"), (400,), CLOSED, "9112 5.2"),
    Case("a trailer without a colon", chunks(WHOLE[:-2] + b"X\r\n\r\n"), (400,), CLOSED, "9112 7.1.2"),
    Case("trailers that end with a bare LF", chunks(WHOLE[:-2] + b"X: y\n\r\n"), (400,), CLOSED, "9112 2.2"),
    Case("no empty line behind the last chunk", chunks(WHOLE[:-2]) + get(), (400,), CLOSED, "9112 7.1"),
    Case("trailers of 400,000 bytes", chunks(WHOLE[:-2] + b"X: y\r\n" * 66_667), (400,), CLOSED, "6585 5"),
    Case("one trailer of 400,000 bytes", chunks(WHOLE[:-2] + b"X: " + b"y" * 400_000), (400,), CLOSED, "6585 5"),
    Case("extensions of 400,000 bytes", chunks(b"d;" + b"x" * 400_000), (400,), CLOSED, "go"),
    Case("80,000 chunks of a byte", chunks(b"1\r\n \r\n" * 80_000), (400,), CLOSED, "go"),
    Case("a body that does not end", chunks(b"d\r\n" + BODY + b"\r\n"), (408,), CLOSED, "9110 15.5.9"),
    Case("a request inside a chunk", b"POST /nowhere HTTP/1.1\r\n" + H + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), (404,), ON, "desync"),
    Case("a request behind the last chunk", chunks(WHOLE) + get(), (200, 200), ON, "9112 9.3.2"),
]

CONNECTIONS = [
    Case("close", get(H + b"Connection: close\r\n"), (200,), CLOSED, "9112 9.6"),
    Case("close in upper case", get(H + b"CONNECTION: CLOSE\r\n"), (200,), CLOSED, "9112 9.6"),
    Case("close among others", get(H + b"Connection: x, close\r\n"), (200,), CLOSED, "9112 9.6"),
    Case("close in a second line", get(H + b"Connection: x\r\nConnection: close\r\n"), (200,), CLOSED, "9112 9.6"),
    Case("close and Upgrade", get(H + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"), (200,), CLOSED, "9112 9.6"),
    Case("Upgrade and close", get(H + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n"), (200,), CLOSED, "9112 9.6"),
    Case("keep-alive", get(H + b"Connection: keep-alive\r\n"), (200,), ON, "9112 9.3"),
    Case("another option", get(H + b"Connection: x-closed\r\n"), (200,), ON, "9112 9.3"),
    Case("what follows close", get(H + b"Connection: close\r\n") + get(), (200,), CLOSED, "9112 9.6"),
    Case("nonsense that follows close", get(H + b"Connection: close\r\n") + b"\x00\xff", (200,), CLOSED, "9112 9.6"),
    Case("two requests at once", get() + get(), (200, 200), ON, "9112 9.3.2"),
    Case("three, the middle one posted", get() + sized() + get(), (200, 200, 200), ON, "9112 9.3.2"),
    Case("40 requests at once", get() * 40, (200,) * 40, ON, "9112 9.3.2"),
    Case("1,000 requests at once", get() * 1000, (*(200,) * 65, 429), CLOSED, "9112 9.3.2"),
    Case("nonsense behind two requests", get() + sized() + b"\x00\x00", (200, 200, 400), CLOSED, "9112 9.3.2"),
    Case("an empty line between requests", get() + b"\r\n" + get(), (200, 200), ON, "9112 2.2"),
    Case("other bytes between requests", get() + b"xx\r\n" + get(), (200, 400), CLOSED, "9112 2.2"),
    Case("HTTP/1.0", get(line=b"GET /health HTTP/1.0"), (200,), CLOSED, "9112 9.3"),
    Case("HTTP/1.0 kept alive", get(H + b"Connection: keep-alive\r\n", line=b"GET /health HTTP/1.0"), (200,), CLOSED, "9112 9.3"),
    Case("HTTP/1.0, two at once", get(line=b"GET /health HTTP/1.0") * 2, (200,), CLOSED, "9112 9.3"),
    Case("HTTP/1.0 with a body", post(b"Content-Length: 13\r\n", version=b"1.0"), (200,), CLOSED, "9112 6.3"),
    Case("an offer of HTTP/2", get(H + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP\r\n"), (200,), ON, "9110 7.8"),
    Case("an offer of HTTP/2 with a body", sized(b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + get(), (200, 200), ON, "9110 7.8"),
    Case("an offer of HTTP/2 with chunks", chunks(WHOLE, b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + get(), (200, 200), ON, "9110 7.8"),
    Case("an offer of WebSocket", get(H + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), (200,), ON, "9110 7.8"),
    Case("20 offers at once", get(H + b"Connection: Upgrade\r\nUpgrade: h2c\r\n") * 20, (200,) * 20, ON, "9110 7.8"),
    Case("Upgrade without Connection", get(H + b"Upgrade: h2c\r\n"), (200,), ON, "9110 7.8"),
    Case("HTTP/1.0 with Upgrade", get(H + b"Connection: Upgrade\r\nUpgrade: h2c\r\n", line=b"GET /health HTTP/1.0"), (200,), CLOSED, "9110 7.8"),
    Case("an offer, two lengths", post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 13\r\nContent-Length: 0\r\n"), (400,), CLOSED, "desync"),
    Case("an offer, length and chunks", sized(b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + CHUNKED), (400,), CLOSED, "desync"),
    Case("an offer, and gzip, chunked", post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: gzip, chunked\r\n", WHOLE), (501,), CLOSED, "desync"),
    Case("a side that ended", get(), (200,), CLOSED, "9112 9.6", half=True),
    Case("a side that ended behind a body", sized(), (200,), CLOSED, "9112 9.6", half=True),
    Case("a side that ended behind three", get() + sized() + get(), (200, 200, 200), CLOSED, "9112 9.6", half=True),
    Case("HTTP/1.0, and a side that ended", get(line=b"GET /health HTTP/1.0"), (200,), CLOSED, "9112 9.6", half=True),
    Case("a side that ended in a second head", get() + b"GET /he", (200, 400), CLOSED, "9112 8", half=True),
    Case("a side that ended in a second body", get() + post(b"Content-Length: 99\r\n"), (200, 400), CLOSED, "9112 8", half=True),
    Case("a side that ended in a head", b"GET /health HT", (400,), CLOSED, "9112 8", half=True),
    Case("a side that ended in a body", post(b"Content-Length: 99\r\n"), (400,), CLOSED, "9112 8", half=True),
    Case("a side that ended in a chunk", chunks(b"d\r\n{"), (400,), CLOSED, "9112 8", half=True),
    Case("a side that ended before the last chunk", chunks(b"d\r\n" + BODY + b"\r\n"), (400,), CLOSED, "9112 8", half=True),
    Case("a side that ended at once", b"", (), CLOSED, "9112 9.6", half=True),
    Case("a second head in part, behind a large body", sized(body=b'{"input":"x"}' + b" " * 120_000) + get() * 2, (200, 200, 200), ON, "9112 9.3.2"),
    Case("the same, cut in the second head", sized(body=b'{"input":"x"}' + b" " * 100_000) + b"GET /health HTTP/1.1\r\nHost: lo", (200, 408), CLOSED, "9112 9.3.2"),
]

EXPECTATIONS = [
    Case("a body that is asked for", post(b"Content-Length: 13\r\nExpect: 100-continue\r\n", b""), (100, 408), CLOSED, "9110 10.1.1"),
    Case("a body that is there already", sized(b"Expect: 100-continue\r\n"), (200,), ON, "9110 10.1.1"),
    Case("no body at all", get(H + b"Expect: 100-continue\r\n"), (200,), ON, "9110 10.1.1"),
    Case("in upper case", post(b"Content-Length: 13\r\nExpect: 100-CONTINUE\r\n", b""), (100, 408), CLOSED, "9110 10.1.1"),
    Case("HTTP/1.0 is not asked", post(b"Content-Length: 13\r\nExpect: 100-continue\r\n", b"", version=b"1.0"), (408,), CLOSED, "9110 10.1.1"),
    Case("what nobody can meet", sized(b"Expect: 200-ok\r\n"), (417,), CLOSED, "9110 15.5.18"),
    Case("two expectations", sized(b"Expect: 100-continue, x\r\n"), (417,), CLOSED, "9110 10.1.1"),
    Case("refused without asking", b"POST /nowhere HTTP/1.1\r\n" + H + b"Content-Length: 13\r\nExpect: 100-continue\r\n\r\n", (404,), CLOSED, "9110 10.1.1"),
    Case("too large to ask for", post(b"Content-Length: 9999999\r\nExpect: 100-continue\r\n", b""), (413,), CLOSED, "9110 10.1.1"),
]

BODIES = [
    Case("a gzip body", sized(b"Content-Encoding: gzip\r\n", gzip.compress(BODY)), (415,), ON, "9110 8.4"),
    Case("a deflate body", sized(b"Content-Encoding: deflate\r\n"), (415,), ON, "9110 8.4"),
    Case("two codings", sized(b"Content-Encoding: gzip, br\r\n"), (415,), ON, "9110 8.4"),
    Case("no coding", sized(b"Content-Encoding: identity\r\n"), (200,), ON, "9110 8.4.1"),
    Case("gzip that nobody told of", sized(body=gzip.compress(BODY)), (400,), ON, "9110 8.3"),
    Case("no JSON", sized(body=b"hello"), (400,), ON, "9110 15.5.1"),
    Case("UTF-16", sized(body=BODY.decode().encode("utf-16")), (400,), ON, "8259 8.1"),
    Case("arrays in arrays", sized(body=b"[" * 99_999 + b"]" * 99_999), (400,), ON, "8259 9"),
    Case("300,000 arrays", sized(body=b'{"input":[[]' + b",[]" * 300_000 + b"]}"), (413,), CLOSED, "8259 9"),
]

# fmt: on

TABLE = {
    "the request line": REQUEST_LINE,
    "methods": METHODS,
    "targets": TARGETS,
    "Host": HOSTS,
    "header fields": FIELDS,
    "Content-Length": LENGTHS,
    "Transfer-Encoding": CODINGS,
    "chunks and trailers": CHUNKS,
    "connections": CONNECTIONS,
    "Expect": EXPECTATIONS,
    "bodies": BODIES,
}


class Answers:
    """Answers as a strict client reads them."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.statuses: list[int] = []
        self.wrong: list[str] = []

    async def read_one(self, *, bodiless: bool = False) -> bool:
        """Read one answer; False at the end of the connection."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            if end.partial:
                self.wrong.append(f"a cut answer {end.partial[:40]!r}")
            return False
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines[1:])
        }
        status = int(lines[0].split(" ")[1])
        self.statuses.append(status)
        if not lines[0].startswith("HTTP/1.1 "):
            self.wrong.append(lines[0])
        if status >= 200 and "date" not in headers:
            self.wrong.append("no Date")
        if status == 405 and "allow" not in headers:
            self.wrong.append("no Allow")
        if status not in (100, 204) and not bodiless:
            await self._reader.readexactly(int(headers["content-length"]))
        return True


async def run_case(port: int, case: Case) -> tuple[tuple[int, ...], bool, list[str]]:
    """Return the statuses, whether the connection goes on, and what else is wrong."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    answers = Answers(reader)
    try:
        writer.write(case.sent)
        await writer.drain()
        if case.half:
            writer.write_eof()
        bodiless = case.sent.startswith(b"HEAD")
        while len(answers.statuses) < len(case.statuses) and await answers.read_one(bodiless=bodiless):
            pass
        seen = tuple(answers.statuses)
        if case.goes_on:
            writer.write(LAST)
        while await answers.read_one():
            pass
        goes_on = answers.statuses[len(seen) :] == [200]
        return seen if goes_on else tuple(answers.statuses), goes_on, answers.wrong
    except ConnectionError as error:
        return tuple(answers.statuses), False, [*answers.wrong, repr(error)]
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_every_case(tmp_path: Path) -> None:
    """Run the table against the real server, and print it."""
    cases = [(section, case) for section, cases in TABLE.items() for case in cases]
    assert len(cases) >= 200
    models = [FakeModel("e"), FakeModel("g", Role.GENERATE)]
    async with running_front(tmp_path, models, LIMITS) as running:
        found = await asyncio.gather(
            *(asyncio.wait_for(run_case(running.port, case), 20) for _, case in cases)
        )
        _, goes_on, _ = await run_case(running.port, Case("after all", get(), (200,), ON, ""))
    bad, lines = [], []
    for (section, case), (statuses, went_on, wrong) in zip(cases, found, strict=True):
        good = statuses == case.statuses and went_on == case.goes_on and not wrong
        line = f"{section:20} {case.name:50} {case.source:18} {statuses} {'on' if went_on else 'closed'}"
        lines.append(line)
        if not good:
            bad.append(
                f"{line} instead of {case.statuses} {'on' if case.goes_on else 'closed'} {wrong or ''}"
            )
    print("\n".join(lines), f"\n{len(cases)} cases, {len(bad)} wrong")
    assert not bad, "\n".join(bad)
    assert goes_on
