from django.contrib import admin
from django.urls import path
from guestbook.views import entries

urlpatterns = [path("", entries), path("admin/", admin.site.urls)]
