"""The replies of a judge in an SQLite file: none is paid for twice."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cocoift.core.files import DataError


class ReplyCache:
    """Replies by digest, in SQLite; every reply is on disk before its call counts as made.

    Raises `DataError` when the file cannot be read or written.
    """

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        with self._telling():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self.base.execute("PRAGMA journal_mode=WAL")
            self.base.execute(
                "CREATE TABLE IF NOT EXISTS replies "
                "(key TEXT PRIMARY KEY, reply TEXT, tokens_in INTEGER, tokens_out INTEGER)"
            )
            # Replies without a text are billed too, but there is nothing to keep of them.
            self.base.execute(
                "CREATE TABLE IF NOT EXISTS unusable (tokens_in INTEGER, tokens_out INTEGER)"
            )
            sums = (
                "SELECT COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0) FROM "
                "(SELECT tokens_in, tokens_out FROM replies UNION ALL SELECT * FROM unusable)"
            )
            # The tokens of all replies, in and out.
            self.paid: tuple[int, int] = self.base.execute(sums).fetchone()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{self.path}: {error}; fix that and run again, the replies in it are kept"
            ) from error

    def get(self, key: str) -> str | None:
        """Return the reply under a digest, if there is one."""
        with self.lock:
            row = self.base.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, reply: str, tokens: tuple[int, int]) -> None:
        """Keep a reply and the tokens it cost, in and out."""
        with self.lock, self._telling():
            self.base.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                              (key, reply, *tokens))  # fmt: skip
            self._pay(tokens)

    def put_unusable(self, tokens: tuple[int, int]) -> None:
        """Count the tokens of a reply that cannot be used."""
        with self.lock, self._telling():
            self.base.execute("INSERT INTO unusable VALUES (?, ?)", tokens)
            self._pay(tokens)

    def _pay(self, tokens: tuple[int, int]) -> None:
        self.paid = (self.paid[0] + tokens[0], self.paid[1] + tokens[1])

    def close(self) -> None:
        """Close the file."""
        self.base.close()
