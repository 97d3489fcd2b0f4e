"""These tests drive the real SDK; without it there is nothing to test here but the climb."""

from importlib.util import find_spec

DRIVES_IT = ["test_client.py", "test_private.py", "test_settings.py", "test_certificate.py"]
collect_ignore_glob = [] if find_spec("openai") else DRIVES_IT
