"""Every path that Muster serves."""

from django.contrib import admin
from django.urls import include, path
from django.utils.module_loading import autodiscover_modules
from drf_spectacular.views import SpectacularRedocView, SpectacularSwaggerSplitView

from config.pages import first_page
from config.schema import SchemaView
from orchestrator.http.metrics_view import metrics

# A page is a template, in which REST framework's answer to OPTIONS cannot be rendered.
READ = ["get", "head"]

admin.autodiscover()
# Each app's metrics.py, in the process that serves them.
autodiscover_modules("metrics")

urlpatterns = [
    path("", first_page, name="first-page"),
    # First, since it is soon passed over.
    path("", include("scheduler.http.urls")),
    path("", include("orchestrator.http.urls")),
    path("api/data/", include("ingestion.http.urls")),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("swagger/", SpectacularSwaggerSplitView.as_view(http_method_names=READ), name="swagger"),
    path(
        "api/docs/",
        SpectacularRedocView.as_view(template_name="orchestrator/redoc.html", http_method_names=READ),
        name="redoc",
    ),
    path("metrics", metrics, name="metrics"),
    path("admin/", admin.site.urls),
]

handler400 = "config.refusals.bad_request"
handler403 = "config.refusals.permission_denied"
handler404 = "config.refusals.page_not_found"
handler500 = "config.refusals.server_error"
