"""fsspec's options for S3 and GCS, said as obstore says them; where that cannot be done, nothing is guessed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Untranslatable", "open_with_obstore"]

# Options of fsspec's that say nothing about the requests that are made.
_WITHOUT_MEANING = frozenset(
    {
        "asynchronous", "cache_regions", "default_block_size", "default_cache_type", "default_fill_cache",
        "listings_expiry_time", "loop", "max_paths", "skip_instance_cache", "use_listings_cache", "version_aware",
    }
)  # fmt: skip
_RETRY: Any = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}
_REFRESH = timedelta(minutes=5)


class Untranslatable(Exception):  # noqa: N818  (an answer more than an error)
    """An option that obstore has no word for."""


def open_with_obstore(url: str, options: Mapping[str, Any]) -> Any:
    """Give obstore's store for a URL with fsspec's options.

    Parameters
    ----------
    url : str
        ``s3://`` or ``gs://``, bucket and prefix.
    options : mapping
        fsspec's storage options.

    Returns
    -------
    obstore.store.S3Store or obstore.store.GCSStore
        Nothing has been asked of it yet.

    Raises
    ------
    Untranslatable
        An option or scheme has no counterpart; fsspec has to be used.
    ImportError
        obstore is not installed.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.strip("/").partition("/")
    given = {
        name: value for name, value in options.items() if name not in _WITHOUT_MEANING and value is not None
    }
    if not bucket or "?" in rest:
        raise Untranslatable("a URL without a bucket, or with a query")
    if scheme in ("s3", "s3a"):
        from obstore.store import S3Store

        return S3Store(bucket, prefix=prefix or None, **_to_s3(given), retry_config=_RETRY)
    if scheme in ("gs", "gcs"):
        from obstore.store import GCSStore

        return GCSStore(bucket, prefix=prefix or None, **_to_gcs(given), retry_config=_RETRY)
    raise Untranslatable(f"the scheme {scheme}")


def _to_s3(given: dict[str, Any]) -> dict[str, Any]:
    client = dict(given.pop("client_kwargs", None) or {})
    config = dict(given.pop("config_kwargs", None) or {})
    session = _session(given.pop("profile", None))
    _refuse_settings_of_files(session)
    found: dict[str, Any] = {}
    timeouts: dict[str, Any] = {"timeout": timedelta(seconds=60)}

    endpoint = _first(
        given.pop("endpoint_url", None),
        client.pop("endpoint_url", None),
        os.environ.get("AWS_ENDPOINT_URL_S3"),
        os.environ.get("AWS_ENDPOINT_URL"),
    )
    region = _first(
        client.pop("region_name", None),
        config.pop("region_name", None),
        session.get_config_variable("region") if session else None,
        os.environ.get("AWS_REGION"),
        os.environ.get("AWS_DEFAULT_REGION"),
        # Servers that are not Amazon's take any.
        "us-east-1" if endpoint else None,
    )
    if region is None:
        # Amazon redirects to a bucket's region, which s3fs follows and obstore does not.
        raise Untranslatable("a bucket whose region is not known")
    found["region"] = region
    if endpoint:
        found["endpoint"] = endpoint.rstrip("/")
        timeouts["allow_http"] = urlsplit(endpoint).scheme == "http"
    for option, name in (("connect_timeout", "connect_timeout"), ("read_timeout", "timeout")):
        seconds = _first(config.pop(option, None), given.pop(option, None))
        if seconds is not None:
            timeouts[name] = timedelta(seconds=float(seconds))
    found["client_options"] = timeouts

    style = dict(config.pop("s3", None) or {})
    if style.pop("addressing_style", None) == "virtual":
        if endpoint:
            raise Untranslatable("addressing_style at an endpoint")
        found["virtual_hosted_style_request"] = True
    if given.pop("requester_pays", False):
        found["request_payer"] = True
    if given.pop("anon", False):
        found["skip_signature"] = True
        for name in ("key", "secret", "token", "username", "password"):
            given.pop(name, None)
    else:
        found |= _credentials(given, client, session)
    use_ssl = given.pop("use_ssl", True)
    if not use_ssl and not endpoint:
        raise Untranslatable("use_ssl")
    _refuse_rest({**given, **client, **config, **style})
    return found


def _credentials(given: dict[str, Any], client: dict[str, Any], session: Any) -> dict[str, Any]:
    key = _first(given.pop("key", None), given.pop("username", None), client.pop("aws_access_key_id", None))
    secret = _first(
        given.pop("secret", None), given.pop("password", None), client.pop("aws_secret_access_key", None)
    )
    token = _first(given.pop("token", None), client.pop("aws_session_token", None))
    if key is not None and secret is not None:
        found = {"access_key_id": key, "secret_access_key": secret}
        return found if token is None else {**found, "session_token": token}
    if key is not None or secret is not None or token is not None:
        raise Untranslatable("a part of the credentials")
    if session is None:
        return {}  # obstore looks at the environment and the machine by itself
    ambient = session.get_credentials()
    if ambient is None:
        raise Untranslatable("no credentials")
    return {"credential_provider": _provider(ambient)}


def _provider(ambient: Any) -> Callable[[], dict[str, Any]]:
    """Let botocore find and refresh credentials, so that both clients use the same."""

    def provide() -> dict[str, Any]:
        frozen = ambient.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _REFRESH,
        }

    return provide


def _session(profile: str | None) -> Any:
    try:
        import botocore.session  # type: ignore[import-untyped]
    except ImportError:
        if profile is not None:
            raise Untranslatable("profile") from None
        return None
    return botocore.session.Session(profile=profile)


def _refuse_settings_of_files(session: Any) -> None:
    if session is None:
        return
    from botocore.exceptions import ProfileNotFound  # type: ignore[import-untyped]

    try:
        scoped = session.get_scoped_config()
    except ProfileNotFound:
        raise Untranslatable("a profile that is not there") from None
    unknown = {"endpoint_url", "services", "s3", "ca_bundle"} & scoped.keys()
    if unknown:
        raise Untranslatable(f"{sorted(unknown)} of the AWS configuration file")


def _to_gcs(given: dict[str, Any]) -> dict[str, Any]:
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        raise Untranslatable("an emulator")
    token = given.pop("token", None)
    given.pop("project", None)
    _refuse_rest(given)
    if token == "anon":
        return {"skip_signature": True}
    if token in (None, "google_default"):
        return {}
    raise Untranslatable("token")


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _refuse_rest(rest: Mapping[str, Any]) -> None:
    if rest:
        raise Untranslatable(f"the options {sorted(rest)}")
