"""Authenticates callers and checks what they can access (contract section 1)."""

import hashlib
import hmac
import logging
import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jwt
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from service.config import Action, ApiKey, Auth, ConfigurationError, Jwt, Tuning
from service.http.admission import RateLimiter
from service.http.envelope import REQUEST_RECORD, Problem
from service.http.jwks import KeyNotFound, KeySet, KeySetUnavailable
from service.wire import API_KEY_HEADER, DATABASE_HEADER, MAX_USER_NAME_LENGTH

logger = logging.getLogger(__name__)

MAX_AUTHORIZATION_CHARACTERS = 8192
"""Longer values of Authorization are rejected without being parsed."""

VERIFIED_SECONDS = 60
"""Time for which a verified token is cached, unless it expires or its key is withdrawn."""

MAX_VERIFIED_TOKENS = 1000

RATE_LIMIT = web.RequestKey("rate_limit", dict[str, str])
"""Headers of the response, whatever its status."""

_ACTIONS: dict[Action, str] = {
    "batch": "send batches",
    "read": "read records",
    "write": "create or replace single records",
    "delete": "delete records",
}


class Caller(NamedTuple):
    """The authenticated caller: API key name, user, databases and allowed actions."""

    name: str
    user: str
    databases: frozenset[str]
    allow: frozenset[str]

    def can_use(self, database: str) -> bool:
        """Return whether the caller has access to this database."""
        return "*" in self.databases or database in self.databases


class Authenticator:
    """Checks both credentials of a request against the configuration.

    Takes over the key set of the ``previous`` one if the URL is the same. Raises
    ConfigurationError if the public key is not usable.
    """

    def __init__(
        self,
        settings: Auth,
        tuning: Tuning,
        previous: Self | None = None,
    ) -> None:
        self._keys = [
            (digest, name, key) for name, key in settings.api_keys.items() for digest in key.digests
        ]
        self._jwt = settings.jwt
        self._key_set: KeySet | None = None
        url, stale_seconds = settings.jwt.jwks_url, settings.jwt.jwks_stale_seconds
        if previous is not None and previous._key_set and previous._jwt.jwks_url == url:
            self._key_set = previous._key_set
            self._key_set.stale_seconds = stale_seconds
        elif url:
            self._key_set = KeySet(url, stale_seconds, tuning)
        self._key: Any = settings.jwt.secret
        self._verified: dict[str, tuple[float, Any, dict[str, Any]]] = {}
        if settings.jwt.public_key_file is not None:
            self._key = _read_public_key(settings.jwt.public_key_file, settings.jwt.algorithms)

    async def authenticate(self, headers: CIMultiDictProxy[str]) -> Caller:
        """Return the caller.

        Raises Problem 401, which does not reveal the wrong part, and 503 without signing keys.
        """
        key = self._find_api_key(headers.getall(API_KEY_HEADER, []))
        # Without an API key the token is ignored, so that strangers cause no verification or fetch.
        claims = await self._verify_token(headers.getall(hdrs.AUTHORIZATION, [])) if key else None
        if key is None or claims is None:
            raise Problem(
                401,
                f"A valid API key ({API_KEY_HEADER}) and a valid, unexpired bearer token"
                " (Authorization) are required.",
                {hdrs.WWW_AUTHENTICATE: "Bearer"},
                reason="api_key" if key is None else "token",
            )
        name, settings = key
        user = self._get_user(claims, name)
        return Caller(name, user, frozenset(settings.databases), frozenset(settings.allow))

    def _find_api_key(self, values: list[str]) -> tuple[str, ApiKey] | None:
        if len(values) != 1:
            return None
        digest = hashlib.sha256(values[0].encode("utf-8", "surrogateescape")).digest()
        found = None
        # No early return: the comparison takes constant time.
        for key_digest, name, key in self._keys:
            if hmac.compare_digest(digest, key_digest):
                found = name, key
        return found

    async def _verify_token(self, values: list[str]) -> dict[str, Any] | None:
        if len(values) != 1:
            return None
        if len(values[0]) > MAX_AUTHORIZATION_CHARACTERS:
            _log_rejection(f"longer than {MAX_AUTHORIZATION_CHARACTERS} characters")
            return None
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = token.strip()
        now = time.time()
        verified_at, key, claims = self._verified.get(token, (0.0, None, {}))
        is_in_use = self._key_set is None or self._key_set.has(key)
        is_cached = now - verified_at < VERIFIED_SECONDS and is_in_use
        if is_cached and now < int(claims["exp"]) + self._jwt.leeway_seconds:
            return claims
        try:
            key = await self._find_signing_key(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=self._jwt.algorithms,
                issuer=self._jwt.issuer,
                audience=self._jwt.audience,
                leeway=self._jwt.leeway_seconds,
                options={
                    "require": ["exp"],
                    "verify_aud": self._jwt.audience is not None,
                    # A subject that is not a string is not a user name, but the token is valid.
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        # PyJWT raises other errors than its own for some hostile tokens.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            _log_rejection(_describe_error(error))
            return None
        except KeySetUnavailable:
            raise Problem(
                503,
                "Tokens cannot be verified at the moment; retry later.",
                {hdrs.RETRY_AFTER: "5"},
                reason="key_set",
            ) from None
        if len(self._verified) >= MAX_VERIFIED_TOKENS:
            self._verified.clear()
        self._verified[token] = (now, key, claims)
        return claims

    async def _find_signing_key(self, token: str) -> Any:
        if self._key_set is None:
            return self._key
        header = jwt.get_unverified_header(token)
        return await self._key_set.find(header.get("kid"), header.get("alg"))

    def _get_user(self, claims: dict[str, Any], key_name: str) -> str:
        values = (claims.get(claim) for claim in self._jwt.user_claims)
        # A token can contain NUL and surrogates, which PostgreSQL cannot store.
        names = (name for name in values if isinstance(name, str) and name and name.isprintable())
        return next(names, key_name)[:MAX_USER_NAME_LENGTH]

    def fetch_keys(self) -> None:
        """Start to fetch the keys of ``jwks_url``, if set, before a token needs them."""
        if self._key_set is not None:
            self._key_set.start()

    async def close(self, others: Sequence[Self] = ()) -> None:
        """Close the key set unless others use it."""
        if self._key_set is not None and all(o._key_set is not self._key_set for o in others):
            await self._key_set.close()


class Access:
    """Checks that come first for every request: caller, rate limit, database and action."""

    def __init__(
        self, authenticator: Authenticator, rate_limiter: RateLimiter, databases: Container[str]
    ) -> None:
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._databases = databases

    async def grant(self, request: web.Request, action: Action) -> tuple[Caller, str]:
        """Return the caller and the database of a request, and add both to its log line.

        Raises Problem 401, 429, 400 and 403, in this order.
        """
        record = request[REQUEST_RECORD]
        caller = await self._authenticator.authenticate(request.headers)
        record.caller = caller.name
        request[RATE_LIMIT] = await self._rate_limiter.count(caller.name)
        record.database = database = self._get_database(request, caller)
        if action not in caller.allow:
            raise Problem(
                403, f"This API key is not allowed to {_ACTIONS[action]}.", reason="allow"
            )
        return caller, database

    def _get_database(self, request: web.Request, caller: Caller) -> str:
        names = request.headers.getall(DATABASE_HEADER, [])
        if len(names) != 1 or not names[0]:
            raise Problem(
                400,
                f"Specify the target database in exactly one {DATABASE_HEADER} header.",
                reason="database_header",
            )
        # One check for both, so that they take the same time and look the same.
        if not (caller.can_use(names[0]) and names[0] in self._databases):
            raise Problem(
                403,
                "This database does not exist, or you do not have access to it.",
                reason="database",
            )
        return names[0]


_TOKEN_ERRORS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not valid yet",
    jwt.InvalidSignatureError: "wrong signature",
    jwt.InvalidAlgorithmError: "algorithm not configured",
    jwt.InvalidAudienceError: "wrong audience",
    jwt.InvalidIssuerError: "wrong issuer",
    jwt.MissingRequiredClaimError: "exp, iss or aud is missing",
    jwt.DecodeError: "malformed",
}


def _describe_error(error: Exception) -> str:
    """Return why a token is invalid, without any part of the token."""
    if isinstance(error, KeyNotFound):
        return str(error)
    matches = (_TOKEN_ERRORS[kind] for kind in type(error).__mro__ if kind in _TOKEN_ERRORS)
    return next(matches, type(error).__name__)


def _log_rejection(cause: str) -> None:
    logger.info("token rejected", extra={"cause": cause})


def sign_token(rules: Jwt, subject: str, seconds: int) -> str:
    """Return a token that these rules accept for ``seconds``.

    Raises ConfigurationError unless the rules have a secret and allow HS256.
    """
    if rules.secret is None or "HS256" not in rules.algorithms:
        raise ConfigurationError("care-trials token needs auth.jwt.secret and HS256")
    now = int(time.time())
    claims: dict[str, str | int] = {"sub": subject, "iat": now, "exp": now + seconds}
    if rules.issuer is not None:
        claims["iss"] = rules.issuer
    if rules.audience is not None:
        claims["aud"] = rules.audience
    return jwt.encode(claims, rules.secret, algorithm="HS256")


def _read_public_key(path: str, algorithms: list[str]) -> Any:
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"auth.jwt.public_key_file: cannot read {path}: {error.strerror}"
        ) from None
    try:
        return jwt.get_algorithm_by_name(algorithms[0]).prepare_key(pem)
    except (ValueError, TypeError, jwt.PyJWTError):
        raise ConfigurationError(
            f"auth.jwt.public_key_file: {path} does not contain a public key for {algorithms[0]}"
        ) from None
