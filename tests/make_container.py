"""Makes a container of Azure Blob: make_container.py ENDPOINT ACCOUNT KEY CONTAINER (endpoint with the account in its path)"""
import base64
import hashlib
import hmac
import sys
import time
import urllib.error
import urllib.request
from email.utils import formatdate

endpoint, account, key, container = sys.argv[1:]


def make():
    date, version = formatdate(usegmt=True), "2021-08-06"
    # Method, eleven empty standard headers, the x-ms headers in order, then the resource: account, path, query.
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    resource = f"/{account}/{account}/{container}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    signature = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(f"{endpoint}/{container}?restype=container", method="PUT", data=b"")
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", version)
    request.add_header("Content-Type", "")
    request.add_header("Authorization", f"SharedKey {account}:{signature}")
    urllib.request.urlopen(request, timeout=10)


deadline = time.monotonic() + 60
while True:
    try:
        make()
        break
    except urllib.error.HTTPError as error:
        if error.code == 409:
            break
        sys.exit(f"{endpoint} does not make the container: {error.code} {error.read()!r}")
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(f"{endpoint} does not answer: {error}")
        time.sleep(0.2)
