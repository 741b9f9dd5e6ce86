"""Prints the messages of a directory as JSON: read_mail.py DIRECTORY"""

import email.policy
import json
import pathlib
import sys


def read(path):
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    body = message.get_body()
    return {
        "names": sorted(message.keys()),
        "headers": {name.lower(): str(value) for name, value in message.items()},
        "defects": [str(defect) for part in message.walk() for defect in part.defects],
        "body": body.get_content(),
        "attachments": {
            part.get_filename(): part.get_content() for part in message.iter_attachments()
        },
    }


found = [path for path in pathlib.Path(sys.argv[1]).rglob("*") if path.is_file()]
print(json.dumps([read(path) for path in sorted(found) if path.parent.name != "tmp"]))
