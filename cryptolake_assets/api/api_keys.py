"""API keys: create, register, revoke and look up keys, which are stored as hashes.

A key has 256 random bits, so one round of SHA-256 protects it as well as a slow hash would.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec
from filelock import FileLock

from cryptolake_assets.errors import ApiKeyError
from cryptolake_assets.model.nearest import did_you_mean
from cryptolake_assets.settings import Settings

PREFIX = "cl"
MIN_LENGTH = 40  # minimum length of a key generated elsewhere: 160 bits if it is hexadecimal


class Scope(StrEnum):
    """Permissions of a key."""

    READ = "read"  # data and check results: every route that does not need `operate`
    # State of the platform: only `/metrics`, `/operations/parts` and `/operations/assets`. The details of `/health`
    # are shown for a key of any scope.
    OPERATE = "operate"


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_at: datetime


def keys_path(settings: Settings) -> Path:
    return settings.home / "api_keys.json"


def create_key(settings: Settings, name: str, scopes: tuple[Scope, ...]) -> str:
    """Create a key and return its text, which is not stored. Raises `ApiKeyError` if the name is taken or empty."""
    name = name.strip()
    if not name:
        raise ApiKeyError("keys: the name is empty. Give a name that identifies the user of the key.")
    key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    text = f"{PREFIX}_{key_id}_{secret}"
    with _locked(settings):
        known = list_keys(settings)
        if (other := next((key for key in known if key.name == name), None)) is not None:
            raise ApiKeyError(
                f"keys: a key named {name} exists already ({other.id}). Choose another name, or revoke that key first: "
                f"`cryptolake keys revoke {other.id}`."
            )
        _write(settings, [*known, ApiKey(key_id, name, scopes, _hash(text), datetime.now(UTC))])
    return text


def register_key(settings: Settings, name: str, scopes: tuple[Scope, ...], text: str) -> bool:
    """Store a key that was generated elsewhere; it replaces an earlier key of this name.

    Return False if the key is already stored with these scopes. Raises `ApiKeyError` if `text` is easily guessed.
    """
    if len(text) < MIN_LENGTH or len(set(text)) < MIN_LENGTH // 4:
        raise ApiKeyError(
            f"keys: the key for {name} is too weak. Use at least {MIN_LENGTH} random characters, as `make env` does."
        )
    with _locked(settings):
        known = list_keys(settings)
        if any((key.name, key.scopes, key.sha256) == (name, scopes, _hash(text)) for key in known):
            return False
        others = [key for key in known if key.name != name]
        _write(settings, [*others, ApiKey(secrets.token_hex(4), name, scopes, _hash(text), datetime.now(UTC))])
    return True


def revoke_key(settings: Settings, id_or_name: str) -> ApiKey:
    """Revoke a key and return it; running APIs reject it within a second.

    Raises `ApiKeyError` for an unknown key, and for a name of several keys: earlier releases allowed such names.
    """
    with _locked(settings):
        known = list_keys(settings)
        found = [key for key in known if key.id == id_or_name] or [key for key in known if key.name == id_or_name]
        if not found:
            hint = did_you_mean(id_or_name, [text for key in known for text in (key.name, key.id)])
            raise ApiKeyError(
                f"keys: no key has the id or name {id_or_name}. {hint or '`cryptolake keys list` shows them.'}"
            )
        if len(found) > 1:
            ids = ", ".join(key.id for key in found)
            raise ApiKeyError(f"keys: {len(found)} keys are named {id_or_name}. Revoke by id: {ids}.")
        (revoked,) = found
        _write(settings, [key for key in known if key.id != revoked.id])
    return revoked


def list_keys(settings: Settings) -> list[ApiKey]:
    """Return all keys. Raises `ApiKeyError` if the file cannot be read."""
    path = keys_path(settings)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[ApiKey])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        raise ApiKeyError(
            f"keys: {path} cannot be read ({error}). Repair it, or remove it and create new keys."
        ) from None


class KeyRing:
    """The keys of a running API; it reloads them when the file has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stamp: tuple[int, int] | None = None
        self._by_hash: dict[str, ApiKey] = {}

    def find(self, text: str) -> ApiKey | None:
        """Return the key with this text. The lookup is by hash, so its timing leaks nothing about a secret."""
        try:
            found = keys_path(self._settings).stat()
            stamp = (found.st_mtime_ns, found.st_ino)
        except FileNotFoundError:
            return None
        if stamp != self._stamp:
            self._by_hash = {key.sha256: key for key in list_keys(self._settings)}
            self._stamp = stamp
        return self._by_hash.get(_hash(text))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _locked(settings: Settings) -> FileLock:
    settings.home.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{keys_path(settings)}.lock")


def _write(settings: Settings, keys: list[ApiKey]) -> None:
    path = keys_path(settings)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(keys)))
    draft.replace(path)
