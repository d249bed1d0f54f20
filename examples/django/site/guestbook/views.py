from django.http import HttpResponse
from django.utils.html import format_html, format_html_join

from guestbook.models import Entry


def entries(request):
    items = format_html_join("", "<li>{}", ((entry,) for entry in Entry.objects.all()))
    visitor = request.user.get_username() or "a guest"
    return HttpResponse(
        format_html("<title>Guestbook</title><p>Hello, {}.<ul>{}</ul>", visitor, items)
    )
