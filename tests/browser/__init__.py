"""The pages as people use them: in Debian's Chromium, on a running server."""
