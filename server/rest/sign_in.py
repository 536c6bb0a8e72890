"""Signing in and out over REST, and the caller's own tokens."""

from __future__ import annotations

from aiohttp import web

from server.auth.identity import identity_of
from server.auth.middleware import COOKIE
from server.auth.sign_in import Issued
from server.rest import schemas
from server.routes import Access, Answer, Route, body_of, json_response
from server.services import services_of

_TOKEN = Answer(description="A new credential; the cookie is set.", schema=schemas.AccessToken)


async def login(request: web.Request) -> web.Response:
    """``POST /api/v1/auth/login``"""
    body = await body_of(request, schemas.Credentials)
    services = services_of(request)
    address = services.proxies.client_address(request)
    return _with_cookie(request, await services.sign_in.login(body.username, body.password, address))


async def redeem_link(request: web.Request) -> web.Response:
    """``POST /api/v1/auth/links/redeem``"""
    body = await body_of(request, schemas.LinkCode)
    services = services_of(request)
    address = services.proxies.client_address(request)
    return _with_cookie(request, await services.sign_in.redeem(body.code, address))


async def logout(request: web.Request) -> web.Response:
    """``POST /api/v1/auth/logout``"""
    await body_of(request, schemas.Nothing)
    identity = identity_of(request)
    if identity.token_id is not None:
        await services_of(request).sign_in.sign_out(identity)
    response = web.Response(status=204)
    response.del_cookie(COOKIE, path=_cookie_path(request))
    return response


async def list_tokens(request: web.Request) -> web.Response:
    """``GET /api/v1/auth/tokens``"""
    identity = identity_of(request)
    tokens = [
        {
            "id": token.jti,
            "kind": token.kind,
            "scopes": list(token.scopes),
            "created_at": token.created_at,
            "expires_at": token.expires_at,
            "current": token.jti == identity.token_id,
        }
        for token in await services_of(request).sign_in.tokens(identity.user_id)
    ]
    return json_response({"tokens": tokens})


async def create_token(request: web.Request) -> web.Response:
    """``POST /api/v1/auth/tokens``"""
    body = await body_of(request, schemas.NewToken)
    issued = await services_of(request).sign_in.issue_for(
        identity_of(request), ttl_seconds=body.ttl_seconds, scopes=body.scopes
    )
    answer = {
        **_token_object(issued),
        "id": issued.claims.token_id,
        "scopes": sorted(issued.claims.scopes),
        "expires_at": issued.claims.expires_at,
    }
    return json_response(answer, status=201)


async def revoke_token(request: web.Request) -> web.Response:
    """``DELETE /api/v1/auth/tokens/{id}``"""
    identity = identity_of(request)
    await services_of(request).sign_in.revoke(request.match_info["id"], of_user=identity.user_id)
    return web.Response(status=204)


def _token_object(issued: Issued) -> dict[str, object]:
    return {"access_token": issued.token, "token_type": "bearer", "expires_in": issued.expires_in}


def _cookie_path(request: web.Request) -> str:
    return services_of(request).config.server.base_path or "/"


def _with_cookie(request: web.Request, issued: Issued) -> web.Response:
    response = json_response(_token_object(issued))
    response.set_cookie(
        COOKIE,
        issued.token,
        max_age=issued.expires_in,
        path=_cookie_path(request),
        secure=services_of(request).proxies.is_https(request),
        httponly=True,
        samesite="Strict",
    )
    return response


ROUTES = [
    Route(
        method="POST",
        path="/api/v1/auth/login",
        handler=login,
        summary="Sign in with a local account's password.",
        body=schemas.Credentials,
        answers={200: _TOKEN},
        errors=("unauthorized", "rate_limited"),
        access=Access.OPEN,
    ),
    Route(
        method="POST",
        path="/api/v1/auth/links/redeem",
        handler=redeem_link,
        summary="Sign in with the code of a one-time link.",
        body=schemas.LinkCode,
        answers={200: _TOKEN},
        errors=("unauthorized", "rate_limited"),
        access=Access.OPEN,
    ),
    Route(
        method="POST",
        path="/api/v1/auth/logout",
        handler=logout,
        summary="End the credential of this request and what it opened.",
        body=schemas.Nothing,
        answers={204: Answer(description="Signed out; the cookie is gone.")},
        only_reads=True,
    ),
    Route(
        method="GET",
        path="/api/v1/auth/tokens",
        handler=list_tokens,
        summary="The caller's tokens that are still good.",
        answers={200: Answer(description="Tokens, newest first.", schema=schemas.Tokens)},
    ),
    Route(
        method="POST",
        path="/api/v1/auth/tokens",
        handler=create_token,
        summary="Make an API token for the caller.",
        body=schemas.NewToken,
        answers={201: Answer(description="The token, shown this once.", schema=schemas.CreatedToken)},
    ),
    Route(
        method="DELETE",
        path="/api/v1/auth/tokens/{id}",
        handler=revoke_token,
        summary="Revoke a token of the caller; sockets that it opened close.",
        answers={204: Answer(description="Revoked.")},
    ),
]
