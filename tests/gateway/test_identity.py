"""Identity tokens: which are let in, for whom, and what their keys cost."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from backends.errors import InvalidRequest, NotAuthenticated, Unavailable
from gateway.auth import Keys
from gateway.identity import Identity
from gateway.settings import Settings

ISSUER, AUDIENCE = "https://login.example.com/", "tritium"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def jwks(**keys: Any) -> dict[str, Any]:
    algorithms = {rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm}
    found = []
    for name, key in keys.items():
        algorithm = next(value for kind, value in algorithms.items() if isinstance(key.public_key(), kind))
        found.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig"})
    return {"keys": found}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "rsa", **claims: Any) -> bytes:
    whole = {"iss": ISSUER, "aud": AUDIENCE, "exp": time() + 3600, "tenant": "search", **claims}
    kept = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={"kid": kid} if kid else None).encode()


class Provider:
    """A server of key sets."""

    def __init__(self) -> None:
        self.body: bytes | None = json.dumps(jwks(rsa=RSA)).encode()
        self.asked = 0
        provider = self

        class Answering(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                if provider.body is None:
                    self.wfile.write(b"not HTTP\r\n\r\n")
                    return
                self.send_response(200 if provider.body else 500)
                self.end_headers()
                self.wfile.write(provider.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def reader(source: str, **options: Any) -> Identity:
    return Identity(source, **{"issuer": ISSUER, "audience": AUDIENCE, "claim": "tenant", **options})


async def name_of(made: Identity, given: bytes) -> str:
    return await made.tenant_name(given, hashlib.sha256(given).digest())


async def test_a_token_names_its_tenant_and_is_verified_once(provider: Provider) -> None:
    made = reader(provider.url)
    given = token()
    assert await name_of(made, given) == "search"
    made._keys.clear()  # nothing is left to verify with
    assert await name_of(made, given) == "search"
    assert provider.asked == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (token(exp=time() - 60), "expired"),
        (token(exp=None), "exp"),
        (token(nbf=time() + 3600), "not yet valid"),
        (token(iss="https://else.example.com/"), "issuer"),
        (token(aud="else"), "udience"),
        (token(tenant=None), "claim 'tenant'"),
        (token(tenant=["search"]), "claim 'tenant'"),
        (token(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "ignature"),
        (token(b"s" * 32, "HS256"), "alg"),
        (b"eyJhbGciOiJub25lIn0.e30.", "alg"),
        (b"eyJ.a.b", "refused"),
        (token()[:-4] + b"AAAA", "ignature"),
    ],
)
async def test_a_token_that_is_not_right_is_refused_with_why(given: bytes, why: str, provider: Provider) -> None:
    made = reader(provider.url)
    with pytest.raises(NotAuthenticated, match=why) as raised:
        await name_of(made, given)
    assert raised.value.code == "invalid_token"
    assert not made._known


async def test_a_remembered_token_is_refused_once_it_has_expired(provider: Provider) -> None:
    made = reader(provider.url)
    given = token()
    await name_of(made, given)
    digest = hashlib.sha256(given).digest()
    made._known[digest] = "search", time() - 1
    made._keys.clear()
    with pytest.raises(NotAuthenticated):
        await name_of(made, given)


async def test_only_so_many_tokens_are_remembered(provider: Provider) -> None:
    made = reader(provider.url, tokens_kept=3)
    for number in range(5):
        await name_of(made, token(jti=str(number)))
    assert len(made._known) == 3


async def test_a_new_key_is_fetched_when_a_token_names_it(provider: Provider) -> None:
    made = reader(provider.url, pause_seconds=0.0)
    await name_of(made, token())
    provider.body = json.dumps(jwks(rsa=RSA, new=EC)).encode()
    assert await name_of(made, token(EC, "ES256", "new")) == "search"


async def test_keys_are_not_fetched_for_each_that_is_invented(provider: Provider) -> None:
    made = reader(provider.url)
    await name_of(made, token())
    asked = provider.asked
    for number in range(5):
        with pytest.raises(NotAuthenticated, match="key is not known"):
            await name_of(made, token(kid=f"invented-{number}"))
    assert provider.asked == asked


async def test_keys_that_cannot_be_fetched_are_not_the_clients_fault_and_old_ones_stay(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    good, provider.body = provider.body, b""
    made = reader(provider.url, pause_seconds=0.0)
    with pytest.raises(Unavailable):
        await name_of(made, token())
    assert "cannot be fetched" in caplog.text
    provider.body = good
    assert await name_of(made, token()) == "search"
    for bad in (b"", b"[]", b"{", b'{"keys": []}', None):
        provider.body = bad
        with pytest.raises(NotAuthenticated):
            await name_of(made, token(kid="else"))
        assert await name_of(made, token(jti=str(bad))) == "search"


async def test_a_lone_key_needs_no_name(provider: Provider) -> None:
    assert await name_of(reader(provider.url), token(kid=None)) == "search"


async def test_keys_come_from_a_file_too_and_the_claim_is_the_settings_own(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(jwks(rsa=RSA)))
    made = reader(str(file), claim="org")
    assert await name_of(made, token(org="team")) == "team"


async def test_without_issuer_and_audience_any_will_do(provider: Provider) -> None:
    made = reader(provider.url, issuer=None, audience=None)
    assert await name_of(made, token(iss="x", aud="y")) == "search"


def test_settings_that_name_no_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nowhere"):
        Keys.read(Settings(jwt_jwks_url=str(tmp_path / "nowhere")))
    (tmp_path / "bad").write_text("[]")
    with pytest.raises(InvalidRequest, match="bad"):
        Keys.read(Settings(jwt_jwks_url=str(tmp_path / "bad")))
    with pytest.raises(InvalidRequest, match="ftp"):
        Keys.read(Settings(jwt_jwks_url="ftp://host/keys"))


async def test_tokens_and_keys_are_let_in_side_by_side(tmp_path: Path) -> None:
    jwks_file, tenants = tmp_path / "jwks.json", tmp_path / "tenants.toml"
    jwks_file.write_text(json.dumps(jwks(rsa=RSA)))
    tenants.write_text('[tenants.search]\nkeys = ["sk-one"]\nweight = 3\n')
    keys = Keys.read(Settings(jwt_jwks_url=str(jwks_file), api_key_file=tenants))
    assert keys is not None
    by_key = await keys.tenant({b"x-api-key": b"sk-one"})
    assert by_key is await keys.tenant({b"authorization": b"Bearer " + token(aud=None, iss=None)})
    assert by_key.weight == 3
    with pytest.raises(NotAuthenticated, match="tenant that the token names"):
        await keys.tenant({b"authorization": b"Bearer " + token(tenant="stranger", aud=None)})
    alone = Keys.read(Settings(jwt_jwks_url=str(jwks_file)))
    assert alone is not None
    assert (await alone.tenant({b"authorization": b"Bearer " + token(tenant="stranger", aud=None)})).name == "stranger"
