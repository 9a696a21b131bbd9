"""Where the OpenAPI document is served."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request

_making = threading.Lock()


class SchemaView(SpectacularAPIView):
    """The document, made once in the life of a process, which takes half a second. It needs no token."""

    schema = None
    # The first, JSON, is the default.
    renderer_classes = [OpenApiJsonRenderer2, OpenApiJsonRenderer, OpenApiYamlRenderer, OpenApiYamlRenderer2]

    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        renderer = request.accepted_renderer
        with _making:
            content = document(renderer.media_type, settings.ENV)
        return HttpResponse(
            content,
            content_type=renderer.media_type,
            headers={
                "Content-Disposition": f'inline; filename="{settings.SPECTACULAR_SETTINGS["TITLE"]}.{renderer.format}"'
            },
        )


@cache
def document(media_type: str, env: object) -> str | bytes:
    """env: what else it depends on."""
    [renderer_class] = [each for each in SchemaView.renderer_classes if each.media_type == media_type]
    generator: Any = SchemaView.generator_class()
    return renderer_class().render(generator.get_schema(request=None, public=True), renderer_context={})
