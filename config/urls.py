"""Every path that Muster answers."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerView

# JSON for whoever does not say what they want.
SCHEMA_RENDERERS = [OpenApiJsonRenderer2, OpenApiJsonRenderer, OpenApiYamlRenderer, OpenApiYamlRenderer2]

admin.autodiscover()

urlpatterns = [
    path("", include("orchestrator.urls")),
    path("", include("scheduler.urls")),
    path("api/data/", include("ingestion.urls")),
    path("api/schema/", SpectacularAPIView.as_view(renderer_classes=SCHEMA_RENDERERS), name="schema"),
    path("swagger/", SpectacularSwaggerView.as_view(), name="swagger"),
    path("api/docs/", SpectacularRedocView.as_view(template_name="orchestrator/redoc.html"), name="redoc"),
    path("admin/", admin.site.urls),
]

handler400 = "config.api.bad_request"
handler403 = "config.api.permission_denied"
handler404 = "config.api.page_not_found"
handler500 = "config.api.server_error"
