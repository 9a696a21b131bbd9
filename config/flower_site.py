"""Flower, for those alone who ask for a host that is ours and know its password, where it has one."""

import os
from typing import Any

from flower import command
from flower.app import Flower
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.web import ErrorHandler

from config.settings import ALLOWED_HOSTS, ENV


class KnownHosts(Flower):  # type: ignore[misc]
    """A page of another site whose name an attacker points at this address (DNS rebinding) has that name as host."""

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> HTTPMessageDelegate:
        if is_known(request.host_name):
            delegate: HTTPMessageDelegate = super().find_handler(request, **options)
        else:
            delegate = self.get_handler_delegate(request, ErrorHandler, {"status_code": 400})
        return delegate


def is_known(host: str) -> bool:
    """As Django reads ALLOWED_HOSTS: `.example.org` stands for all its subdomains, `*` for any host."""
    host = host.lower().rstrip(".")
    return any(
        allowed in ("*", host, f"[{host}]") or (allowed.startswith(".") and f".{host}".endswith(allowed))
        for allowed in map(str.lower, ALLOWED_HOSTS)
    )


command.Flower = KnownHosts
if ENV.FLOWER_BASIC_AUTH:
    os.environ["FLOWER_BASIC_AUTH"] = ENV.FLOWER_BASIC_AUTH
flower = command.flower
