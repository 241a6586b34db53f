"""What does the SQLite store keep in its file, and with which statements?"""

from __future__ import annotations

import sqlite3
import time

SCHEMA_VERSION = 1
"""Kept in the file as `user_version`. A file of a later one is not touched."""

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS sums (
        name TEXT NOT NULL, field TEXT NOT NULL, number REAL NOT NULL,
        PRIMARY KEY (name, field)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS progress (
        process TEXT PRIMARY KEY, seq INTEGER NOT NULL, at_s REAL NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS reports (
        process TEXT PRIMARY KEY, value TEXT NOT NULL,
        expires_s REAL NOT NULL, ttl_s REAL NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS documents (
        key TEXT PRIMARY KEY, value TEXT NOT NULL,
        version INTEGER NOT NULL, revision INTEGER NOT NULL UNIQUE)""",
    """CREATE TABLE IF NOT EXISTS events (
        stream TEXT NOT NULL, revision INTEGER NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (stream, revision), UNIQUE (stream, id)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS leases (
        name TEXT PRIMARY KEY, owner TEXT NOT NULL, token INTEGER NOT NULL,
        expires_s REAL NOT NULL, ttl_s REAL NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS revision (
        one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL)""",
)

PROGRESS = "SELECT seq FROM progress WHERE process = ?"
SET_PROGRESS = """INSERT INTO progress VALUES (?, ?, ?)
    ON CONFLICT (process) DO UPDATE SET seq = excluded.seq, at_s = excluded.at_s"""
PRUNE_PROGRESS = "DELETE FROM progress WHERE at_s < ? OR at_s > ?"
ADD = """INSERT INTO sums VALUES (?, ?, ?)
    ON CONFLICT (name, field) DO UPDATE SET number = number + excluded.number"""
TOTALS = "SELECT name, field, number FROM sums WHERE name >= ? AND name < ?"
COUNT_NAMES = "SELECT COUNT(DISTINCT name) FROM sums WHERE name >= ? AND name < ?"
FORGET = "DELETE FROM sums WHERE name >= ? AND name < ?"

SET_REPORT = """INSERT INTO reports VALUES (?, ?, ?, ?) ON CONFLICT (process) DO UPDATE
    SET value = excluded.value, expires_s = excluded.expires_s, ttl_s = excluded.ttl_s"""
PRUNE_REPORTS = "DELETE FROM reports WHERE expires_s <= ? OR expires_s > ? + ttl_s"
REPORTS = "SELECT process, value, expires_s, ttl_s FROM reports"

GET = "SELECT value, version FROM documents WHERE key = ?"
PUT = """INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE
    SET value = excluded.value, version = excluded.version, revision = excluded.revision"""
CHANGES = "SELECT key, value, version FROM documents WHERE revision > ? ORDER BY revision"

APPEND = """INSERT INTO events (stream, id, value, revision) VALUES (?, ?, ?, ?)
    ON CONFLICT (stream, id) DO NOTHING"""
TRIM = """DELETE FROM events WHERE stream = ? AND revision <= (
    SELECT revision FROM events WHERE stream = ? ORDER BY revision DESC LIMIT 1 OFFSET ?)"""
TAIL = "SELECT value FROM events WHERE stream = ? ORDER BY revision DESC LIMIT ?"

LEASE = "SELECT owner, token, expires_s, ttl_s FROM leases WHERE name = ?"
GRANT = """INSERT INTO leases VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE
    SET owner = excluded.owner, token = excluded.token,
        expires_s = excluded.expires_s, ttl_s = excluded.ttl_s"""
RELEASE = "DELETE FROM leases WHERE name = ? AND token = ?"

REVISION = "SELECT number FROM revision"
SET_REVISION = """INSERT INTO revision VALUES (1, ?)
    ON CONFLICT (one) DO UPDATE SET number = excluded.number"""

_SWITCH_TRIES = 20
_SWITCH_PAUSE_S = 0.01


def span(prefix: str) -> tuple[str, str]:
    """Return the first name with the prefix, and one after the last."""
    return prefix, prefix + "\U0010ffff"


def revision(db: sqlite3.Connection) -> int:
    """Return the revision of the last change; 0 before the first."""
    row = db.execute(REVISION).fetchone()
    return 0 if row is None else int(row[0])


def prepare(db: sqlite3.Connection, busy_s: float) -> None:
    """Make a fresh connection, and its file if need be, ready; it waits `busy_s` for locks then.

    Blocks for `busy_s` and 0.2 s at the most. Raises `sqlite3.Error`.
    """
    _switch_to_wal(db)
    db.execute(f"PRAGMA busy_timeout = {round(busy_s * 1e3)}")
    db.execute("PRAGMA synchronous = NORMAL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"written by a later sluice (schema {version})")
    if version == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Switch the journal; of several processes that do it at once all but one are told `locked`.

    SQLite does not always wait for its own time-out here, for two that wait could wait for each
    other; so it is not left to it.
    """
    db.execute("PRAGMA busy_timeout = 0")
    for _ in range(_SWITCH_TRIES - 1):
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            time.sleep(_SWITCH_PAUSE_S)
        else:
            return
    db.execute("PRAGMA journal_mode = WAL")
