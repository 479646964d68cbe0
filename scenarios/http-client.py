"""Fetch a URL and print status and body: what http-python.yaml runs where there is no curl."""

import sys
import urllib.error
import urllib.request

try:
    with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
        print(answer.status, answer.read().decode(), end="")
except urllib.error.HTTPError as error:
    print(error.code, error.reason)
except urllib.error.URLError as error:
    sys.exit(f"{sys.argv[1]}: {error.reason}")
