"""What every command of the line shares: who it talks to, how it prints, how it fails.

Data goes to standard output, talk to standard error. A failure prints "cannot X: reason", what is
wrong in detail, and a hint, and exits with the status of its kind (``errors.EXIT_STATUS``).

A command talks to the system named by ``--control-plane`` (or ``HOLDFAST_URL``); else to the one
that runs on the data directory, which leaves its address there; else it opens the data directory
itself under the same lock. The answer is the same three ways, because all three go through the
same HTTP interface.

The library that reads the line (typer) is not loaded here: programs that stay print and fail the
same way and have no use for it. What needs it is in ``kernel.options``.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec

from holdfast.kernel.errors import (
    EXIT_STATUS,
    HoldfastError,
    Invalid,
    Kind,
    Unauthenticated,
    Unavailable,
)
from holdfast.kernel.files import flush_folder
from holdfast.kernel.hints import hint_for
from holdfast.kernel.ids import is_name
from holdfast.kernel.interrupts import loaded
from holdfast.kernel.lock import holder_of

if TYPE_CHECKING:
    import typer
    from _typeshed import ReadableBuffer

    from holdfast.kernel.http.client import ApiClient
    from holdfast.kernel.tls import ClientTls

T = TypeVar("T")
_TOKEN = re.compile(r"[!-~]+")
MARK = "holdfast.json"
LOCK = "holdfast.lock"
"""Of a data directory: what the program that runs on it tells of itself, and what it holds."""


class RunningProgram(msgspec.Struct, frozen=True, kw_only=True):
    """What a running program leaves in ``holdfast.json`` of its data directory."""

    url: str
    pid: int
    started_at: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The options before the noun, and how to open a data directory in this process."""

    data_dir: Path
    control_plane: str | None
    log_level: str
    log_format: str
    open_here: Callable[[CommandLine], AbstractAsyncContextManager[ApiClient]]
    data_dir_from: str = "--data-dir"
    """The flag or the variable that named the data directory, or ``default``."""
    tls_of: Callable[[CommandLine], ClientTls | None] = lambda _: None
    """How the settings say that systems over https are called."""
    database_of: Callable[[CommandLine], str] = lambda _: "sqlite:"
    """Where the settings say that state is kept."""
    said_of: Callable[[CommandLine, str], tuple[Any, str]] = lambda _, key: (None, "default")
    """What the settings say of a key, and where they say it."""

    def verify_for(self, url: str) -> Any:
        """As httpx takes it: whom a system at ``url`` is trusted by."""
        tls = self.tls_of(self) if url.startswith("https://") else None
        return True if tls is None else tls.context

    def operator_token(self) -> str | None:
        """The token of the file that the settings name or of the data directory, if readable."""
        named, origin = self.said_of(self, "operator_token_file")
        path: Path = named or self.data_dir / "operator.token"
        try:
            token = path.read_bytes().decode("latin-1").strip()
        except FileNotFoundError:
            if named:
                raise Invalid(
                    f"cannot read the operator token: {path} does not exist",
                    hint=f"{_origin(origin, 'operator_token_file')} names it",
                ) from None
            return None
        except OSError as error:
            raise Invalid(f"cannot read the operator token {path}: {error.strerror}") from error
        if not _TOKEN.fullmatch(token):
            what = "holds something else than one token" if token else "is empty"
            raise Invalid(
                f"cannot use the operator token: the token file {path} {what}",
                hint=f"{_origin(origin, 'operator_token_file')} names a file with the operator's "
                "token or an API key, and nothing besides"
                if named
                else "put the token back from a copy; or stop the system, delete the file and "
                "start again: a new one is made",
            )
        return token

    def tenant(self) -> str:
        """The tenant that the token is of, where the settings say so: some doors ask."""
        named, origin = self.said_of(self, "tenant")
        found: str = named or ""
        if found and not is_name(found):
            raise Invalid(
                f"cannot use {found[:64]!r} of {_origin(origin, 'tenant')}: that is no name of a "
                "tenant",
                hint="name the tenant that the key is of, such as default",
            )
        return found

    def shown(self, url: str) -> tuple[str, str | None]:
        """Where to ask the system at ``url``, and the token to show it, if one is meant for it.

        The data directory's is for the system that runs on it alone, at the address that it wrote
        down; whatever else answers somewhere is shown only a token that was named for it. None
        goes unencrypted beyond this machine.
        """
        running = self.running()
        scheme, host, port = given = _place(url)
        if running is not None:
            own = _place(running.url)
            if given == own:
                return url, self.operator_token()
            if host == "localhost" and _is_loopback(own[1]) and (scheme, port) == (own[0], own[2]):
                # By that name another one may answer, on ::1 where the system is on 127.0.0.1; over
                # TLS it would have to prove its right to it.
                return (running.url if scheme == "http" else url), self.operator_token()
        if leaves_unencrypted(url):
            raise Invalid(
                f"cannot use {url}: without TLS what is said could be read on the way",
                hint="write https://; http:// is for this machine alone",
            )
        named, _ = self.said_of(self, "operator_token_file")
        return url, self.operator_token() if named else None

    def has_data(self) -> bool:
        """Whether a system has been here: its files, or what it keeps beside a server's tables."""
        if (self.data_dir / "state").is_dir():
            return True
        return (self.data_dir / "keys").is_dir() and not self.database_of(self).startswith("sqlite")

    def running(self) -> RunningProgram | None:
        """The program that runs on this data directory."""
        return running_on(self.data_dir)


def _origin(origin: str, key: str) -> str:
    """Where a setting was said, for a message: a file names many."""
    return origin if origin.isupper() else f"{key} in {origin}"


def running_on(data_dir: Path) -> RunningProgram | None:
    """The program that runs on ``data_dir``, as it told of itself there.

    It holds the directory's lock. That there is a process of its number would prove nothing: once
    it was killed, another gets that number, and yet another its port.
    """
    try:
        said = (data_dir / MARK).read_bytes()
        found = msgspec.json.decode(said, type=RunningProgram)
    except (OSError, msgspec.DecodeError):
        return None
    try:
        holder = holder_of(data_dir / LOCK)
    except PermissionError:
        return found  # whoever may not look has no right to its token either
    except OSError:
        return None
    return found if holder in ("", str(found.pid)) else None


def checked_address(url: str, named: str) -> str:
    """``url`` if it is the address of a system; ``Invalid`` says what it lacks."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        bare = "://" not in url
        raise Invalid(
            f"cannot use the address {url[:200]!r} of {named}: "
            + ("it lacks http:// or https://" if bare else "it is no http:// or https:// address"),
            hint=f"write {named} http://{url[:200]}" if bare else "write http://HOST:PORT",
        )
    return url


def _place(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").rstrip("."), port


def leaves_unencrypted(url: str) -> bool:
    """Whether what is sent to ``url`` could be read on its way: no TLS, beyond this machine."""
    scheme, host, _ = _place(url)
    return scheme == "http" and host != "localhost" and not _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which leads wherever somebody says


_noun: ContextVar[str] = ContextVar("noun", default="")


_as_json: ContextVar[bool] = ContextVar("as_json", default=False)


def note_json(wanted: bool) -> None:
    """Whether the line asked for JSON: failures are told so too."""
    _as_json.set(wanted)


def note_noun(noun: str) -> None:
    """Which noun (or bare verb) this process was called with, for hints."""
    _noun.set(noun)


def command_line(ctx: typer.Context) -> CommandLine:
    """The options before the noun."""
    found = ctx.find_object(CommandLine)
    assert found is not None, "the root command sets it"
    return found


@asynccontextmanager
async def session(ctx: typer.Context, *, timeout_seconds: float = 60.0) -> AsyncIterator[ApiClient]:
    """An :class:`ApiClient` for the system this command is about, whichever of the three it is."""
    line = command_line(ctx)
    url = line.control_plane
    if url is None:
        running = line.running()
        url = running.url if running else None
    if url is None:
        if not line.has_data():
            raise Unavailable(
                f"cannot find a system: nothing runs and there is no data in {line.data_dir}",
                hint="start one with `holdfast up`, or name one with --control-plane URL",
            )
        async with line.open_here(line) as api:
            yield api
        return
    from holdfast.kernel.http.client import ApiClient

    url, token = line.shown(url)
    async with ApiClient.connect(
        url,
        token=token,
        timeout_seconds=timeout_seconds,
        verify=line.verify_for(url),
        tenant=line.tenant(),
        waits=True,
    ) as api:
        try:
            yield api
        except Unauthenticated as error:
            file = line.data_dir / "operator.token"
            # A role behind a gateway has none, and says itself whom to ask.
            a_door = error.detail.endswith("nobody is signed in")
            if token is not None or not a_door or line.running() is None or file.exists():
                raise
            raise Unauthenticated(
                f"{error.detail}, and {file} is missing",
                code=error.code,
                hint="put the token back from a copy, or start the system again: a new one is made",
            ) from error


def run(
    body: Callable[[], Coroutine[Any, Any, T]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run a command's body; map a failure to a message on standard error and an exit status."""
    loaded()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(body())
    except HoldfastError as error:
        fail(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not a failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def fail(error: HoldfastError) -> NoReturn:
    """Print what went wrong and leave with the status of its kind.

    For a line with ``--json`` it is one JSON object on one line, the problem document of HTTP.
    """
    status = EXIT_STATUS[error.kind] if error.exit_status is None else error.exit_status
    if _as_json.get():
        from holdfast.kernel.http.problems import document

        shown = document(error, instance="", request_id="")
        shown = msgspec.structs.replace(
            shown,
            detail=error.detail,
            problems=error.problems,
            hint=hint_for(error, _noun.get()),
        )
        _say(visible_json(msgspec.json.encode(shown).decode()))
        raise SystemExit(status)
    say(f"error: {error.detail}")
    for problem in error.problems:
        say(f"  - {problem}")
    if error.kind is Kind.INTERNAL and error.internal:
        # Of this process itself: no log has it.
        say(f"  - {error.internal.splitlines()[0][:300]}")
    say(f"hint: {hint_for(error, _noun.get())}")
    raise SystemExit(status)


def read_file(path: Path, most: int) -> bytes:
    """A file that a command is given, or with ``-`` standard input; one byte over ``most`` tells
    that there is more. ``Invalid`` if it cannot be read."""
    if str(path) == "-":
        return sys.stdin.buffer.read(most + 1)
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}") from error


def named_directory(data_dir: Path) -> str:
    """What a command that we print needs at its end to mean this directory; mostly nothing."""
    return "" if data_dir == Path("data") else f" --data-dir {shlex.quote(str(data_dir))}"


def say(message: str) -> None:
    """Talk, on standard error: one line, which does nothing to a terminal, whatever names and
    reasons of others are in it."""
    _say(visible(message))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """One JSON document on standard output, indented for people, the same for scripts."""
    encoded = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(visible_json(encoded.decode()) + "\n")


def print_list(items: Sequence[Any], kind: str = "", following: str | None = None) -> None:
    """A list as one JSON document, of the shape that HTTP answers: ``items``, and in ``next`` the
    cursor of what follows in the list ``kind``, if anything does."""
    from holdfast.kernel.http.paging import page_after

    print_json(page_after(kind, list(items), following))


@contextmanager
def progress(
    what: str, *, total: int | None = None, quiet: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, moved by whoever works: so much is done, of so much."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def check_new(path: Path | None) -> None:
    """:class:`Invalid` if a file is there already: no command writes over what it did not make.

    Called before anything is asked or made for it. Standard output, a pipe and a device are there
    to be written to.
    """
    if path is None or str(path) == "-":
        return
    with _telling(path):
        there = path.is_symlink() or path.exists()
        special = path.exists() and not (path.is_file() or path.is_dir())
    if there and not special:
        raise Invalid(
            f"cannot write {path}: it is there already",
            hint="nothing is written over: name another file, or move that one away",
        )


@contextmanager
def whole_file(path: Path, *, mode: int = 0o666, replace: bool = False) -> Iterator[BinaryIO]:
    """A file that gets its name, durable, when the block has ended well; else nothing is left.

    :class:`Invalid` if it cannot be written there, or if one is there that is not to be replaced;
    what else fails in the block stays what it is. A pipe or a device gets what is written: no file
    takes its place.
    """
    if not path.name:
        raise Invalid(f"cannot write {path}: it is a folder")
    with _telling(path):
        special = path.exists() and not (path.is_file() or path.is_dir())
    if special:
        with _telling(path):
            raw = _Told(path, path, "w")
        with io.BufferedWriter(raw) as file:
            yield file
        return
    if not replace:
        check_new(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with _telling(path):
            raw = _Told(partial, path, permissions=mode)
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            with _telling(path):
                os.fsync(raw.fileno())
        if not replace:
            check_new(path)
        with _telling(path):
            partial.replace(path)
            flush_folder(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def output(out: Path | None) -> Iterator[BinaryIO]:
    """What ``--out`` names: a new file, as :func:`whole_file` makes it, or standard output."""
    if out is None or str(out) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with whole_file(out) as file:
        yield file


class _Told(io.FileIO):
    """A file; that it cannot be written is told of the name that it is to have."""

    def __init__(self, place: Path, path: Path, mode: str = "x", permissions: int = 0o666) -> None:
        super().__init__(place, mode, opener=lambda name, flags: os.open(name, flags, permissions))
        self._path = path

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override]  # FileIO's own
        with _telling(self._path):
            return super().write(data)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Invalid(
            f"cannot write {path}: {error.strerror}",
            hint="name a file in a folder that is there and can be written",
        ) from error


PIPE_WIDTH = 200
PROSE_WIDTH = 24
"""What a column of prose needs at least, for its other columns to stay."""
BROKEN_WIDTH = 8
"""No column gets narrower than this, even where words are broken."""
_IDENTITY = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def output_width() -> int:
    """How many characters a line of standard output should have at most."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    told = os.environ.get("COLUMNS", "")
    return int(told) if told.isdecimal() and int(told) > 0 else PIPE_WIDTH


def visible(value: object) -> str:
    """``value`` as one line of text that does nothing to a terminal.

    What is printed may come from a source or another tenant's file name: an escape sequence in it
    would move the cursor, change colours, or answer for the person in front of the screen.
    """
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def visible_json(text: str) -> str:
    """A JSON document that means the same and does nothing to a terminal: it escapes by itself
    what is below a blank, and neither the controls above it nor overrides of direction."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        char
        if char == "\n" or char.isprintable()
        else re.sub("....", r"\\u\g<0>", char.encode("utf-16-be", "surrogatepass").hex())
        for char in text
    )


def say_more(more: object, limit: int) -> None:
    """Whoever is shown ``limit`` entries learns that there are more."""
    if more:
        say(f"there are more than {limit}: raise --limit")


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    numeric: Sequence[str] = (),
    empty: str = "nothing yet",
    whole: bool = False,
    spare: Sequence[str] = (),
    wraps: Sequence[str] = (),
    elsewhere: str = "--json shows all",
) -> None:
    """A table on standard output; readable without colour and in a pipe.

    It is as wide as the output; with ``whole`` as wide as it must be, and nothing is wrapped. Where
    there is no room, columns of ``spare`` are left out, empty ones first, then in the given order,
    and that is said, with where they are (``elsewhere``); columns of ``wraps`` hold prose, for
    which a part of its length is enough. What remains is wrapped between words for as long as that
    is possible. Identities are never cut, since they are there to be copied.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        say(empty)
        return
    texts = [[visible(cell) for cell in row] for row in rows]
    width = output_width()
    if spare and not whole:
        columns, texts, left_out = _fitting(columns, texts, spare, wraps, width)
        if left_out:
            say(f"left out to fit {width} characters: {', '.join(left_out)}; {elsewhere}")
    if whole:
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        width = max(width, 2 * sum(widths) + 2 * len(columns))
    share = _shares(columns, texts, width)
    table = Table(
        title=Text(visible(title), style="table.title") if title else None,
        box=None,
        pad_edge=False,
        header_style="bold",
        min_width=len(title),
    )
    for place, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if column in numeric else "left",
            no_wrap=whole,
            width=None if whole else share[place],
            overflow="fold",
        )
    for row in texts:
        table.add_row(*map(Text, row))
    # Wider than the output only where identities alone are.
    width = max(width, sum(share) + 2 * (len(share) - 1))
    Console(width=width, soft_wrap=whole).print(table)


def _shares(columns: Sequence[str], texts: Sequence[Sequence[str]], width: int) -> list[int]:
    """How wide each column is, so that all fit: the widest give way first, down to their longest
    word, and only where that is not enough further; identities never."""
    cells = [[name, *(row[place] for row in texts)] for place, name in enumerate(columns)]
    words = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in cells]
    bare = [
        max([min(size, BROKEN_WIDTH), *map(len, _identities(column))])
        for size, column in zip(words, cells, strict=True)
    ]
    found = [
        max(min(max(map(len, column)), width), least)
        for column, least in zip(cells, bare, strict=True)
    ]
    excess = sum(found) + 2 * (len(found) - 1) - width
    for least in (words, bare):
        while excess > 0:
            place = max(range(len(found)), key=lambda p: (found[p] > least[p]) * found[p])
            if found[place] <= least[place]:
                break
            found[place] -= 1
            excess -= 1
    return found


def _identities(cells: Iterable[str]) -> Iterator[str]:
    """The words that hold an identity, or one with what it is of before it: ``run/01a2…``."""
    for cell in cells:
        for word in cell.split():
            if any(map(_IDENTITY.fullmatch, re.split(r"[/,;:]", word))):
                yield word


def _fitting(
    columns: Sequence[str],
    texts: list[list[str]],
    spare: Sequence[str],
    wraps: Sequence[str],
    width: int,
) -> tuple[list[str], list[list[str]], list[str]]:
    """The columns that fit, their cells, and the names of those that were left out."""
    widths = {
        name: max(len(name), *(len(row[place]) for row in texts))
        for place, name in enumerate(columns)
    }
    for place, name in enumerate(columns):
        if name in wraps:  # enough of it, and no word broken while others could give way
            words = [word for row in texts for word in row[place].split()]
            least = max([PROSE_WIDTH, *map(len, words)])
            widths[name] = min(widths[name], least)
    blank = [
        name
        for place, name in enumerate(columns)
        if name in spare and all(row[place] in ("", "0") for row in texts)
    ]
    left_out: list[str] = []
    for name in dict.fromkeys([*blank, *spare]):
        if sum(widths.values()) + 2 * (len(widths) - 1) <= width:
            break
        del widths[name]
        left_out.append(name)
    places = [place for place, name in enumerate(columns) if name in widths]
    told = [name for name in left_out if name not in blank]
    return [columns[p] for p in places], [[row[p] for p in places] for row in texts], told


def print_fields(fields: Mapping[str, object]) -> None:
    """One thing's fields, a line each, names aligned."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        sys.stdout.write(f"{name.ljust(width)}  {visible(value)}\n")
