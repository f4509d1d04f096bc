"""What answers requests: reads a body, gives it to a worker, tells what the worker said."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from atrous import __version__
from atrous.errors import AtrousError, unknown_name
from atrous.serve import bodies, inference, openapi, refusals
from atrous.serve.files import File
from atrous.serve.guard import Guard, refusal
from atrous.serve.messages import Message
from atrous.serve.metrics import Metrics
from atrous.serve.parameters import FORMATS, read_wish
from atrous.serve.picture_size import check_pixels, picture_size
from atrous.serve.settings import Settings
from atrous.serve.workers import Job, Pool

LOG = logging.getLogger("atrous.serve")

ANSWER_SECONDS = 60.0  # for a client to take its answer


class Service:
    """Answers requests.

    Args:
        settings: Limits.
        pools: The workers of each model, the default model first.
        page: Files of the page by the path of their address.
        models: Files of the models that may be downloaded.

    Attributes:
        draining: Whether the server is going: it finishes, and tells that it takes nothing new.
    """

    def __init__(
        self,
        settings: Settings,
        pools: Mapping[str, Pool],
        page: Mapping[str, File],
        models: Mapping[str, File],
    ) -> None:
        self._settings, self._pools = settings, pools
        self._page, self._files = page, models
        self.budget = bodies.Budget(settings.bytes_in_flight)
        self.metrics = Metrics()
        self.draining = False

    def application(self) -> ASGIApp:
        """Returns the ASGI application."""
        routes = [
            Route("/v1/segment", self._segment, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/model", self._model),
            Route("/v1/models/{name}/file", self._file),
            Route("/livez", self._live),
            Route("/readyz", self._ready),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            Route("/v2", self._v2_server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/1"):
            routes.append(Route(model, self._v2_model))
            routes.append(Route(model + "/ready", self._v2_ready))
            routes.append(Route(model + "/infer", self._v2_infer, methods=["POST"]))
        routes.append(Route("/{path:path}", self._page_file))
        handlers: Any = {AtrousError: _refused, HTTPException: _not_found, Exception: _bug}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False  # it would redirect to what the Host header says
        return Guard(app, self._settings, lambda: self.draining)

    async def _segment(self, request: Request) -> Response:
        name = request.query_params.get("model", next(iter(self._pools)))

        def job(body: bytes) -> tuple[Pool, Job, str]:
            if name not in self._pools:
                raise unknown_name("model", name, self._pools)
            pool = self._pools[name]
            wish = read_wish(request.query_params.multi_items(), pool.model["classes"])
            size = picture_size(body) or (0, 0)
            check_pixels(size, self._settings.max_pixels)
            fields = {"wish": asdict(wish), "max_pixels": self._settings.max_pixels}
            return pool, pool.submit(fields, body, wish.pixels(size)), FORMATS[wish.format]

        return await self._worked(request, name, job)

    async def _worked(
        self, request: Request, name: str, submit: Callable[[bytes], tuple[Pool, Job, str]]
    ) -> Response:
        """Reads the body, lets a worker answer it, and counts what came of it.

        Args:
            request: The request.
            name: Of the model, for the count.
            submit: Makes a job of the body; returns its pool, it, and the answer's media type.
        """
        start, status = time.monotonic(), 0
        share = bodies.Share(self.budget)
        try:
            pool, job, media_type = submit(await self._body(request, share))
            said, payload = await self._answer(request, pool, job)
            share.give_back()
            share.take(len(payload))
            response = _said(said, payload, media_type, share)
            status = response.status_code
            return response
        except AtrousError as error:
            status = refusals.status_of(error)
            raise
        except bodies.ClientGone:
            return Response(status_code=204)  # to nobody
        finally:
            if status != 200:
                share.give_back()
            if status:  # names that clients made up would fill the memory
                known = name if name in self._pools else ""
                self.metrics.count(known, status, time.monotonic() - start)

    async def _body(self, request: Request, share: bodies.Share) -> bytes:
        headers = request.headers
        if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise AtrousError(
                "E-CONTENT-ENCODING", "a compressed body", fix="send the picture as it is"
            )
        return await bodies.read_body(
            request.receive,
            headers.get("content-length"),
            most=self._settings.max_bytes,
            seconds=self._settings.body_seconds,
            share=share,
        )

    async def _answer(self, request: Request, pool: Pool, job: Job) -> Message:
        """Waits for the answer; a client that goes away takes its job out of the queue."""
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            await asyncio.wait((gone, job.answer), return_when=asyncio.FIRST_COMPLETED)
            if not job.answer.done():
                pool.drop(job)
                raise bodies.ClientGone
            return job.answer.result()
        finally:
            gone.cancel()

    def _known(self, request: Request) -> str:
        """Returns the model a path names."""
        name: str = request.path_params["name"]
        if name not in self._pools:
            error = unknown_name("model", name, self._pools)
            raise AtrousError("E-NOT-FOUND", error.what, fix=error.fix)
        return name

    async def _models(self, request: Request) -> Response:
        return bodies.json_answer([self._described(name) for name in self._pools])

    async def _model(self, request: Request) -> Response:
        return bodies.json_answer(self._described(next(iter(self._pools))))

    def _described(self, name: str) -> dict[str, Any]:
        model, file = dict(self._pools[name].model), self._files.get(name)
        size = model.pop("fixed_size")
        return {
            "name": name,
            **model,
            "input": {
                "name": "image",
                "datatype": "UINT8",
                "layout": "RGB (1, H, W, 3)",
                "size": size if any(size) else None,
            },
            "bytes": file.path.stat().st_size if file else None,
            "file": f"v1/models/{name}/file" if file else None,
        }

    async def _file(self, request: Request) -> Response:
        name = self._known(request)
        if name not in self._files:
            raise AtrousError(
                "E-NOT-FOUND",
                f"the file of {name!r} is not given out",
                fix="start the server with --downloadable",
            )
        return self._files[name].response(request)

    async def _live(self, request: Request) -> Response:
        return bodies.json_answer({"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = not self.draining and all(pool.ready for pool in self._pools.values())
        return bodies.json_answer({"ready": ready}, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        text = self.metrics.text(self._pools, self.budget.held)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _openapi(self, request: Request) -> Response:
        return bodies.json_answer(
            openapi.description(list(self._pools), token=bool(self._settings.token))
        )

    async def _v2_server(self, request: Request) -> Response:
        return bodies.json_answer(
            {"name": "atrous", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def _v2_model(self, request: Request) -> Response:
        name = self._known(request)
        return bodies.json_answer(inference.metadata(name, self._pools[name].model))

    async def _v2_ready(self, request: Request) -> Response:
        name = self._known(request)
        ready = not self.draining and self._pools[name].ready > 0
        return bodies.json_answer({"name": name, "ready": ready}, 200 if ready else 503)

    async def _v2_infer(self, request: Request) -> Response:
        name = self._known(request)

        def job(body: bytes) -> tuple[Pool, Job, str]:
            length = inference.json_length(request.headers.get(inference.LENGTH), len(body))
            fields = {
                "inference": {"length": length, "name": name},
                "max_pixels": self._settings.max_pixels,
            }
            pixels = inference.most_pixels(length, len(body))
            return self._pools[name], self._pools[name].submit(fields, body, pixels), ""

        return await self._worked(request, name, job)

    async def _page_file(self, request: Request) -> Response:
        path: str = request.path_params["path"]
        if path == "v1/segment" or (path.startswith("v2/models/") and path.endswith("/infer")):
            raise HTTPException(405, headers={"Allow": "POST"})
        if path not in self._page:
            raise HTTPException(404)
        return self._page[path].response(request)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _said(said: dict[str, Any], payload: bytes, media_type: str, share: bodies.Share) -> Response:
    """Returns what the worker said, as an answer."""
    if "error" in said:
        error = said["error"]
        if not media_type:  # the inference protocol has its own word for it
            error["error"] = error["message"]
        return bodies.json_answer(error, said["status"])
    headers = {
        "cache-control": "no-store",
        "server-timing": f"worker;dur={1e3 * said['seconds']:.1f}",
        "atrous-precision": said["precision"],
    }
    if "json_length" in said:
        headers[inference.LENGTH] = str(said["json_length"])
    kind = said.get("type", media_type)
    return bodies.HeldAnswer(
        payload, said["status"], headers, kind, share=share, seconds=ANSWER_SECONDS
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, AtrousError)
    return refusal(error, request.scope["path"])


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = await _refused(
            request, AtrousError("E-METHOD", "not with this method", fix=f"use {allowed}")
        )
        response.headers["allow"] = allowed
        return response
    return await _refused(
        request, AtrousError("E-NOT-FOUND", "nothing here", fix="see /openapi.json")
    )


async def _bug(request: Request, error: Exception) -> Response:
    LOG.error("a bug, answering %s", request.scope["method"], exc_info=error)
    return await _refused(request, AtrousError("E-BUG", "a bug of this server", fix="report it"))
