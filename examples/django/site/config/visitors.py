"""Signs in whom the edge names. Nobody else can set these headers."""

from django.contrib.auth.middleware import RemoteUserMiddleware


class VisitorMiddleware(RemoteUserMiddleware):
    header = "HTTP_X_CIAL_EMAIL"

    def process_request(self, request):
        """The role in the tenant decides at each request who may use Django's admin."""
        super().process_request(request)
        user = request.user
        is_admin = request.META.get("HTTP_X_CIAL_ROLE") == "admin"
        if user.is_authenticated and user.is_superuser != is_admin:
            user.is_staff = user.is_superuser = is_admin
            user.save(update_fields=["is_staff", "is_superuser"])
