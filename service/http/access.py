"""Headers to Caller: who calls, and what they may do in which database (contract section 1)."""

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
from service.http.jwks import KeySet, KeySetUnavailable
from service.wire import API_KEY_HEADER, DATABASE_HEADER, MAX_USER_NAME_LENGTH

logger = logging.getLogger(__name__)

TOKEN_LENGTH = 8192
"""Characters of a bearer token that are looked at; longer ones are refused unread."""


VERIFIED_SECONDS = 60
"""Time for which a token is not verified again, unless it expires or its key is withdrawn."""

VERIFIED_TOKENS = 1000

RATE_LIMIT = web.RequestKey("rate_limit", dict[str, str])
"""Headers for the response, whatever it will be."""

_ACTIONS: dict[Action, str] = {
    "batch": "send batches",
    "read": "read records",
    "write": "create or replace single records",
    "delete": "delete records",
}


class Caller(NamedTuple):
    """Who calls: the API key's name, what that opens and allows, and the user in the token."""

    name: str
    user: str
    databases: frozenset[str]
    allow: frozenset[str]

    def may_use(self, database: str) -> bool:
        """Tell whether the caller's key opens this database."""
        return "*" in self.databases or database in self.databases


class Authenticator:
    """Checks both credentials of a request against the configuration.

    It keeps the key set of the one ``before`` where that is of the same URL. Raises
    ConfigurationError when the public key cannot be used.
    """

    def __init__(
        self,
        settings: Auth,
        tuning: Tuning,
        before: Self | None = None,
    ) -> None:
        self._keys = [
            (digest, name, key) for name, key in settings.api_keys.items() for digest in key.digests
        ]
        self._jwt = settings.jwt
        self._key_set: KeySet | None = None
        url, stale_seconds = settings.jwt.jwks_url, settings.jwt.jwks_stale_seconds
        if before is not None and before._key_set is not None and before._jwt.jwks_url == url:
            self._key_set = before._key_set
            self._key_set.stale_seconds = stale_seconds
        elif url:
            self._key_set = KeySet(url, stale_seconds, tuning)
        self._key: Any = settings.jwt.secret
        self._verified: dict[str, tuple[float, Any, dict[str, Any]]] = {}
        if settings.jwt.public_key_file is not None:
            self._key = _public_key(settings.jwt.public_key_file, settings.jwt.algorithms)

    async def authenticate(self, headers: CIMultiDictProxy[str]) -> Caller:
        """Return the caller. Raises Problem 401 that does not tell which part was wrong."""
        key = self._api_key(headers.getall(API_KEY_HEADER, []))
        # Without a key no token is looked at: strangers cause no work, and no fetch of keys.
        claims = await self._claims(headers.getall(hdrs.AUTHORIZATION, [])) if key else None
        if key is None or claims is None:
            raise Problem(
                401,
                f"Valid credentials are required: an API key in {API_KEY_HEADER}, and a bearer"
                " token that has not expired in Authorization.",
                {hdrs.WWW_AUTHENTICATE: "Bearer"},
                reason="api_key" if key is None else "token",
            )
        name, opened = key
        user = self._user(claims, name)
        return Caller(name, user, frozenset(opened.databases), frozenset(opened.allow))

    def _api_key(self, values: list[str]) -> tuple[str, ApiKey] | None:
        if len(values) != 1:
            return None
        digest = hashlib.sha256(values[0].encode("utf-8", "surrogateescape")).digest()
        found = None
        # No early return: the time does not tell which key came close.
        for known, name, key in self._keys:
            if hmac.compare_digest(digest, known):
                found = name, key
        return found

    async def _claims(self, values: list[str]) -> dict[str, Any] | None:
        if len(values) != 1:
            return None
        if len(values[0]) > TOKEN_LENGTH:
            logger.info("token refused", extra={"cause": f"longer than {TOKEN_LENGTH} characters"})
            return None
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = token.strip()
        now = time.time()
        verified_at, key, claims = self._verified.get(token, (0.0, None, {}))
        is_in_use = self._key_set is None or self._key_set.has(key)
        is_fresh = now - verified_at < VERIFIED_SECONDS and is_in_use
        if is_fresh and now < int(claims["exp"]) + self._jwt.leeway_seconds:
            return claims
        try:
            key = await self._verification_key(token)
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
                    # A subject that is no text is no user name, but no reason to refuse.
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        # PyJWT lets ValueError and its kin through for some hostile tokens.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            logger.info("token refused", extra={"cause": type(error).__name__})
            return None
        except KeySetUnavailable:
            raise Problem(
                503,
                "Tokens cannot be verified at the moment; try again.",
                {hdrs.RETRY_AFTER: "5"},
                reason="key_set",
            ) from None
        if len(self._verified) >= VERIFIED_TOKENS:
            self._verified.clear()
        self._verified[token] = (now, key, claims)
        return claims

    async def _verification_key(self, token: str) -> Any:
        if self._key_set is None:
            return self._key
        header = jwt.get_unverified_header(token)
        return await self._key_set.key(header.get("kid"), header.get("alg"))

    def _user(self, claims: dict[str, Any], key_name: str) -> str:
        values = (claims.get(claim) for claim in self._jwt.user_claims)
        # PostgreSQL cannot store NUL or a surrogate, which a token can contain.
        names = (each for each in values if isinstance(each, str) and each and each.isprintable())
        return next(names, key_name)[:MAX_USER_NAME_LENGTH]

    def fetch_keys(self) -> None:
        """Fetch the keys behind a URL, if there is one, before a token needs them."""
        if self._key_set is not None:
            self._key_set.start()

    async def close(self, others: Sequence[Self] = ()) -> None:
        """Close the key set unless others use it."""
        if self._key_set is not None and all(o._key_set is not self._key_set for o in others):
            await self._key_set.close()


class Access:
    """What is checked of every request before anything else: who calls, and may they do this."""

    def __init__(
        self, authenticator: Authenticator, rate_limiter: RateLimiter, databases: Container[str]
    ) -> None:
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._databases = databases

    async def grant(self, request: web.Request, action: Action) -> tuple[Caller, str]:
        """Return who calls, and the database that they name; the log learns of both.

        Raises Problem 401, 429, 400 and 403, in this order.
        """
        record = request[REQUEST_RECORD]
        caller = await self._authenticator.authenticate(request.headers)
        record.caller = caller.name
        request[RATE_LIMIT] = await self._rate_limiter.count(caller.name)
        record.database = database = self._database(request, caller)
        if action not in caller.allow:
            raise Problem(403, f"This API key may not {_ACTIONS[action]}.", reason="allow")
        return caller, database

    def _database(self, request: web.Request, caller: Caller) -> str:
        names = request.headers.getall(DATABASE_HEADER, [])
        if len(names) != 1 or not names[0]:
            raise Problem(
                400,
                f"Name the target database in one {DATABASE_HEADER} header.",
                reason="database_header",
            )
        # One check for both, so that they take the same time and look the same.
        if not (caller.may_use(names[0]) and names[0] in self._databases):
            raise Problem(403, "The caller may not use this database.", reason="database")
        return names[0]


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


def _public_key(path: str, algorithms: list[str]) -> Any:
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
