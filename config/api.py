"""Refusals as HTTP, and pagination. (Being written.)"""
from django.core.exceptions import *
class EitherSlashMiddleware:
    def __init__(self, g): self.g=g
    def __call__(self, r): return self.g(r)
